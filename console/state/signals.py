"""Signals that an operator may send to a process of the ring, and exit statuses in words."""

from __future__ import annotations

import signal

SIGNALS: dict[str, str] = {
    "TERM": "asks it to end; it is restarted at once",
    "INT": "the same, as ctrl+c in a terminal",
    "KILL": "ends it at once; it is restarted",
    "STOP": "suspends it; killed after 30 s without a heartbeat",
    "CONT": "resumes it after STOP",
    "HUP": "is ignored: settings are read at its start",
    "USR1": "writes its thread stacks to its log",
}
"""What each signal does here, by its name without SIG."""
ENDING = ("TERM", "INT", "KILL")
"""Signals that end a process."""


def signal_name(text: str) -> str:
    """`text`, e.g. "sigterm" or "term", as a name in `SIGNALS`."""
    return text.upper().removeprefix("SIG")


def how(code: int | None) -> str:
    """An exit status in words; None if only a parent would know which signal it was."""
    if code is None:
        return "killed by a signal"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
