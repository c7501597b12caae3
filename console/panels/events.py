"""`EventPane`: what is wrong now, then what happened; enter leads to where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from .. import units
from ..board import Board
from ..inks import LEVEL_INKS
from ..pane import Line, Pane, Span, line


class EventPane(Pane, can_focus=True):
    """What is wrong now, then what happened, the newest on top."""

    TITLE = "alerts and events"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="event-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="event-down"),
        Binding("enter", "trace", "Trace", id="trace", tooltip="to its process, or its log lines"),
    ]

    class Traced(Message):
        """Enter on an event (`at` says when), or on an alert (`at` is None)."""

        def __init__(self, at: float | None) -> None:
            super().__init__()
            self.at = at

    def __init__(self) -> None:
        super().__init__(id="events")
        self._cursor = 0
        self._times: list[float | None] = []
        """When the thing on each line happened; None for what goes on."""

    def caption(self, board: Board) -> Sequence[Span]:
        number = len(board.alerts)
        if not number:
            return (("no alerts", "good"),)
        return ((f"{number} alert{'s' if number > 1 else ''}", board.alerts[0][0]),)

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        found = [
            line(("▲ " if level == "bad" else "△ ", level), (units.clean(text), level))
            for level, text in board.alerts
        ]
        self._times = [None] * len(found)
        for event in reversed(board.events[-height:]):
            ink = LEVEL_INKS.get(event.level.lower(), "text")
            found.append(
                line(
                    (units.clock(event.at), "dim"),
                    (f" {event.source} ", "dim"),
                    (units.clean(event.text), ink),
                )
            )
            self._times.append(event.at)
        if not found:
            return [line(("nothing has happened yet", "dim"))]
        self._cursor = max(0, min(self._cursor, height - 1, len(found) - 1))
        if self.has_focus:
            found[self._cursor] = found[self._cursor]._replace(ground="cursor")
        return found

    def action_move(self, lines: int) -> None:
        self._cursor += lines
        self.paint()

    def action_trace(self) -> None:
        if self._cursor < len(self._times):
            self.post_message(self.Traced(self._times[self._cursor]))
