"""`Tally`: what one adapter has cost so far: requests, tokens, device time, waits. Knows no request
and no pool, and reads no clock: times are unix seconds."""

from __future__ import annotations

import math
from collections import deque

from ..messages import COST_SECONDS, WAITS_KEPT, WAITS_SECONDS
from ..runtime.percentile import percentile

MARK_SECONDS = 5.0
"""Least time between two marks of a tally; the last minute is known to within this."""


class Waits:
    """The last `WAITS_KEPT` durations of the last `WAITS_SECONDS` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=WAITS_KEPT)
        self._known: tuple[float | None, float | None] | None = (None, None)
        """The percentiles of the present samples; None if they must be computed again."""

    def add(self, now: float, seconds: float) -> None:
        self._samples.append((now, seconds))
        self._known = None

    def percentiles_ms(self, now: float) -> tuple[float | None, float | None]:
        """p50 and p99 in milliseconds, by nearest rank; None without samples."""
        samples = self._samples
        if samples and samples[0][0] < now - WAITS_SECONDS:
            self._known = None
            while samples and samples[0][0] < now - WAITS_SECONDS:
                samples.popleft()
        if self._known is None:
            ordered = sorted(seconds for _, seconds in samples)
            p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
            self._known = _milliseconds(p50), _milliseconds(p99)
        return self._known


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds) * 1e3, 1)


class Tally:
    """Counters of one adapter, shared by its generations."""

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.device_us = 0.0
        """Its part of the device time of all steps: a step's time is divided among its rows by
        the tokens that each computes (see `StepCharge`)."""
        self.hits = 0
        """Requests that found the adapter in the pool when they arrived."""
        self.placements = 0
        self.evictions = 0
        self.broken = 0
        """Requests that ended because no token could be chosen from their logits."""
        self.first_tokens = Waits()
        """Arrival to first token, of each request."""
        self.queue_waits = Waits()
        """Arrival to first admission, of each request."""
        self._marks: deque[tuple[float, float, int]] = deque([(-math.inf, 0.0, 0)])
        """(time, device_us, tokens) after changes, at most one each `MARK_SECONDS`."""

    def recent_cost(self, now: float) -> tuple[float, int]:
        """Device time, in microseconds, and tokens of about the last `COST_SECONDS` seconds.

        Marks are made here, so it must be called every few seconds, as the router's table does.
        An adapter without work gets none, so that a thousand of them cost little.
        """
        marks = self._marks
        device_us, tokens = self.device_us, self.prompt_tokens + self.output_tokens
        at, last_us, last_tokens = marks[-1]
        if device_us == last_us and tokens == last_tokens:
            if len(marks) == 1:
                return 0.0, 0  # most of a thousand adapters do nothing
        elif now - at >= MARK_SECONDS:
            marks.append((now, device_us, tokens))
        while len(marks) > 1 and marks[1][0] <= now - COST_SECONDS:
            marks.popleft()
        _, before_us, before_tokens = marks[0]
        return device_us - before_us, tokens - before_tokens
