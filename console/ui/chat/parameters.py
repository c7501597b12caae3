"""`ParameterForm`: the sampling parameters of a prompt, its system prompt and stop strings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label, Static, TextArea

from ...client.chat import ChatParams
from ...client.sampling_fields import SAMPLING_FIELDS, SamplingField, parse_stops
from ..widgets.filter_input import LineInput
from .editor import Left, MultilineInput, WriteAsked

ALWAYS = 6
"""Parameters in the row that is always shown."""


class ParameterInput(LineInput):
    """A parameter; empty leaves it to the server. Typing replaces it, since focus selects it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "To the prompt", id="parameter-write"),
        Binding("escape", "leave", "Leave", id="parameter-leave"),
    ]

    def __init__(self, name: str, value: str = "", **more: Any) -> None:
        super().__init__(value, id=name, compact=True, **more)
        self.cursor_blink = False

    @property
    def complaint(self) -> str:
        """Why the value is refused; "" if it is not."""
        try:
            self.parse()
        except ValueError as error:
            return str(error)
        return ""

    def parse(self) -> float | tuple[str, ...] | None:
        """The value. Raises `ValueError` with the reason."""
        raise NotImplementedError

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(WriteAsked())

    def action_leave(self) -> None:
        self.post_message(Left())


class NumberInput(ParameterInput):
    """A number."""

    def __init__(self, field: SamplingField) -> None:
        super().__init__(
            field.name,
            field.initial,
            max_length=20,
            restrict=r"-?[0-9.]*",
            placeholder="any" if field.name == "seed" else "",
        )
        self._field = field

    def parse(self) -> float | None:
        return self._field.parse(self.value)


class StopInput(ParameterInput):
    """The stop strings."""

    def __init__(self) -> None:
        super().__init__("stop", placeholder="none, or a|b")

    def parse(self) -> tuple[str, ...]:
        return parse_stops(self.value)


class SystemEditor(MultilineInput):
    """The system prompt."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "write", "To the prompt", id="system-write"),
    ]

    def __init__(self) -> None:
        super().__init__("system", "none: the model's own")

    def go_on(self) -> None:
        self.action_write()

    def action_write(self) -> None:
        self.post_message(WriteAsked())


class ParameterForm(Vertical):
    """The parameters. A wrong one is marked, with the reason below, until it is mended."""

    def __init__(self) -> None:
        super().__init__(id="parameters")
        self._reason = Static("", classes="complaint", markup=False)
        self._reason.display = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield from _labelled(SAMPLING_FIELDS[:ALWAYS])
        with Horizontal(classes="more"):
            yield from _labelled(SAMPLING_FIELDS[ALWAYS:])
        with Horizontal(classes="more"):
            yield Label("system")
            yield SystemEditor()
            yield Label("stop")
            yield StopInput()
        yield self._reason

    @property
    def system(self) -> str:
        """The system prompt; "" for none."""
        return self.query_one(SystemEditor).text.strip()

    def params(self) -> ChatParams | None:
        """The parameters; None if one is wrong, which then has the focus."""
        fields = list(self.query(ParameterInput))
        for field in fields:
            if self._check(field):
                self.show_more()
                field.focus()
                return None
        values: dict[str, Any] = {str(field.id): field.parse() for field in fields}
        return ChatParams(**values)

    def focus_more(self) -> None:
        """Shows the parameters beyond the first row, and goes to the system prompt."""
        self.show_more()
        self.query_one(SystemEditor).focus()

    def show_more(self) -> None:
        """Shows the parameters beyond the first row on a short screen too."""
        self.add_class("-more")

    def _check(self, field: ParameterInput) -> str:
        """Marks a wrong field, and says why; returns the reason, "" if it is right."""
        reason = field.complaint
        field.set_class(bool(reason), "-wrong")
        wrong = [each for each in self.query(ParameterInput) if each.has_class("-wrong")]
        shown = reason or (wrong[0].complaint if wrong else "")
        self._reason.update(shown)
        self._reason.display = bool(shown)
        return reason

    def on_input_changed(self, event: Input.Changed) -> None:
        """Takes the mark of a field that is mended; one is marked when it is left."""
        event.stop()
        if isinstance(event.input, ParameterInput) and event.input.has_class("-wrong"):
            self._check(event.input)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        row = event.widget.parent
        if row is not None and row.has_class("more"):
            self.show_more()

    def on_descendant_blur(self, event: events.DescendantBlur) -> None:
        if isinstance(event.widget, ParameterInput):
            self._check(event.widget)
        self.call_after_refresh(self._hide_more)

    def _hide_more(self) -> None:
        """Hides the further parameters on a short screen, unless one is set or has the focus."""
        inside = self.query(".more ParameterInput, .more SystemEditor")
        texts = (w.text if isinstance(w, TextArea) else getattr(w, "value", "") for w in inside)
        if not any(widget.has_focus for widget in inside) and not any(texts):
            self.remove_class("-more")


def _labelled(fields: tuple[SamplingField, ...]) -> Iterator[Label | NumberInput]:
    for field in fields:
        yield Label(field.label)
        yield NumberInput(field)
