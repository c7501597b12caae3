"""`Effects`: actions that the router's core requests, in order. The process carries them out.

The core and its adapter lifecycle write here; nothing here opens a socket or a file.
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
    """A change that matters to an operator: published and logged. `level` as in logging."""

    level: str
    text: str


class EnterState(NamedTuple):
    """The new state of the router's heartbeat, and its reason."""

    state: ProcessState
    reason: str


class ShowReading(NamedTuple):
    """Progress of a start: `left` of `total` adapters have not been read yet."""

    left: int
    total: int


class FetchAdapter(NamedTuple):
    """Fetch an adapter from the hub; answered by an `AdapterFetched`."""

    key: str
    path: str
    """The hub id."""


class AdapterFetched(NamedTuple):
    """The `directory` of an adapter from the hub, or the `error` of its fetch."""

    key: str
    directory: str
    error: str = ""


class StepAnswered(NamedTuple):
    """All ranks have answered this step: `RouterCore.finish_step` may be called."""

    step: int


class DropSteps(NamedTuple):
    """The workers were reset: the steps under way will get no answers."""


class ShowStats(NamedTuple):
    """Publish the statistics now, before the effects that follow."""


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
    """Pending effects in order, and flags for views that changed since they were published."""

    def __init__(self, workers: tuple[str, ...]) -> None:
        """`workers` are their names by rank."""
        self.workers = workers
        self.pending: list[Effect] = []
        self.lines: list[AnyLine] | None = None
        """Lines for the event log; None: it is off."""
        self.batch_changed = True
        """Whether the batch has changed since its view was published."""
        self.adapters_changed = True
        """Whether the adapters have changed since their table was published."""
        self.step_wanted = False
        """Whether a step may have become possible."""
        self.record_changed = False
        """Whether the record must be written before the pending effects are carried out."""
        self.record_is_old = False
        """Whether the record lacks something that it should have soon."""

    def send(self, name: str, message: Message) -> None:
        self.pending.append(Send(name, message))

    def send_workers(self, message: Message) -> None:
        """Sends the same message to every rank."""
        for name in self.workers:
            self.pending.append(Send(name, message))

    def report(self, level: str, text: str) -> None:
        self.pending.append(Announcement(level, text))

    def write_line(self, line: AnyLine) -> None:
        """Adds a line if the event log is on. Callers on the hot path test `lines` first."""
        if self.lines is not None:
            self.lines.append(line)

    def take_pending(self) -> list[Effect]:
        """Removes and returns the pending effects; the caller carries them out."""
        pending, self.pending = self.pending, []
        return pending
