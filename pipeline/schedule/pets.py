"""PETS: prompts grouped into batches of the least total time (Zhou et al., ATC 2022, as in S-LoRA),
by tables of measured latencies or by a linear estimate."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from collections.abc import Sequence as ListLike
from typing import NamedTuple, TypeVar

import msgspec

from ..messages import SchedulerSettings
from .policies import Policy
from .sequence import Sequence, SequenceState
from .waiting_queue import WaitingQueue

FEWEST = 10
"""Requests are grouped only if more than this many wait, as in S-LoRA."""
WINDOW = 128
"""Requests grouped at a time, the oldest. The time to group grows with their square, and new
arrivals cannot put off the oldest for ever."""

T = TypeVar("T")


class LatencyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds of a prefill step by batch size and by prompt length.

    `base` is for the base model; `rank` for the same step with adapters of a rank, base included.
    As JSON: {"base": {"8": {"256": 31.5}}, "rank": {"16": {"8": {"256": 40.2}}}}. Values between
    entries are interpolated in both; beyond the largest they grow with the tokens. Without entries
    it estimates a step bound by arithmetic: 1 + 0.01 ms a token, a thousandth more per unit of
    rank.
    """

    base: dict[int, dict[int, float]] = {}
    rank: dict[int, dict[int, dict[int, float]]] = {}

    @classmethod
    def decode(cls, text: bytes) -> LatencyTable:
        """The table of a JSON document. Raises `ValueError` with the reason."""
        try:
            table = msgspec.json.decode(text, type=cls, strict=False)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        for name, grid in (("base", table.base), *table.rank.items()):
            if not grid or not all(grid.values()):
                raise ValueError(f"{name} has no entries, or none for a batch")
            if any(value < 0 for row in grid.values() for value in row.values()):
                raise ValueError(f"{name} has a latency below zero")
            if min(grid) < 1 or min(min(row) for row in grid.values()) < 1:
                raise ValueError(f"{name} has a batch or a length below one")
        return table

    def alpha(self, batch: int, length: int) -> float:
        """Milliseconds of the base model for `batch` prompts, the longest of `length` tokens."""
        if not self.base:
            return 1.0 + 0.01 * batch * length
        return _grid(self.base, batch, length)

    def beta(self, rank: int, batch: int, length: int) -> float:
        """Milliseconds that adapters of `rank` add to `alpha`, at least 0: those of the nearest
        measured rank, scaled in proportion."""
        if not rank:
            return 0.0
        if not self.rank:
            return rank * 1e-3 * (1.0 + 0.01 * batch * length)
        nearest = min(self.rank, key=lambda known: (abs(known - rank), known))
        added = _grid(self.rank[nearest], batch, length) - self.alpha(batch, length)
        return max(0.0, added) * rank / nearest


def _grid(grid: dict[int, dict[int, float]], batch: int, length: int) -> float:
    return _between(grid, batch, lambda row: _between(row, length, float))


def _between(entries: dict[int, T], at: int, value: Callable[[T], float]) -> float:
    """Linear between two entries, the first value below the first, in proportion above the last."""
    keys = sorted(entries)
    above = bisect.bisect_left(keys, at)
    if above == len(keys):
        return value(entries[keys[-1]]) * at / keys[-1]
    high = value(entries[keys[above]])
    if keys[above] == at or above == 0:
        return high
    low = value(entries[keys[above - 1]])
    share = (at - keys[above - 1]) / (keys[above] - keys[above - 1])
    return low + share * (high - low)


class MiniBatch(NamedTuple):
    """Prompts of one adapter, the longest last."""

    length: int
    sequences: list[Sequence]


class Pets(Policy):
    """Two dynamic programmes over the 128 oldest if more than 10 wait; else oldest first.

    For each adapter, prompts by length x_1 <= … <= x_n are cut into mini-batches of the least added
    time: F[j] = min over k <= j of F[k-1] + beta(rank, j-k+1, x_j). All mini-batches by length y_1
    <= … <= y_m are joined to batches of the least time: G[i] = min over j <= i of G[j-1] +
    alpha(prompts in j … i, y_i). The batch with the shortest prompts goes first; when it is
    admitted, the rest are grouped again.
    """

    def __init__(self, settings: SchedulerSettings, table: LatencyTable) -> None:
        super().__init__(settings)
        self._table = table
        self._batch: list[Sequence] = []

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        while len(queue) > FEWEST or self._batch:
            self._batch = [s for s in self._batch if s.state is SequenceState.WAITING]
            if not self._batch:
                if len(queue) <= FEWEST:
                    break
                oldest = [s for s, _ in zip(queue, range(WINDOW), strict=False)]
                self._batch = shortest_batch(oldest, self._table)
            batch = self._batch
            yield from batch
            if any(s.state is SequenceState.WAITING for s in batch):
                return  # the batch waits for its adapters
        yield from queue


def shortest_batch(sequences: ListLike[Sequence], table: LatencyTable) -> list[Sequence]:
    """The batch with the shortest prompts among those that `Pets` makes of `sequences`."""
    tasks: dict[str, list[Sequence]] = {}
    for sequence in sorted(sequences, key=lambda s: (s.num_prompt, s.age)):
        tasks.setdefault(sequence.adapter.key, []).append(sequence)
    minis: list[MiniBatch] = []
    for task in tasks.values():
        info = task[0].adapter.info
        rank = info.rank if info else 0

        def added(first: int, last: int, task: list[Sequence] = task, rank: int = rank) -> float:
            return table.beta(rank, last - first + 1, task[last].num_prompt)

        for first, last in cut(len(task), added):
            minis.append(MiniBatch(task[last].num_prompt, task[first : last + 1]))
    minis.sort(key=lambda mini: (mini.length, mini.sequences[0].age))
    before = [0]
    for mini in minis:
        before.append(before[-1] + len(mini.sequences))
    first, last = cut(
        len(minis), lambda i, j: table.alpha(before[j + 1] - before[i], minis[j].length)
    )[0]
    return [sequence for mini in minis[first : last + 1] for sequence in mini.sequences]


def cut(count: int, cost: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """0 … count-1 as consecutive pieces (first, last) of the least total cost; ties go to the
    longest last piece."""
    best = [0.0]
    starts: list[int] = []
    for last in range(count):
        value, first = min((best[first] + cost(first, last), first) for first in range(last + 1))
        best.append(value)
        starts.append(first)
    pieces: list[tuple[int, int]] = []
    last = count - 1
    while last >= 0:
        pieces.append((starts[last], last))
        last = starts[last] - 1
    return pieces[::-1]
