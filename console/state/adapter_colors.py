"""`AdapterColors`: the number of an adapter's colour, the same for life; a theme says which it is.

A name prefers the colour that its hash names. Where a neighbour in the list has that already, it
takes the colour that the fewest have. A file keeps what was given, so that an adapter has its
colour tomorrow too, whichever adapters were loaded before it.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..paths import state_directory

NUM_COLORS = 8
"""Adapter colours in a theme; the ninth adapter shares one."""
REMEMBERED = 5000


class AdapterColors:
    """`give` names in the order they are listed; `by_name` says which style each has."""

    def __init__(self, known: dict[str, int] | None = None, path: Path | None = None) -> None:
        self._known = known or {}
        self._path = path
        self.by_name: dict[str, str] = {}
        """The style of every name that was listed."""

    @classmethod
    def remembered(cls) -> AdapterColors:
        """The colours of last time, read from their file."""
        path = state_directory() / "tints.json"
        known: dict[str, int] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        return cls({name: color % NUM_COLORS for name, color in known.items()}, path)

    def give(self, names: Sequence[str]) -> bool:
        """Gives a colour to names that are new; returns whether there were any."""
        fresh = [name for name in names if name not in self.by_name]
        if not fresh:
            return False
        uses = Counter(self._known[name] for name in names if name in self._known)
        is_new = False
        for at, name in enumerate(names):
            if name not in self._known:
                is_new = True
                beside = {
                    self._known[other]
                    for other in (*names[max(0, at - 1) : at], *names[at + 1 : at + 2])
                    if other in self._known
                }
                self._known[name] = color = _choose(name, uses, beside)
                uses[color] += 1
            self.by_name[name] = f"adapter-{self._known[name] + 1}"
        if is_new:
            self._save()
        return True

    def _save(self) -> None:
        """Keeps the newest; a home that cannot be written to is no error."""
        if self._path is None:
            return
        newest = dict(list(self._known.items())[-REMEMBERED:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(msgspec.json.encode(newest))


def _choose(name: str, uses: Counter[int], beside: set[int]) -> int:
    """The colour that the hash of `name` prefers if it is free; else the one that the fewest have
    and no neighbour in `beside` has."""
    first = zlib.crc32(name.encode()) % NUM_COLORS
    order = [(first + step) % NUM_COLORS for step in range(NUM_COLORS)]
    return min(order, key=lambda color: (color in beside, uses[color], order.index(color)))
