"""Textual's caches of a `Strip`, turned off: they keep lines that are no longer shown.

A `Strip` has seven caches of how it was cut, styled and extended. One that stays whole when it is
divided is its only part, so it holds itself, and with it 25 objects; a busy screen makes 500 such
a second, and they stay until the garbage collector runs. A panel's background, which never changes,
comes to hold 30 KiB a line. A busy console takes 44.9 MiB after 18 s, with the caches 48.2; after
an hour of the demo 47.4, with them 51.3; and as much processor time (medians of 6 and 4, in
turns).
"""

from __future__ import annotations

from typing import Any

from rich.segment import Segment

from ...pipeline.runtime.library import changed, find, missing

_CACHE, _BASE = "textual.strip:FIFOCache", "textual.cache:FIFOCache"


def why_off() -> str:
    """What the installed Textual has not; "" where the caches can be turned off."""
    reason = missing(_CACHE, f"{_BASE}.set", "textual.strip:Strip")
    if reason or (reason := changed(f"{_BASE}.__init__", "self", "maxsize")):
        return reason
    module = find("textual.strip")
    kept = module.FIFOCache
    try:
        module.FIFOCache = _no_cache()
        _try_out(module.Strip)
    except Exception as error:  # whatever another Textual expects of its caches
        return f"a strip without caches: {type(error).__name__}: {error}"
    finally:
        module.FIFOCache = kept
    return ""


def turn_off() -> None:
    """Strips made from now on share one cache that keeps nothing. Does nothing where `why_off` has
    a reason."""
    if not why_off():
        find("textual.strip").FIFOCache = _no_cache()


def _no_cache() -> Any:
    base = find(_BASE)

    class NoCache(base):  # type: ignore[misc, valid-type]
        """Keeps nothing."""

        def set(self, key: Any, value: Any) -> None:
            """Drops the value."""

        __setitem__ = set

    nothing = NoCache(0)
    return lambda maxsize: nothing


def _try_out(kind: Any) -> None:
    """Divides, cuts and extends a strip. Raises where it does not come out as usual."""
    strip = kind([Segment("sea"), Segment("side")])
    found = [part.text for part in strip.divide([3, 7])]
    found += [strip.crop(1, 5).text, strip.adjust_cell_length(9).text]
    if found != ["sea", "side", "easi", "seaside  "]:
        raise ValueError(f"it comes out as {found}")
