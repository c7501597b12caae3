"""`SpanTail`: the newest spans of a recording that goes on, from the ends of its files.

Only files of this machine: a pipeline that is reached through a tunnel has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

TAIL_BYTES = 48 << 10
"""Of each file: some hundred spans, a few steps' worth."""
SHOWN = ("router", "worker-0")
"""Whose spans make a step."""


class SpanEvent(msgspec.Struct, frozen=True):
    """A line of a file of spans, as `pipeline/spans.py` writes it. Microseconds."""

    ph: str
    name: str
    ts: float = 0.0
    dur: float = 0.0
    tid: int = 0

    @property
    def end(self) -> float:
        return self.ts + self.dur


class Row(msgspec.Struct, frozen=True):
    """Spans of one process that do not overlap; `depth` 0 holds those of depth 1, and so on."""

    process: str
    depth: int
    spans: tuple[SpanEvent, ...]


class SpanTail:
    """`read` now and then; then `rows` are the last spans, `end` when the newest ended."""

    def __init__(self, run: Path) -> None:
        self._directory = run / "spans"
        self._seen: dict[Path, tuple[int, list[SpanEvent]]] = {}
        self._decoder = msgspec.json.Decoder(SpanEvent)
        self.recording: Path | None = None

    def read(self) -> None:
        """The last recording's files, where they have grown."""
        found = sorted(path for path in self._directory.glob("*") if path.is_dir())
        recording = found[-1] if found else None
        if recording != self.recording:
            self.recording, self._seen = recording, {}
        if recording is None:
            return
        for path in (recording / f"{name}.jsonl" for name in SHOWN):
            try:
                size = path.stat().st_size
                if self._seen.get(path, (-1, []))[0] != size:
                    self._seen[path] = (size, list(self._spans_of(path, size)))
            except OSError:  # this process does not record
                self._seen.pop(path, None)

    def _spans_of(self, path: Path, size: int) -> Iterator[SpanEvent]:
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            if size > TAIL_BYTES:
                file.readline()  # the rest of one that began before
            for line in file.read(TAIL_BYTES).split(b"\n")[:-1]:
                try:
                    event = self._decoder.decode(line)
                except msgspec.DecodeError:
                    continue  # loraconsole spans names it
                if event.ph == "X":
                    yield event

    @property
    def end(self) -> float:
        """When the newest span ended of the process that has written last the longest ago: what is
        shown is of one time, and known of all."""
        newest = [max(event.end for event in events) for _, events in self._seen.values() if events]
        return min(newest, default=0.0)

    def rows(self, since: float, until: float, most: int) -> list[Row]:
        """Spans that touch that time, at most `most` rows, shared among the processes. A span
        stands below the one of its task or thread that holds it; tasks that ran at the same time
        share rows where there is room."""
        found: list[Row] = []
        for path, (_, events) in self._seen.items():
            rows: list[list[SpanEvent]] = []
            holders: dict[int, list[tuple[float, int]]] = {}
            touched = [event for event in events if event.end > since and event.ts < until]
            for event in sorted(touched, key=lambda event: (event.ts, -event.dur)):
                holding = [held for held in holders.get(event.tid, ()) if held[0] >= event.end]
                depth = holding[-1][1] + 1 if holding else 0
                while depth < len(rows) and rows[depth][-1].end > event.ts:
                    depth += 1
                if depth == len(rows):
                    rows.append([])
                rows[depth].append(event)
                holders[event.tid] = [*holding, (event.end, depth)]
            kept = rows[: max(1, most // max(1, len(self._seen)))]
            found += [Row(path.stem, depth, tuple(row)) for depth, row in enumerate(kept)]
        return found
