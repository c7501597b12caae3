"""`TooSmallPane`: one line in place of everything, in a terminal that is too small for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.geometry import Size

from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, line
from .pane import Pane

LEAST = Size(50, 14)
"""Columns and rows from which on the screens are readable."""


def is_too_small(size: Size) -> bool:
    """Whether a terminal of this size has no room for the screens."""
    return size.width < LEAST.width or size.height < LEAST.height


class TooSmallPane(Pane):
    """The terminal's size and the size that is needed."""

    FRAMED: ClassVar[bool] = False

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        needs = f"needs {LEAST.width}x{LEAST.height}"
        whole = f"too small: {width}x{height}, {needs}"
        return [line((whole if len(whole) <= width else units.fit(needs, width), "warn"))]
