"""`FallReasons`: why a process of the ring has died, in the words that an operator reads. Knows
heartbeats, log lines and the kernel's counts; no socket.
"""

from __future__ import annotations

import signal

from ...pipeline.machine.memory import MemoryKills
from ...pipeline.messages import ProcessState
from ...pipeline.runtime.latest_telemetry import LatestTelemetry
from ...pipeline.runtime.process import REFUSED_LOG
from ..state.crash import last_crash
from ..state.signals import how
from .child import Child
from .log_tail import LogTail


class FallReasons:
    """Finds the reason of a fall in what was heard of the process, in its log and in the kernel's
    count of kills for want of memory."""

    def __init__(self, latest: LatestTelemetry, log_tail: LogTail) -> None:
        self._latest = latest
        self._log_tail = log_tail
        self._memory_kills = MemoryKills()
        self._kills_known = self._memory_kills.count()

    def explain(self, child: Child, code: int | None) -> str:
        """Why `child` has ended with exit status `code`; its last log lines have been read."""
        beat = self._latest.heartbeats.get(child.name)
        if beat and beat.state is ProcessState.FAILED and beat.reason:
            return beat.reason
        if code is None or code < 0:
            crash = last_crash(child.name, self._log_tail.lines)
            is_new = crash is not None and crash.at >= (child.started_at or 0.0)
            where = f" in {crash.frames[0]}" if crash and is_new and crash.frames else ""
            return f"{how(code)}{where}{self._memory_words(code)}"
        if code == 0:
            return how(code)
        words = self._log_tail.last_words(child.name)
        return words.removeprefix(f"{REFUSED_LOG}: ") or how(code)

    def _memory_words(self, code: int | None) -> str:
        """What to add to the reason of a kill if the kernel has killed for want of memory since the
        last fall; "" if it has not."""
        kills = self._memory_kills.count()
        is_new, self._kills_known = kills > self._kills_known, kills
        if not is_new or code != -signal.SIGKILL:
            return ""
        return " by the kernel: memory ran out; raise its limit or lower --max-total-tokens"
