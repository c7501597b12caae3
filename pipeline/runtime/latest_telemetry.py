"""`LatestTelemetry`: the newest message of each kind that the processes of a ring publish.

The supervisor, the server, every console and the mock keep one. Knows no socket and no clock.
"""

from __future__ import annotations

from collections import deque

from ..messages import (
    PROTOCOL,
    AdapterTable,
    BatchView,
    Event,
    Heartbeat,
    LogLine,
    Moment,
    PoolMap,
    ProcessTable,
    Progress,
    RouterStats,
    ServerStats,
    Snapshot,
    Step,
    Telemetry,
    WorkerStats,
)

STEPS_KEPT = 256
"""Steps of rank 0 that are kept, for the percentiles of a snapshot."""


class LatestTelemetry:
    """The newest message of each kind; None before the first one."""

    def __init__(self) -> None:
        self.heartbeats: dict[str, Heartbeat] = {}
        """By the process's name."""
        self.processes: ProcessTable | None = None
        self.server: ServerStats | None = None
        self.router: RouterStats | None = None
        self.workers: dict[int, WorkerStats] = {}
        """By rank."""
        self.batch: BatchView | None = None
        self.adapters: AdapterTable | None = None
        self.pool: PoolMap | None = None
        self.progress: dict[tuple[str, str], Progress] = {}
        """By process and stage."""
        self.steps: deque[Step] = deque(maxlen=STEPS_KEPT)
        """Of rank 0, oldest first: the ranks work in lockstep."""

    def fold_message(self, message: Telemetry) -> None:
        """Replaces the older message of the same kind. The progress bars of a process are dropped
        when it was restarted."""
        match message:  # the most frequent kinds first
            case Step(rank=0):
                self.steps.append(message)
            case BatchView():
                self.batch = message
            case Heartbeat():
                before = self.heartbeats.get(message.name)
                if before and before.incarnation != message.incarnation:
                    self.drop_progress(message.name)
                self.heartbeats[message.name] = message
            case ProcessTable():
                self.processes = message
            case ServerStats():
                self.server = message
            case RouterStats():
                self.router = message
            case WorkerStats():
                self.workers[message.rank] = message
            case AdapterTable():
                self.adapters = message
            case PoolMap():
                self.pool = message
            case Progress():
                self.progress[message.source, message.stage] = message

    def drop_progress(self, name: str) -> None:
        """Drops the progress bars that end with process `name`: its own, and for a worker those of
        adapters, which restarted workers read again."""
        self.progress = {
            key: bar
            for key, bar in self.progress.items()
            if bar.source != name and not (bar.stage == "adapters" and name.startswith("worker-"))
        }

    def snapshot(
        self,
        *,
        at: float,
        version: str,
        started_at: float,
        processes: ProcessTable,
        events: tuple[Event, ...],
        logs: tuple[LogLine, ...],
        steps: int = STEPS_KEPT,
        moments: tuple[Moment, ...] = (),
        server_before: ServerStats | None = None,
    ) -> Snapshot:
        """The newest telemetry and the last `steps` steps, for a console that attaches; the other
        parts of the `Snapshot` are given."""
        return Snapshot(
            at=at,
            protocol=PROTOCOL,
            version=version,
            started_at=started_at,
            processes=processes,
            beats=tuple(self.heartbeats.values()),
            server=self.server,
            server_before=server_before,
            router=self.router,
            workers=tuple(self.workers.values()),
            batch=self.batch,
            adapters=self.adapters,
            pool=self.pool,
            progress=tuple(self.progress.values()),
            events=events,
            logs=logs,
            moments=moments,
            steps=tuple(self.steps)[max(0, len(self.steps) - steps) :],
        )
