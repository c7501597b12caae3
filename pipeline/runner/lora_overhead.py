"""`BaseTimes`: estimates a decode step's time without adapters from steps that have none.

The last steps of each row count (padding included) are kept. Sequences grow, so no two steps read
the same amount of KV: its cost per byte is learned too. Knows no device.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque

RECENT = 31
"""Steps whose median is taken: about a second of serving, so that the estimate follows changing
load on the machine while one slow step has no effect."""


class BaseTimes:
    """Base-model decode times by row count; `take` gets every decode step. Used from one thread."""

    def __init__(self, copy_bytes_s: float) -> None:
        """KV is assumed to be read at `copy_bytes_s` until `learn_kv`; 0: KV costs nothing."""
        self._copy_bytes_s = self.kv_bytes_s = copy_bytes_s
        self._recent: dict[int, deque[tuple[int, int]]] = {}
        """Row count to (kv_bytes, busy_us) of recent steps."""
        self._counts: list[int] = []
        """The row counts in `_recent`, ascending."""

    def take(self, rows: int, busy_us: int, kv_bytes: int, *, has_adapters: bool) -> int:
        """Records a step without adapters and returns 0. For a step with adapters, returns the
        estimated microseconds without them; 0 if unknown."""
        if has_adapters:
            base = self._base_us(rows)
            return 0 if base is None else max(0, round(base + self._kv_us(kv_bytes)))
        if rows not in self._recent:
            self._recent[rows] = deque(maxlen=RECENT)
            bisect.insort(self._counts, rows)
        self._recent[rows].append((kv_bytes, busy_us))
        return 0

    def learn_kv(self, rows: int) -> None:
        """Sets the KV read rate from recorded steps of `rows` rows, half with little KV and half
        with much; capped at the copy rate. On two cores attention reads at a fourth of that rate;
        assuming the copy rate showed the tax of long sequences three times too high."""
        seen = sorted(self._recent.get(rows, ()))
        half = len(seen) // 2
        if not half:
            return
        (low, fast), (high, slow) = (
            map(statistics.median, zip(*part, strict=True)) for part in (seen[:half], seen[-half:])
        )
        if slow > fast and high > 4 * low:  # otherwise the difference is noise
            self.kv_bytes_s = min(self._copy_bytes_s, (high - low) / (slow - fast) * 1e6)

    def _base_us(self, rows: int) -> float | None:
        """Base time without KV. Interpolated linearly between two recorded row counts; None
        outside their range."""
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
