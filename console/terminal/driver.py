"""What Textual's driver of the terminal does not do: count, wake up, ask whether a shell waits."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from textual.driver import Driver


def count_bytes(driver: Driver, wrote: Callable[[int], None]) -> None:
    """Everything that goes to the terminal passes the driver's `write`."""
    write = driver.write

    def counted(data: str) -> None:
        wrote(len(data) if data.isascii() else len(data.encode()))
        write(data)

    driver.write = counted  # type: ignore[method-assign]


def queued(driver: Driver | None) -> int:
    """Writes the terminal has not taken yet."""
    writer = getattr(driver, "_writer_thread", None)
    queue = getattr(writer, "_queue", None)
    return 0 if queue is None else int(queue.qsize())


def mind_being_stopped(
    driver: Driver, loop: asyncio.AbstractEventLoop, redraw: Callable[[], None]
) -> None:
    """Textual takes every SIGCONT for the end of a suspension of its own (ctrl+z) and starts
    its threads once more; after a bare SIGSTOP the old ones still run, and it never ends."""
    resume = signal.getsignal(signal.SIGCONT)

    def go_on(number: int, frame: FrameType | None) -> None:
        keys = getattr(driver, "_key_thread", None)
        if keys is not None and keys.is_alive():
            loop.call_soon_threadsafe(redraw)
        elif callable(resume):
            resume(number, frame)

    signal.signal(signal.SIGCONT, go_on)


def has_job_control() -> bool:
    """Whether a shell waits for us that would take the terminal: a process of our session outside
    of our process group. Without one (a container's first process, a window of tmux or ssh with
    this one command) who sleeps is never woken."""
    group, session, pid = os.getpgrp(), os.getsid(0), os.getppid()
    try:
        while pid > 0 and os.getsid(pid) == session:
            if os.getpgid(pid) != group:
                return True
            pid = _parent_of(pid)
    except OSError:
        pass  # it has ended
    return False


def _parent_of(pid: int) -> int:
    # PID (NAME) STATE PPID …; a name may hold blanks and brackets.
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
