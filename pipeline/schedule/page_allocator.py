"""`PageAllocator`: which pages are free, hold KV or hold adapters. Only ids, no memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class OutOfPages(Exception):
    """The pool has fewer free pages than asked for; nothing was allocated."""


class PageAllocator:
    """Pages 0 … total-1, each free, of a sequence or of an adapter.

    Invariant, asserted by `check`: free + kv + adapters == total.
    """

    def __init__(self, total: int, page_size: int, kept: Collection[int] = ()) -> None:
        """`kept`: pages that sequences hold from the start."""
        self.total = total
        self.page_size = page_size
        self.kv = len(kept)
        self.adapters = 0
        # Last in, first out: a page just freed is likeliest to be in a cache.
        self._free = [page for page in range(total - 1, -1, -1) if page not in kept]

    @property
    def free(self) -> int:
        return len(self._free)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens of one sequence."""
        return -(-num_tokens // self.page_size)

    def allocate(self, count: int) -> tuple[int, ...]:
        """`count` pages for a sequence. Raises `OutOfPages` without any change."""
        pages = self._take(count)
        self.kv += count
        return pages

    def release(self, pages: Iterable[int]) -> None:
        """Frees a sequence's pages."""
        self.kv -= self._give(pages)

    def allocate_adapter(self, count: int) -> tuple[int, ...]:
        """`count` pages for an adapter. Raises `OutOfPages` without any change."""
        pages = self._take(count)
        self.adapters += count
        return pages

    def release_adapter(self, pages: Iterable[int]) -> None:
        """Frees an adapter's pages."""
        self.adapters -= self._give(pages)

    def _take(self, count: int) -> tuple[int, ...]:
        if count > len(self._free):
            raise OutOfPages(f"{count} pages wanted, {len(self._free)} free of {self.total}")
        return tuple(self._free.pop() for _ in range(count))

    def _give(self, pages: Iterable[int]) -> int:
        before = len(self._free)
        self._free.extend(pages)
        return len(self._free) - before

    def check(self) -> None:
        """Asserts the invariant, and that no page is free twice."""
        assert self.free + self.kv + self.adapters == self.total, (
            f"{self.free} free + {self.kv} kv + {self.adapters} adapters != {self.total}"
        )
        assert len(set(self._free)) == len(self._free), "a page is free twice"
