"""Starts a pipeline: takes the lock, binds the HTTP server's address, writes the config, and starts
a supervisor in its own session, which inherits lock and socket. The starting process may exit."""

from __future__ import annotations

import os
import subprocess

from ...pipeline.api_keys import without_keys
from ...pipeline.config import Config
from ...pipeline.handover.listener import LISTENER, bind_listener
from ...pipeline.handover.run_lock import LOCK_VARIABLE, Lock
from ...pipeline.machine.descriptors import raise_descriptor_limit
from ...pipeline.private_files import private_umask
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.clock import new_clock
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from .lock import already_runs
from .orphans import ensure_supervised
from .ring_processes import command_of, find_processes


def start_again(run: str) -> int:
    """Starts the pipeline of a run directory with the options that it last ran with, as `start`
    does. Raises `OperatorError` as `start` does, and if none has run there."""
    return start(Config.load(run))


def start(config: Config) -> int:
    """Starts a supervisor in `config.run` and returns its pid at once, before it is ready.

    Raises `OperatorError` if a pipeline runs there already, the directory is unsafe, the address of
    the HTTP server cannot be used, or too few files may be open.
    """
    from .log_tail import put_aside  # a console that attaches starts nothing

    raise_descriptor_limit()
    run = make_run_directory(config.run)
    lock = Lock.take(run)
    if lock is not None and find_processes(run):
        lock.release()
        lock = None
        ensure_supervised(run)  # they are orphans
    if lock is None:
        raise already_runs(run)
    try:
        with bind_listener(config.host, config.port) as listener:
            put_aside(run / "logs")
            config.save()
            return _start_supervisor(config, lock.descriptor, listener.fileno())
    finally:
        lock.release()


def _start_supervisor(config: Config, lock: int, listener: int) -> int:
    environment = {
        **without_keys(os.environ),
        **UTF8_OUTPUT,
        **new_clock(),
        LOCK_VARIABLE: str(lock),
        LISTENER: str(listener),
    }
    with private_umask():
        log = (config.run_path / "logs" / "supervisor.log").open("ab")
    with log:
        supervisor = subprocess.Popen(
            command_of("supervisor", config),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(lock, listener),
            start_new_session=True,  # no SIGHUP when the terminal closes
        )
    return supervisor.pid
