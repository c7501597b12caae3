"""A console for tests: a scenario instead of sockets, a clock set by hand, no terminal."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import msgspec
from textual import _wait
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.pilot import Pilot

from loraconsole.console.client import open_conversation
from loraconsole.console.client.recording import RecordingPlayer, RecordingTelemetry, Sides
from loraconsole.console.client.tape import Tape
from loraconsole.console.client.telemetry import PipelineOrder
from loraconsole.console.mock.demo_scenario import DemoScenario
from loraconsole.console.mock.scenario import Scenario, ScenarioKind
from loraconsole.console.mock.server import MockRing
from loraconsole.console.state.playback import Comparison
from loraconsole.console.supervisor.span_files import span_ends
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.screens import PAGES, PANELS
from loraconsole.pipeline.bench.results import ResultRow, RunConfig
from loraconsole.pipeline.bench.stats import Timeline, summarise
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import AdapterOrder, AskText, Order, SetScheduler
from loraconsole.pipeline.runtime.recording import Recorder

START = 1_790_000_000.0
RUN = "/run/loraconsole"
"""Does not exist, so the console's own sockets connect to nothing."""
KEYS = {
    "Overview": "1",
    "Batch": "2",
    "Latency": "3",
    "Adapters": "4",
    "Prompt": "5",
    "Bench": "6",
    "Logs": "7",
    "Processes": "8",
}


NAP_S = 0.002
DUE_S = 0.005
PATIENT_NAPS = 10
"""Naps to wait for a timer that is nearly due: one that comes again and again is not waited for."""
MOST_NAPS = 500
_wait.SLEEP_IDLE = NAP_S / 5


async def _nap(_: float) -> None:
    """Replaces the sleep of Textual's pilot until the process looks idle: 20 ms, three times a key.
    A nap of a tenth is enough if it was no longer than it should be: a process that does not get
    the core looks idle too. What has become ready in the meantime is done before it returns."""
    for number in range(MOST_NAPS):
        began = time.monotonic()
        await asyncio.sleep(NAP_S)
        has_the_core = time.monotonic() - began < 2 * NAP_S
        if has_the_core and (number >= PATIENT_NAPS or not _is_a_timer_due()):
            break
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(MOST_NAPS):
        if not ready:
            break
        await asyncio.sleep(0)


def _is_a_timer_due() -> bool:
    loop = asyncio.get_running_loop()
    soon = loop.time() + DUE_S
    return any(timer.when() < soon and not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


_wait.sleep = _nap

_parse_rules = Stylesheet._parse_rules
_parsed: dict[Any, list[RuleSet]] = {}


def _parse_rules_once(self: Stylesheet, css: str, *place: Any, **more: Any) -> list[RuleSet]:
    """Caches parsed styles: each console parses the same ones twice, a third of a short test's
    time."""
    key = (css, place, *more.items(), *self._variables.items())
    if key not in _parsed:
        _parsed[key] = _parse_rules(self, css, *place, **more)
    return _parsed[key]


Stylesheet._parse_rules = _parse_rules_once  # type: ignore[method-assign]

Act = Callable[["StagedApp", Pilot[str]], Coroutine[Any, Any, None]]


class StagedApp(ConsoleApp):
    """A console whose clock is set by hand and whose store gets a scenario's messages."""

    def __init__(
        self,
        scenario: ScenarioKind | None = "busy",
        seconds: float = 30.0,
        theme: str | None = "dark",
    ) -> None:
        os.environ["TZ"] = "UTC"
        time.tzset()
        self.now = START
        super().__init__(Config(run=RUN), theme=theme, clock=lambda: self.now)
        self.scenario = Scenario(scenario, start=START) if scenario else None
        self.ordered: list[Order] = []
        """Orders to the router, as given; the scenario obeys at once."""
        self.told: list[PipelineOrder] = []
        """Every other order."""
        self.telemetry.send_order = self._obey  # type: ignore[method-assign]
        self.telemetry.ask_text = self._tell_text  # type: ignore[method-assign]
        self.telemetry.ask_spans = self._tell_spans  # type: ignore[method-assign]
        self.advance(seconds)
        self.store.drain_events()

    @asynccontextmanager
    async def run_test(self, **options: Any) -> AsyncIterator[Pilot[str]]:  # type: ignore[override]
        """Runs the console; its conversations have the same ids every time."""
        ids = itertools.count(0x3FA9C1D2)
        with patch.object(open_conversation, "uuid4", lambda: UUID(int=next(ids) << 96)):
            async with super().run_test(**options) as pilot:
                yield pilot

    def _obey(self, order: PipelineOrder) -> None:
        if not isinstance(order, AdapterOrder | SetScheduler):
            self.told.append(order)
            return
        self.ordered.append(order)
        if self.scenario and (reply := self.scenario.obey(order)):
            self.call_later(self.orders.answered, reply)

    def _tell_text(self, request_id: str, offset: int) -> None:
        if self.scenario:
            question = AskText(
                request_id=request_id, reply_to="", offset=offset, with_prompt=not offset
            )
            self.store.fold_text(self.scenario.text(question))

    def _tell_spans(self, stamp: str) -> None:
        ends = span_ends(Path(self.store._run))
        if ends.stamp != stamp:
            self.store.fold_spans(ends)

    def advance(self, seconds: float) -> None:
        """Advances the clock and the scenario; its messages go into the store and the board."""
        for _ in range(round(seconds * 5)):
            self.now += 0.2
            for _, message in self.scenario.advance(self.now) if self.scenario else ():
                self.store.fold_message(message, self.now)
        self.board = self.store.board(self.now)

    def show(self) -> None:
        """Draws one frame."""
        self.paint(self.store.board(self.now))


@asynccontextmanager
async def staged(
    scenario: ScenarioKind | None = "busy",
    size: tuple[int, int] = (120, 40),
    panel: str = "Overview",
    seconds: float = 10.0,
) -> AsyncIterator[tuple[StagedApp, Pilot[str]]]:
    """A running console with a panel on top."""
    app = StagedApp(scenario, seconds)
    (key,) = (key for key, (name, _) in (PANELS | PAGES).items() if name == panel)
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.press(key)
        await pilot.pause()
        yield app, pilot


def screen_text(app: ConsoleApp) -> str:
    """The text of the screen, without styles."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def on_stage(act: Act, **options: Any) -> None:
    async def main() -> None:
        async with staged(**options) as (app, pilot):
            await act(app, pilot)

    asyncio.run(main())


@asynccontextmanager
async def ringed(
    pace: float = 60.0,
    asked: list[dict[str, Any]] | None = None,
    size: tuple[int, int] = (120, 40),
    adapters: int = 4,
    **options: Any,
) -> AsyncIterator[tuple[ConsoleApp, Pilot[str]]]:
    """A console with a real HTTP server and real telemetry, showing the Prompt panel."""
    run = Path(tempfile.mkdtemp(prefix="lc-"))
    config = Config(run=str(run), port=0)
    scenario = Scenario("busy", rows=4, adapters=adapters, start=time.time())
    ring = MockRing(config, scenario, tokens_per_second=pace)
    ring.asked = [] if asked is None else asked
    task = asyncio.create_task(ring.main())
    app = ConsoleApp(config, **options)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            await wait(lambda: app.board.server is not None and bool(app.board.adapters))
            await wait(lambda: bool(app.board.requests and app.board.processes))
            await pilot.press("5")
            await pilot.pause()
            yield app, pilot
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        shutil.rmtree(run, ignore_errors=True)


def record_shift(path: Path, seconds: int) -> Path:
    """A recording of a busy pipeline, made without a clock."""
    scenario = DemoScenario(3, start=START, boots=False)
    recorder = Recorder(path, "/run/here", START, 1 << 30)
    recorder.take(START, scenario.snapshot())
    for tenth in range(seconds * 10):
        for _, message in scenario.advance(START + tenth / 10):
            recorder.take(START + tenth / 10, message)
    recorder.close()
    return path


@asynccontextmanager
async def played(
    path: Path,
    clock: Callable[[], float],
    size: tuple[int, int] = (120, 40),
    other: Path | None = None,
    comparison: Comparison | None = None,
) -> AsyncIterator[tuple[ConsoleApp, Pilot[str]]]:
    """A console on a recording, or on two sides, once the file has been read to its end."""
    with ExitStack() as stack:
        paths = [path] if other is None else [path, other]
        tapes = [stack.enter_context(closing(Tape(each))) for each in paths]
        tape = tapes[0]
        sides = Sides([RecordingPlayer(each, clock=clock) for each in tapes], comparison)
        app = ConsoleApp(
            Config(run=str(path)),
            is_read_only=True,
            label="RECORDING",
            clock=sides.now,
            source=partial(RecordingTelemetry, sides),
        )
        async with app.run_test(size=size, notifications=True) as pilot:
            await wait(lambda: tape.is_whole and app.board.playback is not None)
            yield app, pilot


def with_a_ring(
    act: Callable[[ConsoleApp, Pilot[str]], Coroutine[Any, Any, None]],
    pace: float = 60.0,
    asked: list[dict[str, Any]] | None = None,
    **options: Any,
) -> None:
    async def main() -> None:
        async with ringed(pace, asked, **options) as (app, pilot):
            await act(app, pilot)

    asyncio.run(main())


def keep_result(path: Path, slow: float, workload: str = "chat", server: str = "here") -> None:
    """Writes a bench result in which everything took `slow` times as long."""
    lines = [
        Timeline("sql", i / 10, [i / 10 + (1 + k) * slow / 50 for k in range(8)], tokens=8)
        for i in range(6)
    ]
    config = RunConfig(
        server=server, workload=workload, parameters={}, concurrency=2, slo_seconds=6.0, round=0
    )
    result = summarise(lines, 2.0 * slow, concurrency=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(ResultRow(config, result)) + b"\n")


async def wait(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)
