"""`session`: a person, a terminal, and what is looked at on it: a pipeline, a mock, a recording, a
pipeline behind ssh. Knows how the terminal is taken and given back.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ..terminal import splash

if TYPE_CHECKING:
    from ..client.telemetry import Telemetry


def need_terminal(hint: str) -> None:
    """Raises `OperatorError` where there is no terminal, or one that only takes lines."""
    if os.environ.get(splash.BROWSER):
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OperatorError("the console needs a terminal", hint)
    if os.environ.get("TERM") == "dumb":  # an editor's shell, a serial line: it shows all as text
        raise OperatorError("the console cannot draw on this terminal: TERM is dumb", hint)


def check_screen_flags(given: argparse.Namespace) -> None:
    """Before anything is started for them. Raises `UsageError`."""
    from ..settings.settings import choose

    choose(given.theme, given.fps, given.ascii, given.no_mouse, given.low_bandwidth)


def show(
    config: Config,
    given: argparse.Namespace,
    *,
    label: str = "",
    clock: Callable[[], float] = time.time,
    source: Callable[..., Telemetry] | None = None,
) -> str | None:
    """The console until a person leaves it; "leave" or "stop", or None where it was ended.

    `given` holds what the screen flags say. For the others see `ConsoleApp`. Raises `SystemExit`
    where the console itself fails.
    """
    from ..client.telemetry import Telemetry
    from ..settings.ui_state import UiState
    from ..state.adapter_colors import AdapterColors
    from ..text.ascii import write_cells
    from .app import ConsoleApp

    app = ConsoleApp(
        config,
        fps=given.fps,
        theme=given.theme,
        ascii=given.ascii,
        low_bandwidth=given.low_bandwidth,
        adapter_colors=AdapterColors.remembered(),
        ui_state=UiState.remembered(),
        clock=clock,
        label=label,
        source=source or Telemetry,
        shows_cost=given.show_cost,
        is_read_only=getattr(given, "read_only", False),
    )
    if sys.__stderr__ is not None:
        write_cells(sys.__stderr__)
    try:
        with splash.taken():
            choice = app.run(mouse=app.chosen.settings.mouse and not given.no_mouse)
    finally:
        if app.herald.title:
            splash.restore_title()
    if app.return_code:  # Textual has printed what went wrong
        raise SystemExit(app.return_code)
    return choice


def mock(given: argparse.Namespace) -> int:
    """The console on a pipeline that computes nothing."""
    need_terminal("a mock pipeline without a screen: python -P -m loraconsole.console.mock.server")
    from ..mock.server import mock_pipeline

    with splash.raised("loraconsole"), mock_pipeline(given.mock) as config:
        show(config, given, label="MOCK")
    return 0


def play(given: argparse.Namespace) -> int:
    """The console on a recording."""
    need_terminal("recordings are gzipped JSON lines: zcat FILE | jq")
    from ..client.recording import Playback, Tape

    tape = Tape(Path(given.file), given.speed)
    config = Config(run=str(tape.path.absolute()))
    label = "RECORDING" if given.speed == 1 else f"RECORDING x{given.speed:g}"
    show(config, given, label=label, clock=tape.now, source=partial(Playback, tape))
    return 0


def attach_over_ssh(given: argparse.Namespace) -> int:
    """The console here on a pipeline there."""
    need_terminal(f"without one: ssh {given.ssh} loraconsole status")
    from ..client.ssh_tunnel import Tunnel

    with Tunnel(given.ssh, given.run, given.ssh_command) as tunnel:
        choice = show(
            tunnel.config, given, label=given.ssh, clock=tunnel.clock, source=tunnel.source
        )
    if choice == "leave":
        there = f" --run {shlex.quote(given.run)}" if given.run else ""
        print(f"The pipeline on {given.ssh} goes on. loraconsole attach --ssh {given.ssh}{there}")
    return 0
