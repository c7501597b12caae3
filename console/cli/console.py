"""`loraconsole` and `attach`: the console on a pipeline of this machine."""

from __future__ import annotations

from ...pipeline.config import Config
from ...pipeline.run_directory import spell
from ..client.remote import none_runs
from ..commands.consoles import AttachCommand, ConsoleCommand
from ..commands.pipeline import DownCommand
from ..supervisor import launcher
from ..supervisor.lock import is_running
from ..ui import session
from .pipeline import down


def console(config: Config, command: ConsoleCommand | AttachCommand) -> int:
    """Opens the screen. Where no pipeline runs, `ConsoleCommand` starts one first, and
    `AttachCommand` raises `NotRunning`."""
    session.need_terminal("without one: loraconsole up, status, prompt, logs")
    session.check_screen_options(command.screen)
    running = is_running(config.run_path)
    if isinstance(command, AttachCommand) and not running:
        raise none_runs(config.run)
    from ..terminal import splash

    with splash.title_shown("loraconsole"):
        if running:
            config = Config.load(config.run)  # what runs, not what this command line says
        else:
            launcher.start(config)
        choice = session.run_console(config, command.screen, is_read_only=command.read_only)
    if choice == "stop" and is_running(config.run_path):
        return down(config, DownCommand(run=config.run, now=True))
    if is_running(config.run_path):
        print(
            f"The pipeline still runs in {config.run}. {spell('attach', config.run)}: back to it; "
            f"{spell('down', config.run)}: stop it."
        )
    return 0
