"""`Child`: the supervisor's record of one process of the ring: command, state, falls.
Knows no socket and starts nothing.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections import deque
from collections.abc import Iterable

from ...pipeline.api_keys import without_keys
from ...pipeline.config import Config
from ...pipeline.handover.revival import SUPERVISOR_COMMAND
from ...pipeline.handover.ring_record import ProcessRecord
from ...pipeline.messages import ProcessState, ProcessView
from ...pipeline.runtime.clock import own_clock, unix_time
from .adopted_process import AdoptedProcess
from .ring_processes import command_of

FALLS_ALLOWED = 5
HELD = "stopped by an operator"
ROUTER = "router"
SERVER = "server"
SETTLE_SECONDS = 0.2
"""The router hears of a process that is back, and says that it reads adapters again, within this
time of that process's READY."""


UP = (ProcessState.READY, ProcessState.DRAINING)


class Child:
    """One process of the ring. A fall is an exit that was not requested."""

    def __init__(self, name: str, command: list[str], one_shot: bool = False) -> None:
        self.name = name
        self.command = command
        self.one_shot = one_shot
        self.state = ProcessState.PENDING
        self.reason = ""
        self.since = unix_time()
        self.started_at: float | None = None
        self.restarts = 0
        self.num_falls = 0
        self.fell_at: float | None = None
        self.fall_reason = ""
        self.is_recovering = False
        """It fell, and the pipeline has not been READY since."""
        self.exit_code: int | None = None
        self.retry_at: float | None = None
        self.process: asyncio.subprocess.Process | AdoptedProcess | None = None
        self.start_ticks = 0
        """When the kernel started the process, which tells it from a later one of its pid."""
        self.beat_at = 0.0
        """Monotonic time of the last heartbeat, or of the start."""
        self.restart_wanted = False
        self.restart_reason = ""
        """Why it is stopped and started again, if `restart_wanted`."""
        self.held = False
        """Stopped by an operator; it stays stopped until an operator starts it."""
        self.falls: deque[float] = deque(maxlen=FALLS_ALLOWED)
        """Monotonic times of the last falls."""

    @property
    def is_rank(self) -> bool:
        """Whether it is a worker. All ranks are restarted together: one alone would wait in a
        collective forever."""
        return self.name.startswith("worker-")

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def become(self, state: ProcessState, reason: str = "") -> bool:
        """Changes the state; the only place that does. Returns whether state or reason changed."""
        if (state, reason) == (self.state, self.reason):
            return False
        if state is not self.state:
            self.since = unix_time()
        self.state, self.reason = state, reason
        return True

    def fall(self, now: float, reason: str) -> None:
        """Counts a fall and begins the recovery from it; `now` is monotonic."""
        self.falls.append(now)
        self.num_falls += 1
        self.fell_at, self.fall_reason = unix_time(), reason
        self.is_recovering = True

    def record(self) -> ProcessRecord:
        """What the next supervisor must know."""
        return ProcessRecord(
            view=self.view(),
            start_ticks=self.start_ticks,
            falls=tuple(self.falls),
            restart_wanted=self.restart_wanted,
            restart_reason=self.restart_reason,
        )

    def restore(self, record: ProcessRecord) -> None:
        """Takes over what the supervisor before knew, all but the process itself."""
        view = record.view
        self.state, self.reason, self.since = view.state, view.reason, view.since
        self.started_at, self.exit_code, self.held = view.started_at, view.exit_code, view.held
        self.restarts, self.num_falls = view.restarts, view.falls
        self.fell_at, self.fall_reason = view.fell_at, view.fall_reason
        self.is_recovering = view.is_recovering
        self.falls.extend(record.falls)
        self.restart_wanted, self.restart_reason = record.restart_wanted, record.restart_reason

    def adopt(self, process: AdoptedProcess, ticks: int) -> None:
        """Continues with a process that an earlier supervisor has started."""
        self.process, self.start_ticks, self.beat_at = process, ticks, time.monotonic()

    def view(self) -> ProcessView:
        return ProcessView(
            name=self.name,
            state=self.state,
            pid=self.pid,
            restarts=self.restarts,
            since=self.since,
            reason=self.reason,
            exit_code=self.exit_code,
            retry_at=self.retry_at,
            held=self.held,
            started_at=self.started_at,
            falls=self.num_falls,
            fell_at=self.fell_at,
            fall_reason=self.fall_reason,
            is_recovering=self.is_recovering,
        )


def end_recoveries(children: Iterable[Child], router_beat_at: float) -> bool:
    """Ends the recovery of each process that is back: it is READY, all others are, and the router
    has said since that it is. While an operator keeps one stopped, READY is enough. Returns whether
    any has ended. `router_beat_at` is the unix time of the router's last heartbeat."""
    children = tuple(children)
    ring = [child for child in children if not child.one_shot]
    is_incomplete = any(child.held for child in ring)
    is_up = all(child.state in UP for child in ring)
    has_ended = False
    for child in children:
        is_in = child.name == ROUTER or router_beat_at >= child.since + SETTLE_SECONDS
        is_back = (is_up and is_in) or (is_incomplete and child.state in UP)
        if child.is_recovering and (is_back or child.held):
            child.is_recovering = False
            has_ended = True
    return has_ended


def environment(config: Config) -> dict[str, str]:
    """The environment of the processes of a ring."""
    return {
        **without_keys(os.environ),
        **own_clock(),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        SUPERVISOR_COMMAND: shlex.join(command_of("supervisor", config)),
    }
