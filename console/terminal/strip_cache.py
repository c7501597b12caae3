"""Lines that are gone are gone: Textual's own wait for the garbage collector, or stay for ever.

A `Strip` has seven caches of how it was cut, styled and extended. One that stays whole when it is
divided is its only part, so it holds itself, and with it 25 objects; a busy screen makes 500 such
a second. The ground of a panel, which never changes, comes to hold 30 KiB a line; and empty, the
caches of the strips of all screens are a megabyte.
"""

from __future__ import annotations

from typing import Any

from textual import strip
from textual.cache import FIFOCache


class NoCache(FIFOCache[Any, Any]):
    """Keeps nothing, and so does for all strips at once."""

    def set(self, key: Any, value: Any) -> None:
        """Forgets it at once."""

    __setitem__ = set


def let_go() -> None:
    """From now on, for all strips."""
    nothing = NoCache(0)
    strip.FIFOCache = lambda _: nothing  # type: ignore[assignment, attr-defined]
