"""`MaskFiller`: the masks of many answers' next tokens, computed in parallel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from .matcher import Matcher


class MaskFiller:
    """Several threads, which wait for work without using a core."""

    def __init__(self, threads: int) -> None:
        self._executor = LLExecutor(threads) if threads > 1 else None

    def fill_masks(self, matchers: Sequence[tuple[int, Matcher]], bits: NDArray[np.int32]) -> None:
        """Writes the mask of each matcher's next token to its row of `bits` [rows, words]."""
        if self._executor is not None and len(matchers) > 1:
            pairs = [(matcher.library, row) for row, matcher in matchers]
            fill_next_token_bitmask_par(self._executor, pairs, bits)
        else:
            for row, matcher in matchers:
                fill_next_token_bitmask(matcher.library, bits, row)
        for row, matcher in matchers:
            matcher.finish_mask(bits[row])
