"""Adapters: beside peft one by one, mixed in one batch; the base untouched."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraconsole.kernels import reference
from loraconsole.pipeline.model.adapter_store import (
    AdapterRows,
    AdapterStore,
    LoraBatch,
    TokenRange,
    plan_lora,
)
from loraconsole.pipeline.model.page_pool import PagePool
from loraconsole.pipeline.model_files.model_config import read_model_config

ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 4},
    "wide": {"r": 12, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "mlp": {"r": 3, "target_modules": ["gate_proj", "down_proj"]},
    "stabilised": {"r": 8, "use_rslora": True, "target_modules": ["k_proj", "o_proj", "up_proj"]},
    "patterned": {
        "r": 4,
        "rank_pattern": {"q_proj": 9, "layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"v_proj": 32, r"layers\.2\.mlp\.down_proj": 1},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "qwen3", attention_bias=True)
    return directory


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(root / name, model, seed, **changes)
        for seed, (name, changes) in enumerate(ADAPTERS.items())
    }


def entries(adapters: dict[str, Path]) -> tuple[str, ...]:
    return tuple(f"{name}={path}" for name, path in adapters.items())


def peft_logits(model: Path, adapter: Path | None, ids: list[int]) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    reference_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if adapter is not None:
        reference_model = PeftModel.from_pretrained(reference_model, adapter).eval()
    with torch.no_grad():
        logits: torch.Tensor = reference_model(torch.tensor([ids])).logits[0]
    return logits


def mixed_driver(model: Path, adapters: dict[str, Path], **settings: Any) -> Driver:
    """Two sequences of each adapter and of the base, prompts of different length, decoded in one
    batch with chunks of prompts between."""
    driver = Driver(start_runner(model, adapter=entries(adapters), **settings)[0])
    generator = torch.Generator().manual_seed(5)
    numbers = []
    for place, name in enumerate([None, *adapters] * 2):
        prompt = torch.randint(160, (3 + 5 * place,), generator=generator).tolist()
        numbers.append(driver.add(prompt, adapter=name))
    driver.prefill(numbers[:5])
    for _ in range(8):
        driver.step(
            dict.fromkeys(numbers[:5], 1)
            | {n: min(8, driver.known[n] - driver.computed[n]) for n in numbers[5:]}
        )
    driver.decode(numbers, 6)
    return driver


def test_a_mixed_batch_equals_peft_one_by_one(model: Path, adapters: dict[str, Path]) -> None:
    driver = mixed_driver(model, adapters)
    generator = torch.Generator().manual_seed(5)
    for number, name in enumerate([None, *adapters] * 2):
        prompt = torch.randint(160, (3 + 5 * number,), generator=generator).tolist()
        tokens = driver.tokens[number]
        path = adapters[name] if name else None
        expected = peft_logits(model, path, prompt + tokens[:-1])[len(prompt) - 1 :]
        found = torch.stack(driver.logits[number])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=str(name))
        assert tokens == expected.argmax(dim=-1).tolist()


@pytest.mark.processes
@pytest.mark.parametrize("targets", [r".*\.(q|down)_proj", "all-linear"])
def test_target_modules_may_be_a_pattern(model: Path, tmp_path: Path, targets: str) -> None:
    modules = ["q_proj", "down_proj"] if targets != "all-linear" else None
    changes = {"target_modules": modules} if modules else {}
    path = save_adapter(tmp_path / "pattern", model, **changes)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": targets}))
    runner, ready = start_runner(model, adapter=(f"pattern={path}",))
    assert ready.adapters[0].reason == ""
    driver = Driver(runner)
    driver.generate([number := driver.add([5, 6, 7], adapter="pattern")], 3)
    expected = peft_logits(model, path, [5, 6, 7, *driver.tokens[number][:-1]])[2:]
    torch.testing.assert_close(torch.stack(driver.logits[number]), expected, rtol=1e-3, atol=1e-3)


def test_base_rows_are_bit_for_bit_what_they_are_without_adapters(
    model: Path, adapters: dict[str, Path]
) -> None:
    """The same batches, with the adapters' products and without."""
    with_lora = mixed_driver(model, adapters)
    without = mixed_driver(model, adapters, no_lora_compute=True)
    for number, name in enumerate([None, *adapters] * 2):
        found, base = torch.stack(with_lora.logits[number]), torch.stack(without.logits[number])
        assert torch.equal(found, base) == (name is None)


def test_a_batch_of_the_base_alone_does_no_lora_work(
    model: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(start_runner(model, adapter=entries(adapters))[0])

    def refuse(*arguments: object) -> None:
        raise AssertionError("a LoRA product in a batch of the base")

    monkeypatch.setattr(LoraBatch, "add", refuse)
    driver.generate([driver.add([1, 2, 3]), driver.add([4, 5])], 4)
    assert (driver.last_step.adapters, driver.last_step.adapter_bytes) == (0, 0)


def test_without_lora_every_name_answers_as_the_base(
    model: Path, adapters: dict[str, Path]
) -> None:
    runner, ready = start_runner(model, adapter=entries(adapters), no_lora=True)
    assert [info.reason for info in ready.adapters] == [""] * len(adapters)
    assert runner.stats().adapter_bytes == 0
    driver = Driver(runner)
    numbers = [driver.add([1, 2, 3], adapter=name) for name in [None, *adapters]]
    driver.generate(numbers, 3)
    assert len({tuple(driver.tokens[number]) for number in numbers}) == 1


def test_without_lora_compute_adapters_are_loaded_but_change_nothing(
    model: Path, adapters: dict[str, Path]
) -> None:
    runner, _ = start_runner(model, adapter=entries(adapters), no_lora_compute=True)
    assert runner.stats().adapter_bytes > 0
    driver = Driver(runner)
    numbers = [driver.add([1, 2, 3], adapter=name) for name in [None, "all"]]
    driver.generate(numbers, 3)
    assert driver.tokens[0] == driver.tokens[1]
    assert driver.last_step.adapters == 1


def test_an_adapter_that_is_not_loaded_is_refused(model: Path) -> None:
    driver = Driver(start_runner(model)[0])
    driver.add([1, 2], adapter="nobody")
    with pytest.raises(ValueError, match="'nobody' is not placed"):
        driver.launch({0: 2})


# --- products and stacks ------------------------------------------------------------------------


def make_store(model: Path, num_pages: int = 600) -> AdapterStore:
    model_config = read_model_config(model)
    pool = PagePool(model_config, num_pages, torch.float32, torch.device("cpu"))
    pool.pages.fill_(torch.nan)  # what is read must have been placed
    return AdapterStore(model_config, torch.float32, pool)


def put(store: AdapterStore, key: str, path: Path) -> None:
    """Into pages scattered from the first free one on."""
    info = store.read(key, str(path))
    assert info.reason == ""
    used = {page for table in store._pages.values() for page in table}
    free = [page for page in range(store._pool.num_pages) if page not in used]
    store.place(key, random.Random(key).sample(free, info.pages))


def test_an_adapter_is_read_from_its_pages_and_nowhere_else(
    model: Path, adapters: dict[str, Path]
) -> None:
    store = make_store(model)
    for name, path in adapters.items():
        put(store, name, path)
    host = {name: store[name].host.clone() for name in adapters}
    for name in adapters:
        store[name].host.fill_(torch.nan)
    for name in adapters:
        pages = store._pages[name]
        assert len(pages) == store[name].info.pages
        assert torch.equal(store._pool.take(torch.tensor(pages)), host[name])
        for site in store.stack({name}).sites.values():
            assert site.a.isfinite().all() and site.b.isfinite().all()


def test_a_stack_is_kept_while_half_of_it_is_of_use(model: Path, tmp_path: Path) -> None:
    store = make_store(model)
    for number in range(12):
        path = save_adapter(tmp_path / str(number), model, number, r=5 if number < 11 else 20)
        put(store, f"a{number}", path)
    first = store.stack({"a0", "a1"})
    assert store.stack({"a0"}) is first
    both = store.stack({"a1", "a2"})
    assert set(both.position) == {"a0", "a1", "a2"}, "the two sets are one stack from now on"
    assert store.stack({"a0", "a2"}) is both
    many = store.stack({f"a{number}" for number in range(11)})
    assert store.stack({"a0"}) is not many, "eleven adapters are too many for one"
    other_rank = store.stack({"a11"})
    assert set(other_rank.position) == {"a11"}, "ranks of different size never share one"
    before = store.nbytes
    store.evict("a0")
    assert store.nbytes < before, "its stacks are gone with it"
    assert "a0" not in store and "a1" in store
    before = store.nbytes
    store.drop("a0")
    assert store.nbytes < before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(owners=st.lists(st.integers(0, 4), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_joint_rows_equal_one_product_each(owners: list[int], seed: int) -> None:
    """y[i] += (x[i] @ a[s].T) @ b[s] for ragged, skewed and single owners."""
    torch.manual_seed(seed)
    a, b = torch.randn(5, 3, 7), torch.randn(5, 3, 11)
    x, y = torch.randn(len(owners), 7), torch.randn(len(owners), 11)
    expected = torch.stack([y[i] + x[i] @ a[owner].T @ b[owner] for i, owner in enumerate(owners)])
    most = max(owners.count(owner) for owner in range(5))
    rows, places = [0] * (5 * most), []
    for i, owner in enumerate(owners):
        places.append(owner * most + owners[:i].count(owner))
        rows[places[-1]] = i
    reference.add_lora_rows(y, x, a, b, torch.tensor(rows), torch.tensor(places))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_spans_become_segments_for_prompts_and_rows_for_single_tokens(
    model: Path, adapters: dict[str, Path]
) -> None:
    store = make_store(model)
    for name, path in adapters.items():
        put(store, name, path)
    spans = [
        TokenRange(3, 4, "all", True),
        TokenRange(4, 5, "mlp", True),
        TokenRange(5, 6, "all", True),
        TokenRange(6, 20, "all", False),
        TokenRange(20, 22, "wide", False),
    ]
    plan = plan_lora(spans, store)
    assert [segment.tokens for segment in plan.segments] == [slice(6, 20), slice(20, 22)]
    ((tokens, stack, rows, places),) = plan.joint
    assert tokens == slice(3, 6)
    owners = [stack.position[name] for name in ("all", "mlp", "all")]
    assert [place // (len(rows) // len(stack.position)) for place in places] == owners
    assert [int(rows[place]) for place in places] == [0, 1, 2]
    alone = plan_lora([TokenRange(0, 1, "all", True), TokenRange(1, 2, "all", True)], store)
    assert [segment.tokens for segment in alone.segments] == [slice(0, 2)]
    assert not alone.joint and not isinstance(alone.segments[0], AdapterRows)
