"""`DrawMeter`: the cost of drawing: frames, processor time, bytes to the terminal, lateness.

Knows no widget and no terminal: the caller adds frames and bytes. Rates are over the last
`WINDOW_S` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from ..state.time_series import Counter

WINDOW_S = 4.0


class DrawCost(Struct, frozen=True):
    """The cost of drawing over the last `WINDOW_S` seconds."""

    frames_s: float
    cpu_fraction: float
    """Share of one core used by all threads of this process."""
    frame_ms: float
    """Processor time per frame, ms; 0 if none was drawn."""
    bytes_s: float
    lag_ms: float
    """Largest delay of a frame, ms."""
    withheld_s: float
    """Frames per second that were not drawn because the terminal had not drawn the last."""


class DrawMeter:
    """Counts frames and bytes; `cost` has the rates."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.frames = self.num_bytes = self.withheld = 0
        self._clock, self._cpu = clock, cpu
        self._lag_s, self._lag_at = 0.0, 0.0
        names = ("frames", "bytes", "withheld", "cpu")
        self._rates = {name: Counter(WINDOW_S) for name in names}

    def add_bytes(self, num_bytes: int) -> None:
        """Counts bytes sent to the terminal."""
        self.num_bytes += num_bytes

    def add_frame(self, late_s: float) -> None:
        """Counts a frame that was drawn `late_s` after it was due."""
        self.frames += 1
        self._note_lag(late_s)
        self._sample()

    def add_withheld(self) -> None:
        """Counts a frame that was due and not drawn, because the terminal was behind."""
        self.withheld += 1

    @property
    def cost(self) -> DrawCost:
        """The cost over the last `WINDOW_S` seconds."""
        self._sample()
        rates = {name: counter.rate for name, counter in self._rates.items()}
        is_recent = self._clock() - self._lag_at < WINDOW_S
        return DrawCost(
            frames_s=rates["frames"],
            cpu_fraction=rates["cpu"],
            frame_ms=rates["cpu"] / rates["frames"] * 1e3 if rates["frames"] else 0.0,
            bytes_s=rates["bytes"],
            lag_ms=self._lag_s * 1e3 if is_recent else 0.0,
            withheld_s=rates["withheld"],
        )

    def _note_lag(self, late_s: float) -> None:
        now = self._clock()
        if late_s >= self._lag_s or now - self._lag_at > WINDOW_S:
            self._lag_s, self._lag_at = max(0.0, late_s), now

    def _sample(self) -> None:
        now = self._clock()
        self._rates["frames"].add(now, self.frames)
        self._rates["bytes"].add(now, self.num_bytes)
        self._rates["withheld"].add(now, self.withheld)
        self._rates["cpu"].add(now, self._cpu())
