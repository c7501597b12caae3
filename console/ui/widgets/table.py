"""`TablePane`: a live table with sorting, a filter, and a cursor that stays on its row.

Only visible rows are made into lines. A narrow pane drops columns, the least important first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.runtime.wording import counted
from ...client.telemetry import PipelineOrder
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, crop, line, thumb_of
from ...text.records import Record, as_text, for_file
from .clipboard import copy_text
from .column import NEXT, UNSORTED, Column, record_of, sort_letters
from .copy_dialog import ask_copy
from .details import Details
from .dialogs import LineSource
from .filter import FilterPane
from .order_asked import OrdersAsked

R = TypeVar("R")


def _lettered(title: str, letter: str) -> list[TextSpan]:
    """A title with its letter highlighted; a letter that it lacks takes its first cell."""
    at = title.lower().find(letter)
    if at < 0:
        return [(letter, "key"), (title[1:], "dim")]
    return [(title[:at], "dim"), (title[at : at + 1], "key"), (title[at + 1 :], "dim")]


class TablePane(FilterPane, Generic[R], can_focus=True):
    """A table over rows of the board."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="row-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="row-down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="page-down"),
        Binding("home,g", "jump(0)", "First", show=False, id="first"),
        Binding("end,G", "jump(-1)", "Last", show=False, id="last"),
        Binding("s", "sort", "Sort", id="sort", tooltip="then a column's marked letter"),
        Binding("S", "reverse", "Reverse", show=False, id="reverse"),
        Binding("space", "mark", "Mark", id="row-mark", tooltip="keys act on all marked rows"),
        Binding("ctrl+a", "mark_all", "Mark all", show=False, id="row-mark-all"),
        Binding("y", "yank", "Copy", show=False, id="row-yank", tooltip="the row's name"),
        Binding(
            *("Y", "yank_more", "Copy more"),
            show=False,
            id="row-yank-more",
            tooltip="the whole row, its reason, its path",
        ),
        Binding(
            *("e", "export", "Export"),
            show=False,
            id="row-export",
            tooltip="marked rows, or all shown, as CSV or JSON",
        ),
        Binding("enter", "open", "Open", id="open"),
    ]

    EMPTY: ClassVar[str] = "empty"
    """The text of a table without rows."""
    columns: Sequence[Column[R]] = ()

    class Opened(Message):
        """Enter was pressed on a row."""

        def __init__(self, pane: TablePane[Any], row: Any) -> None:
            super().__init__()
            self.pane = pane
            self.row = row

    class Moved(Message):
        """The cursor was moved."""

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.sort_column: Column[R] | None = None
        self.reversed = False
        self._asks_sort = False
        """Whether the next key chooses the sort column."""
        self.marked: set[str] = set()
        """Keys of the marked rows."""
        self._drawn_columns: Sequence[tuple[Column[R], int]] = ()
        self._key: str | None = None
        self._goal: str | None = None
        """Key of a row to go to once it is there."""
        self._about: str | None = None
        """Key of the row that actions are about now, instead of the marked ones."""
        self._rows: list[R] = []
        self._total = self._matches = 0
        self._offset = 0
        self._page = 1

    def on_mount(self) -> None:
        title, self.reversed = self.painted_app.ui_state.sort_of(self.TITLE)
        known = (column for column in self.columns if column.order and column.title == title)
        self.sort_column = next(known, None)

    # -- for subclasses to override

    def rows(self, board: Board) -> Sequence[R]:
        """All rows, in their natural order."""
        raise NotImplementedError

    def row_key(self, row: R) -> str:
        """Identifies a row from frame to frame."""
        raise NotImplementedError

    def kin(self, key: str) -> str:
        """The part of a row's key that a row replacing it shares."""
        return key

    def filter_text(self, row: R, board: Board) -> str:
        """The text that the filter is matched against."""
        raise NotImplementedError

    def name_of(self, row: R) -> str:
        """What `y` copies: the name or id that commands take."""
        return self.row_key(row)

    def extracts(self, row: R) -> Mapping[str, str]:
        """More texts of a row to copy, by name; empty ones are not offered."""
        return {}

    def lines_of(self, row: R) -> LineSource:
        """The lines of a row's details; they follow the board."""
        raise NotImplementedError

    def details(self) -> Details | None:
        """The details of the row under the cursor, for the pane beside the table."""
        row = self.selected
        if row is None:
            return None
        return Details(self.row_key(row), self.name_of(row), self.lines_of(row))

    def empty(self, board: Board) -> str:
        """The text of a table without rows."""
        return self.EMPTY

    # -- content

    @property
    def selected(self) -> R | None:
        """The row under the cursor."""
        index = self._index()
        return self._rows[index] if self._rows else None

    def rows_of(self, key: str) -> list[R]:
        """The row with this key, or one of the same `kin` that replaced it; none if it is gone."""
        rows = self.rows(self.painted_app.board)
        same = [row for row in rows if self.row_key(row) == key]
        return same or [row for row in rows if self.kin(self.row_key(row)) == self.kin(key)]

    @contextmanager
    def about(self, key: str) -> Iterator[None]:
        """Within it, actions are about the row with this key."""
        self._about = key
        try:
            yield
        finally:
            self._about = None

    @property
    def subjects(self) -> list[R]:
        """The rows that an action is about: the marked ones; without marks, the one under the
        cursor."""
        if self._about is not None:
            return self.rows_of(self._about)
        if self.marked:
            rows = self.rows(self.painted_app.board)
            if found := [row for row in rows if self.row_key(row) in self.marked]:
                return found
        row = self.selected
        return [] if row is None else [row]

    def ask_orders(self, orders: Sequence[PipelineOrder]) -> None:
        """Asks the app to send the orders about `subjects`; the marks go once they are sent."""
        if orders:
            on_sent = self.unmark if self._about is None else lambda: None
            self.post_message(OrdersAsked(orders, None, on_sent))

    def title(self, board: Board) -> Sequence[TextSpan]:
        found = super().title(board)
        return (*found, (f"  {len(self.marked)} marked", "key")) if self.marked else found

    def margin(self, y: int) -> TextSpan:
        """A bar beside a marked row."""
        if not self.marked or not y:
            return (" ", "text")
        at = self._offset + y - 1  # the head
        is_marked = at < len(self._rows) and self.row_key(self._rows[at]) in self.marked
        return ("▌", "key") if is_marked else (" ", "text")

    def caption(self, board: Board) -> Sequence[TextSpan]:
        number = units.count(self._total)
        if self.filter:
            number = f"{units.count(self._matches)} of {number}"
        return ((number, "number"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        columns = self._drawn_columns = self._fitting(width, self._gather(board))
        head = self._head(columns)
        self._page = max(1, height - 1)
        if not self._rows:
            word = "nothing matches the filter" if self.filter else self.empty(board)
            return [head, line((word, "dim"))]
        index = self._index()
        self._key = self.row_key(self._rows[index])
        low = max(0, len(self._rows) - self._page)
        self._offset = min(max(self._offset, index - self._page + 1), index, low)
        shown = self._rows[self._offset : self._offset + self._page]
        body = [
            self._row(row, board, columns, self._offset + at == index)
            for at, row in enumerate(shown)
        ]
        return [head, *body]

    def _gather(self, board: Board) -> Sequence[R]:
        """Filters and sorts the rows into `_rows`; returns all rows."""
        rows = self.rows(board)
        self._total = len(rows)
        if self.marked:
            self.marked &= {self.row_key(row) for row in rows}
        self._rows = [row for row in rows if self.filter.keeps(self.filter_text(row, board))]
        self._matches = len(self._rows)
        if self.marks:
            self._rows = list(rows)
        if self.sort_column is not None and self.sort_column.order is not None:
            self._rows.sort(key=self.sort_column.order, reverse=self.reversed)
        elif self.reversed:
            self._rows.reverse()
        return rows

    def thumb(self, height: int) -> range | None:
        found = thumb_of(len(self._rows), self._page, self._offset)
        return found and range(found.start + 1, found.stop + 1)  # below the head

    def _fitting(self, width: int, rows: Sequence[R]) -> list[tuple[Column[R], int]]:
        """The columns that fit, with their widths; left-over cells go to those that grow. The sort
        column always fits."""
        sorts = self.sort_column
        kept = sorted(self.columns, key=lambda column: (column is not sorts, column.rank))
        while len(kept) > 1 and sum(c.width + 1 for c in kept) - 1 > width:
            kept.pop()
        cells = {c: c.least or c.width for c in self.columns if c in kept}
        spare = max(0, width - sum(size + 1 for size in cells.values()) + 1)
        growing = [column for column in cells if column.grows]
        for column in growing:
            if column.wants is not None:
                wanted = max(map(column.wants, rows), default=0) - cells[column]
                taken = max(0, min(spare, wanted))
                cells[column] += taken
                spare -= taken
        for column in growing:
            cells[column] += spare // len(growing)
        if growing:
            cells[growing[-1]] += spare % len(growing)
        return list(cells.items())

    def _head(self, columns: Sequence[tuple[Column[R], int]]) -> TextLine:
        """The titles over their cells. The arrow of the sort column follows its title, if need be
        in the gap behind the column."""
        letters = self._letters() if self._asks_sort else {}
        spans: list[TextSpan] = []
        for column, width in columns:
            title, gap, style = column.title, " ", "dim"
            if column is self.sort_column:
                arrow, style = "▾" if self.reversed else "▴", "key"
                if column.right or len(title) >= width:
                    gap = arrow
                else:
                    title += arrow
            text = units.fit(title, width, column.right)
            if column in letters:
                spans += _lettered(text, letters[column])
                spans.append((gap, "key"))
            else:
                spans.append((text + gap, style))
        return TextLine(tuple(spans))

    def _letters(self) -> dict[Column[R], str]:
        """The letter of each sortable column."""
        columns = [column for column in self.columns if column.order]
        return dict(zip(columns, sort_letters([c.title for c in columns]), strict=True))

    def _row(
        self, row: R, board: Board, columns: Sequence[tuple[Column[R], int]], is_cursor: bool
    ) -> TextLine:
        found = self._cells(row, board, columns, is_cursor)
        if self.marks and self.is_dimmed(self.filter_text(row, board)):
            return found._replace(spans=tuple((text, "dim") for text, _ in found.spans))
        return found

    def _cells(
        self, row: R, board: Board, columns: Sequence[tuple[Column[R], int]], is_cursor: bool
    ) -> TextLine:
        spans: list[TextSpan] = []
        for column, width in columns:
            cell = column.cell(row, board, width)
            if len(cell) == 1:
                text, style = cell[0]
                spans.append((units.fit(text, width, column.right) + " ", style))
            else:
                spans += (*crop(cell, width, pad=True), (" ", "text"))
        return TextLine(tuple(spans), "cursor" if is_cursor else "")

    def _index(self) -> int:
        """The cursor's index: that of its row; if that is gone, of a row of the same `kin`; else
        the last index."""
        if not self._rows:  # a key may be pressed before the first frame
            self._gather(self.painted_app.board)
        if self._goal is not None and (found := self.rows_of(self._goal)):
            self._key, self._goal = self.row_key(found[0]), None
        rows = enumerate(self._rows)
        index = next((at for at, row in rows if self.row_key(row) == self._key), None)
        if index is None and self._key is not None:
            kin, rows = self.kin(self._key), enumerate(self._rows)
            index = next((at for at, row in rows if self.kin(self.row_key(row)) == kin), None)
        if index is None:
            index = max(0, min(self._last_index, len(self._rows) - 1))
        self._last_index = index
        return index

    _last_index = 0

    # -- keys and mouse

    def action_move(self, rows: int) -> None:
        self._select(self._index() + rows)

    def action_page(self, pages: int) -> None:
        self._select(self._index() + pages * self._page)

    def action_jump(self, index: int) -> None:
        self._index()
        self._select(index if index >= 0 else len(self._rows) - 1)

    def action_match(self, step: int) -> None:
        board = self.painted_app.board
        self.go_to_next(lambda row: self.filter.keeps(self.filter_text(row, board)), step)

    def go_to_next(self, is_wanted: Callable[[R], bool], step: int = 1) -> bool:
        """Moves the cursor to the next row that `is_wanted`, from the last row on to the first, or
        backwards with -1. Returns whether there is one."""
        index, number = self._index(), len(self._rows)
        for away in range(1, number + 1):
            at = (index + step * away) % number
            if is_wanted(self._rows[at]):
                self._select(at)
                return True
        return False

    def action_mark(self) -> None:
        """Marks the row under the cursor, or no longer, and goes to the next one."""
        if (row := self.selected) is not None:
            self.marked ^= {self.row_key(row)}
            self.action_move(1)

    def action_mark_all(self) -> None:
        """Marks all rows that pass the filter; if they are marked already, none of them."""
        board = self.painted_app.board
        self._gather(board)
        passed = [row for row in self._rows if self.filter.keeps(self.filter_text(row, board))]
        keys = {self.row_key(row) for row in passed}
        self.marked = self.marked - keys if keys <= self.marked else self.marked | keys
        self.paint()

    def unmark(self) -> None:
        self.marked.clear()
        self.paint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(action == "unfilter" and self.marked) or super().check_action(
            action, parameters
        )

    def action_unfilter(self) -> None:
        """Clears the marks; without marks, the filter."""
        if self.marked:
            self.unmark()
        else:
            super().action_unfilter()

    def records(self, rows: Sequence[R]) -> list[Record]:
        """The rows as records, with the values of all columns."""
        board = self.painted_app.board
        return [record_of(row, self.columns, board) for row in rows]

    def action_yank(self) -> None:
        """Copies the name of the row, or of each marked row, a line each."""
        if names := [self.name_of(row) for row in self.subjects]:
            copy_text(self, "\n".join(names), units.quoted(names))

    def action_yank_more(self) -> None:
        """Asks which text of the row, or of all marked rows, to copy."""
        rows = self.subjects
        if not rows:
            return
        texts: dict[str, list[str]] = {"name": [self.name_of(row) for row in rows]}
        for row in rows:
            for name, text in self.extracts(row).items():
                if text:
                    texts.setdefault(name, []).append(text)
        found = {name: "\n".join(lines) for name, lines in texts.items()}
        found["row"] = as_text(self.records(rows))
        ask_copy(self, found, counted(len(rows), "row") if len(rows) > 1 else "this row")

    def action_export(self) -> None:
        """Asks for a path and saves the marked rows, or all that pass the filter, in the order
        shown."""
        from .save_dialog import ask_export  # here, as it delays the first frame

        board = self.painted_app.board
        self._gather(board)
        shown = [row for row in self._rows if self.filter.keeps(self.filter_text(row, board))]
        records = self.records(self.subjects if self.marked else shown)
        path = f"{self.TITLE.replace(' ', '-')}.csv"
        ask_export(self, "row", len(records), path, lambda path: for_file(path, records))

    def action_sort(self) -> None:
        """Shows a letter in every column's title; the next key sorts by its column."""
        self._ask_sort(True)

    def _ask_sort(self, asks: bool) -> None:
        self._asks_sort = asks
        self.paint()

    def on_key(self, event: events.Key) -> None:
        """After `s`: a letter sorts by its column, or turns the order of the sort column round."""
        if not self._asks_sort:
            return
        typed = event.character or ""
        if not typed.isprintable() or not typed:
            self._ask_sort(False)
            if event.key != "escape":
                return
        event.stop()
        event.prevent_default()
        if typed == NEXT:
            self._sort_by_next()
            return
        self._asks_sort = False
        columns = {letter: column for column, letter in self._letters().items()}
        if typed == UNSORTED:
            self.sort_by(None)
        elif typed in columns:
            self.sort_by(columns[typed])
        else:
            self.paint()

    def on_blur(self) -> None:
        if self._asks_sort:
            self._ask_sort(False)

    def _sort_by_next(self) -> None:
        """Sorts by the next visible column; after the last one, in natural order."""
        visible = [column for column, _ in self._drawn_columns if column.order]
        choices: list[Column[R] | None] = [None, *visible]
        self.sort_by(choices[(choices.index(self.sort_column) + 1) % len(choices)])

    def sort_by(self, column: Column[R] | None) -> None:
        """Sorts by `column`, or turns the order round if it is the sort column; None restores the
        natural order."""
        is_again = column is not None and column is self.sort_column
        self.sort_column = column
        self._sorted(not self.reversed if is_again else bool(column and column.descends))

    def action_reverse(self) -> None:
        self._sorted(not self.reversed)

    def _sorted(self, is_reversed: bool) -> None:
        self.reversed = is_reversed
        title = self.sort_column.title if self.sort_column else ""
        self.painted_app.ui_state.keep_sort(self.TITLE, title, is_reversed)
        self.paint()

    def action_open(self) -> None:
        if (row := self.selected) is not None:
            self.post_message(self.Opened(self, row))

    def _select(self, index: int) -> None:
        self._goal = None
        if self._rows:
            self._key = self.row_key(self._rows[max(0, min(index, len(self._rows) - 1))])
            self.paint()
            self.post_message(self.Moved())

    def go_to(self, key: str) -> None:
        """Puts the cursor on the row with this key, or of the same `kin`; on one that is not there
        yet, once it is. A filter that hides it is cleared."""
        board = self.painted_app.board
        texts = [self.filter_text(row, board) for row in self.rows_of(key)]
        if self.filter and not any(map(self.shows, texts)):
            self.set_filter("")
        self._goal = key
        self._gather(board)
        self.paint()
        self.post_message(self.Moved())

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """After `s`, what the next key does."""
        if not self._asks_sort:
            return super().hint(board)
        return (
            ("letter", "key"),
            (" sorts, again reverses  ", "dim"),
            (NEXT, "key"),
            (" next column  ", "dim"),
            (UNSORTED, "key"),
            (" unsorted", "dim"),
        )

    def on_click(self, event: events.Click) -> None:
        if event.y == 1:
            self._click_head(event.x - 2)  # the frame and the blank behind it
            return
        row = self._offset + event.y - 2  # the frame and the head
        if 0 <= row < len(self._rows):
            self._select(row)
            if event.chain == 2:
                self.action_open()

    def _click_head(self, x: int) -> None:
        """Sorts by the column at cell `x` of the head; a second click turns the order round."""
        end = 0
        for column, width in self._drawn_columns:
            end += width + 1
            if 0 <= x < end:
                if column.order is not None:
                    self.sort_by(column)
                return

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)
