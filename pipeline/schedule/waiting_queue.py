"""`WaitingQueue`: the waiting sequences, by age and by client. Knows no policy.

A client is the unit of fair shares: an adapter's name, "" for the base model.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from operator import attrgetter

from .sequence import Sequence

_age = attrgetter("age")


class WaitingQueue:
    """Sequences, oldest first. Iterations use a copy, so the queue may change meanwhile."""

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
        """The sequence that arrived first. The queue must not be empty."""
        return self._all[0]

    def add_sequence(self, sequence: Sequence) -> None:
        bisect.insort(self._all, sequence, key=_age)
        bisect.insort(self._of.setdefault(sequence.adapter.name, []), sequence, key=_age)

    def remove_sequence(self, sequence: Sequence) -> None:
        """Raises `ValueError` if the sequence is not in the queue."""
        client = sequence.adapter.name
        for line in (self._all, self._of.get(client, [])):
            at = bisect.bisect_left(line, sequence.age, key=_age)
            if at == len(line) or line[at] is not sequence:
                raise ValueError(f"{sequence.request.request_id} does not wait")
            del line[at]
        if not self._of[client]:
            del self._of[client]

    def position(self, sequence: Sequence) -> int:
        """The number of older sequences in the queue."""
        return bisect.bisect_left(self._all, sequence.age, key=_age)

    def clients(self) -> Iterable[str]:
        """The clients with waiting sequences."""
        return self._of.keys()

    def of_client(self, client: str) -> list[Sequence]:
        """A client's sequences, oldest first."""
        return self._of.get(client, []).copy()

    def first_of(self, client: str) -> Sequence | None:
        """The oldest sequence of a client, if it has one waiting."""
        line = self._of.get(client)
        return line[0] if line else None
