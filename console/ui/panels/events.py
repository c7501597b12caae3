"""`EventPane`: current alerts, then events, wrapped; enter goes to the log line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.messages import Event
from ...state.alerts import AlertFinding
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import reason_first
from ..widgets.clipboard import copy_text
from ..widgets.filter import FilterPane
from ..widgets.styles import LEVEL_STYLES

WITH_SOURCE = 56
"""Cells from which on each event names its process."""
MOST_ROWS = 3
"""Most lines of one event; enter shows the rest in the log."""


class EventPane(FilterPane):
    """Current alerts, then events, newest first."""

    TITLE = "alerts and events"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="event-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="event-down"),
        Binding("y", "copy", "Copy", show=False, id="event-copy", tooltip="its text"),
        Binding(
            "enter",
            "trace",
            "Go to",
            id="trace",
            tooltip="its log line, or the screen that shows it",
        ),
    ]

    class Traced(Message):
        """Enter was pressed on an event or an alert."""

        def __init__(self, source: Event | AlertFinding) -> None:
            super().__init__()
            self.source = source

    def __init__(self) -> None:
        super().__init__(id="events")
        self._cursor = 0
        """The event or alert under the cursor, counted from the top."""
        self._sources: list[Event | AlertFinding] = []
        """The events and alerts that are shown."""
        self._texts: list[str] = []
        self._owners: list[int] = []
        """The event or alert in each row."""

    def caption(self, board: Board) -> Sequence[TextSpan]:
        alerts = self.painted_app.alert_book.findings(board)
        number = len(alerts)
        if not number:
            return (("no alerts", "good"),)
        return ((units.count_noun(number, "alert"), alerts[0].level),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        blocks: list[Sequence[TextLine]] = []
        self._sources, self._texts = [], []
        left = height
        for source, searched, (head, text, style) in self._entries(board, width):
            if left <= 0:
                break
            if not self.shows(searched):
                continue
            block: Sequence[TextLine] = _block(head, text, style, width)
            if self.is_dimmed(searched):
                block = [TextLine(tuple((part, "dim") for part, _ in row.spans)) for row in block]
            blocks.append(block[:left])
            left -= len(block)
            self._sources.append(source)
            self._texts.append(searched)
        if not blocks:
            word = "nothing matches the filter" if self.filter else "no events yet"
            return [line((word, "dim"))]
        self._cursor = max(0, min(self._cursor, len(blocks) - 1))
        self._owners = [at for at, block in enumerate(blocks) for _ in block]
        if self.has_focus:
            here = blocks[self._cursor]
            blocks[self._cursor] = [shown._replace(ground="cursor") for shown in here]
        return [shown for block in blocks for shown in block]

    def _entries(
        self, board: Board, width: int
    ) -> Iterator[tuple[Event | AlertFinding, str, tuple[TextSpan, str, str]]]:
        """Alerts, then events: each, the text that the filter sees, and head, text and style."""
        for alert in self.painted_app.alert_book.findings(board):
            mark = "▲ " if alert.level == "bad" else "△ "
            yield alert, alert.text, ((mark, alert.level), alert.text, alert.level)
        for event in reversed(board.events):
            who = f" {event.source} " if width >= WITH_SOURCE else " "
            head = (units.clock(event.at) + who, "dim")
            style = LEVEL_STYLES.get(event.level.lower(), "text")
            searched = f"{event.source} {event.level} {event.text}"
            yield event, searched, (head, event.text, style)

    def action_move(self, lines: int) -> None:
        self._cursor += lines
        self.paint()

    def action_copy(self) -> None:
        """Copies the event's time, process and text, or the alert's text."""
        if not self._sources:
            return
        source = self._sources[self._cursor]
        text = source.text
        if isinstance(source, Event):
            text = f"{units.clock(source.at)} {source.source} {text}"
        copy_text(self, units.clean(text), units.glimpse(text))

    def on_click(self, event: events.Click) -> None:
        """Chooses an event; a double click goes to its line."""
        row = event.y - 1  # the frame
        if self._sources and 0 <= row < len(self._owners):
            self._cursor = self._owners[row]
            self.paint()
            if event.chain == 2:
                self.action_trace()

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


@lru_cache(maxsize=128)  # the same events are drawn in each frame
def _block(head: TextSpan, text: str, style: str, width: int) -> tuple[TextLine, ...]:
    """An event in at most `MOST_ROWS` lines; the cause of an error stands before its path."""
    indent = cell_len(head[0])
    room = max(8, width - indent)
    rows = units.wrap(reason_first(units.visible(text)), room)
    if len(rows) > MOST_ROWS:
        rows[MOST_ROWS - 1] = units.fit(" ".join(rows[MOST_ROWS - 1 :]), room)
    first, *others = rows[:MOST_ROWS]
    rest = (line((" " * indent, "text"), (row, style)) for row in others)
    return (line(head, (first, style)), *rest)
