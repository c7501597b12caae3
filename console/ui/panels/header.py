"""`Header`: the status line and the tabs. Always visible, and live while the view is paused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.message import Message

from ....pipeline.runtime.health import LATE_SECONDS
from ...state.board import MOCK, Board
from ...state.playback import playback_text
from ...text import units
from ...text.lines import TextLine, TextSpan, length, line, spread
from ..widgets.pane import Pane

SHORT = 100
"""Cells below which the position in a recording is written shorter."""
SLOW_S = 0.25
"""A link is slow if the terminal's answers take longer than this."""


def _types(dtype: str) -> str:
    """`int4/bfloat16` for `int4 to 8 tokens, bfloat16 above`."""
    return "/".join(part.split(" ")[0] for part in dtype.split(", "))


class Header(Pane):
    """Model, device, state, speed, load and link on one line; the tabs below."""

    FRAMED: ClassVar[bool] = False

    class Chosen(Message):
        """A tab was clicked."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, tabs: dict[str, str], label: str = "") -> None:
        """`label` is the badge: MOCK, RECORDING, an ssh host, READ-ONLY."""
        super().__init__()
        self._tabs = tabs
        self._label = label
        self.active = ""
        self.round_trip_s = 0.0
        """Seconds until the terminal's last answer."""
        self.bytes_s: float | None = None
        """Bytes a second to the terminal; None if not shown."""
        self.is_paused = False
        self._ends: list[tuple[int, str]] = []
        """The end cell of each tab's text, and its key, for mouse clicks."""

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        return [self._status(board, width), self._tab_line(board, width)]

    def _status(self, board: Board, width: int) -> TextLine:
        is_short_of_room = board.playback is not None and width < SHORT
        left: list[TextSpan] = [] if is_short_of_room else [(" loraconsole ", "brand")]
        if label := self._badge(board):
            left += [(f" {label} ", "badge-warn"), (" ", "text")]
        if board.workers:
            worker = board.workers[0]
            ranks = f" · {len(board.workers)} ranks" if len(board.workers) > 1 else ""
            left.append((f" {worker.model}", "text"))
            left.append((f"  {worker.device} {_types(worker.dtype)}{ranks}", "dim"))
        elif board.base_model:
            left.append((f" {board.base_model}", "text"))
        right: list[TextSpan] = []
        if self.is_paused:
            right += [(" PAUSED ", "badge-warn"), ("  ", "text")]
        condition = board.condition
        right.append((f" {condition.word} ", f"badge-{condition.level}"))
        if board.router is not None and not board.is_stopped:
            right += [
                (f"  {units.rate(board.decode_rate):>6}", "number"),
                (" tok/s", "dim"),
                (f"  {board.router.running:>3}", "number"),
                (" run", "dim"),
                (f"  {board.router.waiting:>2}", "warn" if board.router.waiting else "number"),
                (" wait", "dim"),
            ]
        if self.bytes_s is not None:  # rounded, so that it is not redrawn while nothing changes
            right += [(f"  {self.bytes_s / 1e3:>4.1f}", "number"), (" kB/s", "dim")]
        right += [("  ", "text"), self._link(board, width), (" ", "text")]
        return spread(left, right, width, "bar")

    def _badge(self, board: Board) -> str:
        """The badges: the console's label, and MOCK for any mock pipeline."""
        is_named = board.version != MOCK or MOCK.upper() in self._label
        return self._label if is_named else f"{MOCK.upper()} {self._label}".rstrip()

    def _link(self, board: Board, width: int) -> TextSpan:
        """Where a recording stands; of a pipeline, how late its last message is."""
        if (playback := board.playback) is not None:
            style = "good" if not (playback.is_paused or playback.is_over) else "warn"
            return (playback_text(playback, is_short=width < SHORT), style)
        age_s = board.link_age_s
        if age_s is None:
            return ("no link", "warn")
        if age_s > LATE_SECONDS:
            return (f"stale {units.duration(age_s)}", "warn")
        if self.round_trip_s > SLOW_S:
            return (f"● slow {self.round_trip_s:.1f} s", "warn")
        return ("● live", "good")

    def _tab_line(self, board: Board, width: int) -> TextLine:
        spans: list[TextSpan] = []
        whole = sum(len(key) + len(name) + 3 for key, name in self._tabs.items())
        space = " " if whole < width else ""
        self._ends = []
        for key, name in self._tabs.items():
            if name == self.active:
                spans.append((f" {key} {name} ", "badge-tab"))
            else:
                spans += [(f" {key}", "key"), (f" {name}{space}", "dim")]
            self._ends.append((length(spans), key))
        tail = self._tail()
        room = width - length(spans) - length(tail) - 1
        condition = board.condition
        detail = condition.detail if condition.word != "READY" else ""
        if detail and room > 12:
            text = units.fit(detail, room).rstrip()
            style = {"good": "dim", "dim": "dim"}.get(condition.level, condition.level)
            return spread(spans, ((text, style), (" ", "text"), *tail), width)
        return spread(spans, tail, width) if tail else line(*spans)

    def _tail(self) -> tuple[TextSpan, ...]:
        """The name of a screen without a tab, and the number of firing alerts."""
        tail: tuple[TextSpan, ...] = ()
        if self.active and self.active not in self._tabs.values():
            tail = ((f" {self.active} ", "badge-tab"),)
        if firing := len(self.painted_app.alert_book.firing):
            tail = (*tail, (f" 9 ▲{firing} ", "badge-warn"))
        return tail

    def on_click(self, event: events.Click) -> None:
        if event.y != 1:
            return
        for end, key in self._ends:
            if event.x < end:
                self.post_message(self.Chosen(key))
                return
        if event.x >= self.size.width - 6 and self.painted_app.alert_book.firing:
            self.post_message(self.Chosen("9"))
