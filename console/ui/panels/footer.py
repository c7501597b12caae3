"""`Footer`: the keys that work now, from the active bindings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding
from textual.screen import Screen

from ...state.board import Board
from ...text.lines import TextLine, TextSpan, length
from ..widgets.pane import Pane

KEPT = ("help", "quit")
"""Keys that are shown in any width."""
LESSER = ("next-theme", "pause", "sort", "open", "row-mark", "filter")
"""Keys that are dropped first in a narrow terminal, as they are the same everywhere."""


class Footer(Pane):
    """Keys of the focused pane first, then general ones."""

    FRAMED: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, str]] = []
        """The end cell of each key's text, and the key, for mouse clicks."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._keys_changed)
        self.app.screen_change_signal.subscribe(self, self._keys_changed)

    def _keys_changed(self, _screen: Screen[object]) -> None:
        self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self._places = []
        if self.app.screen is not self.screen:
            return [TextLine((), "bar")]  # a dialog has the keys
        seen: set[str] = set()
        keys: list[tuple[Binding, tuple[TextSpan, ...]]] = []
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in seen or not active.enabled:
                continue
            if self.painted_app.refuses(binding.id):
                continue
            seen.add(binding.action)
            key = self.app.get_key_display(binding)
            keys.append((binding, ((f" {key}", "key"), (f" {binding.description} ", "dim"))))
        while length([span for _, spans in keys for span in spans]) > width:
            known = {binding.id: at for at, (binding, _) in enumerate(keys)}
            rest = [at for at, (binding, _) in enumerate(keys) if binding.id not in KEPT]
            if not rest:
                break
            del keys[next((known[name] for name in LESSER if name in known), rest[-1])]
        spans: list[TextSpan] = []
        for binding, more in keys:
            spans += more
            self._places.append((length(spans), binding.key))
        return [TextLine(tuple(spans), "bar")]

    def on_click(self, event: events.Click) -> None:
        for end, key in self._places:
            if event.x < end:
                self.app.simulate_key(key)
                return
