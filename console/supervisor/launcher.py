"""Starts a pipeline: takes the lock, writes the config, and starts a supervisor in its own session,
which inherits the lock. The starting process may exit."""

from __future__ import annotations

import os
import subprocess
import sys

from ...pipeline.api_keys import without_keys
from ...pipeline.config import Config
from ...pipeline.private_files import private_umask
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.clock import new_clock
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from .lock import LOCK_VARIABLE, Lock, already_runs


def start_again(run: str) -> int:
    """Starts the pipeline of a run directory with the options that it last ran with, as `start`
    does. Raises `OperatorError` as `start` does, and if none has run there."""
    return start(Config.load(run))


def start(config: Config) -> int:
    """Starts a supervisor in `config.run` and returns its pid at once, before it is ready.

    Raises `OperatorError` if one is already running there or the directory is unsafe.
    """
    from .log_tail import put_aside  # a console that attaches starts nothing

    run = make_run_directory(config.run)
    lock = Lock.take(run)
    if lock is None:
        raise already_runs(run)
    try:
        put_aside(run / "logs")
        config.save()
        environment = {
            **without_keys(os.environ),
            **UTF8_OUTPUT,
            **new_clock(),
            LOCK_VARIABLE: str(lock.descriptor),
        }
        with private_umask():
            log = (run / "logs" / "supervisor.log").open("ab")
        with log:
            supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "loraconsole.console.supervisor.supervisor"),
                    *("--run", str(run)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(lock.descriptor,),
                start_new_session=True,  # no SIGHUP when the terminal closes
            )
    finally:
        lock.release()
    return supervisor.pid
