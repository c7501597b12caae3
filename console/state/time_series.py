"""Numbers over time: `Counter` for rates, `Series` for plots, `Buckets` for percentiles; and
`SlidingWindow`, used by `Counter` and `Buckets`.

Knows no message and no widget. Times are the sender's, in unix seconds.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")

NOTHING = float("nan")
"""The value of a bucket without samples; a plot leaves it empty."""


class SlidingWindow(Generic[T]):
    """The samples of the last `window_s` seconds and the one before them; at least two are kept."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, at: float, sample: T) -> None:
        samples = self._samples
        samples.append((at, sample))
        while len(samples) > 2 and samples[1][0] <= at - self._window_s:
            samples.popleft()

    def clear(self) -> None:
        self._samples.clear()

    @property
    def oldest(self) -> T | None:
        return self._samples[0][1] if self._samples else None

    @property
    def newest(self) -> T | None:
        return self._samples[-1][1] if self._samples else None

    @property
    def newest_at(self) -> float:
        """Time of the newest sample; minus infinity without one."""
        return self._samples[-1][0] if self._samples else -math.inf

    @property
    def span_s(self) -> float:
        """Seconds from the oldest sample to the newest."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0


class Counter:
    """Samples of a growing count; `rate` is its slope over the last `window_s` seconds."""

    def __init__(self, window_s: float = 3.0) -> None:
        self._window: SlidingWindow[float] = SlidingWindow(window_s)
        self._last_at = -math.inf
        self.last = 0.0

    def add(self, at: float, value: float) -> None:
        """A smaller count comes from a restarted process, so earlier samples are dropped."""
        if value < self.last:
            self._window.clear()
        elif at <= self._last_at:
            return
        self._window.add(at, value)
        self._last_at, self.last = at, value

    @property
    def rate(self) -> float:
        """Growth per second; 0 with fewer than two samples."""
        first, last = self._window.oldest, self._window.newest
        if first is None or last is None or len(self._window) < 2:
            return 0.0
        return (last - first) / self._window.span_s


class Window(Struct, frozen=True):
    """A part of a `Track` for a plot: mean and peak of each bucket, oldest first."""

    means: tuple[float, ...]
    peaks: tuple[float, ...]

    @property
    def highest(self) -> float:
        return max((peak for peak in self.peaks if peak == peak), default=0.0)


class Track(Struct, frozen=True):
    """An immutable copy of a `Series`. `last` is its newest bucket's index, counted from 1970."""

    bucket_s: float
    last: int = 0
    means: Sequence[float] = ()
    peaks: Sequence[float] = ()

    def window(self, now: float, count: int, back: int = 0, sweeps: bool = False) -> Window:
        """The `count` buckets that end `back` buckets before that of `now`.

        `count` is even, and so is the index of the first bucket: a braille cell holds two buckets,
        so a cell, once drawn, only moves to the left. With `sweeps` cells do not move: each bucket
        keeps its place, and an empty cell after the newest overwrites the oldest.
        """
        end = int(now / self.bucket_s) - back
        end += 1 - end % 2
        first, low = self.last - len(self.means) + 1, end - count + 1
        before = (NOTHING,) * max(0, min(count, first - low))
        taken = slice(max(0, low - first), max(0, end - first + 1))
        means = (*before, *map(_one_nothing, self.means[taken]))
        peaks = (*before, *map(_one_nothing, self.peaks[taken]))
        after = (NOTHING,) * (count - len(means))
        means, peaks = means + after, peaks + after
        if sweeps and means:
            means, peaks = _swept(means, low), _swept(peaks, low)
        return Window(means, peaks)

    def cell_of(self, at: float, now: float, count: int, sweeps: bool = False) -> int | None:
        """The braille cell of time `at` in the window of `count` buckets that ends with `now`;
        None if it is outside."""
        end = int(now / self.bucket_s)
        place = int(at / self.bucket_s) - (end + 1 - end % 2 - count + 1)
        if not 0 <= place < count:
            return None
        return int(at / self.bucket_s) % count // 2 if sweeps else place // 2


def _one_nothing(value: float) -> float:
    """`value`, or `NOTHING` for any NaN: windows are compared, and tuples hold two NaNs equal only
    if they are one object."""
    return value if value == value else NOTHING


def _swept(values: tuple[float, ...], first: int) -> tuple[float, ...]:
    """Each value at its index modulo their count; the two oldest, of one cell, become a gap."""
    seam = -first % len(values)
    gapped = (NOTHING, NOTHING, *values[2:])
    return gapped[seam:] + gapped[:seam]


EMPTY_TRACK = Track(0.5)


def is_hour(track: Track) -> bool:
    """Whether a track covers the last hour rather than the last minutes."""
    return track.bucket_s > EMPTY_TRACK.bucket_s


class Series:
    """Means and peaks of the last `length` buckets of `bucket_s` seconds. Arrays hold them: as
    objects, ten minutes of all plots take 1.5 MB."""

    def __init__(self, bucket_s: float = 0.5, length: int = 1200) -> None:
        self._means, self._peaks = array("d"), array("d")
        self._length = length
        self._sum, self._count = 0.0, 0
        self._last = 0
        self._bucket_s = bucket_s
        self._track: Track | None = Track(bucket_s)

    def add(self, at: float, value: float) -> None:
        """A late value counts in the newest bucket."""
        self._track = None
        index = int(at / self._bucket_s)
        if not self._means or index > self._last:
            missed = min(index - self._last - 1, self._length) if self._means else 0
            self._means.extend([NOTHING] * missed)
            self._peaks.extend([NOTHING] * missed)
            self._means.append(value)
            self._peaks.append(value)
            self._last, self._sum, self._count = index, value, 1
            del self._means[: -self._length], self._peaks[: -self._length]
            return
        self._sum += value
        self._count += 1
        self._means[-1] = self._sum / self._count
        self._peaks[-1] = max(self._peaks[-1], value)

    def fill(self, samples: Sequence[tuple[float, float]]) -> None:
        """Fills buckets without samples, also before the first one; other buckets are unchanged.
        `samples` are in order of time."""
        if not samples:
            return
        other = Series(self._bucket_s, self._length)
        oldest = samples[-1][0] - self._length * self._bucket_s
        for at, value in samples:
            if at > oldest:
                other.add(at, value)
        ours, theirs = self._by_index(), other._by_index()
        if not self._means or other._last > self._last:
            self._last, self._sum, self._count = other._last, other._sum, other._count
        first = max(min((*ours, *theirs)), self._last - self._length + 1)
        nothing = (NOTHING, NOTHING)
        buckets = [ours.get(at, theirs.get(at, nothing)) for at in range(first, self._last + 1)]
        self._means = array("d", (mean for mean, _ in buckets))
        self._peaks = array("d", (peak for _, peak in buckets))
        self._track = None

    def _by_index(self) -> dict[int, tuple[float, float]]:
        """Mean and peak of each bucket that has samples, by index."""
        first = self._last - len(self._means) + 1
        pairs = zip(self._means, self._peaks, strict=True)
        return {first + at: pair for at, pair in enumerate(pairs) if pair[0] == pair[0]}

    @property
    def track(self) -> Track:
        """An immutable copy of the series."""
        if self._track is None:
            self._track = Track(self._bucket_s, self._last, self._means[:], self._peaks[:])
        return self._track


class Buckets:
    """Samples of a growing histogram; `counts` is its growth over the last `window_s` seconds."""

    def __init__(self, bounds: Sequence[float], window_s: float = 60.0) -> None:
        self.bounds = tuple(bounds)
        self._window_s = window_s
        self._window: SlidingWindow[tuple[int, ...]] = SlidingWindow(window_s)

    def add(self, at: float, counts: tuple[int, ...]) -> None:
        """A smaller total comes from a restarted process, so earlier samples are dropped. Another
        number of buckets comes from another version, whose bounds are unknown: it is ignored."""
        if len(counts) != len(self.bounds) + 1:
            return
        if sum(counts) < sum(self._window.newest or ()):
            self._window.clear()
        self._window.add(at, counts)

    def counts(self, now: float) -> tuple[int, ...]:
        """Counts per bucket within the window, one more than `bounds`: the last has no bound. All
        are 0 once the newest sample is older than the window."""
        oldest, newest = self._window.oldest, self._window.newest
        if oldest is None or newest is None or now - self._window.newest_at > self._window_s:
            return (0,) * (len(self.bounds) + 1)
        if len(self._window) == 1:
            return newest  # only the total since that process started is known
        return tuple(b - a for a, b in zip(oldest, newest, strict=True))


def bucket_percentile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """The value below which a share `q` of a histogram lies, interpolated within its bucket.

    Infinity in the open bucket: all that is known is that it exceeds the last bound, which
    `units.milliseconds` says. None for an empty histogram.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0
    for index, inside in enumerate(counts):
        if inside and below + inside >= rank:
            low = bounds[index - 1] if index else 0.0
            if index == len(bounds):
                return math.inf
            return low + (bounds[index] - low) * (rank - below) / inside
        below += inside
    return math.inf
