"""`OpenConnections`: how many HTTP connections are open, in all and by client, and which of them is
closed when a new one would be too many.

Knows no protocol: a connection is anything with a client's address and a way to be closed.
"""

from __future__ import annotations

import resource
from collections import Counter
from typing import Protocol

SPARE_DESCRIPTORS = 64
"""Descriptors that the server needs for other things than connections."""
LEAST = 16
"""Connections that are allowed however few descriptors there are."""


class Closable(Protocol):
    """A connection of a client."""

    address: str
    """Of the client."""

    def give_way(self, reason: str) -> None:
        """Closes the connection at once, with an answer if one is due."""
        ...


class OpenConnections:
    """Counts connections. Those that wait for their client are the ones that give way: idle, or
    with half a request. One whose request is being answered is never closed here."""

    def __init__(self, most: int, most_per_client: int) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._by_client: Counter[str] = Counter()
        self._waiting: dict[str, dict[Closable, None]] = {}
        """Connections that wait, by client; the one that has waited longest is first."""
        self._all_waiting: dict[Closable, None] = {}

    def add(self, connection: Closable) -> None:
        """Counts a new connection, which waits for its client, and closes another one, or this one
        if all others are at work, where they are too many."""
        address = connection.address
        self._by_client[address] += 1
        self.wait(connection)
        if self._by_client[address] > self._most_per_client:
            first = next(iter(self._waiting[address]))
            first.give_way(f"too many connections of {address}: at most {self._most_per_client}")
        elif self._by_client.total() > self._most:
            first = next(iter(self._all_waiting))
            first.give_way(f"too many connections: at most {self._most}")

    def remove(self, connection: Closable) -> None:
        """Forgets a connection that is closed."""
        self.work(connection)
        self._by_client[connection.address] -= 1
        if not self._by_client[connection.address]:
            del self._by_client[connection.address]

    def wait(self, connection: Closable) -> None:
        """Notes that a connection waits for its client."""
        self._waiting.setdefault(connection.address, {})[connection] = None
        self._all_waiting[connection] = None

    def work(self, connection: Closable) -> None:
        """Notes that a connection does not wait for its client."""
        self._all_waiting.pop(connection, None)
        if waiting := self._waiting.get(connection.address):
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[connection.address]


def most_connections(wanted: int) -> int:
    """The connections that the process's limit of descriptors allows, at most `wanted`."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(LEAST, soft - SPARE_DESCRIPTORS))
