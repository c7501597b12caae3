"""Dialogs to plan and to load an adapter. The inputs are kept until the load has succeeded."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input

from ....pipeline.messages import AdapterPlan, AdapterReply
from ....pipeline.run_directory import absolute_path
from ...client.pending_orders import PendingOrders
from ...commands.adapters import LoadCommand, PlanCommand
from ...state.board import Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import cause_first
from ..widgets.dialogs import LiveScreen
from ..widgets.form_field import FormField
from ..widgets.pane import PaintedApp, Pane
from ..widgets.path_input import DIRECTORIES, PathInput
from .adapter_details import plan_lines

MOST_LINES = 40
NO_PATH = "path required: a directory, or org/name on the hub"
STAGES = ("fetch", "adapters")
"""Stages of a load whose progress bar is shown."""


class NotePane(Pane):
    """The lines under a form: a plan, the progress of a load, or why it was refused."""

    FRAMED: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(classes="note")
        self._plans: tuple[AdapterPlan, ...] = ()
        self._word: TextSpan = ("", "text")
        self._bar: tuple[TextSpan, ...] = ()

    def show_word(self, text: str, style: str) -> None:
        self._word = (text, style)
        self._bar = ()
        self.paint()

    def show_plans(self, plans: Sequence[AdapterPlan]) -> None:
        self._plans, self._word, self._bar = tuple(plans), ("", "text"), ()
        self.paint()

    def show_bar(self, bar: tuple[TextSpan, ...]) -> None:
        self._bar = bar
        self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        found: list[TextLine] = []
        for plan in self._plans:
            if len(self._plans) > 1:
                found.append(line((units.visible(plan.path), "title")))
            found += [*plan_lines(plan, width), TextLine()]
        text, style = self._word
        found += [line((part, style)) for part in units.wrap(text, max(8, width)) if text]
        if self._bar:
            found.append(TextLine(self._bar))
        while found and not found[-1].spans:
            found.pop()
        wanted = max(1, min(len(found), MOST_LINES))
        if wanted != height:
            self.styles.height = wanted
        return found


class MarkBox(Checkbox):
    """A checkbox that is blank when off: a dim mark would look the same without colours."""

    BUTTON_INNER = " "

    def on_mount(self) -> None:
        assert isinstance(self.app, PaintedApp)
        if self.app.is_ascii:
            self.BUTTON_LEFT, self.BUTTON_RIGHT = "[", "]"

    def watch_value(self) -> None:
        self.BUTTON_INNER = "X" if self.value else " "
        super().watch_value()


class AdapterForm(LiveScreen[str]):
    """The base of both dialogs: a path, its plan, buttons. Escape closes it at any time; a reply
    that arrives later is shown as a notice."""

    TITLE: ClassVar[str] = ""
    SUBTITLE: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="form-leave"),
        Binding("ctrl+n", "plan", "Plan", id="form-plan"),
    ]

    def __init__(self, orders: PendingOrders, path: str = "") -> None:
        super().__init__()
        self._orders = orders
        self._path = path
        self._waits_for = ""
        """The id of the newest plan order; replies to older ones are ignored."""
        self._note = NotePane()

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog form") as box:
            box.can_focus = False
            box.border_title, box.border_subtitle = self.TITLE, self.SUBTITLE
            yield from self.fields()
            yield self._note
            with Horizontal(classes="buttons"):
                yield from self.buttons()

    def fields(self) -> ComposeResult:
        raise NotImplementedError

    def buttons(self) -> ComposeResult:
        raise NotImplementedError

    def path_field(self, hint: str, takes_many: bool = False) -> Widget:
        path = PathInput(
            self._path, kind=DIRECTORIES, takes_many=takes_many, placeholder=hint, id="path"
        )
        return FormField("path", path)

    @property
    def path(self) -> str:
        return self.query_one("#path", Input).value.strip()

    def paint(self, board: Board) -> None:
        """Draws nothing: no part of it changes with the board."""

    # -- plan

    def on_input_changed(self, event: Input.Changed) -> None:
        """Clears the plan when the path changes."""
        if event.input.id == "path" and event.value != self._path:
            self._path, self._waits_for = event.value, ""
            self._note.show_plans(())

    def action_plan(self) -> None:
        paths = self.paths()
        if not paths:
            self.complain_of_path()
            return
        order = PlanCommand(paths=paths).order(self._orders.inbox)
        self._waits_for = order.order
        self._note.show_word("reading its files …", "dim")
        self._orders.give(order, self._show_plan)

    def paths(self) -> tuple[str, ...]:
        return (absolute_path(self.path),) if self.path else ()

    def complain_of_path(self) -> None:
        """Says on the field that the path is missing."""
        self.query_one("#path").query_ancestor(FormField).complain(NO_PATH)

    def _show_plan(self, reply: AdapterReply) -> bool:
        if not self.is_attached or reply.order != self._waits_for:
            return True  # the path has changed since the order was sent
        self._waits_for = ""
        if reply.plans:
            self._note.show_plans(reply.plans)
            self.planned(reply.plans)
        else:
            self._note.show_word(cause_first(units.visible(reply.text)), "bad")
        return True

    def planned(self, plans: Sequence[AdapterPlan]) -> None:
        """Called when a plan is shown."""

    def action_leave(self) -> None:
        self.dismiss("")


def _field(name: str, value: str, hint: str) -> Widget:
    """A label and its input."""
    given = Input(value=value, placeholder=hint, compact=True, id=name)
    given.cursor_blink = False  # a blinking cursor would cost CPU
    return FormField(name, given)


class LoadDialog(AdapterForm):
    """Loads an adapter: name, path, and whether to pin it. Returns the name once it is loaded, or
    ""."""

    TITLE = "Load an adapter"
    SUBTITLE = "tab completes · enter loads · ctrl+n plans · esc cancels"

    def __init__(self, orders: PendingOrders, path: str = "") -> None:
        super().__init__(orders, path)
        self._loading = ""

    def fields(self) -> ComposeResult:
        yield _field("name", "", "name in requests; default: the directory's name")
        yield self.path_field("a PEFT directory on the server, or org/name on the hub")
        yield MarkBox("pin: never evict it", compact=True, id="pin")

    def buttons(self) -> ComposeResult:
        yield Button("Load", variant="primary", compact=True, id="load")
        yield Button("Plan", compact=True, id="plan")
        yield Button("Cancel", compact=True, id="cancel")

    def on_mount(self) -> None:
        self.query_one("#name").focus()
        if self._path:
            self.action_plan()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "name" and not self.path:
            path = self.query_one("#path", Input)
            if "/" in event.value:  # a path given in the first field
                path.value, event.input.value = event.value, ""
            path.focus()
        else:
            self._load()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "load":
                self._load()
            case "plan":
                self.action_plan()
            case _:
                self.action_leave()

    def _load(self) -> None:
        if not self.path:
            self.complain_of_path()
            return
        if self._orders.is_pending(self._loading):
            return  # a second enter while loading
        path = absolute_path(self.path)
        name = self.query_one("#name", Input).value.strip() or PurePath(path).name
        is_pinned = self.query_one("#pin", Checkbox).value
        order = LoadCommand(name=name, path=path, pin=is_pinned).order(self._orders.inbox)
        self._loading = order.order
        self._waits_for = ""
        self._note.show_word(f"loading {name} …", "dim")
        self._orders.give(order, self._loaded)

    def _loaded(self, reply: AdapterReply) -> bool:
        """Closes the dialog after success; otherwise shows the reason and keeps the inputs."""
        if not self.is_attached:
            return False
        if reply.status == 200:
            self.dismiss(reply.name)
            return False
        self._note.show_word(cause_first(units.visible(reply.text)), "bad")
        return True

    def paint(self, board: Board) -> None:
        """Shows the progress of the load."""
        bars = [bar for bar in board.progress if bar.stage in STAGES and not bar.done]
        if not bars or not self._orders.is_pending(self._loading):
            return
        bar = bars[-1]
        filled, rest = plot.gauge(bar.current / bar.total if bar.total else 0.0, 20)
        so_far = f" {bar.current:.0f}" + (f"/{bar.total:.0f} {bar.unit}" if bar.total else "")
        label = units.visible(bar.label)
        self._note.show_bar(
            ((f"{label}  ", "dim"), (filled, "info"), (rest, "rest"), (so_far, "number"))
        )


class PlanDialog(AdapterForm):
    """Plans the loading of several paths, one after the other. Returns the path to load, or ""."""

    TITLE = "Plan adapters"
    SUBTITLE = "tab completes · enter plans · esc closes"

    def fields(self) -> ComposeResult:
        yield self.path_field("PEFT directories on the server, separated by spaces", True)

    def buttons(self) -> ComposeResult:
        yield Button("Plan", variant="primary", compact=True, id="plan")
        yield Button("Load it …", compact=True, id="load", disabled=True)
        yield Button("Close", compact=True, id="cancel")

    def on_mount(self) -> None:
        self.query_one("#path").focus()

    def paths(self) -> tuple[str, ...]:
        try:
            given = shlex.split(self.path)
        except ValueError:  # a quote that is not closed
            given = self.path.split()
        return tuple(absolute_path(path) for path in given)

    def planned(self, plans: Sequence[AdapterPlan]) -> None:
        self.query_one("#load", Button).disabled = len(plans) != 1 or bool(plans[0].reason)

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.value != self._path:
            self.query_one("#load", Button).disabled = True
        super().on_input_changed(event)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.action_plan()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "plan":
                self.action_plan()
            case "load":
                self.dismiss(self.path)
            case _:
                self.action_leave()
