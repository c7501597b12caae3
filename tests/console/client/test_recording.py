"""A recording is what was heard: written bounded, played at any speed, read as far as it goes."""

import asyncio
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from stage import START

from loraconsole.console.cli.record import record
from loraconsole.console.client.recording import Recorder, RecordingPlayer, RecordingTelemetry
from loraconsole.console.client.remote import NotRunning
from loraconsole.console.commands.consoles import RecordCommand
from loraconsole.console.commands.parser import parse
from loraconsole.console.mock.demo_scenario import DemoScenario
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.mock.server import MockRing
from loraconsole.console.state.store import Store
from loraconsole.console.supervisor.lock import Lock
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError, UsageError
from loraconsole.pipeline.messages import PROTOCOL, StopPipeline
from loraconsole.pipeline.runtime.sockets import InboxFull


@pytest.fixture
def config() -> Iterator[Config]:
    run = tempfile.mkdtemp(prefix="lc-")
    yield Config(run=run, port=0)
    shutil.rmtree(run, ignore_errors=True)


def recorded(path: Path, seconds: int = 20) -> Path:
    """A shift of so many seconds, without a clock."""
    scenario = DemoScenario(3, start=START, boots=False)
    recorder = Recorder(path, Config(run="/run/here"), START, 1 << 30)
    for tenth in range(seconds * 10):
        for _, message in scenario.advance(START + tenth / 10):
            recorder.take(START + tenth / 10, message)
        if not tenth:
            recorder.take(START, scenario.snapshot())
    recorder.close()
    return path


def test_a_tape_gives_everything_in_time_and_stands_still_at_its_end(tmp_path: Path) -> None:
    clock = 100.0
    tape = RecordingPlayer(recorded(tmp_path / "tape"), speed=10.0, clock=lambda: clock)
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
        tape = RecordingPlayer(recorded(tmp_path / "tape"), speed=1000.0)
        store = Store("tape")
        player = RecordingTelemetry(tape, Config(run=str(tmp_path)), store)
        playing = asyncio.create_task(player.run())
        while not tape.is_over:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        board = store.board(tape.now())
        assert board.condition.word == "READY" and board.requests and board.decode_rate > 0
        assert board.events[-1].text == "the recording ends here"
        with pytest.raises(InboxFull, match="this is a recording"):
            player.send_order(StopPipeline(0.0))
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing

    asyncio.run(main())


@pytest.mark.parametrize("missing", [1, 700, 4000])
def test_a_tape_that_breaks_off_plays_as_far_as_it_goes(tmp_path: Path, missing: int) -> None:
    whole = recorded(tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.write_bytes(whole.read_bytes()[:-missing])
    clock = 0.0
    tape = RecordingPlayer(cut, clock=lambda: clock)
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
            RecordingPlayer(tmp_path / name)
    with pytest.raises(OperatorError, match="cannot read"):
        RecordingPlayer(tmp_path / "missing")
    with pytest.raises(UsageError, match="not above 0"):
        RecordingPlayer(recorded(tmp_path / "tape", 1), speed=0.0)
    with gzip.open(tmp_path / "newer", "wb") as file:
        head = {"type": "Recording", "protocol": 99, "version": "9.0", "run": "", "at": 0.0}
        file.write(json.dumps(head).encode() + b"\n")
    with pytest.raises(OperatorError, match=f"protocol 99, this console {PROTOCOL}") as refused:
        RecordingPlayer(tmp_path / "newer")
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
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["end"] == "as long as asked" and first["messages"] > 50
    assert "--max-mib" in second["end"]
    clock = 0.0
    tape = RecordingPlayer(path, clock=lambda: clock)
    clock += 100.0
    store = Store("tape")
    while not tape.is_over:
        for heard in tape.take():
            if type(heard.message).__name__ == "Snapshot":
                store.fold_snapshot(heard.message, heard.at)  # type: ignore[arg-type]
            else:
                store.fold_message(heard.message, heard.at)  # type: ignore[arg-type]
    assert len(store.board(tape.now()).requests) == 6
