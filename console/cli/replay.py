"""`loraconsole replay`: makes the decisions of an event log again, and can show them in the console
at any speed.

`pipeline/router/replay.py` makes them in a separate process, which writes a recording of them for
the console."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from ...pipeline.errors import UsageError
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..commands.consoles import ReplayCommand
from ..terminal import splash
from ..ui import session


def run_replay(command: ReplayCommand) -> int:
    """Exit status 0 if all decisions are the same; 1 if one differs or the file is not a log."""
    if command.speed is not None and not command.console:
        raise UsageError("--speed goes with --console")
    if command.speed is not None and not 0 < command.speed < float("inf"):
        raise UsageError(f"--speed {command.speed:g} is not above 0", "1 is the original speed")
    if command.against:
        from . import replay_against

        if command.show:
            raise UsageError("--show goes without --against")
        return (replay_against.show_both if command.console else replay_against.print_both)(command)
    words = [sys.executable, "-P", "-m", "loraconsole.pipeline.router.replay", command.file]
    if command.console:
        return show_in_console(words, command)
    flags = [f"--{name}" for name in ("show", "json") if getattr(command, name)]
    return subprocess.run([*words, *flags]).returncode


def show_in_console(words: list[str], command: ReplayCommand) -> int:
    """Plays the recording that the replay process writes."""
    session.need_terminal("without a terminal: loraconsole replay FILE")
    session.check_screen_options(command.screen)
    with tempfile.TemporaryDirectory(prefix="lc-") as directory:
        recording = Path(directory, "replay")
        with subprocess.Popen(
            [*words, "--record", str(recording)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **UTF8_OUTPUT},
        ) as maker:
            try:
                _play(recording, maker, command)
            except BaseException:
                maker.terminate()
                raise
            if maker.poll() is None:
                maker.terminate()
                print("closed before the end of the log")
                return 0
            output, errors = maker.communicate()
            print(output, end="")
            print(errors, end="", file=sys.stderr)
            return maker.returncode


def _play(recording: Path, maker: subprocess.Popen[str], command: ReplayCommand) -> None:
    """Opens the console on a recording that is being written; not if there is none."""
    from ..client.tape import Tape, wait_for_file

    def grows() -> bool:
        return maker.poll() is None

    if wait_for_file(recording, grows):
        with splash.title_shown("loraconsole"), closing(Tape(recording, grows)) as tape:
            session.run_recording([tape], command.screen, "REPLAY", command.speed or 1.0)
