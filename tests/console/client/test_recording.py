"""A recording is what was heard: written bounded, played at any speed, read as far as it goes."""

import asyncio
import contextlib
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hearing import running
from stage import START, wait

from loraconsole.console.cli.record import record
from loraconsole.console.client import tape as tape_module
from loraconsole.console.client.recording import (
    RecordingPlayer,
    RecordingTelemetry,
    Sides,
    fold_recorded,
)
from loraconsole.console.client.remote import NotRunning
from loraconsole.console.client.tape import Tape, time_of
from loraconsole.console.commands.consoles import RecordCommand
from loraconsole.console.commands.parser import parse
from loraconsole.console.mock.demo_scenario import DemoScenario
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.mock.server import MockRing
from loraconsole.console.state.board import Board
from loraconsole.console.state.store import Store
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError, UsageError
from loraconsole.pipeline.handover.run_lock import Lock
from loraconsole.pipeline.messages import PROTOCOL, StopPipeline
from loraconsole.pipeline.runtime.recording import Recorder
from loraconsole.pipeline.runtime.sockets import InboxFull


@pytest.fixture
def config() -> Iterator[Config]:
    run = tempfile.mkdtemp(prefix="lc-")
    yield Config(run=run, port=0)
    shutil.rmtree(run, ignore_errors=True)


def recorded(path: Path, seconds: int = 20) -> Path:
    """A shift of so many seconds, without a clock."""
    scenario = DemoScenario(3, start=START, boots=False)
    recorder = Recorder(path, "/run/here", START, 1 << 30)
    for tenth in range(seconds * 10):
        for _, message in scenario.advance(START + tenth / 10):
            recorder.take(START + tenth / 10, message)
        if not tenth:
            recorder.take(START, scenario.snapshot())
    recorder.close()
    return path


def test_a_tape_gives_everything_in_time_and_stands_still_at_its_end(tmp_path: Path) -> None:
    clock = 100.0
    tape = RecordingPlayer(Tape(recorded(tmp_path / "tape")), speed=10.0, clock=lambda: clock)
    assert tape.now() == START
    early = list(tape.take())
    clock += 1.0
    assert tape.now() == START + 10.0
    later = list(tape.take())
    assert all(START < heard.at <= START + 10.0 for heard in later)
    assert all(heard.at <= START for heard in early)
    clock += 5.0
    while not tape.is_over:
        list(tape.take())
    assert START + 19.0 < tape.now() < START + 20.0


def test_a_console_on_a_tape_shows_what_was_and_takes_no_orders(tmp_path: Path) -> None:
    async def main() -> None:
        tape = RecordingPlayer(Tape(recorded(tmp_path / "tape")), speed=1000.0)
        store = Store("tape")
        player = RecordingTelemetry(Sides([tape]), Config(run=str(tmp_path)), store)
        playing = asyncio.create_task(player.run())
        while not tape.is_over:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        board = store.board(tape.now())
        assert board.condition.word == "READY" and board.requests and board.decode_rate > 0
        assert board.events[-1].text == "the recording ends here"
        with pytest.raises(InboxFull, match="A recording is read-only"):
            player.send_order(StopPipeline(0.0))
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing

    asyncio.run(main())


@contextlib.asynccontextmanager
async def playing(path: Path, **options: Any) -> AsyncIterator[tuple[RecordingTelemetry, Store]]:
    """A recording on a store, once it has been read to its end."""
    tape = Tape(path)
    player = RecordingPlayer(tape, **options)
    store = Store("tape")
    telemetry = RecordingTelemetry(Sides([player]), Config(run="/run/here"), store)
    try:
        async with running(telemetry):
            await wait(lambda: tape.is_whole)
            yield telemetry, store
    finally:
        tape.close()


def folded_until(path: Path, at: float) -> Board:
    """What a console shows that has heard everything until `at`."""
    tape, store = Tape(path), Store("tape")
    clock = 0.0
    player = RecordingPlayer(tape, clock=lambda: clock)
    clock = at - tape.start
    while heard := list(player.take()):
        for message in heard:
            fold_recorded(store, message)
    tape.close()
    return store.board(at)


def shown_of(board: Board) -> Any:
    """What must not depend on how a time was reached."""
    return (
        board.requests,
        [(row.name, row.state, row.restarts) for row in board.processes],
        [row.view for row in board.adapters],
        board.router,
        board.pool,
        board.events,
        board.steps,
        board.ttft,
        board.decode.window(board.now, 60),
        board.running.window(board.now, 60),
    )


@pytest.mark.slow
def test_a_time_shows_the_same_whether_it_was_played_to_or_jumped_to(tmp_path: Path) -> None:
    path = recorded(tmp_path / "tape", 60)

    async def main() -> None:
        async with playing(path) as (telemetry, store):
            telemetry.toggle_pause()
            for at in (45.5, 12.25, 58.0, 3.0, 30.0):
                telemetry.seek(START + at)
                await wait(lambda at=at: telemetry._player.now() == START + at)
                await wait(lambda: not telemetry._player.is_seeking)
                await asyncio.sleep(0.1)
                expected = folded_until(path, START + at)
                assert shown_of(store.board(START + at)) == shown_of(expected), at
                assert not store.drain_events(), "old events are not news"
                assert store.missed_steps == store.missed_lines == 0

    asyncio.run(main())


def test_pause_speed_and_the_ends_move_the_clock_as_they_say(tmp_path: Path) -> None:
    path = recorded(tmp_path / "tape", 30)
    clock = 0.0

    async def main() -> None:
        nonlocal clock
        async with playing(path, clock=lambda: clock) as (telemetry, store):
            view = lambda: store.board(0.0).playback  # noqa: E731
            clock = 5.0
            assert view().position_s == 5.0 and view().is_whole and view().speed == 1.0
            assert 29.0 < view().length_s < 30.0
            telemetry.change_speed(2)
            clock = 7.0
            assert (view().position_s, view().speed) == (13.0, 4.0)
            telemetry.toggle_pause()
            clock = 20.0
            assert view().position_s == 13.0 and view().is_paused
            telemetry.change_speed(-9)
            telemetry.toggle_pause()
            clock = 24.0
            assert (view().position_s, view().speed) == (14.0, 0.25)
            telemetry.seek(START + 999.0)
            await wait(lambda: view().is_over)
            assert view().position_s == view().length_s
            clock = 999.0
            assert view().position_s == view().length_s
            assert store.board(0.0).events[-1].text == "the recording ends here"
            telemetry.seek(START - 999.0)
            await wait(lambda: not view().is_over)
            assert view().position_s == 0.0
            clock = 999.0 + 8.0
            assert view().position_s == 2.0

    asyncio.run(main())


def test_a_paused_recording_costs_nothing(tmp_path: Path) -> None:
    path = recorded(tmp_path / "tape", 5)

    async def main() -> None:
        async with playing(path) as (telemetry, store):
            telemetry.toggle_pause()
            await asyncio.sleep(0.2)
            moves, looks = store.moves, 0

            def look() -> None:
                nonlocal looks
                looks += 1

            telemetry._on_news = look
            await asyncio.sleep(0.5)
            assert (store.moves, looks) == (moves, 0)

    asyncio.run(main())


def test_a_long_file_is_entered_at_the_checkpoint_before_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape_module, "SPACING", 1 << 12)
    monkeypatch.setattr(tape_module, "PIECE", 1 << 10)
    monkeypatch.setattr(tape_module, "MOST_CHECKPOINTS", 8)
    path = recorded(tmp_path / "tape", 60)
    found = Tape(path)
    while not found.is_whole:
        time.sleep(0.01)
    whole = [line for line in found.lines_from(found.start) if line]
    times = [time_of(line) for line in whole]
    assert 4 <= len(found._checkpoints) <= 8
    for at in (5.0, 31.5, 59.0):
        part = [line for line in found.lines_from(START + at) if line]
        assert part == whole[-len(part) :], "lines are lost or doubled"
        skipped = len(whole) - len(part)
        assert times[skipped] <= START + at
        assert at < 20 or skipped > len(whole) * (at - 20) / 60, "read from the beginning"
    found.close()


def test_a_file_that_is_being_written_is_played_as_far_as_it_is(tmp_path: Path) -> None:
    path, grows, clock = tmp_path / "growing", True, 0.0
    scenario = DemoScenario(3, start=START, boots=False)
    recorder = Recorder(path, "/run/here", START, 1 << 30)

    def write(seconds: float, until: float) -> None:
        while seconds < until:
            for _, message in scenario.advance(START + seconds):
                recorder.take(START + seconds, message)
            seconds += 0.1
        recorder.flush()

    write(0.0, 5.0)
    found = Tape(path, lambda: grows)
    player = RecordingPlayer(found, clock=lambda: clock)
    deadline = time.monotonic() + 30
    while found.end < START + 4.5 and time.monotonic() < deadline:
        time.sleep(0.01)
    clock = 60.0
    early = [heard.at for _ in range(3) for heard in player.take()]
    assert START + 4.5 < max(early) < START + 5.1 and not player.is_over
    assert player.now() == found.end and not player.view().is_whole
    write(5.0, 9.0)
    recorder.close()
    grows = False
    while not found.is_whole:
        time.sleep(0.01)
    late = [heard.at for _ in range(3) for heard in player.take()]
    assert late[0] >= early[-1] and player.is_over and late[-1] > START + 8.8
    found.close()


@pytest.mark.parametrize("missing", [1, 700, 4000])
def test_a_tape_that_breaks_off_plays_as_far_as_it_goes(tmp_path: Path, missing: int) -> None:
    whole = recorded(tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-missing])
    clock = 0.0
    tape = RecordingPlayer(Tape(cut), clock=lambda: clock)
    clock += 60.0
    heard = [message for _ in range(100) for message in tape.take()]
    assert len(heard) > 100 and tape.is_over


def test_what_is_no_recording_is_refused_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name, content in (("other", b'{"a": 1}\n'), ("bare", b"")):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(content)
    for name in ("text", "empty", "other", "bare"):
        with pytest.raises(OperatorError, match=r"is not a recording|holds no telemetry"):
            Tape(tmp_path / name)
    with pytest.raises(OperatorError, match="cannot read"):
        Tape(tmp_path / "missing")
    with pytest.raises(UsageError, match="not above 0"):
        RecordingPlayer(Tape(recorded(tmp_path / "tape", 1)), speed=0.0)
    with gzip.open(tmp_path / "newer", "wb") as file:
        head = {"type": "Recording", "protocol": 99, "version": "9.0", "run": "", "at": 0.0}
        file.write(json.dumps(head).encode() + b"\n")
    with pytest.raises(OperatorError, match=f"protocol 99, this console {PROTOCOL}") as refused:
        Tape(tmp_path / "newer")
    assert refused.value.hint == "play it with the loraconsole that recorded it (version 9.0)"


def flags(path: Path, *more: str) -> RecordCommand:
    command = parse(["record", str(path), *more])
    assert isinstance(command, RecordCommand)
    return command


@pytest.mark.slow
def test_record_writes_what_a_pipeline_says_and_never_over_a_file(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On real sockets: the ring in this loop, the verb in a thread."""
    path = tmp_path / "tape"
    with pytest.raises(NotRunning):
        record(config, flags(path))

    async def main() -> int:
        lock = Lock.take(Path(config.run))
        assert lock is not None
        scenario = Scenario("busy", rows=6, start=time.time())
        ring = asyncio.create_task(MockRing(config, scenario).main())
        await asyncio.sleep(0.3)
        try:
            code = await asyncio.to_thread(record, config, flags(path, "--seconds", "2", "--json"))
            with pytest.raises(OperatorError, match="exists"):
                await asyncio.to_thread(record, config, flags(path))
            small = flags(tmp_path / "small", "--max-mib", "0.001", "--json")
            assert await asyncio.to_thread(record, config, small) == 0
            return code
        finally:
            ring.cancel()
            with suppress(asyncio.CancelledError):
                await ring
            lock.release()

    assert asyncio.run(main()) == 0
    printed, decode = capsys.readouterr().out, json.JSONDecoder().raw_decode
    first, end = decode(printed)
    second, _ = decode(printed[end:].lstrip())
    assert first["end"] == "--seconds reached" and first["messages"] > 50
    assert "--max-mib" in second["end"]
    clock = 0.0
    tape = RecordingPlayer(Tape(path), clock=lambda: clock)
    clock += 100.0
    store = Store("tape")
    while not tape.is_over:
        for heard in tape.take():
            fold_recorded(store, heard)
    assert len(store.board(tape.now()).requests) == 6
