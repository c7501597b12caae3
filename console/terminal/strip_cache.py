"""Turns off Textual's caches in `Strip`: they keep lines that are no longer shown.

A `Strip` has seven caches of its divided, cropped, styled and extended forms. If dividing does not
cut it, it is its own only part, so it refers to itself and keeps 25 objects alive; a busy screen
makes 500 of these a second, and they stay until the garbage collector runs. A panel's background,
which never changes, comes to hold 30 KiB a line. A busy console takes 44.9 MiB after 18 s, with the
caches 48.2; after
an hour of the demo 47.4, with them 51.3; and as much processor time (medians of 6 and 4, in
turns).
"""

from __future__ import annotations

from typing import Any

from rich.segment import Segment

from ...pipeline.runtime.library import changed, find, missing

_CACHE, _BASE = "textual.strip:FIFOCache", "textual.cache:FIFOCache"


def why_off() -> str:
    """What the installed Textual lacks; "" if the caches can be turned off."""
    reason = missing(_CACHE, f"{_BASE}.set", "textual.strip:Strip")
    if reason or (reason := changed(f"{_BASE}.__init__", "self", "maxsize")):
        return reason
    module = find("textual.strip")
    kept = module.FIFOCache
    try:
        module.FIFOCache = _no_cache()
        _try_out(module.Strip)
    except Exception as error:  # another Textual may use its caches in any way
        return f"a strip without caches: {type(error).__name__}: {error}"
    finally:
        module.FIFOCache = kept
    return ""


def turn_off() -> None:
    """Makes new strips share one cache that keeps nothing. Does nothing if `why_off` has a
    reason."""
    if not why_off():
        find("textual.strip").FIFOCache = _no_cache()


def _no_cache() -> Any:
    base = find(_BASE)

    class NoCache(base):  # type: ignore[misc, valid-type]
        """A cache that keeps nothing."""

        def set(self, key: Any, value: Any) -> None:
            """Drops the value."""

        __setitem__ = set

    nothing = NoCache(0)
    return lambda maxsize: nothing


def _try_out(kind: Any) -> None:
    """Divides, crops and extends a strip. Raises if the result is wrong."""
    strip = kind([Segment("sea"), Segment("side")])
    found = [part.text for part in strip.divide([3, 7])]
    found += [strip.crop(1, 5).text, strip.adjust_cell_length(9).text]
    if found != ["sea", "side", "easi", "seaside  "]:
        raise ValueError(f"it becomes {found}")
