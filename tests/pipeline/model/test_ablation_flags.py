"""Ablation flags: each takes away what it says and nothing else, alone and together."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import pytest
from driver import save_adapter, save_model

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import UsageError
from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterState,
    EvictAdapter,
    Message,
    PlaceAdapter,
    Request,
    SamplingParams,
    SyncPoint,
    Tokens,
)
from loraconsole.pipeline.runner.runner import ModelRunner
from loraconsole.pipeline.runtime.spans import Spans
from loraconsole.pipeline.schedule.adapter_registry import AdapterRegistry
from loraconsole.pipeline.schedule.scheduler import Scheduler, SchedulerLimits


def ask(name: str, adapter: str | None, tokens: int = 6) -> Request:
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Request(
        request_id=name, adapter=adapter, prompt_ids=(5, 6, 7), params=params, arrived_at=0.0
    )


@pytest.mark.parametrize("prefetch", [True, False])
def test_an_adapter_is_loaded_on_arrival_or_when_there_is_room_to_run(prefetch: bool) -> None:
    registry = AdapterRegistry({"sql": "/adapters/sql"}, now=0.0)
    scheduler = Scheduler(registry, policy="fcfs", prefetch=prefetch)
    scheduler.reset(
        1, SchedulerLimits(num_pages=20, max_model_len=64, max_running=1, max_prefill_tokens=8), 0.0
    )
    adapter = registry.current("sql")
    adapter.change_state(AdapterState.VALIDATING, 0.0)
    adapter.note_read(0, AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "-"), 1, 0.0)
    scheduler.add_request(ask("first", None), 0.0)
    assert scheduler.next_batch(0.0) is not None
    scheduler.add_request(ask("second", "sql"), 0.0)
    scheduler.next_batch(0.0)
    placed = [isinstance(order, PlaceAdapter) for order in scheduler.residency.orders]
    assert placed == ([True] if prefetch else [])
    scheduler.finish("first")
    scheduler.next_batch(0.0)
    assert adapter.state is AdapterState.LOADING


# --- combinations -------------------------------------------------------------------------------

MODEL_SWITCHES = (
    "no_lora",
    "no_lora_compute",
    "no_lora_swap",
    "no_kernel",
    "no_mem_pool",
    "bmm",
    "no_prefetch",
    "no_step_times",
    "sync_points",
    "profile_layers",
    "dummy",
)
"""`--profile` is the processes' business; here spans of layers are switched on by hand."""
POOL_TOKENS = 12 * 16
"""Of twelve pages the wide adapter takes ten and the narrow one three."""
NAMES = (None, "wide", "narrow")
RANKS = {"wide": 12, "narrow": 3}


def combinations() -> list[frozenset[str]]:
    """The sets of up to three switches that are not refused, and the largest such sets."""
    found = []
    for size in range(len(MODEL_SWITCHES) + 1):
        for switches in itertools.combinations(MODEL_SWITCHES, size):
            with contextlib.suppress(UsageError):
                Config(**dict.fromkeys(switches, True))
                found.append(frozenset(switches))
    return [one for one in found if len(one) <= 3 or not any(one < other for other in found)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "qwen3", num_hidden_layers=1)
    return directory


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: str(save_adapter(root / name, model, seed, r=rank))
        for seed, (name, rank) in enumerate(RANKS.items())
    }


class Answers(NamedTuple):
    tokens: dict[str | None, list[int]]
    loads: int
    """Of adapters, to the device."""
    evictions: int
    products: int
    """Bytes of adapters that steps computed with."""
    waits: int
    layers: int


def play(model: Path, adapters: dict[str, str], switches: Set[str], spans: Path) -> Answers:
    """Each adapter and the base asked the same, twice, in a pool that holds one adapter at a time,
    or both where none may be evicted; by the scheduler and the runner, without processes."""
    on = dict.fromkeys(switches, True)
    heard: list[Message] = []
    tokens = 1024 if "no_lora_swap" in switches else POOL_TOKENS
    config = Config(
        device="cpu", dtype="float32", threads=1, max_total_tokens=tokens, max_model_len=64, **on
    )
    recording = Spans()
    if config.profile_layers:
        recording.start(spans, layers=True)
    runner = ModelRunner(config, model, 0, heard.append, recording)
    ready = runner.load()
    registry = AdapterRegistry(adapters, now=0.0)
    scheduler = Scheduler(
        registry, policy=config.scheduler, prefetch=not config.no_prefetch, span=recording.span
    )
    scheduler.reset(
        1,
        SchedulerLimits(
            num_pages=ready.num_pages,
            max_model_len=ready.max_model_len,
            max_running=4,
            max_prefill_tokens=64,
            chunk_tokens=64,
        ),
        0.0,
    )
    for adapter in registry:
        adapter.change_state(AdapterState.VALIDATING, 0.0)
        adapter.pinned = config.no_lora_swap
        adapter.note_read(0, runner.adapters.read(adapter.key, adapter.path), 1, 0.0)
        assert adapter.state is AdapterState.HOST, adapter.reason
        scheduler.residency.settle(adapter, scheduler.kv_pages_at_worst(), 0.0)
        assert adapter.state is not AdapterState.FAILED, adapter.reason
    found: list[dict[str | None, list[int]]] = []
    loads = evictions = products = 0
    for _ in range(2):
        said = {f"{name}": list[int]() for name in NAMES}
        for name in NAMES:
            scheduler.add_request(ask(f"{name}", name), 0.0)
        while len(scheduler):
            batch = scheduler.next_batch(0.0)
            for order in scheduler.residency.orders:
                match order:
                    case PlaceAdapter():
                        runner.adapters.place(order.key, order.pages).result()
                        placed = registry.find(order.key)
                        assert placed and placed.note_placed(0, 1, 0.0)
                        loads += 1
                    case EvictAdapter():
                        runner.adapters.evict(order.key)
                        evictions += 1
            scheduler.residency.orders.clear()
            if batch is None:
                continue
            sampled, step = runner.launch(batch).wait()
            products += step.adapter_bytes
            for token in scheduler.accept_tokens(Tokens(1, batch.step, 0, sampled), 0.0):
                said[token.request_id].append(token.token_id)
        found.append({name: said[f"{name}"] for name in NAMES})
    scheduler.check()
    waits = sum(isinstance(m, SyncPoint) and m.name == "prefill: before" for m in heard)
    recording.stop()
    layers = spans.read_text().count('"cat":"layer_{}"') if config.profile_layers else 0
    assert found[0] == found[1], switches
    return Answers(found[0], loads, evictions, products, waits, layers)


@pytest.mark.slow
def test_every_combination_answers_as_its_switches_say(
    model: Path, adapters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens are those of the base where adapters are not computed, else each adapter's own,
    whatever else is switched; and each switch takes away what it names."""
    # A tenth of a second each time, and it changes nothing here.
    monkeypatch.setattr("loraconsole.pipeline.runner.runner.measure_copy_rate", lambda queue: 1e9)
    expected = {
        is_dummy: play(model, adapters, {"dummy"} if is_dummy else set(), tmp_path / "none").tokens
        for is_dummy in (False, True)
    }
    for tokens in expected.values():
        assert len({tuple(answer) for answer in tokens.values()}) == len(NAMES)
    for number, switches in enumerate(combinations()):
        answers = play(model, adapters, switches, tmp_path / f"{number}.jsonl")
        tokens = expected["dummy" in switches]
        if switches & {"no_lora", "no_lora_compute"}:
            tokens = dict.fromkeys(NAMES, tokens[None])
        assert answers.tokens == tokens, switches
        if "no_lora" in switches:
            assert (answers.loads, answers.evictions) == (0, 0), switches
        elif switches & {"no_lora_swap", "no_mem_pool"}:
            assert (answers.loads, answers.evictions) == (len(RANKS), 0), switches
        else:
            assert answers.loads > len(RANKS) and answers.evictions, switches
        computes = not switches & {"no_lora", "no_lora_compute", "no_step_times"}
        assert bool(answers.products) == computes, switches
        assert bool(answers.waits) == ("sync_points" in switches), switches
        assert bool(answers.layers) == ("profile_layers" in switches), switches
