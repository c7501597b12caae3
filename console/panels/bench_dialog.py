"""`BenchDialog`: which workload, how much of it; `FileDialog`: which file of results."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from ..bench_run import WORKLOADS, BenchPlan

FIELDS = {
    "requests": ("requests", "how many in all"),
    "at_once": ("at once", "so many at a time; empty: they come at a rate"),
    "rate": ("a second", "requests a second, where they come at a rate"),
    "tokens": ("tokens", "of each answer"),
}


class BenchDialog(ModalScreen[BenchPlan | None]):
    """Answers with what is to be run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="bench-leave"),
    ]

    def __init__(self, plan: BenchPlan) -> None:
        super().__init__()
        self._plan = plan

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = "Run a workload against this pipeline"
            box.border_subtitle = "enter runs it · esc cancels"
            yield OptionList(
                *(
                    Option(Content.assemble((f"{name:<10}", "bold"), f" {what}"), id=name)
                    for name, what in WORKLOADS.items()
                ),
                compact=True,
                id="workloads",
            )
            for name, (label, hint) in FIELDS.items():
                value = getattr(self._plan, name)
                text = "" if value is None else f"{value:g}"
                given = Input(
                    text, placeholder=hint, compact=True, id=name, restrict=r"[0-9.]*", max_length=7
                )
                given.cursor_blink = False
                with Horizontal(classes="field"):
                    yield Label(label)
                    yield given
                    yield Static(hint, classes="hint")
            yield Static("", id="wrong")
            with Horizontal(classes="buttons"):
                yield Button("Run", variant="primary", compact=True, id="run")
                yield Button("Cancel", compact=True, id="cancel")

    def on_mount(self) -> None:
        workloads = self.query_one(OptionList)
        workloads.highlighted = list(WORKLOADS).index(self._plan.workload)
        workloads.focus()

    def on_option_list_option_selected(self) -> None:
        self._run()

    def on_input_submitted(self) -> None:
        self._run()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "run":
            self._run()
        else:
            self.action_leave()

    def _run(self) -> None:
        """Goes to the field at fault, where one is."""
        values: dict[str, float | None] = {}
        for name, (label, _) in FIELDS.items():
            given = self.query_one(f"#{name}", Input)
            text = given.value.strip()
            try:
                values[name] = float(text) if text or name != "at_once" else None
                if values[name] is not None and not (values[name] or 0) > 0:
                    raise ValueError
            except ValueError:
                self.query_one("#wrong", Static).update(f"{label}: a number above 0, please")
                given.focus()
                return
        at_once = values["at_once"]
        self.dismiss(
            BenchPlan(
                workload=list(WORKLOADS)[self.query_one(OptionList).highlighted or 0],
                requests=max(1, int(values["requests"] or 1)),
                at_once=None if at_once is None else max(1, int(at_once)),
                rate=values["rate"] or 1.0,
                tokens=max(1, int(values["tokens"] or 1)),
            )
        )

    def action_leave(self) -> None:
        self.dismiss(None)


class FileDialog(ModalScreen[str]):
    """Answers with a path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="file-leave"),
    ]

    def __init__(self, title: str = "Open results", hint: str = "a file of bench --out") -> None:
        super().__init__()
        self._title, self._hint = title, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = self._title
            box.border_subtitle = "enter takes it · esc cancels"
            path = Input(placeholder=self._hint, compact=True, id="path")
            path.cursor_blink = False
            yield path

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        self.dismiss("")
