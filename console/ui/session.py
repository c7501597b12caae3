"""`session`: runs the console on this terminal for a pipeline, a mock, a recording, or a pipeline
over ssh. Takes over the terminal and restores it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.private_files import keep_files_private
from ..terminal import splash

if TYPE_CHECKING:
    from ..client.tape import Tape
    from ..client.telemetry import TelemetryClient
    from ..commands.base import ScreenOptions
    from ..commands.consoles import AttachCommand, PlayCommand
    from ..state.playback import Comparison


def need_terminal(hint: str) -> None:
    """Raises `OperatorError` if there is no terminal, or only one without cursor control."""
    if os.environ.get(splash.BROWSER):
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OperatorError("the console needs a terminal", hint)
    if os.environ.get("TERM") == "dumb":  # an editor's shell, a serial line: no escape sequences
        raise OperatorError("the console cannot draw on this terminal: TERM is dumb", hint)


def check_screen_options(screen: ScreenOptions) -> None:
    """Checks the options before anything is started. Raises `UsageError`."""
    from ..settings.settings import choose

    choose(screen.theme, screen.fps, screen.ascii, screen.no_mouse, screen.low_bandwidth)


def run_console(
    config: Config,
    screen: ScreenOptions,
    *,
    is_read_only: bool = False,
    label: str = "",
    clock: Callable[[], float] | None = None,
    source: Callable[..., TelemetryClient] | None = None,
    starter: Callable[[], int] | None = None,
) -> str | None:
    """Runs the console until the user leaves. Returns "leave" or "stop", or None if it was ended.

    For the keywords see `ConsoleApp`. Raises `SystemExit` if the console itself fails.
    """
    keep_files_private()
    from ..client.pipeline_clock import PipelineClock
    from ..client.telemetry import TelemetryClient
    from ..settings.ui_state import UiState
    from ..state.adapter_colors import AdapterColors
    from ..text.ascii import write_cells
    from .app import ConsoleApp

    app = ConsoleApp(
        config,
        fps=screen.fps,
        theme=screen.theme,
        ascii=screen.ascii,
        low_bandwidth=screen.low_bandwidth,
        adapter_colors=AdapterColors.remembered(),
        ui_state=UiState.remembered(),
        clock=clock or PipelineClock(),
        label=label,
        source=source or TelemetryClient,
        shows_cost=screen.show_cost,
        is_read_only=is_read_only,
        starter=starter,
    )
    if sys.__stderr__ is not None:
        write_cells(sys.__stderr__)
    try:
        with splash.taken():
            choice = app.run(mouse=app.chosen.settings.mouse and not screen.no_mouse)
    finally:
        if app.notifier.title:
            splash.restore_title()
    if app.return_code:  # Textual has printed what went wrong
        raise SystemExit(app.return_code)
    return choice


def mock(seed: int, screen: ScreenOptions, is_read_only: bool) -> int:
    """Runs the console on a mock pipeline, which computes nothing."""
    need_terminal("a mock pipeline without a console: python -P -m loraconsole.console.mock.server")
    from ..mock.server import mock_pipeline

    with splash.title_shown("loraconsole"), mock_pipeline(seed) as config:
        run_console(config, screen, is_read_only=is_read_only, label="MOCK")
    return 0


def play(command: PlayCommand) -> int:
    """Runs the console on a recording."""
    need_terminal("recordings are gzipped JSON lines: zcat FILE | jq")
    from ..client.tape import Tape

    with contextlib.closing(Tape(Path(command.file))) as tape:
        run_recording([tape], command.screen, "RECORDING", command.speed)
    return 0


def run_recording(
    tapes: Sequence[Tape],
    screen: ScreenOptions,
    label: str,
    speed: float,
    comparison: Comparison | None = None,
) -> None:
    """Runs the console on a recording until the user leaves; with two, on a replay and on what it
    would have been, which `comparison` compares. Raises `UsageError` for a speed of 0."""
    from ..client.recording import RecordingPlayer, RecordingTelemetry, Sides

    sides = Sides([RecordingPlayer(tape, speed) for tape in tapes], comparison)
    run_console(
        Config(run=str(tapes[0].path.absolute())),
        screen,
        is_read_only=True,
        label=label,
        clock=sides.now,
        source=partial(RecordingTelemetry, sides),
    )


def attach_over_ssh(host: str, command: AttachCommand) -> int:
    """Runs the console here on a pipeline on `host`."""
    need_terminal(f"without one: ssh {host} loraconsole status")
    from ..client.ssh_tunnel import SshTunnel

    with SshTunnel(host, command.run, command.ssh_command) as tunnel:
        choice = run_console(
            tunnel.config,
            command.screen,
            is_read_only=command.read_only,
            label=host,
            clock=tunnel.clock,
            source=tunnel.source,
            starter=tunnel.start_again,
        )
    if choice == "leave":
        there = f" --run {shlex.quote(command.run)}" if command.run else ""
        print(f"The pipeline on {host} keeps running. loraconsole attach --ssh {host}{there}")
    return 0
