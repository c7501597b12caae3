"""`BenchDialog` asks for a workload and its parameters, `FileDialog` for a file of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester, SuggestFromList
from textual.widgets import Button, Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from ...client.bench_run import SUITES, WORKLOADS, BenchPlan
from ...text.near_words import did_you_mean, with_choices
from ..widgets.form_field import FormField
from ..widgets.path_input import PathInput, PathKind

N = TypeVar("N", int, float)
RESULTS = PathKind(suffixes=(".jsonl", ".json"))
"""Files of results."""

# --- fields: each parses its text, or raises a `ValueError` that states the allowed values --------


def _above_zero(text: str) -> float:
    return _checked(text, float, lambda number: number > 0, "a number above 0")


def _whole(text: str) -> int:
    return _checked(text, int, lambda number: number > 0, "a whole number above 0")


def _count(text: str) -> int:
    return _checked(text, int, lambda number: number >= 0, "a whole number, 0 or more")


def _checked(text: str, kind: Callable[[str], N], holds: Callable[[N], bool], what: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(what) from None
    if not holds(number):
        raise ValueError(what)
    return number


def _lengths(text: str) -> tuple[int, int]:
    """`64`, or `8-512` with the upper bound excluded, as everywhere in S-LoRA."""
    low, dash, high = text.partition("-")
    try:
        lengths = int(low), int(high) if dash else int(low) + 1
    except ValueError:
        lengths = 0, 0
    if not 1 <= lengths[0] < lengths[1]:
        raise ValueError("a number of tokens above 0, or two like 8-512")
    return lengths


def _file(text: str) -> str:
    if not text:
        raise ValueError("file required")
    path = Path(text).expanduser()
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return str(path.absolute())


def _suite(text: str) -> str:
    if text not in SUITES:
        raise ValueError(with_choices(did_you_mean(text, SUITES), SUITES))
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


class WorkloadField(NamedTuple):
    """One line of the form."""

    label: str
    hint: str
    read: Callable[[str], Any]
    may_be_empty: bool = False
    """Whether it may be empty; the workload then decides."""
    typed: str = r"[0-9.]*"


FIELDS = {
    "file": WorkloadField("file", "on this machine", _file, typed=r".*"),
    "suite": WorkloadField("suite", "cv, alpha, …; → completes", _suite, typed=r"[A-Za-z0-9-]*"),
    "speed": WorkloadField("speed", "multiplies the arrival rate", _above_zero),
    "scale": WorkloadField("scale", "multiplies the arrival rate", _above_zero),
    "seconds": WorkloadField("seconds", "length of the arrivals", _above_zero, True),
    "requests": WorkloadField("requests", "total (first N of a file)", _whole, True),
    "at_once": WorkloadField("concurrency", "empty = open loop", _whole, True),
    "rate": WorkloadField("rate", "open-loop requests/s", _above_zero),
    "cv": WorkloadField("CV", "burstiness (CV); 1 = Poisson", _above_zero),
    "alpha": WorkloadField("alpha", "1 is uniform, less is skewed", _above_zero),
    "adapters": WorkloadField("adapters", "first N loaded; empty = all", _count, True),
    "models": WorkloadField("models", "a, b; empty = all", _names, True, typed=r".*"),
    "prompt": WorkloadField("prompt", "tokens, or LOW-HIGH", _lengths, True, typed=r"[0-9-]*"),
    "tokens": WorkloadField("answer", "tokens, or LOW-HIGH", _lengths, True, typed=r"[0-9-]*"),
    "slo": WorkloadField("SLO", "seconds, limit of TTFT", _above_zero),
}
MUST_BE = ("requests", "tokens")
"""Fields that cannot be emptied if their default is not empty: an unbounded generator would never
end."""
WIDE = ("file", "suite", "models")


def _shown(value: Any) -> str:
    """A field's value as it would be typed."""
    match value:
        case None:
            return ""
        case (int(low), int(high)):
            return f"{low}" if high == low + 1 else f"{low}-{high}"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(value)
    return str(value)


class NamesSuggester(Suggester):
    """Completes the last of several names with commas between them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._names = names

    async def get_suggestion(self, value: str) -> str | None:
        head, comma, last = value.rpartition(",")
        begin = last.lstrip()
        near = next((name for name in self._names if begin and name.startswith(begin)), None)
        return None if near is None else f"{head}{comma}{last[: len(last) - len(begin)]}{near}"


class BenchDialog(ModalScreen[BenchPlan | None]):
    """Returns the plan of a run, or None. Each workload shows the fields that it uses, and keeps
    their texts."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="bench-leave"),
    ]

    def __init__(
        self,
        plans: Mapping[str, BenchPlan],
        workload: str = "chat",
        wrong: str = "",
        models: Sequence[str] = (),
    ) -> None:
        """`wrong` is the reason why the last plan was refused. `models` are the names that may be
        asked."""
        super().__init__()
        self._workload, self._wrong, self._models = workload, wrong, models
        self._typed = {
            name: {field: _shown(getattr(plan, field)) for field in WORKLOADS[name].takes}
            for name, plan in plans.items()
        }

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog form") as box:
            box.can_focus = False
            box.border_title = "Run a workload against this pipeline"
            box.border_subtitle = "enter runs it · tab next field · esc cancels"
            with Horizontal(id="bench-form"):
                yield OptionList(
                    *(Option(name, id=name) for name in WORKLOADS), compact=True, id="workloads"
                )
                with Vertical(id="fields"):
                    for name, field in FIELDS.items():
                        with Horizontal(classes="field"):
                            yield Label(field.label)
                            given = self._input(name, field)
                            yield given
                            yield Static(field.hint, classes="hint", markup=False)
                        if isinstance(given, PathInput):
                            yield given.candidates
            yield Static("", id="what")
            yield Static(self._wrong, id="wrong", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Run", variant="primary", compact=True, id="run")
                yield Button("Cancel", compact=True, id="cancel")

    def _input(self, name: str, field: WorkloadField) -> Input:
        if name == "file":
            path = PathInput(id=name)
            path.add_class("wide")
            return path
        given = Input(
            compact=True,
            id=name,
            placeholder="all" if name in ("requests", "seconds", "adapters") else "",
            restrict=field.typed,
            max_length=0 if name in WIDE else 9,
            suggester=self._suggester(name),
            classes="wide" if name in WIDE else "",
        )
        given.cursor_blink = False
        return given

    def _suggester(self, name: str) -> Suggester | None:
        if name == "suite":
            return SuggestFromList(SUITES)
        return NamesSuggester(self._models) if name == "models" else None

    def on_mount(self) -> None:
        workloads = self.query_one(OptionList)
        workloads.highlighted = list(WORKLOADS).index(self._workload)
        workloads.focus()
        self._show(self._workload)

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Shows the fields of the highlighted workload, unless they are shown already."""
        name = event.option.id
        if name and name != self._workload and event.option_index == event.option_list.highlighted:
            self._typed[self._workload] = self._read()
            self._show(name)
            self._complain("")

    def _read(self) -> dict[str, str]:
        """The texts of the workload's fields."""
        takes = WORKLOADS[self._workload].takes
        return {name: self.query_one(f"#{name}", Input).value.strip() for name in takes}

    def _show(self, workload: str) -> None:
        self._workload = workload
        typed = self._typed[workload]
        for name in FIELDS:
            given = self.query_one(f"#{name}", Input)
            assert given.parent is not None
            given.parent.display = name in typed
            given.value = typed.get(name, "")
        self.query_one("#what", Static).update(WORKLOADS[workload].what)

    def _complain(self, what: str, name: str = "") -> None:
        """Marks a field and says below the form what is wrong with it; "" unmarks all."""
        self.query_one("#wrong", Static).update(f"{FIELDS[name].label}: {what}" if name else what)
        for field in FIELDS:
            row = self.query_one(f"#{field}", Input).parent
            assert isinstance(row, Horizontal)
            row.set_class(field == name, "-wrong")
        if name:
            self.query_one(f"#{name}", Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        row = event.input.parent
        if isinstance(row, Horizontal) and row.has_class("-wrong"):
            self._complain("")

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
        """Returns the plan; at the first invalid field, shows the error and focuses it instead."""
        usual = BenchPlan.usual(self._workload)
        values: dict[str, Any] = {}
        for name, text in self._read().items():
            field = FIELDS[name]
            must_be = name in MUST_BE and getattr(usual, name) is not None
            try:
                is_left = not text and field.may_be_empty and not must_be
                values[name] = None if is_left and name != "models" else field.read(text)
                if name == "models":
                    self._check(values[name])
            except ValueError as error:
                self._complain(str(error), name)
                return
        self.dismiss(BenchPlan(workload=self._workload, **values))

    def _check(self, names: Sequence[str]) -> None:
        """Raises `ValueError` for a model that the pipeline does not have."""
        for name in names:
            if self._models and name not in self._models:
                meant = did_you_mean(name, self._models)
                raise ValueError(f"no model {name}; {meant}".rstrip("; "))

    def action_leave(self) -> None:
        self.dismiss(None)


class FileDialog(ModalScreen[str]):
    """Asks for a path; returns "" if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="file-leave"),
    ]

    def __init__(self, title: str = "Open results", hint: str = "a file of bench --out") -> None:
        super().__init__()
        self._title, self._hint = title, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = self._title
            box.border_subtitle = "tab completes · enter takes it · esc cancels"
            path = PathInput(kind=RESULTS, placeholder=self._hint, id="path")
            yield FormField("path", path)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if path := event.value.strip():
            self.dismiss(path)
        else:
            self.query_one(FormField).complain("path required")

    def action_leave(self) -> None:
        self.dismiss("")
