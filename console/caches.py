"""What is kept and not needed: what Rich and Textual remember of texts and places, and the pages
that the C library keeps of what was freed.

Each of the caches keeps up to 4 096 results: what a screen needs is a few hundred, and plots that
move and dialogs that come and go bring new ones all day.
"""

from __future__ import annotations

from rich.cells import cached_cell_len
from textual.color import Color
from textual.css.scalar import Scalar
from textual.geometry import Region

MOST = 512
CACHES = (
    *(cached_cell_len, Color.parse, Scalar.resolve),
    *(Region.intersection, Region.union, Region.translate, Region.overlaps, Region.grow),
    *(Region.shrink, Region.contains_region, Region.__contains__),
)


def trim() -> None:
    """Empties those that have grown: what is needed is there again with the next frame."""
    for cache in CACHES:
        size = getattr(cache, "cache_info", None)  # another Textual may keep nothing there
        if size is not None and size().currsize > MOST:
            cache.cache_clear()


def give_back() -> None:
    """Unused pages of the C library's heap go back to the system: one to three MiB in an hour.
    Does nothing where that library is not glibc."""
    import ctypes  # the first frame does not wait for it

    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
