"""`loraconsole` and `attach`: the console on a pipeline on this machine."""

from __future__ import annotations

from functools import partial

from ...pipeline.config import Config
from ...pipeline.run_directory import spell
from ..client.remote import none_runs
from ..commands.consoles import AttachCommand, ConsoleCommand
from ..commands.pipeline import DownCommand
from ..supervisor import launcher
from ..supervisor.lock import is_running
from ..supervisor.orphans import ensure_supervised
from ..ui import session


def console(config: Config, command: ConsoleCommand | AttachCommand) -> int:
    """Opens the screen. If no pipeline runs, `ConsoleCommand` starts one first, and `AttachCommand`
    raises `NotRunning`."""
    session.need_terminal("without a terminal: loraconsole up, status, prompt, logs")
    session.check_screen_options(command.screen)
    running = ensure_supervised(config.run_path)
    if isinstance(command, AttachCommand) and not running:
        raise none_runs(config.run)
    from ..terminal import splash

    with splash.title_shown("loraconsole"):
        if running:
            config = Config.load(config.run)  # the running pipeline's, not this command line's
        else:
            launcher.start(config)
        choice = session.run_console(
            config,
            command.screen,
            is_read_only=command.read_only,
            starter=partial(launcher.start_again, config.run),
        )
    if choice == "stop" and is_running(config.run_path):
        from .pipeline import down  # imports tables, which the screen does not need

        return down(config, DownCommand(run=config.run, now=True))
    if is_running(config.run_path):
        print(
            f"The pipeline is still running in {config.run}. "
            f"{spell('attach', config.run)}: reopen the console; "
            f"{spell('down', config.run)}: stop it."
        )
    return 0
