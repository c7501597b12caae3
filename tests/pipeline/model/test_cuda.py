"""What only a GPU can show: adapters are copied beside the steps, and what is said is what a CPU
says. Skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

RANKS = (4, 12, 33)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "qwen3", attention_bias=True)
    return directory


@pytest.fixture(scope="module")
def entries(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("adapters")
    return tuple(f"a{rank}={save_adapter(root / str(rank), model, rank, r=rank)}" for rank in RANKS)


def generate(driver: Driver) -> list[torch.Tensor]:
    names = [None, *(f"a{rank}" for rank in RANKS)]
    numbers = [driver.add(range(4, 20), adapter=name) for name in names]
    driver.generate(numbers, 24)
    return [torch.stack(driver.logits[number]) for number in numbers]


@pytest.mark.parametrize("flags", [{}, {"no_mem_pool": True}, {"bmm": True}])
def test_a_gpu_says_what_a_cpu_says(
    model: Path, entries: tuple[str, ...], flags: dict[str, bool]
) -> None:
    on_cpu = generate(Driver(start_runner(model, adapter=entries)[0]))
    on_gpu = generate(Driver(start_runner(model, adapter=entries, device="cuda", **flags)[0]))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(found.argmax(dim=-1), expected.argmax(dim=-1))


def test_layers_are_spans_for_as_long_as_they_are_wanted_and_nothing_else_changes(
    model: Path, entries: tuple[str, ...], tmp_path: Path
) -> None:
    runner, _ = start_runner(model, adapter=entries, device="cuda")
    driver = Driver(runner)
    by_graphs = generate(driver)
    runner.spans.start(tmp_path / "spans.jsonl", layers=True)
    by_layers = generate(driver)
    recording = runner.spans.stop()
    again = generate(driver)
    for expected, layered, found in zip(by_graphs, by_layers, again, strict=True):
        torch.testing.assert_close(layered, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    names = [json.loads(line)["name"] for line in recording.path.read_text().splitlines()]
    assert names.count("layer_0") == names.count("forward") >= 24


def test_steps_by_graphs_know_what_the_base_would_take(
    model: Path, entries: tuple[str, ...]
) -> None:
    """From the start on, for every number of rows that there are graphs of."""
    runner, _ = start_runner(model, adapter=entries, device="cuda")
    driver = Driver(runner)
    numbers = [driver.add(range(4, 20), adapter=name) for name in ("a4", None, "a12")]
    driver.generate(numbers, 8)
    step, stats = driver.last_step, runner.stats()
    assert step.base_us > 0 and step.lora_overhead is not None and step.lora_overhead > -1
    assert step.weight_bytes > 0 and step.kv_bytes > 0 and step.adapter_bytes > 0
    assert stats.copy_bytes_s > 1e11


def test_adapters_copied_beside_steps_disturb_nobody(model: Path, entries: tuple[str, ...]) -> None:
    """Into pages that steps just launched still write and read: the router frees them as soon as
    the last step of their sequence is posted."""
    runner, _ = start_runner(model, adapter=entries, device="cuda")
    adapter = runner.loaded.store["a33"]
    expected: torch.Tensor | None = None
    for _ in range(50):
        driver = Driver(runner)
        number = driver.add(range(4, 20))
        steps = [driver.launch({number: 16}), *(driver.launch({number: 1}) for _ in range(23))]
        pages = [*driver.pages[number], *range(200, 400)][: adapter.info.pages]
        runner.adapters.evict("a33")
        placing = runner.adapters.place("a33", pages)
        for step in steps:
            driver.read(step)
        logits = torch.stack(driver.logits[number])
        expected = logits if expected is None else expected
        assert torch.equal(logits, expected), "a step read what was copied into its pages"
        placing.result()
        assert torch.equal(runner.loaded.store._content("a33").cpu(), adapter.host)
        driver.drop(number)
        driver.launch({}).wait()
