"""The clock of a pipeline: unix time that nothing sets. All its processes publish, compare and log
times of it.

It begins as the machine's clock when the pipeline is started, and goes on with the time since boot,
suspension included, which all processes of a machine share. So a machine's clock that is set, by
hand or by NTP, makes no heartbeat old, no table older than the one before, and no rate negative.
"""

from __future__ import annotations

import os
import time

CLOCK = "LORACONSOLE_CLOCK"
"""The environment variable with the unix time of the machine's boot by a pipeline's clock, in
nanoseconds. Every process of a ring inherits it."""
NOTED_SECONDS = 1.0
"""Steps of the machine's clock above this are reported."""
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_ns() -> int:
    """The unix time of boot by the machine's clock as it is now, ns."""
    return time.time_ns() - time.clock_gettime_ns(_SINCE_BOOT)


_booted_ns = int(os.environ.get(CLOCK) or _boot_ns())


def unix_time() -> float:
    """Seconds since 1970 by the pipeline's clock; in a process outside of one, by the machine's
    clock when the process started."""
    return unix_time_ns() / 1e9


def unix_time_ns() -> int:
    """`unix_time` in nanoseconds."""
    return _booted_ns + time.clock_gettime_ns(_SINCE_BOOT)


def seconds_set() -> float:
    """Seconds by which the machine's clock is ahead of the pipeline's: it was set forward since the
    start; negative: back."""
    return (_boot_ns() - _booted_ns) / 1e9


def new_clock() -> dict[str, str]:
    """The environment that gives a pipeline that starts now its clock."""
    return {CLOCK: str(_boot_ns())}


def own_clock() -> dict[str, str]:
    """The environment that gives a process the clock of this one."""
    return {CLOCK: str(_booted_ns)}


class ClockWatch:
    """Notices that the machine's clock was set."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def look(self) -> str:
        """What an operator must know if the clock was set since the last call; else ""."""
        seconds = seconds_set()
        step, self._seconds = seconds - self._seconds, seconds
        if abs(step) < NOTED_SECONDS:
            return ""
        way = "forward" if step > 0 else "back"
        text = f"the machine's clock was set {way} by {abs(step):.0f} s; "
        if abs(seconds) < NOTED_SECONDS:
            return text + "it agrees with the pipeline's clock again"
        side = "behind it" if seconds > 0 else "ahead of it"
        return text + (
            f"the pipeline's clock, of all times shown and logged, stays {abs(seconds):.0f} s "
            f"{side} until the pipeline is started again"
        )
