"""`Ring`: the processes of a pipeline together: their state, since when they are down, and which of
them start and stop as one. Opens no socket, starts nothing and stops nothing.
"""

from __future__ import annotations

from pathlib import Path

from ...pipeline.config import Config
from ...pipeline.handover.ring_record import RingRecord
from ...pipeline.messages import ProcessState
from ...pipeline.runtime.clock import unix_time, unix_time_ns
from ...pipeline.runtime.health import ring_state
from ...pipeline.runtime.latest_telemetry import LatestTelemetry
from .child import ROUTER, Child, end_recoveries
from .ring_processes import command_of


class Ring:
    """`fetch`, which runs before all others, and the `members` that serve."""

    def __init__(self, config: Config, latest: LatestTelemetry) -> None:
        self._run = config.run_path
        self._latest = latest
        self.fetch = Child("fetch", command_of("fetch", config), one_shot=True)
        self.members = [Child(name, command_of(name, config)) for name in config.process_names()]
        """In the order in which they are started."""
        self.children = {child.name: child for child in (self.fetch, *self.members)}
        """All of them, by name."""
        self.is_stopping = False

    def continue_from(self, record: RingRecord | None) -> None:
        """Takes over what the supervisor before knew of the ring as a whole, after its processes
        were adopted; None: there was none."""
        self.is_up = record.is_up if record else False
        """Whether all processes were READY when one last changed its state."""
        self.down_since = record.down_since if record else None
        """Unix time since when a ring that was up is not; None if it is, or never was."""
        has_ranks = any(child.is_rank and child.process for child in self.members)
        self.meeting = (
            Path(record.meeting) if record and record.meeting and has_ranks else self._new_meeting()
        )
        """The rendezvous file of ranks that start now; see `MEETING`."""

    # -- state

    @property
    def is_held(self) -> bool:
        """Whether an operator keeps one of its processes stopped."""
        return any(child.held for child in self.members)

    def state(self) -> ProcessState:
        return ring_state(
            [child.state for child in self.members],
            self.fetch.state,
            is_held=self.is_held,
            is_stopping=self.is_stopping,
            is_recovering=any(child.is_recovering for child in self.children.values()),
        )

    def note_recovery(self) -> bool:
        """Ends the recovery of what is back, and notes since when the pipeline is down. Returns
        whether a recovery has ended."""
        router = self._latest.heartbeats.get(ROUTER)
        is_back = end_recoveries(self.children.values(), router.at if router else 0.0)
        is_up = self.state() in (ProcessState.READY, ProcessState.DRAINING)
        if is_up:
            self.down_since = None
        elif self.is_up:
            self.down_since = unix_time()
        self.is_up = is_up
        return is_back

    # -- ranks

    def renew_meeting(self) -> None:
        """Has ranks that start from now on use a fresh file, so that no state of a dead rank is
        picked up."""
        self.meeting = self._new_meeting()

    def _new_meeting(self) -> Path:
        for old in self._run.glob("ranks-*"):
            old.unlink(missing_ok=True)
        return self._run / f"ranks-{unix_time_ns()}"

    def group(self, child: Child) -> list[Child]:
        """The children that start and stop together with this one: all ranks, or only itself."""
        return [other for other in self.members if other.is_rank] if child.is_rank else [child]
