"""`loraconsole replay`: an event log decided again, and shown in the console at any speed.

The deciding is done by `pipeline.replay` in a process of its own; the console looks at it as at any
pipeline, by the clock of the log.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from ..pipeline.config import Config, OperatorError, UsageError, make_run_directory

START_SECONDS = 1.5
"""Until the other process has its sockets."""


class Head(msgspec.Struct, frozen=True):
    """What the console needs of a log's first line."""

    at: float
    config: Config


def replay(given: argparse.Namespace) -> int:
    """Exit status 0: all decisions are the same; 1: one is not, or the file is no log."""
    if given.speed is not None and not 0 < given.speed < float("inf"):
        raise UsageError(f"--speed {given.speed:g} is not above 0", "1 is as it happened")
    command = [sys.executable, "-P", "-m", "loraconsole.pipeline.replay", given.file]
    if given.console:
        return show(command, Path(given.file), given.speed or 1.0, given.fps, given.theme)
    flags = [f"--{name}" for name in ("show", "json") if getattr(given, name)]
    more = ["--speed", str(given.speed)] if given.speed else []
    return subprocess.run([*command, *more, *flags]).returncode


def show(command: list[str], file: Path, speed: float, fps: float, theme: str | None) -> int:
    """The ordinary console on a run directory in which nothing but a replay runs."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise OperatorError("the console needs a terminal", "without one: loraconsole replay FILE")
    head = read_head(file)
    from .app import ConsoleApp

    with tempfile.TemporaryDirectory(prefix="lc-") as directory:
        run = make_run_directory(Path(directory) / "run")
        config = msgspec.structs.replace(head.config, run=str(run))
        begins_at = time.time() + START_SECONDS
        flags = ["--run", str(run), "--speed", str(speed), "--begins-at", str(begins_at)]
        with subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as player:
            clock = Clock(head.at, begins_at, speed)
            ConsoleApp(config, fps=fps, theme=theme, clock=clock).run()
            if player.poll() is None:
                player.terminate()
                print("left before the end of the log")
                return 0
            said, complaint = player.communicate()
            print(said, end="")
            print(complaint, end="", file=sys.stderr)
            return player.returncode


class Clock:
    """The time of a log that is played from `begins_at` on, `speed` times as fast."""

    def __init__(self, start: float, begins_at: float, speed: float) -> None:
        self._start, self._begins_at, self._speed = start, begins_at, speed

    def __call__(self) -> float:
        return self._start + max(0.0, time.time() - self._begins_at) * self._speed


def read_head(file: Path) -> Head:
    """Raises `OperatorError` where the file is no log."""
    try:
        with file.open("rb") as lines:
            return msgspec.json.decode(lines.readline(), type=Head)
    except OSError as error:
        raise OperatorError(
            f"cannot read {file}: {error.strerror}", "logs of --event-log lie in RUN/events"
        ) from error
    except msgspec.MsgspecError as error:
        raise OperatorError(f"{file} is no event log: {error}", "see --event-log") from error
