"""`SnapshotCache`: the telemetry that the supervisor keeps for a console that attaches later.

Knows messages, no socket.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ... import __version__
from ...pipeline.messages import (
    AskSnapshot,
    LogLine,
    ProcessTable,
    ServerStats,
    Snapshot,
    Telemetry,
)
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.latest_telemetry import LatestTelemetry
from ..state.time_series import SlidingWindow
from .metrics_history import MetricsHistory

HISTOGRAM_SECONDS = 60.0
"""The server's histograms count from its start. A console also gets those of this long ago, so that
its first percentiles cover only the time since."""


class SnapshotCache:
    """The latest message of each kind, and the history."""

    def __init__(self, history: MetricsHistory) -> None:
        self.history = history
        self.latest = LatestTelemetry()
        self._servers: SlidingWindow[ServerStats] = SlidingWindow(HISTOGRAM_SECONDS)

    def fold_message(self, message: Telemetry) -> None:
        self.history.take(message)
        if isinstance(message, ServerStats):
            before = self.latest.server
            if before is not None and message.requests < before.requests:
                self._servers.clear()  # another server
            self._servers.add(message.at, message)
        self.latest.fold_message(message)

    def snapshot(
        self, ask: AskSnapshot, started_at: float, table: ProcessTable, lines: Sequence[LogLine]
    ) -> Snapshot:
        """The snapshot that answers `ask`; `lines` are all known log lines."""
        now = unix_time()
        logs: tuple[LogLine, ...] = ()
        if ask.log_lines > 0:
            logs = tuple(itertools.islice(lines, max(0, len(lines) - ask.log_lines), None))
        return self.latest.snapshot(
            at=now,
            version=__version__,
            started_at=started_at,
            processes=table,
            server_before=self._servers.oldest if len(self._servers) > 1 else None,
            events=tuple(self.history.events),
            logs=logs,
            moments=self.history.moments(now - ask.history_s),
            steps=ask.steps,
        )
