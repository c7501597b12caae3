"""`AdapterHistory`: what happened to each adapter since this console is attached, from the changes
between two tables of the router. Knows no widget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from ...pipeline.messages import AdapterState, AdapterTable, AdapterView

MarkKind: TypeAlias = Literal["hit", "load", "evict", "generation", "fail"]
Mark: TypeAlias = tuple[float, MarkKind]
"""The time of a change, unix seconds, and what it was."""

MARK_S = 2.0
"""Hits within this time of the last one add no mark, so that a busy adapter has a mark a cell."""
MARKS_KEPT = 256
SPARE = 64
"""Names that are gone of which counts are kept."""


class _Counts(NamedTuple):
    """What is compared between two tables."""

    generation: int
    has_failed: bool
    placements: int
    evictions: int
    hits: int


class AdapterHistory:
    """Marks by the adapter's name, oldest first, at most `MARKS_KEPT` each."""

    def __init__(self) -> None:
        self.marks: Mapping[str, tuple[Mark, ...]] = {}
        """Replaced after a change, never changed."""
        self.of_all: tuple[Mark, ...] = ()
        """Marks of all adapters together, without hits, oldest first; at most `MARKS_KEPT`."""
        self._known: dict[str, _Counts] = {}
        """Of each name in the last table."""
        self._hit_at: dict[str, float] = {}

    def fold_table(self, table: AdapterTable) -> None:
        """Adds the changes since the last table. A router that has restarted counts from 0: its
        first table only sets the counts. Of two generations the one being unloaded, which is listed
        last, does not count."""
        new: dict[str, tuple[Mark, ...]] = {}
        views = {view.name: view for view in reversed(table.adapters)}
        for name, view in views.items():
            now, before = _counts(view), self._known.get(name)
            if before == now:
                continue
            self._known[name] = now
            if before is not None and (kinds := self._changes(name, before, now, table.at)):
                marks = (*self.marks.get(name, ()), *((table.at, kind) for kind in kinds))
                new[name] = marks[-MARKS_KEPT:]
                rare = tuple((table.at, kind) for kind in kinds if kind != "hit")
                self.of_all = (*self.of_all, *rare)[-MARKS_KEPT:]
        if new:
            self.marks = {**self.marks, **new}
        if len(self._known) > len(views) + SPARE:
            self._known = {name: self._known[name] for name in views}
            self.marks = {name: marks for name, marks in self.marks.items() if name in views}
            self._hit_at = {name: at for name, at in self._hit_at.items() if name in views}

    def _changes(self, name: str, before: _Counts, now: _Counts, at: float) -> list[MarkKind]:
        kinds: list[MarkKind] = []
        if now.has_failed and not before.has_failed:
            kinds.append("fail")
        if now.generation != before.generation:
            kinds.append("generation")
        if any(new < old for old, new in zip(before[2:], now[2:], strict=True)):
            return kinds  # of a router that has restarted, or of a new adapter of the name
        if now.evictions > before.evictions:
            kinds.append("evict")
        if now.placements > before.placements:
            kinds.append("load")
        if now.hits > before.hits and at - self._hit_at.get(name, 0.0) >= MARK_S:
            self._hit_at[name] = at
            kinds.append("hit")
        return kinds


def _counts(view: AdapterView) -> _Counts:
    has_failed = view.state is AdapterState.FAILED
    return _Counts(view.generation, has_failed, view.placements, view.evictions, view.hits)
