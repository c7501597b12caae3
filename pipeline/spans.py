"""Named time spans: where the time of a process goes. Free when off.

`span("_prefill_batch")` is a context manager that stays balanced across awaits: a span is an
object with a start and an end, never a push on a shared stack, so two coroutines may interleave.
Sinks: JSON lines (Chrome trace events, one an object a line) and, on CUDA, NVTX start/end ranges.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class Spans:
    """The spans of one process. Off until `open` is called; then `span` costs a few µs."""

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._range_start: Callable[[str], Any] | None = None
        self._range_end: Callable[[Any], None] | None = None
        self.opened = 0
        self.closed = 0

    def open(
        self,
        path: Path,
        nvtx: tuple[Callable[[str], Any], Callable[[Any], None]] | None = None,
    ) -> None:
        """Writes spans to `path` from now on; `nvtx` is (range_start, range_end) where known."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1 << 16)
        if nvtx:
            self._range_start, self._range_end = nvtx

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def span(self, name: str, **fields: Any) -> AbstractContextManager[None]:
        """`with spans.span("_decode_batch", rows=8):` — start, duration and fields are kept."""
        return self._span(name, fields) if self._file else _NOTHING

    @contextlib.contextmanager
    def _span(self, name: str, fields: dict[str, Any]) -> Iterator[None]:
        handle = self._range_start(name) if self._range_start else None
        self.opened += 1
        started = time.perf_counter_ns()
        try:
            yield
        finally:
            ended = time.perf_counter_ns()
            self.closed += 1
            if self._range_end:
                self._range_end(handle)
            if self._file:
                event = {
                    "name": name,
                    "ph": "X",
                    "ts": started / 1e3,
                    "dur": (ended - started) / 1e3,
                    "pid": os.getpid(),
                    "args": fields,
                }
                self._file.write(json.dumps(event) + "\n")
