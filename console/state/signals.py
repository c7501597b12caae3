"""Signals that an operator may send to a process of the ring, and exit statuses in words."""

from __future__ import annotations

import signal

SIGNALS: dict[str, str] = {
    "TERM": "asks it to end; it is started again in a second",
    "INT": "the same, as ctrl+c in a terminal does",
    "KILL": "ends it at once; it is started again",
    "STOP": "holds it still; silent for 30 s, it is killed",
    "CONT": "lets it go on after STOP",
    "HUP": "ends it at once, as nothing here listens to it",
    "USR1": "its log gets what each of its threads does now",
}
"""By name without SIG: what the signal does here."""
ENDING = ("TERM", "INT", "KILL", "HUP")
"""Signals that end a process."""


def signal_name(text: str) -> str:
    """The name in `SIGNALS` of a signal as a person types it."""
    return text.upper().removeprefix("SIG")


def how(code: int) -> str:
    """An exit status in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
