"""`ModelsPane`: the models, each with a checkbox for whether it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType

from ...state.board import AdapterRow, Board
from ...text.lines import TextLine, TextSpan, length, line
from ..widgets.pane import Pane
from .editor import WriteAsked


class ModelsPane(Pane, can_focus=True):
    """The base and the adapters; the marked ones are asked."""

    TITLE = "ask"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Left", show=False, id="model-left"),
        Binding("right", "move(1)", "Right", show=False, id="model-right"),
        Binding("space", "mark", "Ask it or not", id="model-mark"),
        Binding("a", "all", "All or one", id="model-all"),
        Binding("enter", "write", "Write", id="model-write"),
    ]

    def __init__(self) -> None:
        super().__init__(id="models")
        self.chosen: set[str] = set()
        self._known: tuple[str, ...] = ()
        self._usable: tuple[str, ...] = ()
        """Names of models that can answer: all but failed ones."""
        self._cursor = 0
        self._places: list[tuple[int, int, int]] = []
        """Line, first and end cell of each name, for mouse clicks."""

    def update_models(self, board: Board) -> None:
        """Updates the models from `board`; at first marks the base and one adapter."""
        names = tuple(row.name for row in board.adapters)
        self._usable = tuple(row.name for row in board.adapters if not row.has_failed)
        if names and not self._known:
            self.chosen = set(self._usable[:2])
        self._known = names
        self.chosen &= set(names)

    @property
    def num_lines(self) -> int:
        """Lines that the names take in the current width."""
        return self._places[-1][0] + 1 if self._places else 1

    def asked(self, board: Board) -> list[AdapterRow]:
        return [row for row in board.adapters if row.name in self.chosen]

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return ((f"{len(self.chosen)}", "number"), (f" of {len(self._known)}", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self.update_models(board)
        if not board.adapters:
            return [line(("no model answers yet", "dim"))]
        rows: list[list[TextSpan]] = [[]]
        self._places = []
        for index, row in enumerate(board.adapters):
            mark = "[x]" if row.name in self.chosen else "[ ]"
            name = f"{row.mark} {row.name}"
            at_cursor = self.has_focus and index == self._cursor
            chip: list[TextSpan] = [
                ("▸" if at_cursor else " ", "key"),
                (mark, "key" if row.name in self.chosen else "dim"),
                (f" {name}", "bad" if row.has_failed else row.color),
                ("  ", "text"),
            ]
            if rows[-1] and length(rows[-1]) + length(chip) > width:
                rows.append([])
            start = length(rows[-1])
            rows[-1] += chip
            self._places.append((len(rows) - 1, start, start + length(chip)))
        first = 0
        if self._places and len(rows) > height:
            at = self._places[min(self._cursor, len(self._places) - 1)][0]
            first = max(0, min(at, len(rows) - height))
        return [TextLine(tuple(spans)) for spans in rows[first : first + height]]

    def _toggle(self, index: int) -> None:
        if index < len(self._known):
            self.chosen ^= {self._known[index]}
            self.paint()

    def action_move(self, steps: int) -> None:
        self._cursor = max(0, min(self._cursor + steps, len(self._known) - 1))
        self.paint()

    def action_mark(self) -> None:
        self._toggle(self._cursor)

    def action_write(self) -> None:
        self.post_message(WriteAsked())

    def action_all(self) -> None:
        every = self.chosen >= set(self._usable)
        self.chosen = set(self._usable[:1] if every else self._usable)
        self.paint()

    def on_click(self, event: events.Click) -> None:
        for index, (y, start, end) in enumerate(self._places):
            if event.y - 1 == y and start <= event.x - 2 < end:
                self._cursor = index
                self._toggle(index)
