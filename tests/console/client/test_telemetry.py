"""The console's sockets against a ring that is there, not there yet, gone, and back."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hearing import listening, until
from stage import wait

from loraconsole.console.client.remote import Remote
from loraconsole.console.client.telemetry import ABORTED, DRAIN_SECONDS
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.mock.server import MockRing
from loraconsole.console.state.alerts import AlertLimits, findings
from loraconsole.console.state.board import Board
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.handover.run_lock import Lock
from loraconsole.pipeline.messages import (
    Abort,
    AdapterReply,
    LogLine,
    LogLines,
    PinAdapter,
    ProcessState,
    Progress,
    ReloadAdapter,
    RestartProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
    VerifyAdapter,
)
from loraconsole.pipeline.runtime.sockets import Beacon, Outbox, make_context

pytestmark = pytest.mark.slow


@pytest.fixture
def config() -> Iterator[Config]:
    """A run directory with a path short enough for unix sockets."""
    run = tempfile.mkdtemp(prefix="lc-")
    yield Config(run=run, port=0)
    shutil.rmtree(run, ignore_errors=True)


@asynccontextmanager
async def ring(config: Config, scenario: Scenario) -> AsyncIterator[Scenario]:
    task = asyncio.create_task(MockRing(config, scenario).main())
    try:
        yield scenario
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def last_beat(scenario: Scenario, name: str) -> float:
    """The Unix time of its newest heartbeat, 0 before the first."""
    beats = scenario.snapshot().beats
    return max((beat.at for beat in beats if beat.name == name), default=0.0)


def scenario(scenario: str = "busy", **options: float) -> Scenario:
    return Scenario(scenario, start=time.time(), **options)  # type: ignore[arg-type]


def test_a_console_that_comes_late_is_told_everything(config: Config) -> None:
    async def main() -> None:
        async with ring(config, scenario(rows=12)) as running:
            await wait(lambda: bool(running.snapshot().logs) and bool(running.snapshot().batch))
            async with listening(config) as (_, store):
                board = await until(store, lambda b: b.version != "" and bool(b.requests))
                assert board.condition.word == "READY"
                assert len(board.requests) == 12
                assert board.logs and board.logs[0].number == 1  # from before we listened
                assert store.drain_events() == []

    asyncio.run(main())


def test_a_console_that_is_there_first_waits_for_the_pipeline(config: Config) -> None:
    async def main() -> None:
        shutil.rmtree(config.run)  # not even the run directory exists yet
        async with listening(config) as (_, store):
            await asyncio.sleep(0.3)
            assert store.board(time.time()).condition.word == "CONNECTING"
            async with ring(config, scenario("loading")):
                board = await until(store, lambda b: b.condition.word == "STARTING")
                await until(store, lambda b: b.version != "")
                assert "weights" in board.condition.detail or board.progress == ()

    asyncio.run(main())


def test_a_pipeline_that_goes_and_comes_back_is_asked_again(config: Config) -> None:
    async def main() -> None:
        async with listening(config) as (_, store):
            async with ring(config, scenario(rows=4)):
                await until(store, lambda b: b.version != "" and b.condition.word == "READY")
            gone = await until(store, lambda b: b.condition.word == "NO SUPERVISOR")
            assert findings(gone, AlertLimits())
            await asyncio.sleep(0.3)
            async with ring(config, scenario(rows=9)):
                await until(store, lambda b: len(b.requests) == 9 and b.condition.word == "READY")

    asyncio.run(main())


def test_orders_reach_their_inboxes(config: Config) -> None:
    async def main() -> None:
        async with ring(config, scenario(rows=6)), listening(config) as (telemetry, store):
            board = await until(store, lambda b: len(b.requests) == 6)
            victim = board.requests[0].view.request_id
            telemetry.send_order(Abort(victim, ABORTED))
            await until(store, lambda b: victim not in [r.view.request_id for r in b.requests])
            telemetry.send_order(RestartProcess("worker-0"))
            await until(store, lambda b: b.process("worker-0").restarts == 1)  # type: ignore[union-attr]
            telemetry.send_order(StopProcess("router"))
            await until(store, lambda b: b.condition.word == "INCOMPLETE")
            telemetry.send_order(StartProcess("router"))
            await until(store, lambda b: b.condition.word == "READY")
            telemetry.send_order(StopPipeline(DRAIN_SECONDS))
            await until(
                store, lambda b: b.table is not None and b.table.state is ProcessState.STOPPED
            )

    asyncio.run(main())


def test_orders_about_adapters_are_answered_each_to_its_own(config: Config) -> None:
    async def main() -> None:
        heard: dict[str, AdapterReply] = {}
        async with ring(config, scenario(rows=2)), listening(config) as (telemetry, store):
            telemetry._on_reply = lambda reply: heard.__setitem__(reply.order, reply)
            await until(store, lambda b: bool(b.adapters) and b.pool is not None)
            inbox = telemetry.inbox_name
            telemetry.send_order(VerifyAdapter(order="slow", reply_to=inbox, name="pirate"))
            telemetry.send_order(PinAdapter(order="quick", reply_to=inbox, name="sql", pinned=True))
            telemetry.send_order(ReloadAdapter(order="none", reply_to=inbox, name="silent"))
            await until(store, lambda b: "quick" in heard)
            assert "slow" not in heard
            await until(store, lambda b: "slow" in heard)
            assert heard["slow"].verification is not None and heard["slow"].name == "pirate"
            assert any(bar.stage == "verify" for bar in store.board(time.time()).progress)
            telemetry.forget_orders()
            telemetry.send_order(PinAdapter(order="next", reply_to=inbox, name="sql", pinned=False))
            await until(store, lambda b: "next" in heard)
            assert sorted(heard) == ["next", "quick", "slow"]

    asyncio.run(main())


def test_the_command_line_waits_for_its_own_answer(config: Config) -> None:
    async def main() -> None:
        async with ring(config, scenario(rows=2)) as told:
            lock = Lock.take(config.run_path)
            assert lock is not None
            try:
                async with Remote(config) as remote:
                    await wait(lambda: bool(told.snapshot().beats))
                    order = VerifyAdapter(order="mine", reply_to=remote.name, name="haiku")
                    other = PinAdapter(
                        order="not mine", reply_to=remote.name, name="sql", pinned=True
                    )
                    outbox = Outbox(remote._context, config.run_path, "router")
                    outbox.send(other)  # its answer comes first
                    shown: list[object] = []
                    reply = await remote.order(order, shown.append)
                    assert reply.order == "mine" and reply.verification is not None
                    assert any(isinstance(message, Progress) for message in shown)
                    silent = VerifyAdapter(order="lost", reply_to=remote.name, name="silent")
                    waiting = asyncio.create_task(remote.order(silent))
                    began = time.time()
                    await wait(lambda: last_beat(told, "router") > began + 0.6)  # one is heard
                    assert not waiting.done()
                    told.restart("router")
                    began = time.time()
                    await wait(lambda: last_beat(told, "router") > began + 0.6)
                    assert not waiting.done()
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    outbox.close()
            finally:
                lock.release()

    asyncio.run(main())


def test_a_flood_is_read_in_bursts(config: Config) -> None:
    """20 000 log lines a second in 400 messages; none is lost and the loop stays free."""

    async def main() -> None:
        context = make_context()
        beacon = Beacon(context, config.run_path, "supervisor")
        async with listening(config) as (_, store):
            probe = Progress(
                source="fetch",
                stage="fetch",
                label="probe",
                current=0.0,
                total=None,
                unit="B",
                elapsed_s=0.0,
            )

            def hears(board: Board) -> bool:
                beacon.publish(probe)
                return bool(board.progress)

            await until(store, hears)
            lag = 0.0
            for burst in range(50):
                lines = tuple(
                    LogLine(burst * 100 + n, time.time(), "router", "INFO", "x" * 80)
                    for n in range(100)
                )
                beacon.publish(LogLines(lines))
                before = time.monotonic()
                await asyncio.sleep(0.005)
                lag = max(lag, time.monotonic() - before - 0.005)
            board = await until(store, lambda b: len(b.logs) == 5000)
            numbers = [line.number for line in board.logs]
            assert numbers == list(range(numbers[0], numbers[0] + 5000))
            assert lag < 0.5
        beacon.close()
        context.term()

    asyncio.run(main())


def test_closing_leaves_no_socket_behind(config: Config) -> None:
    async def main() -> None:
        async with listening(config):
            await asyncio.sleep(0.3)
            assert list(Path(config.run).glob("console-*.inbox"))
        assert not list(Path(config.run).glob("console-*.inbox"))

    asyncio.run(main())
