"""`loraconsole replay`: an event log decided again, and shown in the console at any speed.

The deciding is done by `pipeline.replay` in a process of its own; the console looks at it as at any
pipeline, by the clock of the log.
"""

from __future__ import annotations

import argparse
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
from ...pipeline.messages import Message
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.sockets import InboxFull
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..client.telemetry import Telemetry
from ..terminal import splash
from ..ui import session

START_SECONDS = 2.5
"""Until the other process has its sockets, and the screen its first frame."""


class Head(msgspec.Struct, frozen=True):
    """What the console needs of a log: its first line's, or when there is more to see than a ring
    that waits."""

    at: float
    config: Config


class At(msgspec.Struct, frozen=True):
    """Any line's time."""

    at: float


def replay(given: argparse.Namespace) -> int:
    """Exit status 0: all decisions are the same; 1: one is not, or the file is no log."""
    if given.speed is not None and not 0 < given.speed < float("inf"):
        raise UsageError(f"--speed {given.speed:g} is not above 0", "1 is as it happened")
    command = [sys.executable, "-P", "-m", "loraconsole.pipeline.router.replay", given.file]
    if given.console:
        return show(command, given)
    flags = [f"--{name}" for name in ("show", "json") if getattr(given, name)]
    more = ["--speed", str(given.speed)] if given.speed else []
    return subprocess.run([*command, *more, *flags]).returncode


def show(command: list[str], given: argparse.Namespace) -> int:
    """The ordinary console on a run directory in which nothing but a replay runs."""
    session.need_terminal("without one: loraconsole replay FILE")
    session.check_screen_flags(given)
    speed = given.speed or 1.0
    head = read_head(Path(given.file))
    with (
        splash.raised("loraconsole"),
        tempfile.TemporaryDirectory(prefix="lc-") as directory,
    ):
        run = make_run_directory(Path(directory) / "run")
        config = msgspec.structs.replace(head.config, run=str(run))
        begins_at = time.time() + START_SECONDS
        flags = ["--run", str(run), "--speed", str(speed), "--begins-at", str(begins_at)]
        with subprocess.Popen(
            [*command, *flags, "--starts-at", str(head.at)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **UTF8_OUTPUT},
        ) as player:
            clock = Clock(head.at, begins_at, speed, lambda: player.poll() is not None)
            while not (run / "supervisor.stats").exists() and time.time() < begins_at:
                time.sleep(0.02)
            label = "REPLAY" if speed == 1 else f"REPLAY x{speed:g}"
            try:
                session.show(config, given, label=label, clock=clock, source=Listener)
            except BaseException:
                player.terminate()
                raise
            if player.poll() is None:
                player.terminate()
                print("left before the end of the log")
                return 0
            said, complaint = player.communicate()
            print(said, end="")
            print(complaint, end="", file=sys.stderr)
            return player.returncode


class Listener(Telemetry):
    """What was decided is decided: nobody is there to take an order."""

    def _send(self, name: str, message: Message) -> None:
        raise InboxFull("this is a replay: nobody takes orders")


class Clock:
    """The time of a log that is played from `begins_at` on, `speed` times as fast; it stands still
    once that `has_ended`."""

    def __init__(
        self, start: float, begins_at: float, speed: float, has_ended: Callable[[], bool]
    ) -> None:
        self._start, self._begins_at, self._speed = start, begins_at, speed
        self._has_ended, self._now = has_ended, start

    def __call__(self) -> float:
        if not self._has_ended():
            self._now = self._start + max(0.0, time.time() - self._begins_at) * self._speed
        return self._now


def read_head(file: Path) -> Head:
    """By what it was decided, and when the first request came. Raises `OperatorError` where the
    file is no log."""
    try:
        with file.open("rb") as lines:
            head = msgspec.json.decode(lines.readline(), type=Head)
            asked = (line for line in lines if line.startswith(b'{"event":"asked"'))
            first = next(asked, None)
            if first is None:
                return head
            return msgspec.structs.replace(head, at=msgspec.json.decode(first, type=At).at)
    except OSError as error:
        raise OperatorError(
            f"cannot read {file}: {error.strerror}", "logs of --event-log lie in RUN/events"
        ) from error
    except msgspec.MsgspecError as error:
        raise OperatorError(f"{file} is no event log: {error}", "see --event-log") from error
