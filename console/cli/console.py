"""`loraconsole` and `attach`: the console on a pipeline of this machine."""

from __future__ import annotations

import argparse

from ...pipeline.config import Config
from ...pipeline.run_directory import spell
from ..client.remote import none_runs
from ..supervisor import launcher
from ..supervisor.lock import is_running
from ..ui import session
from .pipeline import down


def console(config: Config, given: argparse.Namespace, *, start: bool) -> int:
    """Opens the screen; starts the pipeline before it where `start` and none runs. `given` has
    the screen's flags."""
    session.need_terminal("without one: loraconsole up, status, prompt, logs")
    session.check_screen_flags(given)
    running = is_running(config.run_path)
    if not start and not running:
        raise none_runs(config.run)
    from ..terminal import splash

    with splash.raised("loraconsole"):
        if running:
            config = Config.load(config.run)  # what runs, not what this command line says
        else:
            launcher.start(config)
        choice = session.show(config, given)
    if choice == "stop" and is_running(config.run_path):
        return down(config, now=True, as_json=False)
    if is_running(config.run_path):
        print(
            f"The pipeline still runs in {config.run}. {spell('attach', config.run)}: back to it; "
            f"{spell('down', config.run)}: stop it."
        )
    return 0
