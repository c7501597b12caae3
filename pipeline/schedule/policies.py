"""Who is admitted first. A policy orders; whether there is room is the scheduler's to say."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from typing import Protocol

from .sequence import Sequence


class Policy(Protocol):
    """`order` gets the waiting sequences by arrival, oldest first."""

    def order(self, waiting: ListLike[Sequence]) -> Iterable[Sequence]: ...


class FirstComeFirstServed:
    """Oldest first (S-LoRA's default queue)."""

    def order(self, waiting: ListLike[Sequence]) -> Iterable[Sequence]:
        return iter(waiting)


class LastInFirstOut:
    """Newest first: under overload those who just came are still served in time."""

    def order(self, waiting: ListLike[Sequence]) -> Iterable[Sequence]:
        return reversed(waiting)


POLICIES: dict[str, type[Policy]] = {
    "fcfs": FirstComeFirstServed,
    "lifo": LastInFirstOut,
}
