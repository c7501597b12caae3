"""`PipelineState`: what the other processes of the ring publish, folded to the latest.

Knows no HTTP, no request and no socket.
"""

from __future__ import annotations

from collections import deque

import msgspec

from ..messages import (
    AdapterReply,
    AdapterTable,
    RouterStats,
    Step,
    SyncPoint,
    Telemetry,
)
from ..runtime.health import find_fault
from ..runtime.latest_telemetry import LatestTelemetry

RECENT_STEPS = 256
"""Decode steps whose medians a scrape gets: some seconds of serving."""


class PipelineState(LatestTelemetry):
    """What the server answers from: the newest of each kind, and what `/metrics` says of steps."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names`: the processes without which no request can be answered."""
        super().__init__()
        self._names = names
        self.decode_steps: deque[Step] = deque(maxlen=RECENT_STEPS)
        """Of the first worker: the ranks work in lockstep."""
        self.sync_waits: dict[str, tuple[int, float]] = {}
        """How often, and seconds in all, the first worker waited at each of its sync points."""

    def fold_message(self, message: Telemetry) -> None:
        """Takes in what a process published. Tables and statistics never go back in time."""
        match message:
            case AdapterTable(at=at) if self.adapters and at < self.adapters.at:
                return
            case RouterStats(at=at) if self.router and at < self.router.at:
                return
            case SyncPoint(rank=0):
                count, seconds = self.sync_waits.get(message.name, (0, 0.0))
                seconds += message.wait_us / 1e6
                self.sync_waits[message.name] = (count + 1, seconds)
            case Step(rank=0, phase="decode"):
                self.decode_steps.append(message)
        super().fold_message(message)

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
        return find_fault(self._names, self.processes, self.heartbeats, now)
