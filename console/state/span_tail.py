"""`SpanTail`: the newest spans of a recording in progress, from the ends of its files.

The supervisor reads the files, because the console may run on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...pipeline.messages import SpanEnds


class SpanEvent(msgspec.Struct, frozen=True):
    """A line of a span file, as `pipeline/runtime/spans.py` writes it. Times in microseconds."""

    ph: str
    name: str
    ts: float = 0.0
    dur: float = 0.0
    tid: int = 0

    @property
    def end(self) -> float:
        return self.ts + self.dur


class SpanRow(msgspec.Struct, frozen=True):
    """Spans of one process that do not overlap; spans of depth 1 lie within those of depth 0."""

    process: str
    depth: int
    spans: tuple[SpanEvent, ...]


class SpanTail:
    """`fold_ends` stores the span files' ends as the supervisor sends them; `rows` lays out the
    last spans of each process."""

    def __init__(self) -> None:
        self._seen: dict[str, list[SpanEvent]] = {}
        self._decoder = msgspec.json.Decoder(SpanEvent)
        self.stamp = self.recording = ""

    def fold_ends(self, ends: SpanEnds) -> None:
        if ends.stamp != self.stamp:
            self.stamp, self.recording = ends.stamp, ends.recording
            self._seen = {file.process: list(self._spans_of(file.lines)) for file in ends.files}

    def _spans_of(self, lines: bytes) -> Iterator[SpanEvent]:
        for line in lines.splitlines():
            try:
                event = self._decoder.decode(line)
            except msgspec.DecodeError:
                continue  # `loraconsole spans` reports it
            if event.ph == "X":
                yield event

    @property
    def end(self) -> float:
        """Latest time for which every process has data: the minimum over processes of their newest
        span's end, µs."""
        newest = [max(event.end for event in events) for events in self._seen.values() if events]
        return min(newest, default=0.0)

    def rows(self, since: float, until: float, most: int) -> list[SpanRow]:
        """Spans between `since` and `until`, µs, in at most `most` rows, divided equally among the
        processes. A span lies below the one of its task or thread that encloses it; concurrent
        tasks share a row if their spans do not overlap."""
        found: list[SpanRow] = []
        for process, events in self._seen.items():
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
            found += [SpanRow(process, depth, tuple(row)) for depth, row in enumerate(kept)]
        return found
