"""Additions to Textual's terminal driver: counting bytes, surviving SIGSTOP, job control. Each
`why_…_is_off` returns what the installed Textual lacks for a feature; "" if the feature works."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.app import App
from textual.driver import Driver

from ...pipeline.runtime.library import missing, unused

LINUX_DRIVER = "textual.drivers.linux_driver:LinuxDriver"
"""Textual's terminal driver, as a path for `find`."""


def why_driver_is_off() -> str:
    """What is missing for `ConsoleDriver`; Textual's own driver is used instead."""
    methods = ("start_application_mode", "suspend_application_mode", "resume_application_mode")
    more = ("run_input_thread", "_sigcont_application")
    names = (f"{LINUX_DRIVER}.{name}" for name in (*methods, *more))
    return missing(*names) or unused(f"{LINUX_DRIVER}.__init__", "_file")


def why_sleep_is_off() -> str:
    """What is missing for an input thread that sleeps; otherwise it polls ten times a second."""
    thread = f"{LINUX_DRIVER}.run_input_thread"
    return unused(thread, "selectors", "SelectSelector", "getincrementaldecoder", "exit_event")


def why_suspend_is_off() -> str:
    """What is missing for suspending the whole job; otherwise ctrl+z stops only this process."""
    return unused(f"{LINUX_DRIVER}.__init__", "_must_signal_resume", "_key_thread")


def suspend_job(app: App[Any]) -> bool:
    """Stops the whole job until a shell resumes it; False if this app's driver cannot."""
    own = driver_of(app)
    suspend = getattr(own, "suspend_job", None)
    if own is None or suspend is None or why_suspend_is_off():
        return False
    app.app_suspend_signal.publish(app)
    suspend()
    return True


def why_driver_is_hidden() -> str:
    """What is missing for `driver_of`, i.e. for the title, OSC 9 notifications, counting bytes."""
    return unused("textual.app:App.__init__", "_driver")


def driver_of(app: App[Any]) -> Driver | None:
    """The driver that an app writes to; None before it runs, or if Textual hides it."""
    driver = getattr(app, "_driver", None)
    return driver if isinstance(driver, Driver) else None


def count_bytes(driver: Driver, count: Callable[[int], None]) -> None:
    """Calls `count` with the size of each write to the terminal: all go through the driver's
    `write`."""
    write = driver.write

    def counted(data: str) -> None:
        count(len(data) if data.isascii() else len(data.encode()))
        write(data)

    driver.write = counted  # type: ignore[method-assign]


def why_queue_is_off() -> str:
    """What is missing for `queued_writes`."""
    return unused(f"{LINUX_DRIVER}.__init__", "_writer_thread") or unused(
        "textual.drivers._writer_thread:WriterThread.write", "_queue"
    )


def queued_writes(driver: Driver | None) -> int:
    """Number of writes that the terminal has not accepted yet; 0 if Textual has no such queue."""
    writer = getattr(driver, "_writer_thread", None)
    size = getattr(getattr(writer, "_queue", None), "qsize", None)
    return int(size()) if callable(size) else 0


def reads_keys(driver: Driver) -> bool:
    """Whether the driver's input thread is running; False if it has none."""
    is_alive = getattr(getattr(driver, "_key_thread", None), "is_alive", None)
    return bool(is_alive()) if callable(is_alive) else False


def has_job_control() -> bool:
    """Whether an ancestor shell with job control would take the terminal: a process of our session
    outside our process group. Without one (a container's first process, a tmux window or ssh with
    this one command), a suspended program is never resumed."""
    group, session, pid = os.getpgrp(), os.getsid(0), os.getppid()
    try:
        while pid > 0 and os.getsid(pid) == session:
            if os.getpgid(pid) != group:
                return True
            pid = _parent_of(pid)
    except OSError:
        pass  # the process has exited
    return False


def _parent_of(pid: int) -> int:
    # PID (NAME) STATE PPID …; a name may contain spaces and parentheses.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
