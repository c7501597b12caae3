"""`Effects`: what the router's core wants done outside of it, in order. The process does it.

The core and the adapter lifecycle in it write here; nothing here opens a socket or a file.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ..messages import Message, ProcessState
from .event_lines import AnyLine


class Send(NamedTuple):
    """A message to another process's inbox."""

    to: str
    message: Message


class Announcement(NamedTuple):
    """A change that an operator wants to know: published and logged. `level` as in logging."""

    level: str
    text: str


class EnterState(NamedTuple):
    """The state that the router's heartbeat shows from now on, and its reason."""

    state: ProcessState
    reason: str


class ShowReading(NamedTuple):
    """How many of the adapters of a start have been read, `left` of `total` not yet."""

    left: int
    total: int


class FetchAdapter(NamedTuple):
    """A hub's adapter is to be fetched; an `AdapterFetched` brings the answer back."""

    key: str
    path: str
    """The hub id."""


class AdapterFetched(NamedTuple):
    """A hub's adapter lies in `directory`, or could not be fetched (`error`)."""

    key: str
    directory: str
    error: str = ""


class StepAnswered(NamedTuple):
    """All ranks have answered this step: `RouterCore.finish_step` may be called."""

    step: int


class DropSteps(NamedTuple):
    """The workers were reset: the steps under way have no answers any more."""


class ShowStats(NamedTuple):
    """The statistics are to be published now, before what follows is sent."""


Effect: TypeAlias = (
    Send
    | Announcement
    | EnterState
    | ShowReading
    | FetchAdapter
    | StepAnswered
    | DropSteps
    | ShowStats
)


class Effects:
    """Effects in the order in which they are to happen, and what looks different since they were
    carried out last."""

    def __init__(self, workers: tuple[str, ...]) -> None:
        """`workers` are their names by rank."""
        self.workers = workers
        self.pending: list[Effect] = []
        self.lines: list[AnyLine] | None = None
        """Lines for the event log; None: none are wanted."""
        self.batch_changed = True
        """Whether the view of the batch differs from the one published last."""
        self.adapters_changed = True
        """Whether the table of adapters differs from the one published last."""
        self.step_wanted = False
        """Whether a step may be possible that was not before."""

    def send(self, name: str, message: Message) -> None:
        self.pending.append(Send(name, message))

    def send_workers(self, message: Message) -> None:
        """The same message to every rank."""
        for name in self.workers:
            self.pending.append(Send(name, message))

    def report(self, level: str, text: str) -> None:
        self.pending.append(Announcement(level, text))

    def write_line(self, line: AnyLine) -> None:
        """Where an event log is wanted. Callers on the hot path test `lines` first."""
        if self.lines is not None:
            self.lines.append(line)

    def take_pending(self) -> list[Effect]:
        """The effects so far; the caller carries them out."""
        pending, self.pending = self.pending, []
        return pending
