"""`Tints`: an adapter's colour, for life. Knows numbers of colours; what they are, a theme says.

A name has a colour of its own liking (a hash of it). Where one of its neighbours in the list has
that already, it takes the one that fewest have. What was given is kept in a file, so that the
adapter has it tomorrow too, whatever was loaded before it.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..paths import state_directory

TINTS = 8
"""Adapter colours in a theme; the ninth adapter shares one."""
REMEMBERED = 5000


class Tints:
    """`give` names in the order they are listed; `of` says which ink each has."""

    def __init__(self, known: dict[str, int] | None = None, path: Path | None = None) -> None:
        self._known = known or {}
        self._path = path
        self.by_name: dict[str, str] = {}
        """The ink of every name that was listed."""

    @classmethod
    def remembered(cls) -> Tints:
        """Those of last time; `save` keeps them for the next."""
        path = state_directory() / "tints.json"
        known: dict[str, int] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        return cls({name: tint % TINTS for name, tint in known.items()}, path)

    def give(self, names: Sequence[str]) -> bool:
        """Names that are new get a tint; says whether there were any."""
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
                self._known[name] = tint = _choose(name, uses, beside)
                uses[tint] += 1
            self.by_name[name] = f"adapter-{self._known[name] + 1}"
        if is_new:
            self._save()
        return True

    def _save(self) -> None:
        """The newest; a home that cannot be written to is no reason to stop."""
        if self._path is None:
            return
        newest = dict(list(self._known.items())[-REMEMBERED:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(msgspec.json.encode(newest))


def _choose(name: str, uses: Counter[int], beside: set[int]) -> int:
    """Its own liking while nobody has that; else what fewest have and no neighbour."""
    first = zlib.crc32(name.encode()) % TINTS
    order = [(first + step) % TINTS for step in range(TINTS)]
    return min(order, key=lambda tint: (tint in beside, uses[tint], order.index(tint)))
