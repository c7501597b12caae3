"""Logs: the log lines of all processes in one pane, to follow, filter, search and scroll."""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from ....pipeline.messages import LogLine
from ...state.board import Board
from ...text import ansi, units
from ...text.filter import Filter
from ...text.lines import TextLine, TextSpan, broken, length, line, thumb_of
from ...text.records import Record, for_file
from ..widgets.clipboard import copy_text
from ..widgets.details import Details, DetailsPane
from ..widgets.dialogs import LiveDialog
from ..widgets.filter import FilterPane
from ..widgets.filter_input import FilterInput
from ..widgets.pane import Panel, field
from ..widgets.styles import LEVEL_STYLES

RATE_SECONDS = 5.0
HEAD = 3
"""Spans of a line before its text: time, level, process."""
LEVELS = ("debug", "info", "warning", "error")
ORDER = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
SHORT = {
    "debug": "DEBUG",
    "info": "INFO ",
    "warning": "WARN ",
    "error": "ERROR",
    "critical": "CRIT ",
}


def log_line(entry: LogLine, width: int, with_source: bool = True) -> TextLine:
    """`12:03:22.418 WARN  router  the text`."""
    level = entry.level.lower()
    stamp = f"{units.clock(entry.at)}.{int(entry.at % 1 * 1000):03}"
    spans: list[TextSpan] = [
        (stamp, "dim"),
        (f" {SHORT.get(level, entry.level):<5}", _style(level)),
    ]
    if with_source:
        spans.append((f" {entry.source:<11}", "info"))
    text_ink = "text" if ORDER.get(level, 1) < ORDER["warning"] else _style(level)
    # The logger's name is the process's, which its column shows already.
    text = _without_source(entry, entry.text)
    return TextLine((*spans, *ansi.styled_spans(f" {text}", text_ink)))


def _style(level: str) -> str:
    return "dim" if level in ("debug", "info") else LEVEL_STYLES.get(level, "text")


def wrapped_line(entry: LogLine, width: int) -> list[TextLine]:
    """`log_line`, wrapped into as many lines as its text needs."""
    whole = log_line(entry, width).spans
    head, text = whole[:HEAD], whole[HEAD:]
    indent = length(head) + 1
    plain = "".join(part for part, _ in text).removeprefix(" ")
    first, *rest = broken(text, units.wrap(plain, max(16, width - indent)))
    blank = (" " * indent, "text")
    return [
        TextLine((*head, (" ", "text"), *first.spans)),
        *(TextLine((blank, *each.spans)) for each in rest),
    ]


def plain_line(entry: LogLine) -> str:
    """`2026-11-25 12:03:22.418 WARNING router the text`, for a file or the clipboard."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
    text = _without_source(entry, units.clean(entry.text))
    return f"{stamp}.{int(entry.at % 1 * 1000):03} {entry.level} {entry.source} {text}"


def _record(entry: LogLine) -> Record:
    return {
        "at_unix_s": entry.at,
        "level": entry.level,
        "process": entry.source,
        "text": _without_source(entry, units.clean(entry.text)),
    }


def _without_source(entry: LogLine, text: str) -> str:
    """The text without the process's name in front, which stands beside it everywhere."""
    return text.removeprefix(f"{entry.source}: ")


def _text(entry: LogLine) -> str:
    """The text that filter and search are matched against."""
    text = units.clean(entry.text) if "\x1b" in entry.text else entry.text
    return f"{entry.source} {entry.level} {text}"


def _set_out(text: str) -> str:
    """The text of a line; JSON at its end is laid out over several lines."""
    head, brace, tail = text.partition("{")
    try:
        return f"{head}\n{json.dumps(json.loads(brace + tail), indent=2, ensure_ascii=False)}"
    except ValueError:
        return text


class LogPane(FilterPane):
    """Follows the end until the operator scrolls up; then it stops and counts new lines."""

    TITLE = "logs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="log-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="log-down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="log-page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="log-page-down"),
        Binding("home,g", "oldest", "Oldest", show=False, id="log-oldest"),
        Binding("end,G,f", "follow", "Follow", key_display="f", id="log-follow"),
        Binding("l", "level", "Level", id="log-level", tooltip="minimum level"),
        Binding("p", "process", "Process", id="log-process", tooltip="one process, or all"),
        Binding(
            *("s", "search", "Search"),
            id="log-search",
            tooltip="n older match, N newer match",
        ),
        Binding("m", "leap(-60)", "A minute back", show=False, id="log-minute-back"),
        Binding("M", "leap(60)", "A minute forward", show=False, id="log-minute-on"),
        Binding("h", "leap(-3600)", "An hour back", show=False, id="log-hour-back"),
        Binding("H", "leap(3600)", "An hour forward", show=False, id="log-hour-on"),
        Binding("w", "wrap", "Wrap", id="log-wrap", tooltip="wrap or cut long lines"),
        Binding("c", "clear", "Clear", show=False, id="log-clear", tooltip="hide the lines so far"),
        Binding("e", "export", "Export", id="log-export", tooltip="the filtered lines, to a file"),
        Binding(
            "y", "copy", "Copy", show=False, id="log-copy", tooltip="the line under the cursor"
        ),
        Binding("enter", "open", "Open", id="log-open", tooltip="the full line under the cursor"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.level = LEVELS[0]
        self.process = ""
        """The process whose lines are shown; "" shows all."""
        self.search = Filter()
        self.wraps = False
        self._counted: tuple[tuple[str, int, int], int] = (("", 0, -1), 0)
        self._cursor: int | None = None
        """Number of the line under the cursor; None follows the newest line."""
        self._floor = -1
        """Number of the last cleared line."""
        self._kept: list[LogLine] = []
        """Lines that pass level, process and filter, oldest first."""
        self._source: tuple[LogLine, ...] = ()
        """All lines that `_kept` was filtered from."""
        self._bottom = -1
        """Number of the last line to show, if there is a cursor."""
        self._seen = -1
        """Number of the newest line that was shown."""
        self._numbers: list[int] = []
        """The number of the line in each row; -1 for none."""
        self._page = 1

    def caption(self, board: Board) -> Sequence[TextSpan]:
        number = len(self._kept)
        noun = " line" if number == 1 else " lines"
        found: list[TextSpan] = [(units.count(number), "number"), (noun, "dim")]
        if self.process:
            found += [(" of ", "dim"), (self.process, "info")]
        since = bisect_right(board.logs, board.now - RATE_SECONDS, key=lambda entry: entry.at)
        rate = (len(board.logs) - since) / RATE_SECONDS
        found += [("  ", "text"), (units.rate(rate), "number"), ("/s", "dim")]
        if self.level != LEVELS[0]:
            found += [("  from ", "dim"), (self.level, LEVEL_STYLES[self.level])]
        if self._cursor is None:
            found += [("  following", "good")]
        else:
            new = number - self._index_after(self._seen)
            found += [(f"  +{units.count(new)} new", "warn" if new else "dim")]
        return found

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self._gather(board.logs)
        self._page = height
        self._numbers = []
        if not self._kept:
            word = "no line passes the filter" if board.logs else "no log lines yet"
            return [line((word, "dim"))]
        rows = self._rows(width, height)
        if self.wraps and self._cursor is not None and self._cursor not in (n for n, _ in rows):
            self._bottom = self._kept[self._at()].number  # wrapped lines below pushed it out
            rows = self._rows(width, height)
        self._numbers = [number for number, _ in rows]
        self._seen = max(self._seen, *self._numbers)
        return [row for _, row in rows]

    def _rows(self, width: int, height: int) -> list[tuple[int, TextLine]]:
        """The visible rows, each with the number of its line."""
        end = self._end()
        found: list[tuple[int, TextLine]] = []
        before: LogLine | None = None
        for entry in self._kept[max(0, end - height) : end]:
            if before and self._shows_all and entry.number > before.number + 1:
                missing = units.count(entry.number - before.number - 1)
                found.append((-1, line((f"⋯ {missing} lines were not heard ⋯", "warn"))))
            drawn = wrapped_line(entry, width) if self.wraps else [log_line(entry, width)]
            if self.search and self.search.keeps(_text(entry)):
                drawn = [self._marked(each) for each in drawn]
            elif self.marks and self.is_dimmed(_text(entry)):
                drawn = [TextLine(tuple((text, "dim") for text, _ in each.spans)) for each in drawn]
            if entry.number == self._cursor:
                drawn = [each._replace(ground="cursor") for each in drawn]
            found += [(entry.number, each) for each in drawn]
            before = entry
        return found[-height:]

    @property
    def _shows_all(self) -> bool:
        return not (self.filter or self.process) and self.level == LEVELS[0]

    def _marked(self, drawn: TextLine) -> TextLine:
        """The line with its search hits highlighted."""
        spans: list[TextSpan] = []
        for text, style in drawn.spans:
            end = 0
            for first, last in self.search.hits(text):
                spans += [(text[end:first], style), (text[first:last], "badge-warn")]
                end = last
            spans.append((text[end:], style))
        return TextLine(tuple(span for span in spans if span[0]), drawn.ground)

    def hint(self, board: Board) -> Sequence[TextSpan]:
        if self.search.error:
            return ((f"{self.search.text}: {self.search.error}", "bad"),)
        found = list(super().hint(board))
        if self.search:
            found += [("  " if found else "", "text"), (f"search {self.search.text}", "key")]
            found += [(f"  {units.count_noun(self._count_hits(), 'matching line')}", "dim")]
        return found

    def _count_hits(self) -> int:
        """Number of lines with a hit, counted again only after a change: 10 000 lines take 5 ms."""
        kept = self._kept
        what = (self.search.text, len(kept), kept[-1].number if kept else -1)
        if self._counted[0] != what:
            self._counted = (what, sum(self.search.keeps(_text(entry)) for entry in kept))
        return self._counted[1]

    def thumb(self, height: int) -> range | None:
        return thumb_of(len(self._kept), height, max(0, self._end() - height))

    def release(self) -> None:
        """Drops a hidden pane's lines: 5 000 lines that the store has dropped take a megabyte."""
        super().release()
        self._kept, self._source = [], ()

    def set_filter(self, text: str, marks: bool | None = None) -> None:
        self._source = ()
        super().set_filter(text, marks)

    def action_match(self, step: int) -> None:
        """Goes to the next search hit, for 1 back in time; without a search, to the next match of
        the filter."""
        if self.search:
            self._next_hit(-step)
            return
        at = self._at()
        while 0 <= at + step < len(self._kept):
            at += step
            if self.filter.keeps(_text(self._kept[at])):
                self._put(at)
                return

    def set_search(self, text: str) -> None:
        """Goes to the newest hit at or above the last line shown; called at every letter typed."""
        self.search = Filter.parse(text)
        if self.search:
            self._find(self._end() - 1, -1)
        self.paint()

    def _find(self, index: int, step: int) -> bool:
        """Goes to the first hit from `index` on by `step`; returns whether there is one."""
        while 0 <= index < len(self._kept):
            entry = self._kept[index]
            if self.search.keeps(_text(entry)):
                end = self._end()
                is_shown = end - self._page <= index < end
                self._hold(index, end if is_shown else index + self._page // 2)
                return True
            index += step
        return False

    def show_line(self, entry: LogLine) -> None:
        """Marks a line and scrolls it to half height; filters that hide it are removed."""
        self._gather(self.painted_app.board.logs)
        if entry not in self._kept:
            self.level, self.process, self._floor = LEVELS[0], "", -1
            self.set_filter("")
            self._gather(self.painted_app.board.logs)
        index = self._index_after(entry.number) - 1
        below = 1 if self.wraps else self._page // 2  # wrapped lines below could push it out
        self._hold(index, index + below)

    def show_time(self, at: float) -> None:
        """Goes to the line before the time `at`."""
        index = bisect_right(self._kept, at, key=lambda entry: entry.at)
        if index < len(self._kept):
            self._hold(index - 1, index)

    def _gather(self, logs: tuple[LogLine, ...]) -> None:
        """Updates `_kept`; examines only the lines that are new since the last frame."""
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
            if ORDER.get(entry.level.lower(), 1) >= lowest
            and entry.number > self._floor
            and self.process in ("", entry.source)
            and shows(_text(entry))
        ]
        first = logs[0].number if logs else 0
        if self._kept and self._kept[0].number < first:  # the store has dropped these
            del self._kept[: bisect_right(self._kept, first - 1, key=lambda entry: entry.number)]
        self._source = logs

    def _gather_first(self) -> None:
        """For a key that is pressed before the first frame."""
        if not self._source:
            self._gather(self.painted_app.board.logs)

    def _index_after(self, number: int) -> int:
        """Index after the line `number`, or after the last one before it."""
        return bisect_right(self._kept, number, key=lambda entry: entry.number)

    def _at(self) -> int:
        """Index of the cursor's line; if the filter hides it, of the last one before it."""
        self._gather_first()
        if self._cursor is None:
            return len(self._kept) - 1
        return max(0, self._index_after(self._cursor) - 1)

    def _end(self) -> int:
        """Index after the last line to show."""
        self._gather_first()
        if self._cursor is None:
            return len(self._kept)
        return max(min(self._page, len(self._kept)), self._index_after(self._bottom))

    def _hold(self, index: int, end: int) -> None:
        """Moves the cursor to the line at `index`, and shows the lines before `end`."""
        self._gather_first()
        number = len(self._kept)
        if number:
            end = min(max(end, self._page), number)
            self._bottom = self._kept[end - 1].number
            self._cursor = self._kept[max(0, min(index, number - 1))].number
        self.paint()

    def _put(self, index: int) -> None:
        """Moves the cursor to the line at `index`, and scrolls as far as needed to show it."""
        index = max(0, index)
        end = self._end()
        if index >= end:
            end = index + 1
        elif index < end - self._page:
            end = index + self._page
        self._hold(index, end)

    def _scroll(self, lines: int, with_cursor: bool) -> None:
        """Scrolls by `lines`; the cursor moves with the lines, or no further than needed to stay in
        sight. At the end it follows."""
        end = self._end() + lines
        if lines > 0 and end >= len(self._kept):
            self.action_follow()
            return
        end = max(self._page, end)
        at = self._at() + (lines if with_cursor else 0)
        self._hold(max(end - self._page, min(at, end - 1)), end)

    def action_move(self, lines: int) -> None:
        at = self._at() + lines
        if at >= len(self._kept):
            self.action_follow()
        else:
            self._put(at)

    def action_page(self, pages: int) -> None:
        self._scroll(pages * max(1, self._page - 1), with_cursor=True)

    def action_oldest(self) -> None:
        self._hold(0, self._page)

    def action_follow(self) -> None:
        self._cursor = None
        self.paint()

    def action_level(self) -> None:
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self._source = ()
        self.paint()

    def action_process(self) -> None:
        """Shows the next process's lines alone; after the last one, all lines."""
        names = ["", *dict.fromkeys(row.name for row in self.painted_app.board.processes)]
        at = names.index(self.process) if self.process in names else 0
        self.process = names[(at + 1) % len(names)]
        self._source = ()
        self.paint()

    async def action_search(self) -> None:
        await self.open_line("s", SearchInput(self))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(action == "unfilter" and self.search.text) or super().check_action(
            action, parameters
        )

    def action_unfilter(self) -> None:
        """Clears the search; without a search, the filter."""
        if self.search.text:
            self.set_search("")
        else:
            super().action_unfilter()

    def _next_hit(self, step: int) -> None:
        at = self._at() + (0 if self._cursor is None else step)
        if not self._find(at, step):
            self.notify("No more matches in this direction.")
        self.paint()

    def action_leap(self, seconds: int) -> None:
        """Goes to the line a number of seconds after the cursor's, or before it."""
        if self._kept:
            at = self._kept[self._at()].at + seconds
            index = bisect_right(self._kept, at, key=lambda entry: entry.at)
            if index >= len(self._kept):
                self.action_follow()
            else:
                self._hold(index - 1, index)

    def action_wrap(self) -> None:
        self.wraps = not self.wraps
        self.paint()

    def action_clear(self) -> None:
        """Hides the current lines; if none is shown, shows hidden ones again."""
        last = self._kept[-1].number if self._kept else -1
        self._floor, self._cursor, self._source = last, None, ()
        self.paint()

    def action_export(self) -> None:
        """Asks for a path and saves the lines that pass level, process and filter: as CSV or JSON
        if the path ends so, else as plain text."""
        from ..widgets.save_dialog import ask_export  # here, as it delays the first frame

        kept = list(self._kept)

        def text(path: Path) -> str:
            if path.suffix.lower() in (".csv", ".json"):
                return for_file(path, [_record(entry) for entry in kept])
            return "".join(f"{plain_line(entry)}\n" for entry in kept)

        ask_export(self, "line", len(kept), time.strftime("logs-%Y%m%d-%H%M%S.log"), text)

    @property
    def _current(self) -> LogLine | None:
        """The line under the cursor; the newest one while following."""
        index = self._at()
        return self._kept[index] if self._kept else None

    def action_copy(self) -> None:
        if (entry := self._current) is not None:
            text = plain_line(entry)
            copy_text(self, text, units.glimpse(text))

    def action_open(self) -> None:
        """Opens a dialog with the line under the cursor, wrapped, its JSON indented."""
        if (found := self.details()) is not None:
            self.app.push_screen(LiveDialog(found.title, found.lines))

    def details(self) -> Details | None:
        """The line under the cursor as a whole, for the pane beside the log."""
        entry = self._current
        if entry is None:
            return None

        text = _without_source(entry, entry.text)

        def whole(board: Board, width: int) -> Sequence[TextLine]:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
            return [
                line(*field("at"), (stamp, "text")),
                line(*field("process"), (entry.source, "info")),
                line(*field("level"), (entry.level, _style(entry.level.lower()))),
                TextLine(),
                *(line((part, "text")) for part in units.wrap(_set_out(text), width)),
            ]

        return Details(f"{entry.number}", f"line {entry.number}", whole)

    def on_click(self, event: events.Click) -> None:
        """Chooses a line; a double click opens it."""
        row = event.y - 1  # the frame
        if 0 <= row < len(self._numbers) and self._numbers[row] >= 0:
            self._put(self._index_after(self._numbers[row]) - 1)
            if event.chain == 2:
                self.action_open()

    def on_mouse_scroll_down(self) -> None:
        self._scroll(3, with_cursor=False)

    def on_mouse_scroll_up(self) -> None:
        self._scroll(-3, with_cursor=False)


class SearchInput(FilterInput):
    """The line that `s` opens: searches while typing; enter keeps the search, escape clears it."""

    def __init__(self, pane: LogPane) -> None:
        super().__init__(pane)
        self.value = pane.search.text
        self.placeholder = "regex; n older match, N newer match"
        self._log = pane

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        event.prevent_default()
        self._log.set_search(event.value)

    def action_clear(self) -> None:
        self._log.set_search("")
        self._leave()


class LogsPanel(Panel):
    """The log, and on a wide screen the line under its cursor."""

    NAME: ClassVar[str] = "Logs"

    def compose(self) -> ComposeResult:
        log = LogPane()
        yield log
        yield DetailsPane(log)
