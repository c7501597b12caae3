"""`ModelsPane`: the models with checkboxes, those that are asked first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from textual import events
from textual.binding import Binding, BindingType

from ...state.board import AdapterRow, Board
from ...text import units
from ...text.lines import TextLine, TextSpan, length, line
from ..chat.editor import WriteAsked
from ..chat.model_picker import agree_to_many
from ..widgets.pane import Pane

CHIP = "▸[x] ● "
GAP = 2
"""Blanks after a name."""


class ModelPlace(NamedTuple):
    """Where a model is drawn: its row, its first cell and the cell after it."""

    name: str
    row: int
    start: int
    end: int


class ModelsPane(Pane, can_focus=True):
    """The base and the adapters; the marked ones are asked."""

    TITLE = "models"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Left", show=False, id="model-left"),
        Binding("right", "move(1)", "Right", show=False, id="model-right"),
        Binding("up,k", "move_row(-1)", "Up", show=False, id="model-up"),
        Binding("down,j", "move_row(1)", "Down", show=False, id="model-down"),
        Binding("space", "mark", "Mark", id="model-mark", tooltip="mark or unmark this model"),
        Binding("a", "all", "All or one", id="model-all"),
        Binding("enter", "write", "To the prompt", id="model-write"),
    ]

    def __init__(self) -> None:
        super().__init__(id="models")
        self.chosen: set[str] = set()
        self._known: tuple[str, ...] = ()
        self._usable: tuple[str, ...] = ()
        """Names of models that can answer: all but failed ones."""
        self._cursor = 0
        self._order: tuple[str, ...] = ()
        """The names as they are drawn: marked ones first. It stays while the pane has the focus."""
        self._places: list[ModelPlace] = []
        self._placed_for: tuple[tuple[str, ...], int] = ((), 0)
        self._top = 0
        """The first row that is drawn."""

    def update_models(self, board: Board) -> None:
        """Updates the models from `board`; at first marks the base and one adapter."""
        names = tuple(row.name for row in board.adapters)
        self._usable = tuple(row.name for row in board.adapters if not row.has_failed)
        if names and not self._known:
            self.chosen = set(self._usable[:2])
        self.chosen &= set(names)
        if names != self._known or not self.has_focus:
            self._order = tuple(sorted(names, key=lambda name: name not in self.chosen))
        self._known = names

    def choose(self, names: frozenset[str]) -> None:
        """Marks these models and no others."""
        self.chosen = set(names)
        self._cursor = 0
        self.update_models(self.painted_app.board)
        self.paint()

    @property
    def num_lines(self) -> int:
        """Lines that all names take in the current width."""
        return self._places[-1].row + 1 if self._places else 1

    @property
    def marked(self) -> list[str]:
        """The names of the models that are asked, in order; also before the first frame."""
        if not self._known:
            self.update_models(self.painted_app.board)
        return [name for name in self._known if name in self.chosen]

    def asked(self, board: Board) -> list[AdapterRow]:
        return [row for row in board.adapters if row.name in self.chosen]

    def caption(self, board: Board) -> Sequence[TextSpan]:
        known = units.count(len(self._known))
        return ((units.count(len(self.chosen)), "number"), (f" of {known}", "dim"))

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """How to find the models that are not drawn."""
        rows = range(self._top, self._top + self.size.height - 2)
        hidden = sum(place.row not in rows for place in self._places)
        if not hidden:
            return ()
        return ((f"{units.count(hidden)} more  ", "dim"), ("ctrl+g", "key"), (" finds one", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self.update_models(board)
        if not board.adapters:
            return [line(("no model available yet", "dim"))]
        self._place(width)
        self._cursor = min(self._cursor, len(self._places) - 1)
        at = self._places[self._cursor].row if self.has_focus else 0
        self._top = max(at - height + 1, min(self._top, at))
        self._top = max(0, min(self._top, self.num_lines - height))
        rows = {row.name: row for row in board.adapters}
        lines: list[list[TextSpan]] = [[] for _ in range(height)]
        for index, place in enumerate(self._places):
            if self._top <= place.row < self._top + height:
                at_cursor = self.has_focus and index == self._cursor
                lines[place.row - self._top] += self._chip(rows[place.name], at_cursor, width)
        return [TextLine(tuple(spans)) for spans in lines]

    def _chip(self, row: AdapterRow, at_cursor: bool, width: int) -> list[TextSpan]:
        is_marked = row.name in self.chosen
        return [
            ("▸" if at_cursor else " ", "key"),
            ("[x]" if is_marked else "[ ]", "key" if is_marked else "dim"),
            (f" {row.mark} {_name(row.name, width)}", "bad" if row.has_failed else row.color),
            (" " * GAP, "text"),
        ]

    def _place(self, width: int) -> None:
        """Lays the names out in rows, if they or the width have changed."""
        if self._placed_for == (self._order, width):
            return
        self._placed_for = (self._order, width)
        self._places = []
        row = start = 0
        for name in self._order:
            size = len(CHIP) + length(((_name(name, width), ""),)) + GAP
            if start and start + size - GAP > width:
                row, start = row + 1, 0
            self._places.append(ModelPlace(name, row, start, start + size))
            start += size

    # -- keys and mouse

    def _toggle(self, index: int) -> None:
        if index < len(self._places):
            self.chosen ^= {self._places[index].name}
            self.paint()

    def action_move(self, steps: int) -> None:
        self._cursor = max(0, min(self._cursor + steps, len(self._places) - 1))
        self.paint()

    def action_move_row(self, steps: int) -> None:
        """Goes to the nearest name in the row above or below."""
        if not self._places:
            return
        here = self._places[self._cursor]
        row = [index for index, at in enumerate(self._places) if at.row == here.row + steps]
        if row:
            self._cursor = min(row, key=lambda index: abs(self._places[index].start - here.start))
            self.paint()

    def action_mark(self) -> None:
        self._toggle(self._cursor)

    def action_write(self) -> None:
        self.post_message(WriteAsked())

    def action_all(self) -> None:
        """Marks all models, after a question if they are many; if all are marked, the first."""
        if self.chosen >= set(self._usable):
            self._mark(self._usable[:1])
            return
        number, every = len(self._usable), self._usable
        title = f"Mark {units.count(number)} models?"
        agree_to_many(self.app, number, title, "Mark them", lambda: self._mark(every))

    def _mark(self, names: Sequence[str]) -> None:
        self.chosen = set(names)
        self.paint()

    def on_click(self, event: events.Click) -> None:
        for index, place in enumerate(self._places):
            if event.y - 1 == place.row - self._top and place.start <= event.x - 2 < place.end:
                self._cursor = index
                self._toggle(index)


def _name(name: str, width: int) -> str:
    """A name that fits into a row of this width."""
    return units.fit(units.visible(name), max(1, width - len(CHIP))).rstrip()
