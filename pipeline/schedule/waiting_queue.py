"""`WaitingQueue`: the sequences that wait, by age and by client. Knows no policy.

A client is who shares are counted for: an adapter's name, "" for the base model.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from operator import attrgetter

from .sequence import Sequence

_age = attrgetter("age")


class WaitingQueue:
    """Oldest first. To go through it is to go through a copy, so it may change meanwhile."""

    def __init__(self) -> None:
        self._all: list[Sequence] = []
        self._of: dict[str, list[Sequence]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._all.copy())

    def __reversed__(self) -> Iterator[Sequence]:
        return reversed(self._all.copy())

    @property
    def oldest(self) -> Sequence:
        """Of a queue that is not empty."""
        return self._all[0]

    def add(self, sequence: Sequence) -> None:
        bisect.insort(self._all, sequence, key=_age)
        bisect.insort(self._of.setdefault(sequence.adapter.name, []), sequence, key=_age)

    def remove(self, sequence: Sequence) -> None:
        """Raises `ValueError` where it does not wait."""
        client = sequence.adapter.name
        for line in (self._all, self._of.get(client, [])):
            at = bisect.bisect_left(line, sequence.age, key=_age)
            if at == len(line) or line[at] is not sequence:
                raise ValueError(f"{sequence.request.request_id} does not wait")
            del line[at]
        if not self._of[client]:
            del self._of[client]

    def position(self, sequence: Sequence) -> int:
        """How many wait before it."""
        return bisect.bisect_left(self._all, sequence.age, key=_age)

    def clients(self) -> Iterable[str]:
        """Those that have somebody waiting."""
        return self._of.keys()

    def of(self, client: str) -> list[Sequence]:
        """A copy of a client's line, oldest first."""
        return self._of.get(client, []).copy()

    def first_of(self, client: str) -> Sequence | None:
        """The oldest of a client."""
        line = self._of.get(client)
        return line[0] if line else None
