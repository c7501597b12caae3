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
from ...text.lines import TextLine, TextSpan, crop, length, line
from ..widgets.pane import Pane

SHORT_CELLS = 100
"""Cells below which the position in a recording is written shorter."""
SLOW_S = 0.25
"""A link is slow if the terminal's answers take longer than this."""
SHORT_NAMES = {"Processes": "Procs"}
"""Names of tabs at 80 columns, where they differ."""


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
        """`tabs`: names of screens by key. `label` is the badge: MOCK, RECORDING, an ssh host,
        READ-ONLY."""
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
        """The end cell of each tab, and its key, for mouse clicks."""

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        return [self._status(board, width), self._tab_line(width)]

    def _status(self, board: Board, width: int) -> TextLine:
        """What is least needed is left out first: the device, the name of the program, tokens a
        second. The reason of a state has the room of the model."""
        condition = board.condition
        badges = self._badges(board)
        word: tuple[TextSpan, ...] = ((f" {condition.word} ", f"badge-{condition.level}"),)
        detail = self._detail(board)
        brand: tuple[TextSpan, ...] = ((" loraconsole ", "brand"),)
        model, device = _model(board)
        speed, load = _speed(board), _load(board)
        rest = (*self._kilobytes(), ("  ", "text"), self._link(board, width), (" ", "text"))
        if detail:
            reason: tuple[TextSpan, ...] = ((" ", "text"), *word, ("  ", "text"), detail)
            # of what is bad, the reason changes each second: the state before it must not move
            start = badges if condition.level == "bad" else (*brand, *badges)
            ways = (
                ((*start, *reason), (*speed, *load, *rest)),
                ((*badges, *reason), (*speed, *load, *rest)),
                ((*badges, *reason), (*load, *rest)),
                ((*badges, *reason), rest),
            )
        else:
            right = (*word, *speed, *load, *rest)
            ways = (
                ((*brand, *badges, *model, *device), right),
                ((*brand, *badges, *model), right),
                ((*badges, *model), right),
                ((*badges, *model), (*word, *load, *rest)),
            )
        left, right = next(
            (way for way in ways if length(way[0]) + 1 + length(way[1]) <= width), ways[-1]
        )
        room = width - length(right) - 1
        return TextLine((*crop(left, max(0, room), pad=True), (" ", "text"), *right), "bar")

    def _badges(self, board: Board) -> tuple[TextSpan, ...]:
        """What is unlike the usual console: MOCK, an ssh host, PAUSED, REC."""
        is_named = board.version != MOCK or MOCK.upper() in self._label
        label = self._label if is_named else f"{MOCK.upper()} {self._label}".rstrip()
        words = [(label, "badge-warn")] if label else []
        if self.is_paused:
            words.append(("PAUSED", "badge-warn"))
        if board.is_recording:
            words.append(("REC", "badge-bad"))
        return tuple(
            span for word, style in words for span in ((" ", "text"), (f" {word} ", style))
        )

    def _detail(self, board: Board) -> TextSpan | None:
        """The reason of a state that is not READY, and the key that helps; None if there is
        neither."""
        condition = board.condition
        text = condition.detail if condition.word != "READY" else ""
        if self.painted_app.can_start:
            focused = self.app.focused
            is_typing = focused is not None and focused.check_consume_key("S", "S")
            key = "esc, then S" if is_typing else "S"
            text = f"{text} · {key} starts it" if text else f"{key} starts it again"
        if not text:
            return None
        return (text, "text" if condition.level in ("good", "dim") else condition.level)

    def _kilobytes(self) -> tuple[TextSpan, ...]:
        if self.bytes_s is None:  # rounded, so that it is not redrawn while nothing changes
            return ()
        return ((f"  {self.bytes_s / 1e3:>4.1f}", "number"), (" kB/s", "dim"))

    def _link(self, board: Board, width: int) -> TextSpan:
        """Where a recording stands; of a pipeline, how late its last message is."""
        if (playback := board.playback) is not None:
            style = "good" if not (playback.is_paused or playback.is_over) else "warn"
            return (playback_text(playback, is_short=width < SHORT_CELLS), style)
        age_s = board.link_age_s
        if board.is_stopped:
            return ("", "dim")
        if age_s is None:
            return ("no link", "warn")
        if age_s > LATE_SECONDS:
            return (f"stale {units.duration(age_s)}", "warn")
        if self.round_trip_s > SLOW_S:
            return (f"● slow {self.round_trip_s:.1f} s", "warn")
        return ("● live", "good")

    # -- tabs

    def _tab_line(self, width: int) -> TextLine:
        """Each tab has the same cells whichever is active, so that none ever moves."""
        texts = self._tab_texts(width)
        spans: list[TextSpan] = []
        self._ends = []
        end = 0
        for key, text in texts.items():
            end += len(text)
            self._ends.append((end, key))
            if self._tabs[key] == self.active:
                spans.append((text, "badge-tab"))
            elif "▲" in text and self._alert_level:
                spans.append((text, self._alert_level))
            else:
                at = text.index(_shown(key)) + len(_shown(key))
                spans += [(text[:at], "key"), (text[at:], "dim")]
        return line(*crop(spans, width))

    def _tab_texts(self, width: int) -> dict[str, str]:
        """The text of each tab by its key, in the longest spelling that has room: ` 2 Batch `,
        ` 2 Batch`, ` 2 Bat`, ` 2`. Alerts end in the number of those that fire."""
        firing = len(self.painted_app.alert_book.firing)
        count = f"▲{min(firing, 99)}"
        names = self._tabs
        whole = {key: f" {_shown(key)} {name} " for key, name in names.items()}
        whole["9"] = f" 9 {names['9']} {count if firing else '':<3} "
        short = {
            key: f" {_shown(key)} {SHORT_NAMES.get(name, name)}" for key, name in names.items()
        }
        short["9"] = f" 9 {count:<3}"
        short["comma"] = " ,"
        least = {key: f" {_shown(key)} {name[:3]}" for key, name in names.items()}
        least["9"], least["comma"] = short["9"], short["comma"]
        keys = {key: f" {_shown(key)}" for key in names}
        return next(
            (way for way in (whole, short, least) if sum(map(len, way.values())) <= width), keys
        )

    @property
    def _alert_level(self) -> str:
        """The style of the worst firing alert; "" if none fires."""
        firing = self.painted_app.alert_book.firing
        return firing[0].finding.level if firing else ""

    def on_click(self, event: events.Click) -> None:
        if event.y != 1:
            return
        for end, key in self._ends:
            if event.x < end:
                self.post_message(self.Chosen(key))
                return


def _shown(key: str) -> str:
    return "," if key == "comma" else key


def _model(board: Board) -> tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]:
    """The model's name, and its device and types."""
    if not board.workers:
        name = (f" {board.base_model}", "text")
        return ((name,) if board.base_model else (), ())
    worker = board.workers[0]
    ranks = f" · {len(board.workers)} ranks" if len(board.workers) > 1 else ""
    device = (f"  {worker.device} {_types(worker.dtype)}{ranks}", "dim")
    return ((f" {worker.model}", "text"),), (device,)


def _speed(board: Board) -> tuple[TextSpan, ...]:
    if board.router is None or board.is_stopped:
        return ()
    return ((f"  {board.decode_text:>6}", "number"), (" tok/s", "dim"))


def _load(board: Board) -> tuple[TextSpan, ...]:
    if board.router is None or board.is_stopped:
        return ()
    waiting = board.router.waiting
    return (
        (f"  {board.router.running:>3}", "number"),
        (" run", "dim"),
        (f"  {waiting:>2}", "warn" if waiting else "number"),
        (" wait", "dim"),
    )
