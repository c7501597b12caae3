"""`FramePacer`: may another frame be painted? Not while the last one is still on its way.

After a frame the terminal is asked a question (is mode 2026 known?); the answer comes back when
it has drawn all that was sent before. One frame in flight took the echo of a key on a link of
20 kB/s from 2 347 to 11 ms. Knows no terminal: who calls sends the question.
"""

from __future__ import annotations

FPS = 5.0
"""Frames a second where nobody says otherwise: ten cost twice as much and tell no more."""
THIN_FPS = 5.0
"""The most on a line that is to be spared."""
QUESTION = "\x1b[?2026$p"
LOST_SECONDS = 5.0
"""An answer that has not come by then never will: paint on."""
SILENT_FPS = 4.0
"""Frames a second where the terminal answers nothing (tmux 3.3): all that tells us how far it
has come is the writer's queue, so leave it time to drain."""
MOST_QUEUED = 2
RATES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Frames a second that a person goes through."""


class FramePacer:
    """One frame in flight, or, on a terminal that does not answer, a short queue."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._asked_at: float | None = None
        self._painted_at = 0.0
        self.answers = False
        """Has the terminal ever answered? Textual asks the same question once at its start."""
        self.round_trip_s = 0.0

    def hasten(self, steps: int) -> None:
        """To one of the usual rates, so many further."""
        rates = sorted({*RATES, self.fps})
        at = rates.index(self.fps) + steps
        self.fps = rates[min(max(at, 0), len(rates) - 1)]

    @property
    def period_s(self) -> float:
        """Between two frames, at the best."""
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
