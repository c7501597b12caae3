"""`ConsoleDriver`: Textual's terminal driver with an input thread that sleeps until a key comes.

It also leaves the console on a signal as on a key, suspends the whole job, and survives a closed
terminal and keys that are not UTF-8. To be imported only if `driver.why_driver_is_off` returns "".
"""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from textual import constants
from textual.app import App
from textual.drivers import linux_driver

from .background import BACKGROUND_QUESTION, BackgroundApp, BackgroundReader
from .driver import reads_keys, why_sleep_is_off
from .ending import ENDING, is_ignored
from .key_selector import Alarm, SelectorsModule


class ConsoleDriver(linux_driver.LinuxDriver):
    """Textual's driver; the input thread is left as it is if `why_sleep_is_off` has a reason."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        self._console, self._own_loop = app, asyncio.get_running_loop()
        is_asker = isinstance(app, BackgroundApp) and app.asks_background
        self._asks_background = is_asker and not why_sleep_is_off()
        super().__init__(app, **options)
        self._alarm = Alarm()
        if not why_sleep_is_off():
            self.exit_event = self._alarm
        self._file = LastingFile(sys.__stderr__)  # type: ignore[assignment, arg-type]

    def start_application_mode(self) -> None:
        """From now on a terminating signal leaves the console as a key does."""
        for number in (*ENDING, signal.SIGINT):
            if not is_ignored(number):
                self._own_loop.add_signal_handler(number, self._console.exit, "leave")
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if self._asks_background:
            self.write(BACKGROUND_QUESTION)
            self.flush()

    def suspend_job(self) -> None:
        """Gives the terminal to the shell, as ctrl+z does with any program; returns when the shell
        resumes us (`fg`).

        The whole job is stopped: if `make` or a script started us, the shell waits for that. The
        terminal is restored first, since the shell takes it as soon as one process of the job has
        stopped, and a process that sets it later is stopped half-way.
        """
        self.suspend_application_mode()
        self._must_signal_resume = True
        usual = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)  # stops here; the SIGCONT handler takes the terminal again
        signal.signal(signal.SIGTSTP, usual)
        if not reads_keys(self):
            self.resume_application_mode()  # the signal did not stop us

    def _sigcont_application(self, *_: object) -> None:
        """Redraws after a bare SIGSTOP; takes the terminal again after `fg`.

        Textual takes every SIGCONT for the end of its own suspension (ctrl+z) and starts its
        threads again. A bare SIGSTOP did not end the old ones; and a terminal that is closed sends
        SIGCONT after SIGHUP, when a console that leaves may just have ended them. In both cases
        the program would never end.
        """
        if reads_keys(self):
            self._own_loop.call_soon_threadsafe(
                self._console.app_resume_signal.publish, self._console
            )
        elif self._must_signal_resume:
            self.resume_application_mode()

    def run_input_thread(self) -> None:
        if not why_sleep_is_off():
            modules = SelectorsModule(self._alarm, constants.ESCAPE_DELAY, self._leave)
            linux_driver.selectors = modules  # type: ignore[assignment, attr-defined]
            linux_driver.getincrementaldecoder = self._decoder_of  # type: ignore[assignment, attr-defined]
        super().run_input_thread()

    def _decoder_of(self, _: str) -> Callable[[], codecs.IncrementalDecoder]:
        """A decoder of keys; after a question about the background, one that finds the reply."""
        if not self._asks_background:
            return _decoder
        return lambda: BackgroundReader(_decoder(), self._background_found)  # type: ignore[return-value]

    def _background_found(self, is_light: bool) -> None:
        assert isinstance(self._console, BackgroundApp)
        self._asks_background = False
        self._console.call_later(self._console.background_found, is_light)

    def _leave(self) -> None:
        """Leaves the console: the terminal was closed without a signal (nohup, `disown`)."""
        self._own_loop.call_soon_threadsafe(self._console.exit, "leave")


def _decoder() -> codecs.IncrementalDecoder:
    """A decoder of keys in the terminal's encoding. Textual assumes UTF-8, and its input thread
    ends at a byte that is not."""
    encoding = sys.__stdin__.encoding if sys.__stdin__ is not None else "utf-8"
    return codecs.getincrementaldecoder(encoding)("replace")


class LastingFile:
    """The terminal as a file to write to. Once the terminal is closed, output is discarded, so that
    the writer thread survives: the program waits for that thread at its end."""

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
