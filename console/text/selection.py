"""`Selection`: a range of cells of a pane, from where the mouse was pressed to where it is.

As in a terminal: the first line from its first cell on, whole lines, the last line up to its last
cell. Knows no widget.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

SELECTED = Style(reverse=True)


class Selection(NamedTuple):
    """Two cells, each `(line, cell)`, in any order; both belong to the range."""

    begin: tuple[int, int]
    end: tuple[int, int]

    @property
    def lines(self) -> range:
        first, last = sorted(self)
        return range(first[0], last[0] + 1)

    def cells(self, y: int, inside: range) -> range:
        """The selected cells of line `y`, of those `inside` the frame."""
        (first_line, first), (last_line, last) = sorted(self)
        if y not in self.lines:
            return range(0)
        start = max(inside.start, first) if y == first_line else inside.start
        stop = min(inside.stop, last + 1) if y == last_line else inside.stop
        return range(start, max(start, stop))


def shown_selected(strip: Strip, cells: range, style: Style) -> Strip:
    """`strip` with `cells` in reverse video."""
    if not cells:
        return strip
    text = strip.crop(cells.start, cells.stop).text
    middle = Strip([Segment(text, style + SELECTED)], len(cells))
    return Strip.join((strip.crop(0, cells.start), middle, strip.crop(cells.stop)))
