"""Minimum bytes a step reads: every weight once, and the KV that its rows attend to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..model.batch_torch import StepRow
from ..model.layers import LinearByRows
from ..model.llama import Llama
from ..model.page_pool import PAGE_SIZE, PagePool


class StepBytes:
    """Bytes that a step of one model over one pool must read."""

    def __init__(self, model: Llama, pool: PagePool, windows: Sequence[int]) -> None:
        """`windows` has one entry per layer, 0 for full attention."""
        self._matrices, self._weights = model.matrices(), dict[int, int]()
        pages = len(pool.pages) * pool.num_pages
        self._token_bytes = pool.nbytes // pages // PAGE_SIZE
        """Bytes of K and V of one token in one layer."""
        self._layers = Counter(windows)

    def weights(self, num_tokens: int) -> int:
        """Bytes of weights. The embedding counts only if it is the head, since a step reads single
        rows of it. Of a weight in two formats, the one used for `num_tokens` counts."""
        if num_tokens not in self._weights:
            self._weights[num_tokens] = sum(
                (m.chosen(num_tokens) if isinstance(m, LinearByRows) else m).num_bytes
                for m in self._matrices
            )
        return self._weights[num_tokens]

    def kv(self, rows: Sequence[StepRow]) -> int:
        """Bytes of K and V that the rows attend to, in all layers."""
        tokens = 0
        for window, layers in self._layers.items():
            if window:
                seen = sum(min(row.stop, window + row.num_tokens - 1) for row in rows)
            else:
                seen = sum(row.stop for row in rows)
            tokens += layers * seen
        return tokens * self._token_bytes
