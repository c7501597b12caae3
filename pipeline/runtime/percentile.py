"""`percentile` of a sorted sequence, and `half_spread` around its median."""

from __future__ import annotations

import math
from collections.abc import Sequence

FEW = 8
"""Below this many values quartiles say little."""


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """Nearest rank: the smallest element that a share `q` (0 to 1) of all do not exceed.

    `ordered` must ascend; it is not checked. None if it is empty.
    """
    if not ordered:
        return None
    rank = math.ceil(round(q * len(ordered), 9))  # 0.07 * 100 is 7.000000000000001
    return ordered[max(0, rank - 1)]


def half_spread(ordered: Sequence[float]) -> float:
    """Half the distance between the quartiles, or of fewer than 8 values between the extremes: half
    of all values (or all of them) lie about this near the median. 0 for none.

    `ordered` must ascend; it is not checked.
    """
    least, most = (0.0, 1.0) if len(ordered) < FEW else (0.25, 0.75)
    low, high = percentile(ordered, least), percentile(ordered, most)
    return 0.0 if low is None or high is None else (high - low) / 2
