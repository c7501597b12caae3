"""`KeptKv`: pages of the workers that still hold the KV of a router that has died, until the
requests whose KV it is are there again. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from ..messages import KeptSequence, Request, WorkerReady


class KeptKv:
    """What all ranks have computed of each request, claimed by the request or released."""

    def __init__(self, sequences: Iterable[KeptSequence] = ()) -> None:
        self._sequences = {(each.request_id, each.arrived_at): each for each in sequences}

    @classmethod
    def of_workers(cls, workers: Sequence[WorkerReady], num_pages: int) -> KeptKv:
        """What every rank has. One may have got a step more than another, so of each request only
        the pages and tokens count that all report, and no page with two owners."""
        first, *others = workers
        found: list[KeptSequence] = []
        used: set[int] = set()
        ranks = [{(k.request_id, k.arrived_at): k for k in other.kept} for other in others]
        for kept in first.kept:
            same = [rank.get((kept.request_id, kept.arrived_at)) for rank in ranks]
            common = _common([kept, *same], first.page_size)
            if common and used.isdisjoint(common.pages) and max(common.pages) < num_pages:
                used.update(common.pages)
                found.append(common)
        return cls(found)

    @property
    def pages(self) -> list[int]:
        """Pages that are not claimed yet."""
        return [page for each in self._sequences.values() for page in each.pages]

    def claim(self, request: Request, adapter: str | None) -> KeptSequence | None:
        """What is kept of a request that `adapter` (its key; None: the base) answers. What another
        generation has computed stays unclaimed."""
        name = (request.request_id, request.arrived_at)
        kept = self._sequences.get(name)
        if kept is None or kept.adapter != adapter:
            return None
        return self._sequences.pop(name)

    def release(self) -> list[int]:
        """The pages that nobody has claimed, which nobody can claim any more."""
        pages = self.pages
        self._sequences.clear()
        return pages


def _common(ranks: Sequence[KeptSequence | None], page_size: int) -> KeptSequence | None:
    """What all ranks hold of one request; None if that is nothing."""
    found = [kept for kept in ranks if kept is not None]
    first = found[0]
    if len(found) < len(ranks) or any(kept.adapter != first.adapter for kept in found):
        return None
    columns = zip(*(kept.pages for kept in found), strict=False)
    pages = tuple(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))
    computed = min(len(pages) * page_size, *(kept.computed for kept in found))
    if computed <= 0:
        return None
    return KeptSequence(first.request_id, first.arrived_at, first.adapter, computed, pages)
