"""`Memory`: what the supervisor keeps of all that was said, for whoever comes late or asks. Knows
messages, no socket.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

from ... import __version__
from ...pipeline.messages import (
    PROTOCOL,
    AdapterTable,
    AskSnapshot,
    BatchView,
    Heartbeat,
    LogLine,
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
from ..state.alerts import SYNC_STEPS
from ..state.progress_bars import goes_with
from .metrics_history import Chronicle


class LastMinute:
    """What the server said in the last minute: its histograms count from its start, and
    percentiles are to be of what came lately."""

    SECONDS = 60.0

    def __init__(self) -> None:
        self._said: deque[ServerStats] = deque()

    def take(self, stats: ServerStats) -> None:
        said = self._said
        if said and stats.requests < said[-1].requests:
            said.clear()  # another server
        said.append(stats)
        while len(said) > 2 and said[1].at <= stats.at - self.SECONDS:
            said.popleft()

    @property
    def newest(self) -> ServerStats | None:
        return self._said[-1] if self._said else None

    @property
    def oldest(self) -> ServerStats | None:
        """None where it is the newest."""
        return self._said[0] if len(self._said) > 1 else None


class Memory:
    """The latest of everything, and the chronicle of what happened."""

    def __init__(self, chronicle: Chronicle) -> None:
        self.chronicle = chronicle
        self.beats: dict[str, Heartbeat] = {}
        self.minute = LastMinute()
        self.steps: deque[Step] = deque(maxlen=SYNC_STEPS)
        self.router: RouterStats | None = None
        self.workers: dict[int, WorkerStats] = {}
        self.batch: BatchView | None = None
        self.adapters: AdapterTable | None = None
        self.pool: PoolMap | None = None
        self.progress: dict[tuple[str, str], Progress] = {}

    def take(self, message: Telemetry) -> None:
        self.chronicle.take(message)
        match message:
            case Heartbeat():
                before = self.beats.get(message.name)
                if before and before.incarnation != message.incarnation:
                    bars, name = self.progress.items(), message.name
                    self.progress = {key: bar for key, bar in bars if not goes_with(bar, name)}
                self.beats[message.name] = message
            case ServerStats():
                self.minute.take(message)
            case Step(rank=0):
                self.steps.append(message)
            case RouterStats():
                self.router = message
            case WorkerStats():
                self.workers[message.rank] = message
            case BatchView():
                self.batch = message
            case AdapterTable():
                self.adapters = message
            case PoolMap():
                self.pool = message
            case Progress():
                self.progress[message.source, message.stage] = message

    def snapshot(
        self, ask: AskSnapshot, started_at: float, table: ProcessTable, lines: Sequence[LogLine]
    ) -> Snapshot:
        now = time.time()
        logs: tuple[LogLine, ...] = ()
        if ask.log_lines > 0:
            logs = tuple(itertools.islice(lines, max(0, len(lines) - ask.log_lines), None))
        return Snapshot(
            at=now,
            protocol=PROTOCOL,
            version=__version__,
            started_at=started_at,
            processes=table,
            beats=tuple(self.beats.values()),
            server=self.minute.newest,
            server_before=self.minute.oldest,
            router=self.router,
            workers=tuple(self.workers.values()),
            batch=self.batch,
            adapters=self.adapters,
            pool=self.pool,
            progress=tuple(self.progress.values()),
            events=tuple(self.chronicle.events),
            logs=logs,
            moments=self.chronicle.moments(now - ask.history_s),
            steps=tuple(self.steps)[max(0, len(self.steps) - ask.steps) :],
        )
