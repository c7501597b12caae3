"""`PipelineState`: the latest telemetry of the ring's other processes.

Knows no HTTP, no request and no socket.
"""

from __future__ import annotations

import hashlib
from collections import deque

import msgspec

from ...messages import (
    AdapterReply,
    AdapterTable,
    RouterStats,
    Step,
    SyncPoint,
    Telemetry,
)
from ...runtime.health import find_fault, is_mending
from ...runtime.latest_telemetry import LatestTelemetry
from ..answers.histogram import Histogram

RECENT_STEPS = 256
"""Decode steps in the medians of `/metrics`: some seconds of serving."""
MERGED = "-merged"
"""End of the fingerprint if an adapter's answers depend on what else is served because a merged
copy of the weights is kept for it."""
STEP_BUCKETS = tuple(2**power for power in range(15))
"""Tokens of a step."""


class PipelineState(LatestTelemetry):
    """The newest message of each kind, and the recent steps for `/metrics`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names`: the processes without which no request can be answered."""
        super().__init__()
        self._names = names
        self.decode_steps: deque[Step] = deque(maxlen=RECENT_STEPS)
        """Of rank 0: the ranks work in lockstep."""
        self.step_tokens = Histogram(STEP_BUCKETS)
        """Of rank 0: prompt tokens computed and tokens sampled in a step."""
        self.sync_waits: dict[str, tuple[int, float]] = {}
        """(number of waits, seconds in all) of rank 0, by sync point."""

    def fold_message(self, message: Telemetry) -> None:
        """Stores a message. Older tables and statistics never replace newer ones."""
        match message:
            case AdapterTable(at=at) if self.adapters and at < self.adapters.at:
                return
            case RouterStats(at=at) if self.router and at < self.router.at:
                return
            case SyncPoint(rank=0):
                count, seconds = self.sync_waits.get(message.name, (0, 0.0))
                seconds += message.wait_us / 1e6
                self.sync_waits[message.name] = (count + 1, seconds)
            case Step(rank=0):
                self.step_tokens.observe(message.prompt_tokens + message.sampled)
                if message.phase == "decode":
                    self.decode_steps.append(message)
        super().fold_message(message)

    def fold_reply(self, reply: AdapterReply) -> None:
        """Stores the changes of an order before the next table has them, since the client that sent
        the order may ask at once."""
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

    def fingerprint(self, adapter: str | None) -> str | None:
        """OpenAI's `system_fingerprint` of answers by `adapter` (None: the base): equal for two
        answers only if model, adapter and all that computes them are the same. None before the
        worker has sent its own."""
        worker = self.workers.get(0)
        if worker is None or not worker.fingerprint:
            return None
        views = self.adapters.adapters if self.adapters else ()
        view = next((view for view in views if view.name == adapter), None)
        if view is None:
            return worker.fingerprint
        own, dash, end = worker.fingerprint.partition("-")
        both = hashlib.sha256(f"{own} {view.digest}".encode()).hexdigest()[:12]
        # Steps of it alone use weights with the adapter added, others do not.
        return f"fp_{both}{MERGED if view.merged else dash + end}"

    def find_fault(self, now: float) -> str:
        """Why the ring cannot take a request at `now`, unix seconds; "" if it can."""
        return find_fault(self._names, self.processes, self.heartbeats, now)

    def is_mending(self) -> bool:
        """Whether a fault that was found ends by itself."""
        return is_mending(self._names, self.processes)
