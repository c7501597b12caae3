"""`loraconsole alerts`, `loraconsole status`, `/health` and the open console say the same of a
pipeline while its processes are killed, and nothing is well before it answers requests again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import httpx
import pytest
from ring import BASE, Ring

from loraconsole.console.cli.inspect import find_alerts, is_well
from loraconsole.console.client.remote import Remote
from loraconsole.console.client.telemetry import IDLE_SECONDS, TelemetryClient
from loraconsole.console.state.alerts import AlertFinding
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Snapshot
from loraconsole.pipeline.runtime.latest_telemetry import STEPS_KEPT
from loraconsole.pipeline.runtime.process import BEAT_SECONDS

pytestmark = pytest.mark.processes

OUTAGES = {"process down", "process stopped", "process silent"}
"""Rules that say that requests are not answered now."""
AGREE_SECONDS = 3 * (BEAT_SECONDS + IDLE_SECONDS)
"""Longest time that two sources may differ: the age of one heartbeat, which the server waits for,
and the time after which an idle console looks for messages; three times that, as all cores may be
busy."""
ROUND_SECONDS = 0.1
ANSWER_SECONDS = 0.5
"""A server that gives no answer for so long is not well: while it is down, connections wait in the
listener for the next one."""


class Round(NamedTuple):
    """What the four sources said between two monotonic times: True is well."""

    begun: float
    ended: float
    status: bool
    alerts: bool
    health: bool
    page: bool
    word: str
    """The word in the header of the open console."""

    @property
    def agrees(self) -> bool:
        return self.status == self.alerts == self.health == self.page


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("s"), "--dtype", "float32") as ring:
        yield ring


def is_calm(findings: tuple[AlertFinding, ...]) -> bool:
    return not any(finding.rule in OUTAGES for finding in findings)


class Watcher:
    """Asks the four sources ten times a second, as the functions behind the commands do."""

    def __init__(self, config: Config, app: ConsoleApp, remote: Remote) -> None:
        self._config, self._app, self._remote = config, app, remote
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)
        self.rounds: list[Round] = []
        self.pids: set[tuple[int, ...]] = set()
        """Of all processes, as they were found."""

    async def ask(self) -> Round:
        begun = time.monotonic()
        snapshot = await self._remote.snapshot(steps=STEPS_KEPT)
        found, _ = find_alerts(self._config, snapshot)
        self.pids.add(tuple(view.pid for view in snapshot.processes.processes))
        health = await self._health(snapshot)
        firing = tuple(alert.finding for alert in self._app.alert_book.firing)
        asked = Round(
            begun,
            time.monotonic(),
            status=is_well(self._config, snapshot),
            alerts=is_calm(found),
            health=health,
            page=is_calm(firing),
            word=self._app.board.condition.word,
        )
        self.rounds.append(asked)
        return asked

    async def _health(self, snapshot: Snapshot) -> bool:
        url = snapshot.server.url if snapshot.server else ""
        try:
            return (await self._http.get(f"{url}/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def watch_until_well(self, seconds: float) -> None:
        """Asks until a process was replaced, and all have said well for a second."""
        deadline, well_since = time.monotonic() + seconds, 0.0
        while True:
            asked = await self.ask()
            assert asked.ended < deadline, self.rounds[-20:]
            is_well_now = asked.agrees and asked.status
            if len(self.pids) == 1 or not is_well_now:
                well_since = asked.ended
            elif asked.ended - well_since > 1.0:
                return
            await asyncio.sleep(max(0.0, ROUND_SECONDS - (asked.ended - asked.begun)))


def longest_quarrel(rounds: list[Round]) -> float:
    """The longest time in which the sources differed, seconds."""
    spans = [list(run) for agrees, run in groupby(rounds, lambda r: r.agrees) if not agrees]
    return max((run[-1].ended - run[0].begun for run in spans), default=0.0)


@pytest.mark.parametrize("name", ["worker-0", "detokenizer", "router", "server"])
def test_all_that_is_asked_agrees_through_a_kill(ring: Ring, name: str) -> None:
    config, pid = Config.load(ring.run), ring.process(name)["pid"]
    rounds: list[Round] = []

    def telemetry(*arguments: object, **options: object) -> TelemetryClient:
        return TelemetryClient(*arguments, **options, inbox_name="console-of-the-test")  # type: ignore[arg-type]

    async def main() -> None:
        app = ConsoleApp(config, source=telemetry)
        async with Remote(config) as remote, app.run_test(size=(120, 40)) as pilot:
            await pilot.press("9")
            watcher = Watcher(config, app, remote)
            while not (await watcher.ask()).agrees:
                await asyncio.sleep(ROUND_SECONDS)
            watcher.rounds.clear()
            watcher.pids.clear()
            live = asyncio.create_task(_keep_busy(ring.url))
            await asyncio.sleep(0.5)
            os.kill(pid, signal.SIGKILL)
            await watcher.watch_until_well(60)
            live.cancel()
            rounds.extend(watcher.rounds)

    asyncio.run(main())
    ring.url = ring.snapshot()["server"]["url"]  # a port of 0 is a new one after a restart
    ring.http = httpx.Client(base_url=ring.url, timeout=60, trust_env=False)
    assert longest_quarrel(rounds) <= AGREE_SECONDS, rounds
    words = [word for word, _ in groupby(r.word for r in rounds)]
    assert words == ["READY", "RECOVERING", "READY"], words
    assert any(r.agrees and not r.status for r in rounds), "all say ill at the same time"


async def _keep_busy(url: str) -> None:
    """Sends requests, so that the death of a worker leaves some behind."""
    body = {"model": BASE, "prompt": "Once", "max_tokens": 40, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        while True:
            try:
                await http.post(f"{url}/v1/completions", json=body)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


def test_no_pipeline_that_takes_no_request_is_without_a_word(ring: Ring) -> None:
    """An order to stop or restart a process is no death, yet nobody reads that all is well."""
    ring.cli("stop", "worker-0")
    try:
        assert ring.cli("status", check=False).returncode == 1
        assert "process stopped" in ring.cli("alerts", check=False).stdout
    finally:
        ring.cli("start", "worker-0")
    ring.wait_ready()
    assert ring.cli("status").returncode == 0
