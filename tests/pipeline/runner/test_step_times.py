"""What a step says of itself: bytes it must read, what adapters cost it, and nothing when off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Step
from loraconsole.pipeline.model.adapter import module_shapes
from loraconsole.pipeline.model.compute_queue import ComputeQueue
from loraconsole.pipeline.model.kernel_choice import choose_kernels
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runner.copy_rate import measure_copy_rate

WINDOW = 16
LAYERS = 3
TOKEN_BYTES = 2 * 2 * 16 * 4
"""K and V of a token in a layer: two heads of 16 float32."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "mistral", sliding_window=WINDOW)
    return directory


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("adapters")
    return tuple(
        f"{name}={save_adapter(root / name, model, seed)}" for seed, name in enumerate("ab")
    )


def last_decode(driver: Driver, *adapters: str | None) -> Step:
    """The second decode step of a prompt of 20 tokens for each."""
    numbers = [driver.add(range(4, 24), adapter=name) for name in adapters]
    driver.generate(numbers, 3)
    for number in numbers:
        driver.drop(number)
    return driver.last_step


def test_the_bytes_of_a_step_are_its_weights_its_adapters_once_and_the_kv_it_sees(
    model: Path, adapter: tuple[str, ...]
) -> None:
    runner, _ = start_runner(model, adapter=adapter)
    step = last_decode(Driver(runner), None, "a", "a", "b")
    model_config = read_model_config(model)
    matrices = (
        sum(rows * columns for rows, columns in module_shapes(model_config).values()) * LAYERS
    )
    assert step.weight_bytes == 4 * (matrices + model_config.vocab_size * model_config.hidden_size)
    assert step.adapter_bytes == sum(runner.loaded.store[name].nbytes for name in "ab")
    assert step.kv_bytes == 4 * LAYERS * WINDOW * TOKEN_BYTES
    assert step.read_bytes_s is not None
    assert step.read_bytes_s == pytest.approx(step.read_bytes / step.busy_us * 1e6)


def test_a_prompt_sees_its_window_before_each_of_its_tokens(model: Path) -> None:
    driver = Driver(start_runner(model)[0])
    number = driver.add(range(4, 64))
    driver.step({number: 30})
    assert driver.last_step.kv_bytes == LAYERS * 30 * TOKEN_BYTES
    driver.step({number: 4})
    assert driver.last_step.kv_bytes == LAYERS * (WINDOW + 3) * TOKEN_BYTES
    assert driver.last_step.phase == "prefill" and driver.last_step.read_bytes_s is None


def test_steps_with_adapters_know_from_the_warm_up_what_the_base_would_take(
    model: Path, adapter: tuple[str, ...]
) -> None:
    driver = Driver(start_runner(model, adapter=adapter)[0])
    for rows in (["a"], ["a", None, "b"]):
        step = last_decode(driver, *rows)
        assert step.base_us > 0 and step.base_steps >= 3 and step.base_age_s < 60
        assert step.lora_overhead == step.busy_us / step.base_us - 1
    base = last_decode(driver, None, None)
    assert base.lora_overhead is None and base.base_steps == 0


def test_merged_weights_pay_no_tax_and_read_no_adapter(
    model: Path, adapter: tuple[str, ...]
) -> None:
    runner, _ = start_runner(model, adapter=adapter)
    runner.use_merged(runner.adapters.merge("a"))
    step = last_decode(Driver(runner), "a", "a")
    assert (step.base_us, step.adapter_bytes) == (0, 0)
    assert step.weight_bytes > 0


@pytest.mark.parametrize("flag", ["no_lora", "no_lora_compute"])
def test_where_nobody_computes_adapters_there_is_no_tax(
    flag: str, model: Path, adapter: tuple[str, ...]
) -> None:
    step = last_decode(Driver(start_runner(model, adapter=adapter, **{flag: True})[0]), "a")
    assert (step.base_us, step.adapter_bytes) == (0, 0)


def test_off_nothing_is_timed_or_counted_and_the_tokens_are_the_same(
    model: Path, adapter: tuple[str, ...]
) -> None:
    answers = []
    for off in (False, True):
        runner, _ = start_runner(model, adapter=adapter, no_step_times=off)
        driver = Driver(runner)
        step = last_decode(driver, "a", None)
        answers.append(driver.tokens)
        stats = runner.stats()
        assert stats.times_steps is not off and (stats.copy_bytes_s == 0) is off
        assert (step.busy_us == 0) is off and (step.read_bytes == 0) is off
        assert (step.base_us == 0) is off
        assert step.host_us > 0 and step.sync_us > 0
    assert answers[0] == answers[1]


def test_the_copy_rate_is_one_that_a_machine_can_have() -> None:
    queue = ComputeQueue(torch.device("cpu"), 1)
    rate = queue.submit(lambda: measure_copy_rate(queue)).result()
    assert 1e8 < rate < 1e13


@pytest.mark.parametrize(
    "device, tile, triton, settings, paged, words",
    [
        ("cpu", 256, True, {}, False, "plain PyTorch (no GPU)"),
        ("cpu", 256, True, {"device": "cpu"}, False, "plain PyTorch (--device cpu)"),
        ("cuda", 256, False, {}, False, "plain PyTorch (Triton is not installed)"),
        ("cuda", 256, True, {"no_kernel": True}, False, "(--no-kernel)"),
        ("cuda", 256, True, {"no_mem_pool": True}, False, "(--no-mem-pool)"),
        ("cuda", 256, True, {"bmm": True}, False, "(--bmm)"),
        ("cuda", 8, True, {}, False, "(a size of this model is not a multiple of 16)"),
        ("cuda", 16, True, {}, True, "Triton kernels over pages, CUDA graphs"),
    ],
)
def test_the_kernels_are_named_with_the_reason(
    device: str, tile: int, triton: bool, settings: dict[str, Any], paged: bool, words: str
) -> None:
    choice = choose_kernels(Config(**settings), device, tile, triton)
    assert choice.paged is paged and str(choice).endswith(words)
