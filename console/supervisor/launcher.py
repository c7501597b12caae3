"""Starting a pipeline: take the lock, write the config, hand both to a supervisor of its own
session, and return. Whoever started it may go."""

from __future__ import annotations

import os
import subprocess
import sys

from ...pipeline.config import Config
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from .lock import LOCK_VARIABLE, Lock, already_runs
from .log_tail import put_aside


def start(config: Config) -> int:
    """Starts a supervisor in `config.run`; returns its pid. It is not ready yet.

    Raises `OperatorError` where one runs there already or the directory is unsafe.
    """
    run = make_run_directory(config.run)
    lock = Lock.take(run)
    if lock is None:
        raise already_runs(run)
    try:
        put_aside(run / "logs")
        config.save()
        environment = {**os.environ, **UTF8_OUTPUT, LOCK_VARIABLE: str(lock.descriptor)}
        with (run / "logs" / "supervisor.log").open("ab") as log:
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
                start_new_session=True,  # a terminal that hangs up does not reach it
            )
    finally:
        lock.release()
    return supervisor.pid
