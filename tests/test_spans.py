"""Spans stay balanced whatever interleaves or raises, and cost nothing when off."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from loraconsole.pipeline.spans import Spans


def test_interleaved_coroutines_and_errors_leave_no_span_open(tmp_path: Path) -> None:
    spans = Spans()
    live: list[str] = []
    spans.open(tmp_path / "s.jsonl", nvtx=(lambda name: live.append(name) or name, live.remove))
    rng = random.Random(0)

    async def step(n: int) -> None:
        with spans.span("outer", step=n):
            await asyncio.sleep(rng.random() / 1000)
            with spans.span("inner"):
                if n % 7 == 0:
                    raise ValueError
                await asyncio.sleep(0)

    async def all_steps() -> None:
        await asyncio.gather(*(step(n) for n in range(500)), return_exceptions=True)

    asyncio.run(all_steps())
    assert spans.opened == spans.closed == 1000
    assert live == []
    spans.close()
    events = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(events) == 1000
    assert {event["name"] for event in events} == {"outer", "inner"}
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)


def test_off_means_nothing_is_made(tmp_path: Path) -> None:
    spans = Spans()
    assert spans.span("a") is spans.span("b")
    with spans.span("a"), pytest.raises(ValueError), spans.span("b"):
        raise ValueError
    assert spans.opened == 0
