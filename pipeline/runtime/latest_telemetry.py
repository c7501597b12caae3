"""`LatestTelemetry`: what the processes of a ring publish, folded to the newest of each kind.

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
"""Steps of rank 0 that are kept: percentiles of a snapshot are over these."""


class LatestTelemetry:
    """The newest message of each kind; None until the first one came."""

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
        """Keeps `message` in place of the one of its kind before it. A process that was started
        again has no progress bars of its last life."""
        match message:  # those that come most often first
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
        """Forgets the progress bars that are over once process `name` is gone: its own, and with
        a worker those of adapters, which workers that start again read again."""
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
        """Everything that still holds, for a console that comes late, with the last `steps` steps;
        what is not telemetry is given."""
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
