"""Ablation flags: each takes away what it says and nothing else, alone and together."""

from __future__ import annotations

import pytest

from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterState,
    PlaceAdapter,
    Request,
    SamplingParams,
)
from loraconsole.pipeline.schedule.adapters import AdapterRegistry
from loraconsole.pipeline.schedule.scheduler import Limits, Scheduler


def ask(name: str, adapter: str | None, tokens: int = 6) -> Request:
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Request(
        request_id=name, adapter=adapter, prompt_ids=(5, 6, 7), params=params, arrived_at=0.0
    )


@pytest.mark.parametrize("prefetch", [True, False])
def test_an_adapter_is_loaded_on_arrival_or_when_there_is_room_to_run(prefetch: bool) -> None:
    registry = AdapterRegistry({"sql": "/adapters/sql"})
    scheduler = Scheduler(registry, policy="fcfs", prefetch=prefetch)
    scheduler.reset(1, Limits(num_pages=20, max_model_len=64, max_running=1, max_prefill_tokens=8))
    adapter = registry.get("sql")
    adapter.become(AdapterState.VALIDATING)
    adapter.read(0, AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "-"), 1)
    scheduler.add(ask("first", None))
    assert scheduler.next_batch() is not None
    scheduler.add(ask("second", "sql"))
    scheduler.next_batch()
    placed = [isinstance(order, PlaceAdapter) for order in scheduler.residency.orders]
    assert placed == ([True] if prefetch else [])
    scheduler.finish("first")
    scheduler.next_batch()
    assert adapter.state is AdapterState.LOADING
