"""`MaskFiller`: the masks of many answers' next tokens at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from .matcher import Ending, Matcher

TRIED = 8
"""Masks computed one after the other, to estimate the others' time."""
WORTH_THREADS = 0.01
"""Seconds of masks from which several threads compute them. On 16 cores, 128 masks of 13 us took
1.7 ms with one thread, and 2.3, 2.8 and 3.2 ms with 2, 8 and 16, which have to be woken."""


class MaskFiller:
    """Several threads, which wait for work without using a core."""

    def __init__(self, threads: int) -> None:
        self._executor = LLExecutor(threads) if threads > 1 else None

    def fill_masks(self, matchers: Sequence[tuple[int, Matcher]], bits: NDArray[np.int32]) -> None:
        """Writes the mask of each matcher's next token to its row of `bits` [rows, words]."""
        first, rest = matchers[:TRIED], matchers[TRIED:]
        started = time.perf_counter()
        self._fill_in_turn(first, bits)
        estimate = (time.perf_counter() - started) / TRIED * len(rest)
        if self._executor is not None and estimate > WORTH_THREADS:
            pairs = [(matcher.library, row) for row, matcher in rest]
            fill_next_token_bitmask_par(self._executor, pairs, bits)
        else:
            self._fill_in_turn(rest, bits)
        complete_masks(matchers, bits)

    def _fill_in_turn(
        self, matchers: Sequence[tuple[int, Matcher]], bits: NDArray[np.int32]
    ) -> None:
        for row, matcher in matchers:
            fill_next_token_bitmask(matcher.library, bits, row)


def complete_masks(matchers: Sequence[tuple[int, Matcher]], bits: NDArray[np.int32]) -> None:
    """Completes the masks that llguidance has computed: the tokens that end an answer take the
    place of `Vocabulary.end`. No bit is set after the end, and after an error."""
    by_ending: dict[Ending, list[tuple[int, Matcher]]] = {}
    for row, matcher in matchers:
        matcher.note_error()
        if matcher.is_over or matcher.error:
            bits[row] = 0
        else:
            by_ending.setdefault(matcher.ending, []).append((row, matcher))
    for ending, group in by_ending.items():
        rows = [row for row, _ in group]
        may_end = bits[rows, ending.word] >> ending.bit & 1
        if len(rows) == len(bits):
            bits &= ending.others
        else:
            bits[rows] &= ending.others
        for (row, matcher), may in zip(group, may_end.tolist(), strict=True):
            matcher.keep_first(bits[row])
            if may and matcher.library.is_accepting():
                bits[row] |= ending.ends
