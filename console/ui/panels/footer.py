"""`Footer`: the keys that work now, from the active bindings; and the newest notice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.notifications import Notification
from textual.screen import Screen
from textual.timer import Timer

from ...commands.read_only import is_changing_key
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, length
from ..widgets.pane import Pane

KEPT = ("help", "quit")
"""Keys that are shown in any width."""
LESSER = ("next-theme", "pause", "sort", "open", "row-mark", "filter")
"""Keys that are dropped first in a narrow terminal, as they are the same everywhere."""
MARKS: dict[str, tuple[TextSpan, str]] = {
    "error": (("▲ ", "bad"), "bad"),
    "warning": (("△ ", "warn"), "text"),
    "information": (("● ", "info"), "text"),
}
"""The mark of a notice and the style of its text, by severity."""
LEAST_NOTICE = 24
"""Cells below which a notice would say nothing: then it takes the place of every key."""


class Footer(Pane):
    """Keys of the focused pane first, then general ones. A notice is at the right; the keys that
    it leaves no room for come back when it expires. In a dialog, which has the keys, it has the
    whole line."""

    FRAMED: ClassVar[bool] = False

    class NoticeClicked(Message):
        """A notice was clicked, to be read whole."""

        def __init__(self, notice: Notification) -> None:
            super().__init__()
            self.notice = notice

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, str]] = []
        """The end cell of each key's text, and the key, for mouse clicks."""
        self._notice: Notification | None = None
        """The notice that is shown."""
        self._expiry: Timer | None = None
        self.is_paused = False

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._keys_changed)
        self.app.screen_change_signal.subscribe(self, self._keys_changed)

    def _keys_changed(self, _screen: Screen[object]) -> None:
        self.paint()

    def notices_changed(self) -> None:
        """Shows the newest notice until it expires, and then the one before it."""
        if self._expiry is not None:
            self._expiry.stop()
            self._expiry = None
        notices = self.painted_app.notices
        self._notice = notices[-1] if notices else None
        if self._notice is not None:
            left = max(0.0, self._notice.time_left) + 0.01
            self._expiry = self.set_timer(left, self.notices_changed)
        self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self._places = []
        has_keys = self.app.screen is self.screen
        keys = self._keys() if has_keys else []  # a dialog has the keys
        notice = _notice_spans(self._notice) if self._notice is not None else ()
        wanted = length(notice) + 2 if notice else 0
        _drop(keys, width - wanted)
        left = [span for _, spans in keys for span in spans]
        room = width - length(left) - 2
        if notice and room < min(wanted - 2, LEAST_NOTICE):
            keys, left, room = [], [], width - 2
        for at, (binding, _) in enumerate(keys):
            end = length([span for _, spans in keys[: at + 1] for span in spans])
            self._places.append((end, binding.key))
        if not notice:
            return [TextLine(tuple(left), "bar")]
        text = _fitted(notice, room)
        gap = " " * (room + 1 - length(text))
        return [TextLine((*left, (gap, "text"), *text, (" ", "text")), "bar")]

    def _keys(self) -> list[tuple[Binding, tuple[TextSpan, ...]]]:
        """The active bindings that are shown, with their texts."""
        seen: set[str] = set()
        keys: list[tuple[Binding, tuple[TextSpan, ...]]] = []
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in seen or not active.enabled:
                continue
            if self.painted_app.refuses(binding.id) or self._is_idle(binding.id):
                continue
            seen.add(binding.action)
            key = self.app.get_key_display(binding)
            is_resume = binding.id == "pause" and self.is_paused
            word = "Resume" if is_resume else binding.description
            keys.append((binding, ((f" {key}", "key"), (f" {word} ", "dim"))))
        return keys

    def _is_idle(self, id: str | None) -> bool:
        """Whether a key has nothing to act on: the pipeline is down, and it does not start it."""
        is_down = self.painted_app.board.is_down
        return is_down and id != "start-pipeline" and is_changing_key(id)

    def on_click(self, event: events.Click) -> None:
        for end, key in self._places:
            if event.x < end:
                self.app.simulate_key(key)
                return
        if self._notice is not None:
            self.post_message(self.NoticeClicked(self._notice))


def _drop(keys: list[tuple[Binding, tuple[TextSpan, ...]]], width: int) -> None:
    """Removes keys until the others fit into `width` cells; those of `KEPT` stay."""
    while length([span for _, spans in keys for span in spans]) > width:
        known = {binding.id: at for at, (binding, _) in enumerate(keys)}
        rest = [at for at, (binding, _) in enumerate(keys) if binding.id not in KEPT]
        if not rest:
            return
        del keys[next((known[name] for name in LESSER if name in known), rest[-1])]


def _notice_spans(notice: Notification) -> tuple[TextSpan, ...]:
    """`▲ worker-0: killed by SIGKILL` in one line."""
    mark, style = MARKS[notice.severity]
    words = [notice.title, notice.message]
    text = ": ".join(units.visible(" ".join(word.split())) for word in words if word)
    return (mark, (text, style))


def _fitted(spans: tuple[TextSpan, ...], room: int) -> tuple[TextSpan, ...]:
    mark, (text, style) = spans
    return (mark, (units.fit(text, max(0, room - 2)).rstrip(), style))
