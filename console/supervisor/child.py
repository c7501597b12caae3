"""`Child`: the supervisor's record of one process of the ring: command, state, falls.
Knows no socket and starts nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque

from ...pipeline.config import Config
from ...pipeline.messages import ProcessState, ProcessView

FALLS_ALLOWED = 5
HELD = "stopped by an operator"


class Child:
    """One process of the ring. A fall is an exit that nobody requested."""

    def __init__(self, name: str, command: list[str], one_shot: bool = False) -> None:
        self.name = name
        self.command = command
        self.one_shot = one_shot
        self.state = ProcessState.PENDING
        self.reason = ""
        self.since = time.time()
        self.started_at: float | None = None
        self.restarts = 0
        self.num_falls = 0
        self.fell_at: float | None = None
        self.exit_code: int | None = None
        self.retry_at: float | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.beat_at = 0.0
        """Monotonic time of the last heartbeat, or of the start."""
        self.restart_wanted = False
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
            self.since = time.time()
        self.state, self.reason = state, reason
        return True

    def fall(self, now: float) -> None:
        """Counts a fall; `now` is monotonic."""
        self.falls.append(now)
        self.num_falls += 1
        self.fell_at = time.time()

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
        )


def command(module: str, config: Config, *more: str) -> list[str]:
    # -P: do not import modules from the current directory by accident.
    return [sys.executable, "-P", "-m", f"loraconsole.{module}", "--run", config.run, *more]


MODULES = {
    "fetch": "pipeline.fetch.fetch",
    "server": "pipeline.server.server",
    "router": "pipeline.router.router",
    "detokenizer": "pipeline.detokenizer",
}
"""The module of each process except the workers."""


def command_of(name: str, config: Config) -> list[str]:
    """The command line of a process of the ring."""
    if name.startswith("worker-"):
        return command("pipeline.worker", config, "--rank", name.removeprefix("worker-"))
    return command(MODULES[name], config)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
