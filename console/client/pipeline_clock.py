"""`PipelineClock`: a console's view of the clock of the pipeline that it shows, which may be on
another machine, or have begun before this machine's clock was set."""

from __future__ import annotations

from ...pipeline.runtime.clock import unix_time

SAME_CLOCK_SECONDS = 1.0


class PipelineClock:
    """Called, it returns the pipeline's time: unix seconds, for plots and ages."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return unix_time() + self._ahead_s

    def hear(self, their_time: float) -> None:
        """Follows the pipeline, of which a message of `their_time` has arrived just now."""
        self._ahead_s = seconds_ahead(their_time, unix_time())


def seconds_ahead(their_time: float, heard_at: float) -> float:
    """Seconds that another clock is ahead of ours, which was `heard_at` when `their_time` arrived;
    0 if the difference is below `SAME_CLOCK_SECONDS`, which the transfer may take."""
    ahead_s = their_time - heard_at
    return 0.0 if abs(ahead_s) < SAME_CLOCK_SECONDS else ahead_s
