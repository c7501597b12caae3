"""`Demand`: the pages that running sequences need at worst. Knows no pool."""

from __future__ import annotations

import bisect
from collections.abc import Iterable


class Demand:
    """Worst-case page demand of sequences that advance together (S-LoRA's admission test).

    With h_i tokens held and l_i still to come, sorted by l descending, demand peaks whenever a
    sequence ends: need = max_k ( k * l_k + sum_{i<=k} h_i ) tokens. In pages of P tokens, each
    sequence wastes at most P-1 tokens of its last page:
    pages = max_k floor( (k * (l_k + P - 1) + sum_{i<=k} h_i) / P ), as the sum of whole pages is
    whole. For one sequence that is exact, so one as long as the pool runs.

    While all advance by a token a step, no term changes: l_k falls by one as each h_i grows by one.
    """

    def __init__(self, page_size: int, entries: Iterable[tuple[int, int]] = ()) -> None:
        """`entries` are (tokens held, tokens to come)."""
        self._page_size = page_size
        # (-l - P + 1, h), so ascending is l descending.
        slack = page_size - 1
        self._entries = sorted([(-remaining - slack, held) for held, remaining in entries])

    def add_sequence(self, held: int, remaining: int) -> None:
        bisect.insort(self._entries, (1 - self._page_size - remaining, held))

    def with_candidate(self, held: int, remaining: int) -> int:
        """Pages needed at worst with one more sequence."""
        candidate = (1 - self._page_size - remaining, held)
        entries = self._entries.copy()
        bisect.insort(entries, candidate)
        return self._pages(entries)

    @property
    def pages(self) -> int:
        """Pages needed at worst."""
        return self._pages(self._entries)

    def _pages(self, entries: list[tuple[int, int]]) -> int:
        peak = total_held = 0
        for count, (negative_remaining, tokens) in enumerate(entries, start=1):
            total_held += tokens
            need = total_held - count * negative_remaining
            if need > peak:
                peak = need
        return peak // self._page_size
