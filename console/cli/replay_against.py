"""`loraconsole replay FILE --against NAME=VALUE`: a log as it was, and with other settings.

`pipeline/bench/what_if.py` plays and simulates it in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from ...pipeline.bench.what_if_results import WhatIfDocument
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..commands.consoles import ReplayCommand
from ..state import what_if
from ..terminal import splash
from ..text import units
from .documents import ErrorDocument
from .printing import print_json

MODULE = "loraconsole.pipeline.bench.what_if"


def print_both(command: ReplayCommand) -> int:
    """Prints both runs side by side. Raises `OperatorError` if the log cannot be compared."""
    with _start(command) as maker:
        output, errors = maker.communicate()
    found = _decode(output, errors, maker.returncode)
    if command.json:
        print_json(found)
    else:
        _print_comparison(found)
    return 0


def show_both(command: ReplayCommand) -> int:
    """Plays both runs in the console, once both recordings have begun."""
    from ..client.tape import Tape, wait_for_file
    from ..ui import session

    session.need_terminal("without a terminal: loraconsole replay FILE --against …")
    session.check_screen_options(command.screen)
    with tempfile.TemporaryDirectory(prefix="lc-") as directory:
        files = (Path(directory, "real"), Path(directory, "changed"))
        with _start(command, *files) as maker, ExitStack() as stack:
            stack.callback(maker.terminate)
            output = Path(directory, "output")

            def grows() -> bool:
                return maker.poll() is None

            print("the log is played, then simulated …", file=sys.stderr)  # a day: half a minute
            if not all(wait_for_file(file, grows) for file in files):
                _decode(*maker.communicate(), maker.returncode)
                raise OperatorError("the replay made no recording", f"see: {output}")
            stack.enter_context(splash.title_shown("loraconsole"))
            tapes = [stack.enter_context(closing(Tape(file, grows))) for file in files]
            reader = ComparisonReader(maker)
            session.run_recording(
                tapes, command.screen, "REPLAY", command.speed or 1.0, comparison=reader.read
            )
    return 0


class ComparisonReader:
    """The comparison, once the process that makes it has ended."""

    def __init__(self, maker: subprocess.Popen[str]) -> None:
        self._maker = maker
        self._found: WhatIfDocument | None = None

    def read(self) -> WhatIfDocument | None:
        """None while it is being made. Raises `OperatorError` if it could not be made."""
        if self._found is None and self._maker.poll() is not None:
            output, errors = self._maker.communicate()
            self._found = _decode(output, errors, self._maker.returncode)
        return self._found


def _start(command: ReplayCommand, *recordings: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-P", "-m", MODULE, command.file]
    for change in command.against:
        words += ["--against", change]
    if recordings:
        words += ["--record", *map(str, recordings)]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **UTF8_OUTPUT},
    )


def _decode(output: str, errors: str, code: int) -> WhatIfDocument:
    try:
        if code:
            refused = msgspec.json.decode(output, type=ErrorDocument)
            kind = UsageError if code == 2 else OperatorError
            raise kind(refused.error, refused.hint)
        return msgspec.json.decode(output, type=WhatIfDocument)
    except msgspec.MsgspecError:
        last = errors.strip().splitlines()[-1:] or [f"exit status {code}"]
        raise OperatorError(f"the log was not compared: {last[0]}") from None


def _print_comparison(found: WhatIfDocument) -> None:
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.stdout_console import StdoutConsole

    console = StdoutConsole(width=None if sys.stdout.isatty() else 140)

    def show(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(units.visible(cell)) for cell in row))
        console.print(table)

    was, against = map(what_if.describe_settings, (found.was, found.against))
    print(units.visible(f"{found.file}: {was} in the log, changed to {against}"))
    show(what_if.FIGURE_HEADS, list(what_if.figure_rows(found)))
    print()
    show(what_if.CLIENT_HEADS, list(what_if.client_rows(found)))
    print(f"\n{what_if.describe_error(found)}")
