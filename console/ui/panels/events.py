"""`EventPane`: current alerts, then events; enter goes to the log line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.messages import Event
from ...state.alerts import AlertFinding
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.filter import FilterPane
from ..widgets.styles import LEVEL_STYLES


class EventPane(FilterPane):
    """Current alerts, then events, newest first."""

    TITLE = "alerts and events"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="event-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="event-down"),
        Binding("enter", "trace", "Trace", id="trace", tooltip="to its line, or where it shows"),
    ]

    class Traced(Message):
        """Enter was pressed on an event or an alert."""

        def __init__(self, source: Event | AlertFinding) -> None:
            super().__init__()
            self.source = source

    def __init__(self) -> None:
        super().__init__(id="events")
        self._cursor = 0
        self._sources: list[Event | AlertFinding] = []
        """The event or alert of each line."""
        self._texts: list[str] = []

    def caption(self, board: Board) -> Sequence[TextSpan]:
        alerts = self.painted_app.alert_book.findings(board)
        number = len(alerts)
        if not number:
            return (("no alerts", "good"),)
        return ((f"{number} alert{'s' if number > 1 else ''}", alerts[0].level),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        found: list[TextLine] = []
        self._sources, self._texts = [], []

        def add(text: str, source: Event | AlertFinding, shown: TextLine) -> None:
            if self.shows(text):
                if self.is_dimmed(text):
                    shown = TextLine(tuple((text, "dim") for text, _ in shown.spans))
                found.append(shown)
                self._sources.append(source)
                self._texts.append(text)

        for alert in self.painted_app.alert_book.findings(board):
            text, mark = units.visible(alert.text), "▲ " if alert.level == "bad" else "△ "
            add(alert.text, alert, line((mark, alert.level), (text, alert.level)))
        for event in reversed(board.events):
            if len(found) >= height:
                break
            what = (units.visible(event.text), LEVEL_STYLES.get(event.level.lower(), "text"))
            who = (f" {event.source} ", "dim")
            text = f"{event.source} {event.level} {event.text}"
            add(text, event, line((units.clock(event.at), "dim"), who, what))
        if not found:
            word = "nothing matches the filter" if self.filter else "nothing has happened yet"
            return [line((word, "dim"))]
        self._cursor = max(0, min(self._cursor, height - 1, len(found) - 1))
        if self.has_focus:
            found[self._cursor] = found[self._cursor]._replace(ground="cursor")
        return found

    def action_move(self, lines: int) -> None:
        self._cursor += lines
        self.paint()

    def action_match(self, step: int) -> None:
        number = len(self._texts)
        for away in range(1, number + 1):
            at = (self._cursor + step * away) % number
            if self.filter.keeps(self._texts[at]):
                self._cursor = at
                self.paint()
                return

    def action_trace(self) -> None:
        if self._cursor < len(self._sources):
            self.post_message(self.Traced(self._sources[self._cursor]))
