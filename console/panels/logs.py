"""Logs: the lines of all processes in one stream, followed, filtered, scrolled."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from ...pipeline.messages import LogLine
from .. import units
from ..board import Board
from ..dialogs import LiveDialog
from ..filter import FilterPane
from ..inks import LEVEL_INKS
from ..pane import Line, Panel, Span, field, line

LEVELS = ("debug", "info", "warning", "error")
ORDER = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
SHORT = {
    "debug": "DEBUG",
    "info": "INFO ",
    "warning": "WARN ",
    "error": "ERROR",
    "critical": "CRIT ",
}


def log_line(entry: LogLine, width: int, with_source: bool = True) -> Line:
    """`12:03:22.418 WARN  router  what it said`."""
    level = entry.level.lower()
    stamp = f"{units.clock(entry.at)}.{int(entry.at % 1 * 1000):03}"
    spans: list[Span] = [(stamp, "dim"), (f" {SHORT.get(level, entry.level):<5}", _ink(level))]
    if with_source:
        spans.append((f" {entry.source:<11}", "info"))
    text_ink = "text" if ORDER.get(level, 1) < ORDER["warning"] else _ink(level)
    # A process's own logger bears its name, which the column has said already.
    text = units.clean(entry.text.removeprefix(f"{entry.source}: "))
    return Line((*spans, (f" {text}", text_ink)))


def _text(entry: LogLine) -> str:
    """What the filter is tried on."""
    return f"{entry.source} {entry.level} {entry.text}"


def _ink(level: str) -> str:
    return "dim" if level in ("debug", "info") else LEVEL_INKS.get(level, "text")


class LogPane(FilterPane):
    """Follows the end until somebody scrolls up; then it stands still and counts what comes."""

    TITLE = "logs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="log-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="log-down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="log-page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="log-page-down"),
        Binding("home,g", "oldest", "Oldest", show=False, id="log-oldest"),
        Binding("end,G,f", "follow", "Follow", key_display="f", id="log-follow"),
        Binding("l", "level", "Level", id="log-level", tooltip="hide what is below a level"),
        Binding("enter", "open", "Open", id="log-open", tooltip="the last line shown, whole"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.level = LEVELS[0]
        self._kept: list[LogLine] = []
        """What passes level and filter, oldest first."""
        self._source: tuple[LogLine, ...] = ()
        """What `_kept` was made from."""
        self._bottom: int | None = None
        """Number of the last line to show; None follows the newest."""
        self._page = 1

    def caption(self, board: Board) -> Sequence[Span]:
        found: list[Span] = [(units.count(len(self._kept)), "number"), (" lines", "dim")]
        if self.level != LEVELS[0]:
            found += [("  from ", "dim"), (self.level, LEVEL_INKS[self.level])]
        if self._bottom is None:
            found += [("  following", "good")]
        else:
            new = len(self._kept) - self._end()
            found += [(f"  +{units.count(new)} new", "warn" if new else "dim")]
        return found

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        self._gather(board.logs)
        self._page = height
        if not self._kept:
            word = "no line passes the filter" if board.logs else "nothing has been said yet"
            return [line((word, "dim"))]
        end = self._end()
        found: list[Line] = []
        before: LogLine | None = None
        for entry in self._kept[max(0, end - height) : end]:
            if (
                before
                and not self.filter
                and entry.number > before.number + 1
                and self.level == LEVELS[0]
            ):
                missing = units.count(entry.number - before.number - 1)
                found.append(line((f"⋯ {missing} lines were not heard ⋯", "warn")))
            shown = log_line(entry, width)
            if self.marks and self.is_dimmed(_text(entry)):
                shown = Line(tuple((text, "dim") for text, _ in shown.spans))
            found.append(shown)
            before = entry
        return found[-height:]

    def thumb(self, height: int) -> range | None:
        total = len(self._kept)
        if total <= height or not height:
            return None
        size = max(1, height * height // total)
        top = (height - size) * (max(height, self._end()) - height) // (total - height)
        return range(top, top + size)

    def set_filter(self, text: str, marks: bool | None = None) -> None:
        self._source = ()
        super().set_filter(text, marks)

    def action_match(self, step: int) -> None:
        """The match becomes the last line shown, where there are lines enough above it."""
        at = self._end() - 1
        while 0 <= at + step < len(self._kept):
            at += step
            if self.filter.keeps(_text(self._kept[at])):
                self._go(max(self._page, at + 1))
                return

    def show_time(self, at: float) -> None:
        """Scrolls to what was said at a time: where an alert comes from."""
        index = bisect_right(self._kept, at, key=lambda entry: entry.at)
        if index < len(self._kept):
            self._bottom = self._kept[max(0, index - 1)].number
            self.paint()

    def _gather(self, logs: tuple[LogLine, ...]) -> None:
        """Only lines that came since the last frame are looked at, whatever their number."""
        if logs is self._source:
            return
        is_older = logs and self._source and logs[0].number < self._source[0].number
        known = self._source[-1] if self._source and not is_older else None
        fresh = 0
        for entry in reversed(logs):
            if entry is known:
                break
            fresh += 1
        if fresh == len(logs):
            self._kept = []
        lowest, shows = ORDER[self.level], self.shows
        self._kept += [
            entry
            for entry in logs[len(logs) - fresh :]
            if ORDER.get(entry.level.lower(), 1) >= lowest and shows(_text(entry))
        ]
        first = logs[0].number if logs else 0
        if self._kept and self._kept[0].number < first:  # the books forgot these
            del self._kept[: bisect_right(self._kept, first - 1, key=lambda entry: entry.number)]
        self._source = logs

    def _end(self) -> int:
        """Index behind the last line to show."""
        if self._bottom is None:
            return len(self._kept)
        end = bisect_right(self._kept, self._bottom, key=lambda entry: entry.number)
        return max(min(self._page, len(self._kept)), end)

    def _go(self, end: int) -> None:
        if end >= len(self._kept):
            self._bottom = None
        elif self._kept:
            self._bottom = self._kept[max(0, min(end, len(self._kept)) - 1)].number
        self.paint()

    def action_move(self, lines: int) -> None:
        self._go(max(self._page, self._end() + lines))

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self._page - 1))

    def action_oldest(self) -> None:
        self._go(self._page)

    def action_follow(self) -> None:
        self._bottom = None
        self.paint()

    def action_level(self) -> None:
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._source = ()
        self.paint()

    def action_open(self) -> None:
        """A dialog with the last line shown, wrapped."""
        end = self._end()
        if not self._kept or not end:
            return
        entry = self._kept[end - 1]

        def whole(board: Board, width: int) -> Sequence[Line]:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
            return [
                line(*field("at"), (stamp, "text")),
                line(*field("process"), (entry.source, "info")),
                line(*field("level"), (entry.level, _ink(entry.level.lower()))),
                Line(),
                *(line((text, "text")) for text in units.wrap(entry.text, width)),
            ]

        self.app.push_screen(LiveDialog(f"line {entry.number}", whole))

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


class LogsPanel(Panel):
    """One stream."""

    NAME: ClassVar[str] = "Logs"

    def compose(self) -> ComposeResult:
        yield LogPane()
