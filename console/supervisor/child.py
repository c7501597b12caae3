"""`Child`: one process of the ring as its supervisor knows it: its command, its state, its falls.
Knows no socket, and starts nothing by itself.
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
    """One process of the ring. A fall is an end that was not asked for."""

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
        """Monotonic time of the last beat, or of the start."""
        self.restart_wanted = False
        self.held = False
        """An operator has stopped it; it stays stopped until an operator starts it."""
        self.falls: deque[float] = deque(maxlen=FALLS_ALLOWED)
        """Monotonic times of the last falls."""

    @property
    def is_rank(self) -> bool:
        """Tensor-parallel ranks live and die together: one alone waits in a collective for ever."""
        return self.name.startswith("worker-")

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def become(self, state: ProcessState, reason: str = "") -> bool:
        """Changes the state, here alone. Returns whether state or reason are others than before."""
        if (state, reason) == (self.state, self.reason):
            return False
        if state is not self.state:
            self.since = time.time()
        self.state, self.reason = state, reason
        return True

    def fall(self, now: float) -> None:
        """Counts an end that was not asked for; `now` is monotonic."""
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
    # -P: modules in the current directory must not be imported by accident.
    return [sys.executable, "-P", "-m", f"loraconsole.{module}", "--run", config.run, *more]


MODULES = {
    "fetch": "pipeline.fetch.fetch",
    "server": "pipeline.server.server",
    "router": "pipeline.router.router",
    "detokenizer": "pipeline.detokenizer",
}
"""The module of each process that has no rank."""


def command_of(name: str, config: Config) -> list[str]:
    """The command line of a process of the ring."""
    if name.startswith("worker-"):
        return command("pipeline.worker", config, "--rank", name.removeprefix("worker-"))
    return command(MODULES[name], config)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
