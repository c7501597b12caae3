"""`PipelineState`: what the other processes of the ring publish, folded to the latest.

Knows no HTTP, no request and no socket.
"""

from __future__ import annotations

from collections import deque

import msgspec

from ..messages import (
    AdapterReply,
    AdapterTable,
    Heartbeat,
    ProcessState,
    ProcessTable,
    ProcessView,
    RouterStats,
    Step,
    SyncPoint,
    Telemetry,
    WorkerStats,
)

RECENT_STEPS = 256
"""Decode steps whose medians a scrape gets: some seconds of serving."""
STALE_SECONDS = 3.0
"""A process whose last heartbeat is older than this counts as gone."""


class PipelineState:
    """The newest message of each kind; None until the first one came."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names`: the processes without which no request can be answered."""
        self._names = names
        self.adapters: AdapterTable | None = None
        self.router: RouterStats | None = None
        self.workers: dict[int, WorkerStats] = {}
        self.decode_steps: deque[Step] = deque(maxlen=RECENT_STEPS)
        """Of the first worker: the ranks work in lockstep."""
        self.sync_waits: dict[str, tuple[int, float]] = {}
        """How often, and seconds in all, the first worker waited at each of its sync points."""
        self._heartbeats: dict[str, Heartbeat] = {}
        self._processes: ProcessTable | None = None

    def fold_message(self, message: Telemetry) -> None:
        """Takes in what a process published. Tables and statistics never go back in time."""
        match message:
            case Heartbeat():
                self._heartbeats[message.name] = message
            case AdapterTable():
                if self.adapters is None or message.at >= self.adapters.at:
                    self.adapters = message
            case RouterStats():
                if self.router is None or message.at >= self.router.at:
                    self.router = message
            case WorkerStats():
                self.workers[message.rank] = message
            case SyncPoint(rank=0):
                count, seconds = self.sync_waits.get(message.name, (0, 0.0))
                seconds += message.wait_us / 1e6
                self.sync_waits[message.name] = (count + 1, seconds)
            case Step(rank=0, phase="decode"):
                self.decode_steps.append(message)
            case ProcessTable():
                self._processes = message

    def fold_reply(self, reply: AdapterReply) -> None:
        """Takes in what an order changed, before the next table has it: the client that sent the
        order may ask at once."""
        if self.router is not None and reply.scheduling is not None:
            self.router = msgspec.structs.replace(
                self.router, at=reply.at, scheduling=reply.scheduling
            )
        table = self.adapters
        if not reply.name or table is None or table.at > reply.at:
            return
        others = (view for view in table.adapters if view.name != reply.name)
        self.adapters = msgspec.structs.replace(
            table, at=reply.at, adapters=(*others, *reply.adapters)
        )

    def find_fault(self, now: float) -> str:
        """Why the ring cannot take a request at `now`, unix seconds; "" where it can."""
        for process in self._processes.processes if self._processes else ():
            if process.name in self._names and process.state not in (
                ProcessState.READY,
                ProcessState.DRAINING,
            ):
                return condition(process)
        for name in self._names:
            heartbeat = self._heartbeats.get(name)
            if heartbeat is None:
                return f"{name} has not been heard yet"
            if now - heartbeat.at > STALE_SECONDS:
                return f"{name} has not been heard for {now - heartbeat.at:.0f} s"
            if heartbeat.state is not ProcessState.READY:
                return f"{name} is {heartbeat.state.value}: {heartbeat.reason}".rstrip(": ")
        return ""


def condition(process: ProcessView) -> str:
    """`worker-0 is starting: reading weights`, `worker-0 is stopped by an operator`."""
    if process.held and process.state is ProcessState.STOPPED:
        return f"{process.name} is {process.reason}"
    return f"{process.name} is {process.state.value}: {process.reason}".rstrip(": ")


def lost_process(table: ProcessTable) -> str:
    """Why open requests cannot go on; "" where they can.

    A router that is gone has forgotten every request; a process that is given up brings no
    further token.
    """
    for process in table.processes:
        given_up = process.state is ProcessState.FAILED
        dead = process.state in (ProcessState.BACKOFF, ProcessState.STOPPED)
        if given_up or (process.name == "router" and dead):
            died = f"{process.name} died: {process.reason or 'see its log'}"
            return condition(process) if process.held else died
    return ""
