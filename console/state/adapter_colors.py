"""`AdapterColors`: a fixed colour number for each adapter's name; the theme maps it to a colour.

A new name gets the colour that its hash selects, unless a neighbour in the list has that one; then
the least used colour. The numbers are saved in a file, so an adapter keeps its colour across
restarts, whichever adapters are loaded before it.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...pipeline.private_files import write_private
from ..paths import state_directory

NUM_COLORS = 8
"""Adapter colours in a theme; the ninth adapter shares one."""
REMEMBERED = 5000


class AdapterColors:
    """`give` assigns colours to names, in the order they are listed; `by_name` has their styles."""

    def __init__(self, known: dict[str, int] | None = None, path: Path | None = None) -> None:
        self._known = known or {}
        self._path = path
        self.by_name: dict[str, str] = {}
        """The style of every name passed to `give`."""

    @classmethod
    def remembered(cls) -> AdapterColors:
        """Reads the saved colours from their file."""
        path = state_directory() / "tints.json"
        known: dict[str, int] = {}
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        return cls({name: color % NUM_COLORS for name, color in known.items()}, path)

    def give(self, names: Sequence[str]) -> bool:
        """Adds the styles of `names` to `by_name`; returns whether any was new."""
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
        if len(self.by_name) > len(names) + REMEMBERED:
            self.by_name = {name: self.by_name[name] for name in names}
            newest = list(self._known.items())[-REMEMBERED:]
            self._known = dict(newest) | {name: self._known[name] for name in names}
        return True

    def _save(self) -> None:
        """Saves the newest names; an unwritable home directory is not an error."""
        if self._path is None:
            return
        newest = dict(list(self._known.items())[-REMEMBERED:])
        with contextlib.suppress(OSError):
            write_private(self._path, msgspec.json.encode(newest))


def _choose(name: str, uses: Counter[int], beside: set[int]) -> int:
    """The least used colour that is not in `beside`, the neighbours' colours; in a tie the first at
    or after the one that the hash of `name` selects."""
    first = zlib.crc32(name.encode()) % NUM_COLORS
    order = [(first + step) % NUM_COLORS for step in range(NUM_COLORS)]
    return min(order, key=lambda color: (color in beside, uses[color], order.index(color)))
