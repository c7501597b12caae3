"""What is kept and not needed: what Rich and Textual remember of texts, places and toasts, and the
pages that the C library keeps of what was freed.

Each of the caches keeps up to 4 096 results: what a screen needs is a few hundred, and plots that
move and dialogs that come and go bring new ones all day.
"""

from __future__ import annotations

from typing import Any

from rich.cells import cached_cell_len
from textual._styles_cache import StylesCache
from textual.color import Color
from textual.css.scalar import Scalar
from textual.geometry import Region
from textual.screen import Screen
from textual.widgets._toast import ToastHolder, ToastRack

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


def forget_toasts(screen: Screen[Any]) -> None:
    """What Textual keeps of toasts when they are gone, which a day of them would fill.

    Of each that was not the newest its place stays, and is laid out with every frame that follows;
    and what draws the borders of the last thousand widgets holds all their lines: 15 KiB each.
    """
    for rack in screen.query_children(ToastRack):
        for holder in rack.query_children(ToastHolder):
            if holder.is_mounted and not holder.children:
                holder.remove()
    forget = getattr(StylesCache.get_inner_outer, "cache_clear", None)
    if forget is not None:
        forget()


def give_back() -> None:
    """Unused pages of the C library's heap go back to the system: 1 MiB once all screens have been
    imported. Does nothing where that library is not glibc."""
    import ctypes  # the first frame does not wait for it

    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
