"""`MockSpans`: the spans that a mock pipeline's router and worker would record of its steps. Knows
files and steps, no socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...pipeline.messages import Step
from ..state.span_tail import SpanEvent
from ..supervisor.span_files import SHOWN

ROUTER, WORKER = SHOWN


class MockSpan(NamedTuple):
    """A span: process, name, end and duration in microseconds."""

    process: str
    name: str
    end: float
    took: float


class MockSpans:
    """`start` a recording, `take` each step, `stop` it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._directory: Path | None = None

    def start(self, recording: str) -> None:
        """Starts a recording with this name, unless one is running already."""
        if self._directory is None:
            self._directory = self._run / "spans" / recording
            self._directory.mkdir(parents=True, mode=0o700, exist_ok=True)

    def stop(self) -> None:
        self._directory = None

    def take(self, step: Step) -> None:
        if self._directory is None:
            return
        for process in SHOWN:
            spans = (span for span in mock_spans_of(step) if span.process == process)
            with (self._directory / f"{process}.jsonl").open("ab") as file:
                file.writelines(msgspec.json.encode(event) + b"\n" for event in map(_event, spans))


def mock_spans_of(step: Step) -> Iterator[MockSpan]:
    """The spans of a step; a span comes before those nested in it."""
    end, wait = step.at * 1e6, step.busy_us + step.sync_us
    begun = end - wait - step.launch_us - step.host_us
    yield MockSpan(ROUTER, f"next_batch{step.step}", begun + step.host_us, step.host_us)
    yield MockSpan(ROUTER, "_init_batch", begun + step.host_us * 0.8, step.host_us * 0.5)
    yield MockSpan(ROUTER, "_add_token_id_to_req", end + 300.0, 300.0)
    yield MockSpan(WORKER, "launch", end - wait, step.launch_us)
    yield MockSpan(WORKER, "forward", end - wait - step.launch_us * 0.1, step.launch_us * 0.8)
    yield MockSpan(WORKER, "wait", end, wait)
    yield MockSpan(WORKER, "synchronize(step)", end, step.sync_us)


def _event(span: MockSpan) -> SpanEvent:
    return SpanEvent("X", span.name, round(span.end - span.took), round(span.took), 1)
