"""Merged weights, and the verification that holds what is served against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner
from safetensors.torch import load_file, save_file

from loraconsole.pipeline.adapter_files.tensor_file import AdapterError
from loraconsole.pipeline.messages import CheckAdapter, Comparison, SyncPoint
from loraconsole.pipeline.model.layers import (
    DenseLinear,
    Int4Blocks,
    Int4Linear,
    LinearByRows,
    PackedLinear,
)
from loraconsole.pipeline.runner.runner import ModelRunner

pytestmark = pytest.mark.slow

FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"attention_bias": True},
    "mistral": {"sliding_window": 24},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "mlp": {"target_modules": ["gate_proj", "down_proj"], "r": 12},
    "attention": {"target_modules": ["q_proj", "k_proj"], "use_rslora": True},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    save_model(directory, request.param, **FAMILIES[request.param])
    return directory


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, model, seed, **changes)
        for seed, (name, changes) in enumerate(ADAPTERS.items())
    }


def start(model: Path, adapters: dict[str, Path], **settings: Any) -> ModelRunner:
    entries = tuple(f"{name}={path}" for name, path in adapters.items())
    return start_runner(model, adapter=entries, **settings)[0]


def verify(runner: ModelRunner, key: str) -> tuple[tuple[Comparison, ...], bool]:
    """As the worker does it, between the steps of a sequence that runs anyhow."""
    others = tuple(name for name in ADAPTERS if name != key)
    order = CheckAdapter(epoch=1, order="o", key=key, others=others, pages=tuple(range(60, 76)))
    trial = runner.adapters.new_verification(order)
    driver = Driver(runner, num_pages=60)
    number = driver.add(range(5), adapter="all")
    driver.prefill([number])
    for batch in trial.batches():
        pending = runner.launch(batch, keep_logits=True)
        driver.decode([number], 1)
        tokens, _ = pending.wait()
        trial.take(tokens, pending.logits)
    driver.drop(number)
    driver.launch({}).wait()
    return runner.adapters.compare(trial)


def test_a_good_adapter_is_verified_alone_and_in_a_mixed_batch(
    model: Path, adapters: dict[str, Path]
) -> None:
    runner = start(model, adapters)
    for name in ADAPTERS:
        found, is_right = verify(runner, name)
        assert is_right
        assert [c.place for c in found] == ["alone", *["mixed"] * 5]
        assert [c.adapter for c in found][:3] == [name, name, None]
        for comparison in found:
            assert comparison.equal_tokens == comparison.tokens == 16
            assert comparison.largest_logit < 1e-3 < comparison.range_logit
            assert comparison.passes and 0 < comparison.mean_limit < 1e-2


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.05])
def test_an_adapter_that_is_served_otherwise_than_its_files_say_is_found_out(
    model: Path, adapters: dict[str, Path], factor: float
) -> None:
    """Its pages hold something else: nothing, or it with another scale."""
    runner = start(model, adapters)
    store = runner.loaded.store
    with torch.inference_mode():
        wrong = (store["all"].host * factor).to(store._pool.pages.device)
        store._pool.put(store._table(store._pages["all"]), wrong)
    found, is_right = verify(runner, "all")
    assert not is_right
    assert {c.adapter for c in found if c.largest_logit > 1e-3} == {"all"}
    assert {c.adapter for c in found if not c.passes} == {"all"}


def test_files_that_changed_are_not_compared_with(model: Path, tmp_path: Path) -> None:
    paths = {name: save_adapter(tmp_path / name, model) for name in ADAPTERS}
    runner = start(model, paths)
    weights = paths["all"] / "adapter_model.safetensors"
    save_file({k: v * 2 for k, v in load_file(weights).items()}, weights)
    with pytest.raises(AdapterError, match="changed since they were read: reload it"):
        verify(runner, "all")


def test_a_served_type_that_rounds_is_allowed_what_the_base_rounds(
    model: Path, adapters: dict[str, Path]
) -> None:
    runner = start(model, adapters, dtype="bfloat16")
    found, is_right = verify(runner, "all")
    assert is_right
    assert max(c.largest_logit for c in found) > 1e-3


def scale_files(adapter: Path, a: float, b: float) -> None:
    path = adapter / "adapter_model.safetensors"
    factors = {"lora_A": a, "lora_B": b}
    tensors = {
        key: tensor * next(f for side, f in factors.items() if side in key)
        for key, tensor in load_file(path).items()
    }
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("target", "factor", "flaw"),
    [("down_proj", 1e28, "logits of a token are all alike"), ("k_proj", 1e40, "are not finite")],
)
def test_weights_that_overflow_are_never_right_however_equal_both_sides_are(
    model: Path, tmp_path: Path, target: str, factor: float, flaw: str
) -> None:
    """States that overflow when squared leave a norm as zeros, scores that do leave softmax as nan:
    the merged weights compute the same nonsense."""
    paths = {
        name: save_adapter(tmp_path / name, model, **changes) for name, changes in ADAPTERS.items()
    }
    save_adapter(paths["all"], model, target_modules=[target])
    scale_files(paths["all"], factor**0.5, factor**0.5)
    found, is_right = verify(start(model, paths), "all")
    assert not is_right
    assert {row.adapter for row in found if row.flaw} == {"all"}
    assert all(flaw in row.flaw for row in found if row.flaw)
    numbers = [(row.largest_logit, row.mean_logit, row.range_logit) for row in found]
    assert torch.tensor(numbers).isfinite().all()


# --- merged weights -----------------------------------------------------------------------------


def generate(runner: ModelRunner, *names: str | None) -> list[torch.Tensor]:
    """Logits [16, vocab_size] of each, all in one batch."""
    driver = Driver(runner)
    numbers = [driver.add(range(3, 12), adapter=name) for name in names]
    driver.generate(numbers, 16)
    for number in numbers:
        driver.drop(number)
    driver.launch({}).wait()
    return [torch.stack(driver.logits[number]) for number in numbers]


def test_merged_weights_answer_as_the_adapter_and_only_in_steps_of_its_own(
    model: Path, adapters: dict[str, Path]
) -> None:
    heard: list[Any] = []
    entries = tuple(f"{name}={path}" for name, path in adapters.items())
    runner, started = start_runner(model, heard, adapter=entries)
    memory = {info.key: info.merged_bytes for info in started.adapters}
    assert memory["all"] > memory["mlp"] + memory["attention"] > memory["mlp"] > 0
    (apart,) = generate(runner, "all")
    mixed = generate(runner, "all", None, "mlp")
    runner.use_merged(runner.adapters.merge("all"))
    waits = [message.name for message in heard if isinstance(message, SyncPoint)]
    assert waits[-2:] == ["merge: before", "merge: after"]
    (merged,) = generate(runner, "all")
    torch.testing.assert_close(merged, apart, rtol=1e-3, atol=1e-3)
    assert not torch.equal(merged, apart), "the same bits: nothing was merged"
    for before, after in zip(mixed, generate(runner, "all", None, "mlp"), strict=True):
        assert torch.equal(before, after), "a mixed batch used the merged weights"
    runner.use_merged(None)
    assert torch.equal(apart, *generate(runner, "all"))


def test_a_thousand_merges_leave_the_base_bit_for_bit(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model(model, "llama")
    paths = {name: save_adapter(tmp_path / name, model, **ADAPTERS[name]) for name in ADAPTERS}
    runner = start(model, paths)
    (before,) = generate(runner, None)
    for cycle in range(1000):
        runner.use_merged(runner.adapters.merge([*ADAPTERS][cycle % len(ADAPTERS)]))
        if cycle % 100 == 0:
            generate(runner, [*ADAPTERS][cycle % len(ADAPTERS)])
        runner.use_merged(None)
    assert torch.equal(before, *generate(runner, None))


def test_every_format_of_weight_can_be_added_to() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(16, (32, 64), generator=generator, dtype=torch.uint8)
    blocks = Int4Blocks(q, torch.rand(32, 2, generator=generator), torch.zeros(32, 2))
    weight, bias = blocks.dequantize(), torch.randn(32, generator=generator)
    delta, x = torch.randn(32, 64, generator=generator), torch.randn(5, 64, generator=generator)
    expected = x @ (weight + delta).t() + bias
    dense, packed = DenseLinear(weight, bias), PackedLinear(weight, bias)
    int4 = Int4Linear(blocks, bias)
    for linear in (dense, packed, LinearByRows(int4, packed, 8)):
        before = linear(x)
        torch.testing.assert_close(linear.plus(delta)(x), expected, rtol=1e-4, atol=1e-3)
        assert torch.equal(linear(x), before)
    rounding = (int4(torch.eye(64)) - bias - weight.t()).abs().max() * 64
    assert ((int4.plus(delta)(x) - expected).abs() < rounding + 1e-3).all()


# --- ablations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["no_mem_pool", "bmm"])
def test_a_baseline_gives_the_same_answers(
    model: Path, adapters: dict[str, Path], flag: str
) -> None:
    names = (None, *ADAPTERS, "all")
    usual = generate(start(model, adapters), *names)
    baseline = start(model, adapters, **{flag: True})
    for before, after in zip(usual, generate(baseline, *names), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_without_the_pool_adapters_take_no_page(model: Path, adapters: dict[str, Path]) -> None:
    runner = start(model, adapters, no_mem_pool=True)
    assert all(runner.loaded.store[name].info.pages == 0 for name in ADAPTERS)
    assert not runner.loaded.pool.pages[:, 200:].any()
