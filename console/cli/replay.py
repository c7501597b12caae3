"""`loraconsole replay`: makes the decisions of an event log again, and can show them in the console
at any speed.

`pipeline/router/replay.py` makes them in a separate process; the console shows it like any
pipeline, on the clock of the log."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import PROTOCOL, Message
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.sockets import InboxFull
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..client.telemetry import TelemetryClient
from ..commands.consoles import ReplayCommand
from ..terminal import splash
from ..ui import session

START_SECONDS = 2.5
"""Time for the replay process to create its sockets, and for the first frame."""


class ReplayHead(msgspec.Struct, frozen=True):
    """The parts of a log that the console needs: the config in its first line, and the time of the
    first request."""

    at: float
    config: Config


class LogStamp(msgspec.Struct, frozen=True):
    """The fields of the first line that are checked before the rest is decoded."""

    protocol: int = 1
    """Logs of the first versions do not have it."""
    version: str = ""


class LogTime(msgspec.Struct, frozen=True):
    """The time of any line, unix seconds."""

    at: float


def run_replay(command: ReplayCommand) -> int:
    """Exit status 0 if all decisions are the same; 1 if one differs or the file is not a log."""
    if command.speed is not None and not 0 < command.speed < float("inf"):
        raise UsageError(f"--speed {command.speed:g} is not above 0", "1 is the original speed")
    words = [sys.executable, "-P", "-m", "loraconsole.pipeline.router.replay", command.file]
    if command.console:
        return show_in_console(words, command)
    flags = [f"--{name}" for name in ("show", "json") if getattr(command, name)]
    more = ["--speed", str(command.speed)] if command.speed else []
    return subprocess.run([*words, *more, *flags]).returncode


def show_in_console(words: list[str], command: ReplayCommand) -> int:
    """Shows the replay in the console, through a temporary run directory."""
    session.need_terminal("this needs none: loraconsole replay FILE")
    session.check_screen_options(command.screen)
    speed = command.speed or 1.0
    head = read_head(Path(command.file))
    with (
        splash.title_shown("loraconsole"),
        tempfile.TemporaryDirectory(prefix="lc-") as directory,
    ):
        run = make_run_directory(Path(directory) / "run")
        config = msgspec.structs.replace(head.config, run=str(run))
        begins_at = time.time() + START_SECONDS
        flags = ["--run", str(run), "--speed", str(speed), "--begins-at", str(begins_at)]
        with subprocess.Popen(
            [*words, *flags, "--starts-at", str(head.at)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **UTF8_OUTPUT},
        ) as player:
            clock = ReplayClock(head.at, begins_at, speed, lambda: player.poll() is not None)
            while not (run / "supervisor.stats").exists() and time.time() < begins_at:
                time.sleep(0.02)
            label = "REPLAY" if speed == 1 else f"REPLAY x{speed:g}"
            try:
                session.run_console(
                    config, command.screen, label=label, clock=clock, source=ReplayTelemetry
                )
            except BaseException:
                player.terminate()
                raise
            if player.poll() is None:
                player.terminate()
                print("left before the end of the log")
                return 0
            output, errors = player.communicate()
            print(output, end="")
            print(errors, end="", file=sys.stderr)
            return player.returncode


class ReplayTelemetry(TelemetryClient):
    """Telemetry of a replay; orders are refused."""

    def _send(self, name: str, message: Message) -> None:
        raise InboxFull("this is a replay: it takes no orders")


class ReplayClock:
    """The time in a log that is played from `begins_at` on, `speed` times as fast. It stops when
    the replay `has_ended`."""

    def __init__(
        self, start: float, begins_at: float, speed: float, has_ended: Callable[[], bool]
    ) -> None:
        self._start, self._begins_at, self._speed = start, begins_at, speed
        self._has_ended, self._now = has_ended, start

    def __call__(self) -> float:
        if not self._has_ended():
            self._now = self._start + max(0.0, time.time() - self._begins_at) * self._speed
        return self._now


def read_head(file: Path) -> ReplayHead:
    """The config of a log, and the time of its first request. Raises `OperatorError` if the file is
    not a log."""
    try:
        with file.open("rb") as lines:
            line = lines.readline()
            stamp = msgspec.json.decode(line, type=LogStamp)
            if stamp.protocol != PROTOCOL:
                raise OperatorError(
                    f"{file} has protocol {stamp.protocol}, this is {PROTOCOL}",
                    f"replay it with the loraconsole that wrote it (version {stamp.version})",
                )
            head = msgspec.json.decode(line, type=ReplayHead)
            asked = (line for line in lines if line.startswith(b'{"event":"asked"'))
            first = next(asked, None)
            if first is None:
                return head
            return msgspec.structs.replace(head, at=msgspec.json.decode(first, type=LogTime).at)
    except OSError as error:
        raise OperatorError(
            f"cannot read {file}: {error.strerror}", "--event-log writes logs to RUN/events"
        ) from error
    except msgspec.MsgspecError as error:
        raise OperatorError(f"{file} is not an event log: {error}", "see --event-log") from error
