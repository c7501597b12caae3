"""`FilterInput`: the input line that `/` opens at the bottom of a panel; `LineInput`: its base."""

from __future__ import annotations

from typing import ClassVar, Protocol

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input

from ...text.filter import Filter


class Filtered(Protocol):
    """The interface of a pane for `FilterInput`."""

    filter: Filter
    marks: bool

    def set_filter(self, text: str, marks: bool | None = None) -> None: ...

    def focus(self, scroll_visible: bool = True) -> object: ...


class LineInput(Input):
    """An input that can be removed from a screen without a leak: Textual's own subscribes to a
    signal of the screen and never unsubscribes, so the screen would keep it."""

    def on_unmount(self) -> None:
        self.screen.text_selection_started_signal.unsubscribe(self)


class FilterInput(LineInput):
    """The line that `/` opens: filters while typing, enter keeps, escape clears. A filter that was
    kept is selected, so the first letter replaces it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep the filter", id="filter-keep"),
        Binding("escape", "clear", "Clear it", id="filter-clear"),
        Binding("tab", "marks", "Hide or mark", id="filter-marks"),
    ]

    def __init__(self, pane: Filtered) -> None:
        super().__init__(
            value=pane.filter.text,
            placeholder="/regex, !regex to exclude; tab: hide or mark",
            compact=True,
        )
        self.cursor_blink = False
        self._pane = pane

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._pane.set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._leave()

    def on_blur(self) -> None:
        """Closes the line when its screen is left; the filter stays."""
        if not all(node.display for node in self.ancestors_with_self if isinstance(node, Widget)):
            self.close()

    def action_clear(self) -> None:
        self._pane.set_filter("", marks=False)
        self._leave()

    def action_marks(self) -> None:
        self._pane.set_filter(self.value, marks=not self._pane.marks)

    def _leave(self) -> None:
        self._pane.focus(scroll_visible=False)
        self.close()

    def close(self) -> None:
        """Removes the line."""
        if isinstance(self.parent, Horizontal):
            self.parent.remove()
