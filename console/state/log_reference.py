"""`LogReference`: the log line behind an alert or an event; `find_line` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...pipeline.messages import LogLine
from .crash import is_stack_line

SAME_SECONDS = 2.0
"""Most seconds between a state or an event and its log line by the same process."""
LAST_WORDS_SECONDS = 10.0
"""Lines written longer than this before a process's end are not about its end."""
SUPERVISOR = "supervisor"
ENDS = ("{} died ", "{} cannot run", "{} not restarted")
ORDERS = ("restarting {} on request", "starting {} on request")


class LogReference(NamedTuple):
    """The process that wrote the line, about when, and words in it. Without words it refers to the
    line that says why process `source` ended, which was down or up again at `at`."""

    source: str
    at: float
    words: str = ""


def find_line(reference: LogReference, logs: Sequence[LogLine]) -> LogLine | None:
    """The line in `logs` that `reference` refers to; None if there is none, or it was dropped.
    Lines are in the order of their numbers; their times may be slightly out of order."""
    return _said(reference, logs) if reference.words else _end_of(reference, logs)


def _said(reference: LogReference, logs: Sequence[LogLine]) -> LogLine | None:
    def away(entry: LogLine) -> float:
        return abs(entry.at - reference.at)

    near = (
        entry
        for entry in logs
        if entry.source == reference.source and reference.words in entry.text
    )
    nearest = min(near, key=away, default=None)
    return nearest if nearest is not None and away(nearest) < SAME_SECONDS else None


def _end_of(reference: LogReference, logs: Sequence[LogLine]) -> LogLine | None:
    """The last line of the process's traceback, or else the supervisor's line about its end."""
    name, until = reference.source, reference.at + SAME_SECONDS
    ends = tuple(f"{SUPERVISOR}: {text.format(name)}" for text in ENDS)
    orders = tuple(f"{SUPERVISOR}: {text.format(name)}" for text in ORDERS)
    end: LogLine | None = None
    has_started = False
    for entry in reversed(logs):
        if entry.at > until:
            continue
        if entry.source == name and is_stack_line(entry.text):
            continue  # the line above the stacks says what ended it
        if entry.source == name and end is not None and entry.text.strip():
            is_error = entry.level in ("ERROR", "CRITICAL")
            return entry if is_error and end.at - entry.at < LAST_WORDS_SECONDS else end
        if entry.source != SUPERVISOR:
            continue
        if entry.text.startswith(orders):
            return end or entry
        if end is None and entry.text.startswith(ends):
            end = entry
        elif entry.text.startswith(f"{SUPERVISOR}: started {name},"):
            if end or has_started:  # its previous run began here, and no line says why it ended
                return end
            has_started = True
    return end
