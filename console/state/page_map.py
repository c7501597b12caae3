"""`PageMap`: the owners of the pool's pages, as cells of a picture. Pure.

A pool may have 60 000 pages, and a map of them arrives every second. Each page is encoded as a byte
for its kind and style, so `bytes` methods count a cell's pages without a loop in Python.
60 000 pages in 750 cells take 4 ms if owners come in runs, 6 ms if no neighbours share an owner,
and less than half of that with fewer than 256 owners.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ...pipeline.messages import PageOwner, PoolMap

FREE = ""
KV, ADAPTER, CHECK = "kv", "adapter", "check"
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)
"""Round numbers of pages per cell."""


class Cell(NamedTuple):
    """A cell of the map: the kind that has most of its pages, in the commonest style of those."""

    kind: str
    style: str
    is_sparse: bool = False
    """Whether more than half of its pages are free."""


EMPTY = Cell(FREE, "rest")


class Share(NamedTuple):
    """Number of pages of one owner; `owner` None for free pages."""

    owner: PageOwner | None
    pages: int


class PageMap:
    """Divides a `PoolMap` into cells. `style_of` returns the style of an adapter's name."""

    def __init__(self, pool: PoolMap, style_of: Callable[[str | None], str]) -> None:
        self._owners = pool.owners
        self.num_pages = len(pool.pages) // 2
        self._numbers = array("H", pool.pages[: 2 * self.num_pages])
        if sys.byteorder == "big":
            self._numbers.byteswap()
        self._looks = [EMPTY]
        """The cell of each page code; code 0 is free."""
        codes: dict[Cell, int] = {EMPTY: 0}
        code_of = bytearray(1 << 16)
        for number, owner in enumerate(pool.owners[: (1 << 16) - 1], 1):
            look = Cell(owner.kind, style_of(owner.adapter))
            if look not in codes:
                codes[look] = len(self._looks)
                self._looks.append(look)
            code_of[number] = codes[look]
        if len(pool.owners) < 256:  # then the low byte is enough
            self._codes = pool.pages[: 2 * self.num_pages : 2].translate(bytes(code_of[:256]))
        else:
            self._codes = bytes(map(code_of.__getitem__, self._numbers))
        self._sparse = [look._replace(is_sparse=True) for look in self._looks]
        kinds = dict.fromkeys(look.kind for look in self._looks[1:])
        self._not_of = {
            kind: bytes(code for code, look in enumerate(self._looks) if look.kind != kind)
            for kind in kinds
        }

    def cells(self, size: int) -> tuple[Cell, ...]:
        """One cell per `size` pages; the last may have fewer."""
        codes = self._codes
        return tuple(
            self._cell(codes[first : first + size]) for first in range(0, len(codes), size)
        )

    def _cell(self, codes: bytes) -> Cell:
        if codes.count(codes[0]) == len(codes):  # all alike, or free: most cells are
            return self._looks[codes[0]]
        mine = max((codes.translate(None, other) for other in self._not_of.values()), key=len)
        code = mine[0] if mine.count(mine[0]) == len(mine) else max(set(mine), key=mine.count)
        looks = self._sparse if 2 * codes.count(0) > len(codes) else self._looks
        return looks[code]

    def shares(self, first: int, end: int) -> list[Share]:
        """The owners of pages `first` to `end` - 1, largest share first; free pages come last."""
        found: Counter[PageOwner | None] = Counter()
        for number, pages in Counter(self._numbers[first:end]).items():
            known = 0 < number <= len(self._owners)
            found[self._owners[number - 1] if known else None] += pages
        taken = [Share(owner, pages) for owner, pages in found.most_common() if owner]
        return [*taken, Share(None, found[None])] if found[None] else taken


def pages_a_cell(num_pages: int, num_cells: int) -> int:
    """The smallest of `STEPS` with which all pages fit; beyond the last one, the exact number."""
    least = max(1, -(-num_pages // max(1, num_cells)))
    return STEPS[bisect_left(STEPS, least)] if least <= STEPS[-1] else least
