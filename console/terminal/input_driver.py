"""`PatientDriver`: Textual's driver, whose thread of keys sleeps until there is one.

Textual's looks ten times a second whether it is to end, and whether an escape was a key by itself:
0.1 % of a core, more than a third of what an idle console took. Here the second is looked for
only after something was typed, and for the first there is an alarm. It also outlives a terminal
that has gone, and keys that are not UTF-8.
"""

from __future__ import annotations

import codecs
import os
import select
import selectors
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TextIO

from textual import constants
from textual.driver import Driver
from textual.drivers import linux_driver

from .ending import ENDING, is_ignored

SOON_S = 0.1
LOOKS = 2 + round(constants.ESCAPE_DELAY / SOON_S)
"""Looks in a row until an escape that nothing followed is taken for a key."""


class PatientDriver(linux_driver.LinuxDriver):
    """Where another Textual waits in another way, it does as that one does."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.exit_event = self._alarm = Alarm()
        self._file = LastingFile(sys.__stderr__)  # type: ignore[assignment, arg-type]

    def start_application_mode(self) -> None:
        """From now on a signal that ends the program leaves the console as a key does."""
        for number in (*ENDING, signal.SIGINT):
            if not is_ignored(number):
                self._loop.add_signal_handler(number, self._app.exit, "leave")
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def sleep(self) -> None:
        """Gives the terminal to the shell, as ctrl+z does with any program; returns when that wakes
        us (`fg`). The whole job sleeps: where `make` or a script started us, the shell waits for
        that. The terminal is given back before, since the shell takes it once the first of the
        job has stopped, and who then still sets it is stopped half-way."""
        self.suspend_application_mode()
        self._must_signal_resume = True
        usual = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)  # here we sleep; the handler of SIGCONT takes the terminal again
        signal.signal(signal.SIGTSTP, usual)
        if self._key_thread is None or not self._key_thread.is_alive():
            self.resume_application_mode()  # nothing has stopped us

    def run_input_thread(self) -> None:
        linux_driver.selectors = Selectors(self._alarm, self._gone)  # type: ignore[assignment, attr-defined]
        linux_driver.getincrementaldecoder = self._decoder  # type: ignore[assignment, attr-defined]
        super().run_input_thread()

    def _gone(self) -> None:
        """The terminal has gone, and no signal has said so (nohup, a shell that disowned us)."""
        self._loop.call_soon_threadsafe(self._app.exit, "leave")

    @staticmethod
    def _decoder(_: str) -> Callable[[], codecs.IncrementalDecoder]:
        """Keys as the terminal encodes them. Textual takes all for UTF-8, and ends where a letter
        of another encoding comes."""
        encoding = sys.__stdin__.encoding if sys.__stdin__ is not None else "utf-8"
        return partial(codecs.getincrementaldecoder(encoding), "replace")


class LastingFile:
    """A terminal's file to write to. Once the terminal has gone it takes everything, and the thread
    that writes does not die of it: who waits for that thread would wait for ever."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.fileno = file.fileno

    def write(self, text: str) -> None:
        with self._replaced_if_gone():
            self._file.write(text)

    def flush(self) -> None:
        with self._replaced_if_gone():
            self._file.flush()

    @contextmanager
    def _replaced_if_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def patient(driver: type[Driver]) -> type[Driver]:
    """The driver to take where Textual would take this one: in a browser or a test it is no
    terminal's."""
    if driver is linux_driver.LinuxDriver:
        return PatientDriver
    return leaving(driver) if driver.__name__ == "WebDriver" else driver


def leaving(driver: type[Driver]) -> type[Driver]:
    """A browser's driver, and the console ends with the server of its pages: Textual's stops
    reading then, and would stay for ever."""

    class LeavingDriver(driver):  # type: ignore[valid-type, misc]
        def run_input_thread(self) -> None:
            super().run_input_thread()
            with suppress(RuntimeError):  # the loop has ended, and so has the console
                self._loop.call_soon_threadsafe(self._app.exit, "leave")

    return LeavingDriver


class Alarm(threading.Event):
    """An event that wakes a selector."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self._writer = os.pipe()

    def set(self) -> None:
        super().set()
        os.write(self._writer, b"!")

    def clear(self) -> None:
        os.read(self.reader, 64)
        super().clear()

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


class Selectors:
    """The module of that name, but for one class."""

    def __init__(self, alarm: Alarm, gone: Callable[[], None]) -> None:
        self._alarm, self._gone = alarm, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(selectors, name)

    def SelectSelector(self) -> PatientSelector:
        return PatientSelector(self._alarm, self._gone)


class PatientSelector(selectors.SelectSelector):
    """Waits for a key or the alarm, however short a time it was told to wait. Once the terminal has
    gone, which is ready to be read for ever, it says so once and waits for the alarm alone."""

    def __init__(self, alarm: Alarm, gone: Callable[[], None]) -> None:
        super().__init__()
        self._alarm, self._gone = alarm.reader, gone
        self._is_gone = False
        self._looks = 0
        self.register(self._alarm, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._is_gone:
            select.select([self._alarm], [], [])
            return []
        self._looks -= 1
        ready = super().select(SOON_S if self._looks > 0 else None)
        keys = [(key, mask) for key, mask in ready if key.fd != self._alarm]
        if keys:
            self._looks = LOOKS
            if any(has_hung_up(key.fd) for key, _ in keys):
                self._is_gone = True
                self._gone()
                return []
        return keys


def has_hung_up(descriptor: int) -> bool:
    """Whether the other end of a terminal or a pipe is closed."""
    look = select.poll()
    look.register(descriptor, 0)
    return any(
        what & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, what in look.poll(0)
    )
