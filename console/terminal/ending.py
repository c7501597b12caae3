"""`exit_on_signals`: turns terminating signals into an exception.

So the program cleans up: it restores the terminal and the cursor, removes temporary directories and
ends its children. The console, once its loop runs, is left as by a key instead (`ConsoleDriver`).
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end a Python program at once; SIGINT raises an exception already."""


def exit_on_signals() -> None:
    """Makes the signals `ENDING` raise SystemExit; to be called first. A signal that is ignored
    (SIGHUP under nohup) stays ignored."""
    for number in ENDING:
        if not is_ignored(number):
            signal.signal(number, _exit)


def is_ignored(number: signal.Signals) -> bool:
    """Whether the program ignores this signal, e.g. because nohup started it."""
    return signal.getsignal(number) is signal.SIG_IGN


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
