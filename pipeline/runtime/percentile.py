"""`percentile` of a sorted sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], q: float) -> float | None:
    """Nearest rank: the smallest element that a share `q` (0 to 1) of all do not exceed.

    `ordered` must ascend; it is not checked. None if it is empty.
    """
    if not ordered:
        return None
    rank = math.ceil(round(q * len(ordered), 9))  # 0.07 * 100 is 7.000000000000001
    return ordered[max(0, rank - 1)]
