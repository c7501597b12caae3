"""`Footer`: the keys that work here and now, made from the bindings themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.screen import Screen

from ..board import Board
from ..pane import Line, Pane, Span, length


class Footer(Pane):
    """Keys of the focused pane first, then those that always work."""

    FRAMED: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, str]] = []
        """Where each key's text ends, and the key: for the mouse."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_updated)

    def _bindings_updated(self, _screen: Screen[object]) -> None:
        self.paint()

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        spans: list[Span] = []
        self._places = []
        seen: set[str] = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in seen or not active.enabled:
                continue
            seen.add(binding.action)
            key = self.app.get_key_display(binding)
            more: list[Span] = [(f" {key}", "key"), (f" {binding.description} ", "dim")]
            if length(spans) + length(more) > width:
                break
            spans += more
            self._places.append((length(spans), binding.key))
        return [Line(tuple(spans), "bar")]

    def on_click(self, event: events.Click) -> None:
        for end, key in self._places:
            if event.x < end:
                self.app.simulate_key(key)
                return
