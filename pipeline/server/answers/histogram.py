"""`Histogram`: counts of observed values by bucket, and their sum."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


class Histogram:
    """Values counted by their upper bound; one more bucket is unbounded."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend, in the unit of the values."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value; one that equals a bound belongs to that bucket."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value
