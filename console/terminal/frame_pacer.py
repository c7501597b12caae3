"""`FramePacer`: whether another frame may be painted; not while the last one is on its way.

After a frame the terminal is asked a question (is mode 2026 known?). The answer comes back when
it has drawn everything that was sent before. One frame in flight took the echo of a key on a link
of 20 kB/s from 2 347 to 11 ms. Knows no terminal: the caller sends the question.
"""

from __future__ import annotations

FPS = 5.0
"""Frames a second by default: ten cost twice as much and tell no more."""
THIN_FPS = 5.0
"""Most frames a second with `--low-bandwidth`."""
QUESTION = "\x1b[?2026$p"
LOST_SECONDS = 5.0
"""After this long an answer counts as lost, and the next frame is painted."""
SILENT_FPS = 4.0
"""Frames a second where the terminal answers nothing (tmux 3.3): only the writer's queue says how
far it has come, so leave it time to drain."""
MOST_QUEUED = 2
"""Writes in that queue with which another frame is still painted."""
RATES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Frames a second to choose from by keys."""


class FramePacer:
    """One frame in flight, or, on a terminal that does not answer, a short queue."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._asked_at: float | None = None
        self._painted_at = 0.0
        self.answers = False
        """Whether the terminal has ever answered. Textual asks the same question at its start."""
        self.round_trip_s = 0.0

    def change_rate(self, steps: int) -> None:
        """To the rate that is `steps` further in `RATES`; back where that is negative."""
        rates = sorted({*RATES, self.fps})
        at = rates.index(self.fps) + steps
        self.fps = rates[min(max(at, 0), len(rates) - 1)]

    @property
    def period_s(self) -> float:
        """Shortest time between two frames."""
        return 1.0 / (self.fps if self.answers else min(self.fps, SILENT_FPS))

    def may_paint(self, now: float, queued: int) -> bool:
        """`queued` is the number of writes that the terminal has not taken yet."""
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
