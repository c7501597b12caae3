"""`DetailsPane`: the details of the row under a list's cursor, beside the list on a wide screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ...state.board import Board
from ...text.lines import TextLine, TextSpan, line
from .dialogs import LineSource
from .pane import Pane


class Details(NamedTuple):
    """What a row's details are made of; `key` tells rows apart."""

    key: str
    title: str
    lines: LineSource


class Detailed(Protocol):
    """The interface of a list for `DetailsPane`."""

    def details(self) -> Details | None:
        """Those of the row under the cursor; None without one. Only the key and the title may
        change while it stays on its row."""


class DetailsPane(Pane):
    """Draws the lines that `enter` shows in a dialog, as many as fit. On narrow screens it is shown
    below a zoomed list only; hidden it costs nothing."""

    PERIOD_S = 0.5

    def __init__(self, table: Detailed) -> None:
        super().__init__(classes="details")
        self._table = self.belongs_to = table
        self._shown: Details | None = None

    def title(self, board: Board) -> Sequence[TextSpan]:
        return ((self._shown.title if self._shown else "details", "title"),)

    def hint(self, board: Board) -> Sequence[TextSpan]:
        return (("enter", "key"), (" opens it", "dim")) if self._shown else ()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        now = self._table.details()
        if now is None or self._shown is None or now.key != self._shown.key:
            self._shown = now
        if self._shown is None:
            return [line(("nothing selected", "dim"))]
        return self._shown.lines(board, width)[:height]

    def release(self) -> None:
        super().release()
        self._shown = None
