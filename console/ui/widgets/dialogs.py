"""Dialogs: `ChoiceDialog` asks a question; `LiveDialog` shows lines that follow the board, and
`RowDialog` those of a row of a table, whose keys act on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

from textual import events
from textual.actions import parse
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ...state.board import Board
from ...terminal.own_bindings import bind_key
from ...text import units
from ...text.lines import TextLine, TextSpan, thumb_of
from .clipboard import copy_text
from .pane import PaintedApp, Pane

LineSource: TypeAlias = Callable[[Board, int], Sequence[TextLine]]
"""A function that returns a dialog's lines for a board and a width."""


class Choice(NamedTuple):
    """One choice of a `ChoiceDialog`: its key, the answer it returns, and its text."""

    key: str
    answer: str
    text: str


class ChoiceDialog(ModalScreen[str]):
    """Asks a question; returns the answer of the choice, or "" after escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "answer('')", "Cancel", key_display="esc", id="cancel"),
        Binding("Y", "copy", "Copy", show=False, id="question-copy", tooltip="the question"),
    ]

    def __init__(self, title: str, body: str, choices: Sequence[Choice], begin: int = 0) -> None:
        """`begin` is the index of the initial choice, one by which nothing is lost."""
        super().__init__()
        self._begin = begin
        self._title, self._body, self._choices = title, body, choices
        # Textual uses bindings as soon as the dialog is on the stack, but calls `on_key` only once
        # it is mounted: the `l` of a quick `ql` arrives before that.
        self._unbound = {
            choice.key: choice.answer
            for choice in choices
            if not bind_key(self, choice.key, f"answer({choice.answer!r})", choice.text)
        }

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self._title
            box.border_subtitle = "esc cancels"
            yield Static(self._body, classes="body", markup=False)
            yield OptionList(
                *(Option(f"[b]{choice.key}[/b]  {choice.text}") for choice in self._choices),
                compact=True,
            )

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = self._begin

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index].answer)

    def on_key(self, event: events.Key) -> None:
        """Handles the keys that could not be bound."""
        if event.key in self._unbound:
            event.stop()
            self.dismiss(self._unbound[event.key])

    def action_copy(self) -> None:
        copy_text(self, f"{self._title}\n{self._body}", "the question")

    def action_answer(self, answer: str) -> None:
        self.dismiss(answer)


class ScrollPane(Pane, can_focus=True):
    """Scrollable lines from a source."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="text-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="text-down"),
        Binding("pageup", "move(-10)", "Page up", show=False, id="text-page-up"),
        Binding("pagedown,space", "move(10)", "Page down", show=False, id="text-page-down"),
        Binding("home,g", "move(-1000000)", "First", show=False, id="text-first"),
        Binding("end,G", "move(1000000)", "Last", show=False, id="text-last"),
    ]

    def __init__(self, title: str, source: LineSource) -> None:
        super().__init__()
        self._title, self._source = title, source
        self._offset = self._total = self._page = 0

    def title(self, board: Board) -> Sequence[TextSpan]:
        return ((self._title, "title"),)

    def hint(self, board: Board) -> Sequence[TextSpan]:
        found: list[TextSpan] = []
        for binding in self.screen.BINDINGS:
            if not isinstance(binding, Binding) or binding.id in (None, "close"):
                continue
            if not self._is_enabled(binding.action):
                continue
            if binding.show and not self.painted_app.refuses(binding.id):
                found += [(binding.key, "key"), (f" {binding.description.lower()}  ", "dim")]
        return (*found, ("esc", "key"), (" closes", "dim"))

    def _is_enabled(self, action: str) -> bool:
        """Whether the dialog's action can be used now."""
        _, name, parameters = parse(action)
        return self.screen.check_action(name, parameters) is not False

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        found = self._source(board, width)
        self._total, self._page = len(found), height
        if self._wanted_height(len(found)) != self.size.height:
            self.refresh(layout=True)
        self._offset = max(0, min(self._offset, len(found) - height))
        return found[self._offset : self._offset + height]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as its lines, from the first frame on."""
        found = self._source(self.painted_app.board, max(1, width - 4))
        return self._wanted_height(len(found))

    def _wanted_height(self, lines: int) -> int:
        return min(lines + 2, self.screen.size.height * 9 // 10)

    def text(self, board: Board) -> str:
        """All its lines as plain text."""
        found = self._source(board, max(1, self.size.width - 4))
        rows = ("".join(text for text, _ in each.spans).rstrip() for each in found)
        return "\n".join(map(units.clean, rows))

    def thumb(self, height: int) -> range | None:
        return thumb_of(self._total, height, self._offset)

    def action_move(self, lines: int) -> None:
        self._offset += lines
        self.paint()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


T = TypeVar("T")


class LiveScreen(ModalScreen[T]):
    """A dialog that is painted with every frame's board."""

    def paint(self, board: Board) -> None:
        raise NotImplementedError

    @property
    def painted_app(self) -> PaintedApp:
        assert isinstance(self.app, PaintedApp)
        return self.app


class LiveDialog(LiveScreen[None]):
    """A dialog of scrollable lines, updated with every frame."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Close", key_display="esc", id="close"),
        Binding("y", "copy", "Copy", id="dialog-copy", tooltip="the text to the clipboard"),
        Binding("Y", "copy_text", "Copy all", show=False, id="dialog-copy-text"),
    ]

    def __init__(self, title: str, source: LineSource) -> None:
        super().__init__()
        self._pane = ScrollPane(title, source)

    def compose(self) -> ComposeResult:
        yield self._pane

    def on_mount(self) -> None:
        self._pane.focus()

    def paint(self, board: Board) -> None:
        self._pane.paint(board)

    def action_copy(self) -> None:
        """Copies the dialog's text; a dialog with one that matters more copies that."""
        self.action_copy_text()

    def action_copy_text(self) -> None:
        text = self._pane.text(self.painted_app.board)
        copy_text(self, text, f"{text.count(chr(10)) + 1} lines")


class RowTable(Protocol):
    """The interface of a table for `RowDialog`."""

    def row_key(self, row: Any) -> str: ...

    def rows_of(self, key: str) -> Sequence[Any]: ...

    def about(self, key: str) -> AbstractContextManager[None]: ...


def bindings_of(table: type[Pane], *ids: str) -> list[BindingType]:
    """The table's bindings with these ids, for a dialog about one of its rows."""
    return [each for each in table.BINDINGS if isinstance(each, Binding) and each.id in ids]


class RowDialog(LiveDialog):
    """The details of a row of a table. A subclass has the bindings of the table that act on a row,
    and their actions, which call `on_row`."""

    def __init__(self, table: RowTable, row: Any, title: str, source: LineSource) -> None:
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
