"""`BaseTimes`: what a decode step would take without adapters, learnt from those that have none.

Of each number of rows computed (padding included) the last steps are kept. Sequences grow, so no
two steps read the same KV: what that costs a byte is learnt too. Knows no device.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque

RECENT = 31
"""Steps whose median is taken: a second of serving, so that it follows a machine that others use,
and one slow step does not show."""


class BaseTimes:
    """`take` every decode step in turn. One thread."""

    def __init__(self, copy_bytes_s: float) -> None:
        """KV is read at `copy_bytes_s` until `learn_kv` knows better; 0: it costs nothing."""
        self._copy_bytes_s = self.kv_bytes_s = copy_bytes_s
        self._recent: dict[int, deque[tuple[int, int]]] = {}
        """(kv_bytes, busy_us)"""
        self._counts: list[int] = []
        """The numbers of rows of `_recent`, ascending."""

    def take(self, rows: int, busy_us: int, kv_bytes: int, *, has_adapters: bool) -> int:
        """Learns from a step without adapters. For one with adapters the microseconds that it
        would have taken without; 0 where that is not known (yet)."""
        if has_adapters:
            base = self._base_us(rows)
            return 0 if base is None else max(0, round(base + self._kv_us(kv_bytes)))
        if rows not in self._recent:
            self._recent[rows] = deque(maxlen=RECENT)
            bisect.insort(self._counts, rows)
        self._recent[rows].append((kv_bytes, busy_us))
        return 0

    def learn_kv(self, rows: int) -> None:
        """Learns from steps of `rows` rows, half of them with little KV and half with much. Never
        faster than a copy. On two cores attention reads at a fourth of that, and the tax of long
        sequences was shown three times too high."""
        seen = sorted(self._recent.get(rows, ()))
        half = len(seen) // 2
        if not half:
            return
        (low, fast), (high, slow) = (
            map(statistics.median, zip(*part, strict=True)) for part in (seen[:half], seen[-half:])
        )
        if slow > fast and high > 4 * low:  # else it is noise
            self.kv_bytes_s = min(self._copy_bytes_s, (high - low) / (slow - fast) * 1e6)

    def _base_us(self, rows: int) -> float | None:
        """Without KV. Between two numbers of rows that were seen, on the line between them; beyond
        them nothing is known."""
        if rows in self._recent:
            return statistics.median(
                busy_us - self._kv_us(kv_bytes) for kv_bytes, busy_us in self._recent[rows]
            )
        place = bisect.bisect(self._counts, rows)
        if place in (0, len(self._counts)):
            return None
        low, high = self._counts[place - 1], self._counts[place]
        first, last = self._base_us(low), self._base_us(high)
        assert first is not None and last is not None
        return first + (last - first) * (rows - low) / (high - low)

    def _kv_us(self, kv_bytes: int) -> float:
        return kv_bytes / self.kv_bytes_s * 1e6 if self.kv_bytes_s else 0.0
