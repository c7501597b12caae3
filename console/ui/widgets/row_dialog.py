"""`RowDialog`: the details of a row of a table, in which keys of the table act on that row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.binding import Binding, BindingType

from ...state.board import Board
from .dialogs import LineSource, LiveDialog
from .table import TablePane


def bindings_of(table: type[TablePane[Any]], *ids: str) -> list[BindingType]:
    """The table's bindings with these ids, for a dialog about one of its rows."""
    return [each for each in table.BINDINGS if isinstance(each, Binding) and each.id in ids]


class RowDialog(LiveDialog):
    """A subclass has the bindings that act on the row, and their actions, which call `on_row`."""

    def __init__(self, table: TablePane[Any], row: Any, title: str, source: LineSource) -> None:
        super().__init__(title, source)
        self._table, self._key = table, table.row_key(row)
        self.is_live = True
        """Whether the table still has the row, or one that replaced it."""

    def paint(self, board: Board) -> None:
        self.is_live = bool(self._table.rows_of(self._key))
        super().paint(board)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Actions of the row end with it."""
        is_own = any(
            isinstance(each, Binding) and each.action.partition("(")[0] == action
            for each in type(self).__dict__.get("BINDINGS", ())
        )
        return self.is_live if is_own else super().check_action(action, parameters)

    def on_row(self, act: Callable[[], Any]) -> None:
        """Calls an action of the table; it is about this row, whichever are marked."""
        with self._table.about(self._key):
            act()
