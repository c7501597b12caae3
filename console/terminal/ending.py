"""`exit_on_signals`: a signal that ends the program does so as an exception does.

So what is open is closed: the terminal is given back, a hidden cursor shown, temporary directories
and children go. The console itself, once its loop runs, is left as by a key (`ConsoleDriver`).
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Those that Python leaves to the system, which ends a program at once; SIGINT is an exception."""


def exit_on_signals() -> None:
    """To be called first. A signal that is ignored (SIGHUP under nohup) stays so."""
    for number in ENDING:
        if not is_ignored(number):
            signal.signal(number, _exit)


def is_ignored(number: signal.Signals) -> bool:
    """Whether the program was started in such a way that it outlives this signal."""
    return signal.getsignal(number) is signal.SIG_IGN


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
