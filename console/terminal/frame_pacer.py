"""`FramePacer`: decides whether another frame may be painted; not while the last is in flight.

After a frame the terminal is sent a query (is mode 2026 supported?). It replies once it has drawn
everything before it. Limiting the frames in flight to one took the echo of a key on a link of
20 kB/s from 2 347 to 11 ms. Knows no terminal: the caller sends the query.
"""

from __future__ import annotations

FPS = 5.0
"""Default frames per second: ten cost twice as much and show no more."""
THIN_FPS = 5.0
"""Most frames per second with `--low-bandwidth`."""
QUESTION = "\x1b[?2026$p"
LOST_SECONDS = 5.0
"""After this long a reply counts as lost, and the next frame is painted."""
SILENT_FPS = 4.0
"""Most frames per second if the terminal never replies (tmux 3.3): only the writer's queue shows
its progress, so it gets time to drain."""
MOST_QUEUED = 2
"""Most writes in that queue with which another frame is painted."""
RATES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Frame rates that keys choose from."""


class FramePacer:
    """Allows one frame in flight, or a short queue on a terminal that does not reply."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._asked_at: float | None = None
        self._painted_at = 0.0
        self.answers = False
        """Whether the terminal has ever replied. Textual sends the same query at its start."""
        self.round_trip_s = 0.0

    def change_rate(self, steps: int) -> None:
        """Moves `steps` forward in the sorted `RATES`, or back if negative."""
        rates = sorted({*RATES, self.fps})
        at = rates.index(self.fps) + steps
        self.fps = rates[min(max(at, 0), len(rates) - 1)]

    @property
    def period_s(self) -> float:
        """Shortest time between two frames."""
        return 1.0 / (self.fps if self.answers else min(self.fps, SILENT_FPS))

    def may_paint(self, now: float, queued: int) -> bool:
        """Whether to paint now; `queued` is the number of writes that the terminal has not accepted
        yet."""
        if queued > MOST_QUEUED:
            return False
        if not self.answers:
            return now - self._painted_at >= self.period_s - 0.01
        return self._asked_at is None or now - self._asked_at > LOST_SECONDS

    def painted(self, now: float) -> None:
        self._painted_at = now

    def asked(self, now: float) -> None:
        self._asked_at = now

    def answered(self, now: float) -> None:
        self.answers = True
        if self._asked_at is not None:
            self.round_trip_s, self._asked_at = now - self._asked_at, None
