"""Every binding of the console, and the effect that its key must have.

A `Case` opens the screen of a binding, evaluates `see`, presses the key, and evaluates `see` again:
before, it must be `was`, afterwards `becomes`. So a key that does nothing fails, and so does a case
that would hold without it. `test_keys` presses every key of every binding, and fails if a binding
has no case; `test_line_commands` uses the same bindings by name after `:`.

A new binding needs one line in `CASES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from stage import StagedApp, keep_result, played, record_shift, ringed, staged, wait
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import OptionList

from loraconsole.console.client.telemetry import PipelineOrder
from loraconsole.console.client.transcripts import Turn, open_default
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.state.alerts import AlertLimits
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.chat.editor import PromptEditor
from loraconsole.console.ui.chat.model_picker import ModelPicker, PickerList
from loraconsole.console.ui.chat.recall import RecallDialog
from loraconsole.console.ui.help import HelpDialog
from loraconsole.console.ui.jump import JumpScreen
from loraconsole.console.ui.palette import PaletteDialog, PalettePane
from loraconsole.console.ui.panels.adapter_dialogs import LoadDialog, NotePane, PlanDialog
from loraconsole.console.ui.panels.answer import AnswerPane
from loraconsole.console.ui.panels.answer_grid import AnswerGrid
from loraconsole.console.ui.panels.bench import BenchPanel, ResultTable
from loraconsole.console.ui.panels.bench_dialog import BenchDialog, FileDialog
from loraconsole.console.ui.panels.command_line import CommandLine, remember
from loraconsole.console.ui.panels.events import EventPane
from loraconsole.console.ui.panels.latency import FlamePane, HistogramPane
from loraconsole.console.ui.panels.logs import LogPane, SearchInput, plain_line
from loraconsole.console.ui.panels.models import ModelsPane
from loraconsole.console.ui.panels.pool import PoolPane
from loraconsole.console.ui.panels.settings import SettingInput
from loraconsole.console.ui.plots.step_plots import PartsPane
from loraconsole.console.ui.screens import PAGES, PANELS
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, LiveDialog, ScrollPane
from loraconsole.console.ui.widgets.filter_input import FilterInput
from loraconsole.console.ui.widgets.pane import Pane
from loraconsole.console.ui.widgets.path_input import PathInput
from loraconsole.console.ui.widgets.save_dialog import SaveDialog
from loraconsole.console.ui.widgets.styles import MainScreen
from loraconsole.console.ui.widgets.table import TablePane
from loraconsole.pipeline.messages import (
    Abort,
    AdapterOrder,
    ProcessState,
    ProcessTable,
    RestartProcess,
    SetScheduler,
    SignalProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
)

W = TypeVar("W", bound=Widget)

PATIENCE_S = 20.0


class Scene:
    """The console of a running case."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[str]) -> None:
        self.app, self.pilot = app, pilot
        self.told: list[str] = []
        """Names of the orders sent, with the request or process concerned."""
        self._send = app.telemetry.send_order
        app.telemetry.send_order = self._take  # type: ignore[method-assign]

    def _take(self, order: PipelineOrder) -> None:
        """Sends an order about adapters or the scheduler; only records any other."""
        match order:
            case _ if isinstance(order, AdapterOrder | SetScheduler):
                self._send(order)
            case Abort(request_id=about) | StopProcess(name=about) | StartProcess(name=about):
                self.told.append(f"{type(order).__name__} {about}")
            case RestartProcess(name=name, hard=hard):
                self.told.append(f"RestartProcess {name}{' hard' if hard else ''}")
            case SignalProcess(name=name):
                self.told.append(f"SignalProcess {name}")
            case StopPipeline(drain_s=drain_s):
                self.told.append(f"StopPipeline {drain_s:g}")
            case _:
                self.told.append(type(order).__name__)

    async def press(self, way: str) -> None:
        """Presses keys separated by spaces; a word after `=` is typed letter by letter."""
        for word in way.split():
            await self.pilot.press(*(word[1:] if word[0] == "=" and word[1:] else [word]))
            await self.pilot.pause()
        if isinstance(self.app, StagedApp):
            self.app.show()

    def find(self, kind: type[W]) -> W:
        """The first widget of this kind in the dialog on top, or in the panel if there is none."""
        top = self.app.screen
        return top.query(kind).first() if not isinstance(top, MainScreen) else self.desk(kind)

    def desk(self, kind: type[W]) -> W:
        return self.app.active_panel.query(kind).first()

    @property
    def table(self) -> TablePane[Any]:
        return self.desk(TablePane)

    @property
    def orders(self) -> list[str]:
        """Names of all orders, those about adapters first."""
        assert isinstance(self.app, StagedApp)
        given = [f"{type(o).__name__} {getattr(o, 'name', '')}".strip() for o in self.app.ordered]
        return [*given, *self.told]


@asynccontextmanager
async def _played() -> AsyncIterator[tuple[ConsoleApp, Pilot[str]]]:
    with tempfile.TemporaryDirectory() as directory:
        path = record_shift(Path(directory, "shift.rec"), 150)
        async with played(path, lambda: 0.0, other=path, comparison=lambda: None) as (app, pilot):
            app.seek_to("1:15")
            await wait(lambda: app.board.playback.position_s == 75.0)
            yield app, pilot


def _hint(pane: Pane) -> str:
    """The text in a pane's frame at the lower right."""
    return "".join(text for text, _ in pane.hint(pane.painted_app.board))


@dataclass(frozen=True, kw_only=True)
class Case:
    """The values of `see` before and after the key."""

    see: Callable[[Scene], Any]
    was: Any = False
    becomes: Any = True
    on: str = "Overview"
    """The panel shown at first."""
    way: str = ""
    """The keys that lead to where the binding works."""
    arrange: Callable[[Scene], Any] | None = None
    """Other preparations, before `way`."""
    asks: str = ""
    """The title of the key's confirmation, if any. `y` confirms it; before, nothing may happen."""
    seconds: float = 2.0
    """Seconds of the scenario before the case."""
    size: tuple[int, int] = (120, 40)
    pace: float = 0.0
    """Tokens per second of answers over HTTP; 0 if the case needs no answers."""
    is_played: bool = False
    """In a recording of 150 s, which stands at 75 s; else with a pipeline."""
    marks: Sequence[pytest.MarkDecorator] = ()
    """Marks of the tests that run it."""

    @asynccontextmanager
    async def staged(self) -> AsyncIterator[Scene]:
        """A new console, in the state before the key."""
        async with self._console() as (app, pilot):
            scene = Scene(app, pilot)
            if self.arrange is not None:
                done = self.arrange(scene)
                if asyncio.iscoroutine(done):
                    await done
                await pilot.pause()
            await scene.press(self.way)
            seen = await self._settled(scene, self.was)
            assert seen == self.was, f"before the key is pressed it is {seen!r}, not {self.was!r}"
            yield scene

    def _console(self) -> AbstractAsyncContextManager[tuple[ConsoleApp, Pilot[str]]]:
        if self.is_played:
            return _played()
        if self.pace:
            return ringed(self.pace)
        return staged(panel=self.on, seconds=self.seconds, size=self.size)

    async def holds(self, scene: Scene) -> None:
        """Confirms the question, if any; checks that `see` is `becomes` within `PATIENCE_S`."""
        if self.asks:
            assert isinstance(scene.app.screen, ChoiceDialog), "it asks nothing"
            assert scene.app.screen._title == self.asks, scene.app.screen._title
            assert self.see(scene) == self.was, "it did not wait for the answer"
            await scene.press("y")
        seen = await self._settled(scene, self.becomes)
        assert seen == self.becomes, f"it is {seen!r}, not {self.becomes!r}"

    async def _settled(self, scene: Scene, wanted: Any) -> Any:
        """The value of `see` once it is `wanted`, or after `PATIENCE_S`."""
        deadline = time.monotonic() + PATIENCE_S
        while (seen := self.see(scene)) != wanted and time.monotonic() < deadline:
            await scene.pilot.pause(0.02)
        return seen


# --- values for `see` ---------------------------------------------------------------------------


def position(s: Scene) -> int:
    """Seconds from the start of a recording."""
    assert s.app.playback is not None
    return round(s.app.playback.position - s.app.playback.start)


def speed(s: Scene) -> float:
    playback = s.app.store.board(0.0).playback
    assert playback is not None
    return playback.speed


def side(s: Scene) -> str:
    playback = s.app.store.board(0.0).playback
    assert playback is not None
    return playback.side


COMPARED = "recorded and what-if"


def on_top(kind: type[Widget]) -> Callable[[Scene], bool]:
    """Whether a screen of this kind is on top."""
    return lambda s: isinstance(s.app.screen, kind)


def focused(s: Scene) -> str:
    return type(s.app.focused).__name__


def has_focus(kind: type[Widget]) -> Callable[[Scene], bool]:
    return lambda s: isinstance(s.app.focused, kind)


def panel(s: Scene) -> str:
    return s.app.active_panel.NAME


def title(s: Scene) -> str:
    """The title of the dialog on top."""
    top = s.app.screen
    if isinstance(top, LiveDialog):
        return top._pane._title
    return str(getattr(top, "_title", "")) or type(top).__name__


def row(s: Scene) -> int:
    return s.table._index()


def pages(s: Scene) -> int:
    """Pages from the top to the cursor, rounded: the `:` line shortens a page by a row."""
    return round(row(s) / s.table._page)


def from_end(s: Scene) -> int:
    return len(s.table._rows) - 1 - row(s)


def toast(part: str) -> Callable[[Scene], bool]:
    return lambda s: any(part in f"{n.title} {n.message}" for n in s.app.notices)


def clipboard(s: Scene) -> bool:
    return bool(s.app.clipboard)


def orders(s: Scene) -> list[str]:
    return s.orders


def aborts_the_first(s: Scene) -> bool:
    return s.told == [f"Abort {s.app.board.requests[0].view.request_id}"]


def scrolled(s: Scene) -> int:
    """Lines by which a text is scrolled down."""
    return s.find(ScrollPane)._offset


def scrolled_to_end(s: Scene) -> bool:
    text = s.find(ScrollPane)
    return text._offset == text._total - text._page > 0


def log(s: Scene) -> LogPane:
    return s.desk(LogPane)


def lines_up(s: Scene) -> int:
    """Log lines below the cursor."""
    return len(log(s)._kept) - 1 - log(s)._at()


def pages_up(s: Scene) -> int:
    return round(lines_up(s) / (log(s)._page - 1))


def minutes_back(s: Scene) -> int:
    kept = log(s)._kept
    return round((kept[-1].at - kept[log(s)._at()].at) / 60)


def is_oldest(s: Scene) -> bool:
    return log(s)._at() == 0


def follows(s: Scene) -> bool:
    return log(s)._cursor is None


def cell(s: Scene) -> tuple[int, int]:
    """Line and column of the cursor in the pool's map."""
    return divmod(s.desk(PoolPane)._cursor, s.desk(PoolPane)._width)


def typed(s: Scene) -> str:
    return s.app.query_one(CommandLine).input.value


def palette_row(s: Scene) -> int:
    return s.find(PalettePane).cursor


def models(s: Scene) -> ModelsPane:
    return s.desk(ModelsPane)


def model_row(s: Scene) -> int:
    """The row of the model under the cursor."""
    return models(s)._places[models(s)._cursor].row


def picked(s: Scene) -> int:
    return s.find(PickerList).cursor


def page(s: Scene) -> int:
    return s.desk(AnswerGrid).page


def editor(s: Scene) -> str:
    return s.desk(PromptEditor).text


def answer_up(s: Scene) -> int:
    """Lines by which an answer is scrolled up from its end."""
    return s.desk(AnswerPane)._above


def alert_states(s: Scene) -> set[str]:
    return {alert.state.value for alert in s.app.alert_book.alerts}


def highlighted(s: Scene) -> int | None:
    return s.find(OptionList).highlighted


def bench_error(s: Scene) -> str | None:
    """The error of the run, "" if it succeeded; None while it is running or if there is none."""
    bench = s.app.active_panel
    assert isinstance(bench, BenchPanel)
    run = bench._run
    return None if run is None or run.is_running else run.error


def path_name(s: Scene) -> str:
    """The last name of the path in the form."""
    return Path(s.find(PathInput).value).name


# --- preparations -------------------------------------------------------------------------------


def focus(kind: type[Widget] | str) -> Callable[[Scene], Any]:
    return lambda s: s.app.active_panel.query(kind).first().focus()


def mark_pirates(s: Scene) -> None:
    s.table.set_filter("pirate", marks=True)


def alarm(s: Scene) -> None:
    """Raises alerts that have been active for a while."""
    app = s.app
    app.alert_book.limits = AlertLimits(queue=0.5, ttft_p99_ms=50.0)
    now = app.clock()
    for before in (400.0, 0.0):
        app.alert_book.update(app.store.board(now - before))
    app.paint(app.store.board(now))


def two_results(s: Scene) -> None:
    for number in range(2):
        keep_result(data() / "bench" / f"{number}.jsonl", 1.0 + number)
    s.table.paint()


def data() -> Path:
    """The console's data directory."""
    return Path(os.environ["XDG_DATA_HOME"]) / "loraconsole"


def begin_path(start: str) -> Callable[[Scene], Any]:
    """Opens the load dialog with the beginning of the paths of two directories."""

    async def begin(s: Scene) -> None:
        for name in ("tax", "taxi"):
            (data() / name).mkdir(parents=True, exist_ok=True)
        await s.press("l tab")
        s.find(PathInput).value = str(data() / start)

    return begin


def said_before(s: Scene) -> None:
    remember("pause", [])


def asked_before(s: Scene) -> None:
    kept = open_default()
    assert kept is not None
    for at in range(3):
        kept.add(Turn(conversation="a", at=float(at), model="sql", prompt=f"p {at}", answer="a"))
    kept.close()


def kept_turns(words: str) -> list[Turn]:
    """The turns in the transcripts with these words."""
    kept = open_default()
    assert kept is not None
    with contextlib.closing(kept):
        return list(kept.search(words, 9))


async def answered(s: Scene) -> None:
    """Sends a prompt and waits for the complete answer."""
    await s.press("=Ahoy enter")
    await _whole(s)


async def answer_focused(s: Scene) -> None:
    await answered(s)
    s.app.query(AnswerPane).first().focus()


async def _whole(s: Scene) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (panes := s.app.query(AnswerPane)) or not all(pane.is_rendered for pane in panes):
        assert time.monotonic() < deadline, "no whole answer"
        await s.pilot.pause(0.02)


async def several_pages(s: Scene) -> None:
    """Asks more models than a small screen has room for."""
    await s.pilot.resize_terminal(80, 24)
    models(s).chosen = {row.name for row in s.app.board.adapters}
    await answered(s)
    await wait(lambda: s.desk(AnswerGrid).num_pages > 1)


def many_models(s: Scene) -> None:
    assert isinstance(s.app, StagedApp)
    s.app.scenario = Scenario("busy", start=s.app.now, adapters=40)
    s.app.advance(1.0)
    s.app.show()


async def plain_answer(s: Scene) -> None:
    """Shows a conversation longer than the screen as plain text."""
    s.desk(PromptEditor).replace_text("Ahoy" + "\n" * 60 + "!")
    await s.press("enter")
    await _whole(s)
    await answer_focused(s)
    s.app.query(AnswerPane).first().action_plain()


def forgets(s: Scene) -> None:
    """Records when the terminal's content is forgotten, so that the next frame is sent whole."""
    assert s.app._diff is not None
    s.app._diff.forget = lambda: s.told.append("forget")  # type: ignore[method-assign]


# --- every binding ------------------------------------------------------------------------------


def _bench(**more: Any) -> Case:
    return Case(on="Bench", **more)


def _logs(seconds: float = 15.0, **more: Any) -> Case:
    return Case(on="Logs", seconds=seconds, **more)


def _batch(**more: Any) -> Case:
    return Case(on="Batch", **more)


def _prompt(**more: Any) -> Case:
    return Case(on="Prompt", **more)


def _answer(**more: Any) -> Case:
    return Case(on="Prompt", pace=400.0, **more)


def _pool(**more: Any) -> Case:
    return Case(arrange=focus(PoolPane), **more)


def _events(**more: Any) -> Case:
    return Case(arrange=focus(EventPane), seconds=40.0, **more)


def _worker(**more: Any) -> Case:
    return Case(on="Processes", way="down down", see=orders, was=[], **more)


def cells_back(s: Scene) -> int | None:
    """How many cells before the newest the cursor of the plots is; None without one."""
    pane, board = s.desk(PartsPane), s.app.board
    cell, axis = pane.cell(board), pane.axis(board)
    if cell is None or axis is None:
        return None
    return pane.columns(axis, board, pane._cells).cell_at(board.now) - cell


def _latency(**more: Any) -> Case:
    return Case(on="Latency", **more)


def _text(**more: Any) -> Case:
    return Case(on="Logs", see=more.pop("see", scrolled), **more)


def stopped(s: Scene) -> None:
    """The pipeline is stopped, and its supervisor has ended."""
    table = s.app.store.board(s.app.clock()).table
    assert table is not None and isinstance(s.app, StagedApp)
    gone = ProcessTable(s.app.now, ProcessState.STOPPED, table.processes)
    s.app.store.fold_message(gone, s.app.now)

    def start() -> int:
        s.told.append("started")
        return 1

    s.app.starter = start
    s.app.now += 5.0
    s.app.show()


def _shows() -> Iterator[tuple[str, Case]]:
    for name, module in (PANELS | PAGES).values():
        start = "Overview" if name != "Overview" else "Batch"
        yield f"show-{module}", Case(see=panel, was=start, becomes=name, on=start)


CASES: dict[str, Case] = {
    # -- everywhere
    **dict(_shows()),
    "command": Case(see=lambda s: bool(s.app.query(CommandLine))),
    "pause": Case(see=lambda s: s.app.is_paused),
    "zoom": Case(see=lambda s: s.app.active_panel.zoomed is not None),
    "unzoom": Case(
        way="z", see=lambda s: s.app.active_panel.zoomed is not None, was=True, becomes=False
    ),
    "next-theme": Case(see=lambda s: s.app.theme != "dark"),
    "help": Case(see=on_top(HelpDialog)),
    "quit": Case(see=title, was="MainScreen", becomes="Quit the console"),
    "quit-anywhere": _prompt(see=title, was="MainScreen", becomes="Quit the console"),
    "faster": Case(see=lambda s: s.app.pace.fps, was=5.0, becomes=10.0),
    "slower": Case(see=lambda s: s.app.pace.fps, was=5.0, becomes=2.0),
    "redraw": Case(arrange=forgets, see=lambda s: "forget" in s.told),
    "suspend": Case(see=toast("has no shell")),
    "start-pipeline": Case(arrange=stopped, see=lambda s: "started" in s.told),
    "leave-at-once": Case(way="q", see=lambda s: s.app.return_value, was=None, becomes="leave"),
    "cost": Case(see=lambda s: bool(s.app.cost_pane.display)),
    "diagnostics": Case(see=title, was="MainScreen", becomes="diagnostics"),
    "hour": Case(see=lambda s: s.app.store.shows_hour),
    "palette": Case(see=on_top(PaletteDialog)),
    "palette-leave": Case(way="ctrl+p", see=on_top(PaletteDialog), was=True, becomes=False),
    "palette-next": Case(way="ctrl+p", see=palette_row, was=0, becomes=1),
    "palette-previous": Case(way="ctrl+p down down", see=palette_row, was=2, becomes=1),
    "palette-page-down": Case(way="ctrl+p", see=palette_row, was=0, becomes=10),
    "palette-page-up": Case(way="ctrl+p pagedown down", see=palette_row, was=11, becomes=1),
    "seek-back": Case(is_played=True, see=position, was=75, becomes=65),
    "seek-on": Case(is_played=True, see=position, was=75, becomes=85),
    "seek-back-minute": Case(is_played=True, see=position, was=75, becomes=15),
    "seek-on-minute": Case(is_played=True, see=position, was=75, becomes=135),
    "seek-start": Case(is_played=True, see=position, was=75, becomes=0),
    "seek-end": Case(is_played=True, see=position, was=75, becomes=150),
    "play-slower": Case(is_played=True, see=speed, was=1.0, becomes=0.5),
    "other-side": Case(is_played=True, see=side, was="real", becomes="what if"),
    "compare-sides": Case(is_played=True, see=title, was="MainScreen", becomes=COMPARED),
    "play-faster": Case(is_played=True, see=speed, was=1.0, becomes=2.0),
    "jump": Case(see=on_top(JumpScreen)),
    "jump-stay": Case(way="ctrl+o", see=title, was="JumpScreen", becomes="MainScreen"),
    "next-pane": Case(see=focused, was="NoneType", becomes="ThroughputPane"),
    "previous-pane": Case(way="tab tab", see=focused, was="PoolPane", becomes="ThroughputPane"),
    # -- lists and tables
    "filter": _batch(see=has_focus(FilterInput)),
    "next-match": _batch(
        arrange=mark_pirates, see=lambda s: s.table.selected.view.adapter == "pirate"
    ),
    "previous-match": _batch(
        arrange=mark_pirates, see=lambda s: s.table.selected.view.adapter == "pirate"
    ),
    "filter-keep": _batch(
        way="slash =pi",
        see=lambda s: (focused(s), s.table.filter.text),
        was=("FilterInput", "pi"),
        becomes=("BatchTable", "pi"),
    ),
    "filter-clear": _batch(
        way="slash =pi",
        see=lambda s: (focused(s), s.table.filter.text),
        was=("FilterInput", "pi"),
        becomes=("BatchTable", ""),
    ),
    "filter-marks": _batch(way="slash =pi", see=lambda s: s.table.marks),
    "row-up": _batch(way="down down", see=row, was=2, becomes=1),
    "row-down": _batch(see=row, was=0, becomes=1),
    "page-up": _batch(size=(80, 24), way="pagedown", see=pages, was=1, becomes=0),
    "page-down": _batch(size=(80, 24), see=pages, was=0, becomes=1),
    "first": _batch(way="down", see=row, was=1, becomes=0),
    "last": _batch(see=lambda s: from_end(s) == 0),
    "sort": _batch(see=lambda s: "letter sorts" in _hint(s.table)),
    "reverse": _batch(way="s p", see=lambda s: s.table.reversed),
    "row-mark": _batch(see=lambda s: len(s.table.marked), was=0, becomes=1),
    "row-mark-all": _batch(see=lambda s: len(s.table.marked) == len(s.table._rows)),
    "row-waiting": _batch(see=lambda s: s.table.selected.view.phase == "waiting"),
    "row-yank": _batch(see=lambda s: s.app.clipboard == s.table.row_key(s.table._rows[0])),
    "row-yank-more": _batch(see=lambda s: "Copy" in title(s)),
    "dialog-copy": _batch(way="question_mark", see=lambda s: "everywhere" in s.app.clipboard),
    "dialog-copy-text": _batch(way="enter", see=lambda s: "timeline" in s.app.clipboard),
    "question-copy": _batch(way="x", see=lambda s: "Abort this request?" in s.app.clipboard),
    "unfilter": _batch(
        way="slash =pirate enter", see=lambda s: s.table.filter.text, was="pirate", becomes=""
    ),
    "open": _batch(see=lambda s: title(s).startswith("request ")),
    # -- dialogs
    "cancel": Case(way="q", see=title, was="Quit the console", becomes="MainScreen"),
    "close": Case(way="D", see=title, was="diagnostics", becomes="MainScreen"),
    "text-up": _text(way="question_mark down down", was=2, becomes=1),
    "text-down": _text(way="question_mark", was=0, becomes=1),
    "text-page-up": _text(way="question_mark pagedown down", was=11, becomes=1),
    "text-page-down": _text(way="question_mark", was=0, becomes=10),
    "text-first": _text(way="question_mark down", was=1, becomes=0),
    "text-last": _text(way="question_mark", see=scrolled_to_end),
    # -- adapters
    "load": Case(on="Adapters", see=on_top(LoadDialog)),
    "plan": Case(on="Adapters", see=on_top(PlanDialog)),
    "unload": Case(
        on="Adapters",
        way="down",
        asks="Unload pirate?",
        see=orders,
        was=[],
        becomes=["UnloadAdapter pirate"],
    ),
    **{
        verb: Case(on="Adapters", way="down", see=orders, was=[], becomes=[f"{order} pirate"])
        for verb, order in {
            "reload": "ReloadAdapter",
            "pin": "PinAdapter",
            "verify": "VerifyAdapter",
        }.items()
    },
    "merge": Case(
        on="Adapters",
        way="down",
        asks="Merge pirate?",
        see=orders,
        was=[],
        becomes=["MergeAdapter pirate"],
    ),
    "form-leave": Case(on="Adapters", way="l", see=on_top(LoadDialog), was=True, becomes=False),
    "form-plan": Case(
        on="Adapters",
        way="l tab =/a",
        see=lambda s: bool(s.find(NotePane)._plans),
    ),
    "path-complete": Case(
        on="Adapters", arrange=begin_path("ta"), see=path_name, was="ta", becomes="tax"
    ),
    "path-complete-back": Case(
        on="Adapters", arrange=begin_path("tax"), see=path_name, was="tax", becomes="taxi"
    ),
    # -- batch and a request
    "abort": _batch(
        asks="Abort this request?",
        see=aborts_the_first,
    ),
    "request-abort": _batch(way="enter", asks="Abort this request?", see=aborts_the_first),
    "request-copy": _batch(way="enter", see=clipboard),
    # -- latency
    "plot-back": _latency(see=cells_back, was=None, becomes=0),
    "plot-forth": _latency(way="left left", see=cells_back, was=1, becomes=0),
    "plot-far-back": _latency(way="left", see=cells_back, was=0, becomes=10),
    "plot-far-forth": _latency(way="left shift+left left", see=cells_back, was=11, becomes=1),
    "plot-now": _latency(way="left left", see=cells_back, was=1, becomes=None),
    "histogram": _latency(see=lambda s: s.desk(HistogramPane).kind, was="sync", becomes="step"),
    "spans": _latency(see=lambda s: s.desk(FlamePane).tail is not None),
    "record": _latency(see=lambda s: s.told, was=[], becomes=["StartSpans"]),
    # -- pool, events, alerts
    "pool-left": _pool(way="right right", see=cell, was=(0, 2), becomes=(0, 1)),
    "pool-right": _pool(see=cell, was=(0, 0), becomes=(0, 1)),
    "pool-up": _pool(way="down down", see=cell, was=(2, 0), becomes=(1, 0)),
    "pool-down": _pool(see=cell, was=(0, 0), becomes=(1, 0)),
    "pool-first": _pool(way="right", see=cell, was=(0, 1), becomes=(0, 0)),
    "pool-last": _pool(see=lambda s: s.desk(PoolPane)._cursor == len(s.desk(PoolPane)._cells) - 1),
    "pool-next": _pool(
        see=lambda s: len(
            {s.desk(PoolPane)._cells[at][:2] for at in (0, s.desk(PoolPane)._cursor)}
        ),
        was=1,
        becomes=2,
    ),
    "event-up": _events(way="down down", see=lambda s: s.desk(EventPane)._cursor, was=2, becomes=1),
    "event-copy": _events(see=lambda s: s.app.clipboard != ""),
    "event-down": _events(see=lambda s: s.desk(EventPane)._cursor, was=0, becomes=1),
    "trace": _events(see=panel, was="Overview", becomes="Logs"),
    "acknowledge": Case(
        on="Alerts",
        arrange=alarm,
        see=lambda s: s.table.selected.state.value,
        was="firing",
        becomes="acknowledged",
    ),
    "acknowledge-all": Case(
        on="Alerts", arrange=alarm, see=alert_states, was={"firing"}, becomes={"acknowledged"}
    ),
    "evidence": Case(on="Alerts", arrange=alarm, see=panel, was="Alerts", becomes="Batch"),
    # -- processes
    "restart": _worker(asks="Restart worker-0?", becomes=["RestartProcess worker-0"]),
    "kill": _worker(asks="Kill and restart worker-0?", becomes=["RestartProcess worker-0 hard"]),
    "stop": _worker(asks="Stop worker-0?", becomes=["StopProcess worker-0"]),
    "signal": Case(
        on="Processes", way="down down", see=title, was="MainScreen", becomes="Signal worker-0"
    ),
    "drain": Case(
        on="Processes",
        asks="Drain the pipeline?",
        see=orders,
        was=[],
        becomes=["Drain"],
    ),
    "down": Case(
        on="Processes", asks="Stop the pipeline?", see=orders, was=[], becomes=["StopPipeline 10"]
    ),
    # -- logs
    "log-up": _logs(see=lines_up, was=0, becomes=1),
    "log-down": _logs(way="up up", see=lines_up, was=2, becomes=1),
    "log-page-up": _logs(see=pages_up, was=0, becomes=1),
    "log-page-down": _logs(way="pageup pageup", see=pages_up, was=2, becomes=1),
    "log-oldest": _logs(see=is_oldest),
    "log-follow": _logs(way="pageup", see=follows),
    "log-level": _logs(see=lambda s: log(s).level, was="debug", becomes="info"),
    "log-process": _logs(see=lambda s: log(s).process, was="", becomes="supervisor"),
    "log-search": _logs(see=has_focus(SearchInput)),
    "log-minute-back": _logs(200.0, see=minutes_back, was=0, becomes=1),
    "log-minute-on": _logs(200.0, way="m m", see=minutes_back, was=2, becomes=1),
    "log-hour-back": _logs(see=is_oldest),
    "log-hour-on": _logs(way="home", see=follows),
    "log-wrap": _logs(see=lambda s: log(s).wraps),
    "log-clear": _logs(see=lambda s: len(log(s)._kept) == 0),
    "log-export": _logs(see=on_top(SaveDialog)),
    "row-export": _batch(see=on_top(SaveDialog)),
    "log-copy": _logs(see=lambda s: s.app.clipboard == plain_line(log(s)._kept[-1])),
    "log-open": _logs(
        see=lambda s: title(s) == f"line {s.app.query(LogPane).first()._kept[-1].number}"
    ),
    # -- prompt
    "send": _answer(way="=Ahoy", see=lambda s: bool(s.app.query(AnswerPane))),
    "newline": _prompt(way="=a", see=editor, was="a", becomes="a\n"),
    "leave": _prompt(see=focused, was="PromptEditor", becomes="ModelsPane"),
    "recall": _prompt(arrange=asked_before, see=on_top(RecallDialog)),
    "recall-leave": _prompt(
        arrange=asked_before, way="ctrl+r", see=title, was="RecallDialog", becomes="MainScreen"
    ),
    "recall-next": _prompt(arrange=asked_before, way="ctrl+r", see=highlighted, was=0, becomes=1),
    "recall-previous": _prompt(
        arrange=asked_before, way="ctrl+r down down", see=highlighted, was=2, becomes=1
    ),
    "parameter-write": _prompt(
        arrange=focus("#seed"), see=focused, was="NumberInput", becomes="PromptEditor"
    ),
    "parameter-leave": _prompt(
        arrange=focus("#seed"), see=focused, was="NumberInput", becomes="ModelsPane"
    ),
    "model-left": _prompt(
        way="escape right right", see=lambda s: models(s)._cursor, was=2, becomes=1
    ),
    "model-right": _prompt(way="escape", see=lambda s: models(s)._cursor, was=0, becomes=1),
    "model-mark": _prompt(way="escape right right", see=lambda s: "sql" in models(s).chosen),
    "model-all": _prompt(way="escape", see=lambda s: len(models(s).chosen), was=2, becomes=5),
    "model-down": _prompt(way="escape", see=model_row, was=0, becomes=1, arrange=many_models),
    "model-up": _prompt(way="escape down", see=model_row, was=1, becomes=0, arrange=many_models),
    "model-write": _prompt(way="escape", see=focused, was="ModelsPane", becomes="PromptEditor"),
    "new-conversation": _answer(
        arrange=answered, see=lambda s: len(s.app.query(AnswerPane)), was=2, becomes=0
    ),
    "retry": _answer(arrange=answered, see=lambda s: len(kept_turns("Ahoy")), was=2, becomes=4),
    "pick-models": _prompt(way="escape", see=on_top(ModelPicker)),
    "picker-leave": _prompt(way="ctrl+g", see=on_top(ModelPicker), was=True, becomes=False),
    "picker-done": _prompt(way="ctrl+g =sql space", see=lambda s: "sql" in models(s).chosen),
    "picker-parameters": _prompt(
        way="ctrl+g", see=focused, was="PickerInput", becomes="NumberInput"
    ),
    "picker-mark": _prompt(way="ctrl+g =sql", see=lambda s: "sql" in s.find(PickerList).chosen),
    "picker-all": _prompt(
        way="ctrl+g =a", see=lambda s: len(s.find(PickerList).chosen), was=2, becomes=3
    ),
    "picker-down": _prompt(way="ctrl+g", see=picked, was=0, becomes=1),
    "picker-up": _prompt(way="ctrl+g down down", see=picked, was=2, becomes=1),
    "picker-page-down": _prompt(arrange=many_models, way="ctrl+g", see=picked, was=0, becomes=10),
    "picker-page-up": _prompt(
        arrange=many_models, way="ctrl+g pagedown down", see=picked, was=11, becomes=1
    ),
    "more-parameters": _prompt(see=focused, was="PromptEditor", becomes="SystemEditor"),
    "system-write": _prompt(way="f2", see=focused, was="SystemEditor", becomes="PromptEditor"),
    "export-conversation": _answer(arrange=answered, way="escape", see=on_top(SaveDialog)),
    "save-leave": _answer(
        arrange=answered, way="ctrl+s", see=on_top(SaveDialog), was=True, becomes=False
    ),
    "answers-next": _answer(arrange=several_pages, way="escape", see=page, was=0, becomes=1),
    "answers-previous": _answer(
        arrange=several_pages, way="escape right_square_bracket", see=page, was=1, becomes=0
    ),
    "prompt-page-down": _answer(arrange=several_pages, see=page, was=0, becomes=1),
    "prompt-page-up": _answer(arrange=several_pages, way="pagedown", see=page, was=1, becomes=0),
    "answer-difference": _answer(
        arrange=answer_focused, see=lambda s: s.desk(AnswerPane).shows_difference
    ),
    "answer-plain": _answer(arrange=answer_focused, see=lambda s: s.desk(AnswerPane).is_plain),
    "answer-logprobs": _answer(
        arrange=answer_focused, see=lambda s: s.desk(AnswerPane).shows_choices
    ),
    "answer-copy": _answer(
        arrange=answer_focused,
        see=lambda s: s.app.clipboard == s.desk(AnswerPane).answer.text != "",
    ),
    "answer-up": _answer(arrange=plain_answer, see=answer_up, was=0, becomes=1),
    "answer-down": _answer(arrange=plain_answer, way="up up", see=answer_up, was=2, becomes=1),
    "answer-page-up": _answer(arrange=plain_answer, see=answer_up, was=0, becomes=10),
    "answer-page-down": _answer(
        arrange=plain_answer, way="pageup up", see=answer_up, was=11, becomes=1
    ),
    # -- bench
    "bench-new": _bench(see=on_top(BenchDialog)),
    "bench-leave": _bench(way="n", see=title, was="BenchDialog", becomes="MainScreen"),
    "bench-cancel": Case(
        pace=1.0,  # it would take a while
        way="escape 6 n enter",
        see=bench_error,
        was=None,
        becomes="cancelled",
        marks=[pytest.mark.processes],
    ),
    "bench-baseline": _bench(arrange=two_results, see=lambda s: bool(s.desk(ResultTable).baseline)),
    "bench-file": _bench(see=on_top(FileDialog)),
    "file-leave": _bench(way="o", see=on_top(FileDialog), was=True, becomes=False),
    # -- settings
    "setting-edit": Case(on="Settings", see=has_focus(SettingInput)),
    "setting-write": Case(
        on="Settings",
        way="down enter ctrl+u =2",
        see=lambda s: s.app.chosen.settings.fps,
        was=5.0,
        becomes=2.0,
    ),
    "setting-leave": Case(
        on="Settings", way="enter", see=has_focus(SettingInput), was=True, becomes=False
    ),
    "setting-default": Case(
        on="Settings",
        way="down down enter",
        see=lambda s: s.app.chosen.settings.low_bandwidth,
        was=True,
        becomes=False,
    ),
    # -- the command line
    "command-do": Case(way="colon =pause", see=lambda s: s.app.is_paused),
    "command-leave": Case(
        way="colon", see=lambda s: bool(s.app.query(CommandLine)), was=True, becomes=False
    ),
    "command-complete": Case(way="colon =paus", see=typed, was="paus", becomes="pause "),
    "command-complete-back": Case(
        way="colon =goto space tab tab", see=typed, was="goto batch", becomes="goto overview"
    ),
    "command-before": Case(arrange=said_before, way="colon", see=typed, was="", becomes="pause"),
    "command-after": Case(arrange=said_before, way="colon up", see=typed, was="pause", becomes=""),
}
