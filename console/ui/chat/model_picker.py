"""`ModelPicker`: a dialog that finds models by letters of their names and marks those to ask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from ...state.board import WHERE, AdapterRow, Board
from ...text import units
from ...text.fuzzy import Fuzzy, fuzzy_matches
from ...text.lines import TextLine, TextSpan, line, spread
from ..widgets.dialogs import Choice, ChoiceDialog, LiveScreen
from ..widgets.filter_input import LineInput
from ..widgets.pane import Pane

MANY = 8
"""Most models that are marked by one key, or asked by one prompt, without a question."""
STATE_CELLS = 10
MOST_ROWS = 24
"""Most lines of the list."""


def agree_to_many(
    app: App[Any], number: int, title: str, yes: str, then: Callable[[], None]
) -> None:
    """Calls `then`, after a question if it is about more than `MANY` models."""
    if number <= MANY:
        then()
        return
    body = f"Each prompt goes to every marked model: {units.count(number)} requests."
    choices = (Choice("y", "yes", yes), Choice("n", "", "No"))
    app.push_screen(
        ChoiceDialog(title, body, choices, begin=1),
        lambda answer: then() if answer == "yes" else None,
    )


class PickedModels(NamedTuple):
    """The marked models, and whether the parameters come next instead of the prompt."""

    names: frozenset[str]
    goes_to_parameters: bool


class PickerList(Pane):
    """The models that match, a row each."""

    FRAMED: ClassVar[bool] = False

    def __init__(self, chosen: Collection[str]) -> None:
        super().__init__(id="picked")
        self.chosen = set(chosen)
        self._first = tuple(chosen)
        """The models marked at the opening, which are listed first."""
        self._names: tuple[str, ...] = ()
        self._query = ""
        self._fuzzy = Fuzzy("")
        self.found: list[str] = []
        """The matching names, the best first."""
        self.cursor = 0
        self._offset = 0

    def search(self, query: str) -> None:
        """Lists the names that match."""
        self._query, self._fuzzy, self.cursor = query, Fuzzy(query), 0
        self._find()
        self.paint()

    def _find(self) -> None:
        first = set(self._first)
        ordered = sorted(self._names, key=lambda name: name not in first)
        self.found = fuzzy_matches(self._query, ordered)

    def move(self, steps: int) -> None:
        self.cursor = max(0, min(self.cursor + steps, len(self.found) - 1))
        self.paint()

    def toggle(self, index: int) -> None:
        """Marks the model in this row of the list, or takes its mark away."""
        if index < len(self.found):
            self.cursor = index
            self.chosen ^= {self.found[index]}
            self.paint()

    def mark_found(self) -> None:
        """Marks every model that matches; if all are marked, takes their marks away."""
        found = set(self.found)
        self.chosen = self.chosen - found if found <= self.chosen else self.chosen | found
        self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        rows = {row.name: row for row in board.adapters}
        if (names := tuple(rows)) != self._names:
            self._names = names
            self._find()
            self.cursor = max(0, min(self.cursor, len(self.found) - 1))
        marked = (
            (units.count(len(self.chosen)), "number"),
            (f" of {units.count(len(names))} marked", "dim"),
        )
        matching = f"{units.count(len(self.found))} match" if self._query else ""
        head = spread(marked, ((matching, "dim"),), width)
        room = max(0, height - 1)
        self._offset = max(self.cursor - room + 1, min(self._offset, self.cursor))
        self._offset = max(0, min(self._offset, len(self.found) - room))
        shown = list(enumerate(self.found))[self._offset : self._offset + room]
        if not shown:
            return [head, line(("no model matches", "dim"))]
        return [head, *(self._row(rows[name], at == self.cursor, width) for at, name in shown)]

    def _row(self, row: AdapterRow, is_at_cursor: bool, width: int) -> TextLine:
        is_marked = row.name in self.chosen
        state = "base model" if row.is_base else WHERE.get(row.view.state, row.view.state.value)
        room = max(1, width - STATE_CELLS - 10)
        name = units.visible(row.name)
        style = "bad" if row.has_failed else row.color
        cells = self._fuzzy.places(name)
        spans: list[TextSpan] = [
            ("▸" if is_at_cursor else " ", "key"),
            ("[x]" if is_marked else "[ ]", "key" if is_marked else "dim"),
            (f" {row.mark} ", style),
        ]
        letters = enumerate(units.fit(name, room).rstrip())
        for is_hit, part in groupby(letters, key=lambda letter: letter[0] in cells):
            spans.append(("".join(letter for _, letter in part), "key" if is_hit else style))
        right = ((f" {state}", "bad" if row.has_failed else "dim"),)
        return spread(spans, right, width, ground="cursor" if is_at_cursor else "")

    def on_click(self, event: events.Click) -> None:
        if event.y > 0:
            self.toggle(self._offset + event.y - 1)


class PickerInput(LineInput):
    """The letters to find; keys for the list go to the dialog."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "done(False)", "Done", id="picker-done"),
        Binding("tab", "done(True)", "Parameters", id="picker-parameters"),
        Binding("space", "mark", "Mark", id="picker-mark"),
        Binding("ctrl+a", "mark_found", "All that match", id="picker-all"),
        Binding("down", "move(1)", "Down", show=False, id="picker-down"),
        Binding("up", "move(-1)", "Up", show=False, id="picker-up"),
        Binding("pagedown", "move(10)", "Page down", show=False, id="picker-page-down"),
        Binding("pageup", "move(-10)", "Page up", show=False, id="picker-page-up"),
    ]

    def __init__(self, list: PickerList) -> None:
        super().__init__(placeholder="part of a name", compact=True)
        self.cursor_blink = False
        self._list = list

    def on_key(self, event: events.Key) -> None:
        """Handles space, which Textual's input would take as text: no name has one."""
        if event.key == "space":
            event.stop()
            event.prevent_default()
            self.action_mark()

    def watch_value(self, value: str) -> None:
        self._list.search(value.strip())

    def action_mark(self) -> None:
        """Marks the model at the cursor; the next letter begins another search."""
        self._list.toggle(self._list.cursor)
        self.select_all()

    def action_mark_found(self) -> None:
        number = len(self._list.found)
        title = f"Mark {units.count(number)} models?"
        agree_to_many(self.app, number, title, "Mark them", self._list.mark_found)

    def action_move(self, steps: int) -> None:
        self._list.move(steps)

    def action_done(self, goes_to_parameters: bool) -> None:
        self.screen.dismiss(PickedModels(frozenset(self._list.chosen), goes_to_parameters))


class ModelPicker(LiveScreen[PickedModels | None]):
    """Returns the marked models; None after escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Cancel", key_display="esc", id="picker-leave"),
    ]

    def __init__(self, chosen: Collection[str]) -> None:
        super().__init__()
        self._list = PickerList(chosen)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = "Models"
            box.border_subtitle = "space marks ·  ^a all that match · enter done · esc cancels"
            yield PickerInput(self._list)
            yield self._list

    def on_mount(self) -> None:
        self._list.styles.height = max(4, min(MOST_ROWS, self.size.height - 13))
        self.query_one(Input).focus()

    def paint(self, board: Board) -> None:
        self._list.paint(board)
