"""`BaseTimes`: estimates a decode step's time without adapters from steps that have none, and how
far that estimate can be trusted.

The last steps of each row count (padding included) are kept. Sequences grow, so no two steps read
the same amount of KV: its cost per byte is learned too. Knows no device.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from typing import NamedTuple

from ..runtime.percentile import half_spread
from .warm_up_record import MeasuredSteps

RECENT = 31
"""Steps whose median is taken: about a second of serving, so that the estimate follows changing
load on the machine while one slow step has no effect."""


class BaseEstimate(NamedTuple):
    """A decode step's time without adapters: the median of `steps` steps. 0 steps: unknown."""

    us: float = 0.0
    spread_us: float = 0.0
    """The `half_spread` of those steps."""
    steps: int = 0
    at: float = 0.0
    """End of the newest of them, unix seconds."""


UNKNOWN = BaseEstimate()


class BaseTimes:
    """Base-model decode times by row count; `take` gets every decode step. Used from one thread."""

    def __init__(self, copy_bytes_s: float) -> None:
        """KV is assumed to be read at `copy_bytes_s` until `learn_kv`; 0: KV costs nothing."""
        self._copy_bytes_s = self.kv_bytes_s = copy_bytes_s
        self._recent: dict[int, deque[tuple[int, int]]] = {}
        """Row count to (kv_bytes, busy_us) of recent steps."""
        self._newest_at: dict[int, float] = {}
        """Row count to the end of its newest step, unix seconds."""
        self._counts: list[int] = []
        """The row counts in `_recent`, ascending."""

    @staticmethod
    def of(measured: MeasuredSteps) -> BaseTimes:
        """The times that an earlier worker measured."""
        times = BaseTimes(measured.copy_bytes_s)
        times.kv_bytes_s = measured.kv_bytes_s
        for rows, steps in measured.steps.items():
            for kv_bytes, busy_us in steps:
                times.take(rows, busy_us, kv_bytes, measured.newest_at[rows], has_adapters=False)
        return times

    def measured(self) -> MeasuredSteps:
        """All recorded times."""
        steps = {rows: [*recent] for rows, recent in self._recent.items()}
        return MeasuredSteps(self._copy_bytes_s, self.kv_bytes_s, steps, dict(self._newest_at))

    def take(
        self, rows: int, busy_us: int, kv_bytes: int, at: float = 0.0, *, has_adapters: bool
    ) -> BaseEstimate:
        """Records a step without adapters that ended at `at`, and returns `UNKNOWN`. For a step
        with adapters, returns the estimate of its time without them."""
        if has_adapters:
            base = self._base(rows)
            if not base.steps:
                return UNKNOWN
            return base._replace(us=max(0.0, base.us + self._kv_us(kv_bytes)))
        if rows not in self._recent:
            self._recent[rows] = deque(maxlen=RECENT)
            bisect.insort(self._counts, rows)
        self._recent[rows].append((kv_bytes, busy_us))
        self._newest_at[rows] = at
        return UNKNOWN

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

    def _base(self, rows: int) -> BaseEstimate:
        """The estimate without KV. Interpolated linearly between two recorded row counts; `UNKNOWN`
        outside their range."""
        if rows in self._recent:
            times = sorted(busy_us - self._kv_us(kv) for kv, busy_us in self._recent[rows])
            median, spread = statistics.median(times), half_spread(times)
            return BaseEstimate(median, spread, len(times), self._newest_at[rows])
        place = bisect.bisect(self._counts, rows)
        if place in (0, len(self._counts)):
            return UNKNOWN
        low, high = self._counts[place - 1], self._counts[place]
        share = (rows - low) / (high - low)
        first, last = self._base(low), self._base(high)
        return BaseEstimate(
            first.us + (last.us - first.us) * share,
            first.spread_us + (last.spread_us - first.spread_us) * share,
            first.steps + last.steps,
            min(first.at, last.at),
        )

    def _kv_us(self, kv_bytes: int) -> float:
        return kv_bytes / self.kv_bytes_s * 1e6 if self.kv_bytes_s else 0.0
