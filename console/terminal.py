"""What Textual's driver of the terminal does not do: count, fall silent, wake up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
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


def mute(driver: Driver) -> None:
    """Nothing is written any more: nobody would read it."""
    driver.write = lambda data: None  # type: ignore[method-assign]


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
