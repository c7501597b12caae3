"""Numbers over time: `Counter` for rates, `Series` and its kin for plots, `Buckets` for
percentiles; and `SlidingWindow`, used by `Counter` and `Buckets`.

Knows no message and no widget. Times are the sender's, in unix seconds.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Sequence
from operator import add
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
    def is_known(self) -> bool:
        """Whether there are two samples, so that `rate` was measured."""
        return len(self._window) >= 2

    @property
    def rate(self) -> float:
        """Growth per second; 0 with fewer than two samples."""
        first, last = self._window.oldest, self._window.newest
        if first is None or last is None or len(self._window) < 2:
            return 0.0
        return (last - first) / self._window.span_s


PLOTTED = 120
"""Buckets of a track that a plot shows, however wide it is: all plots of one track length span the
same time."""
LEAST_SHARE = 1e-6
"""Share of a bucket below which a column does not overlap it: the ends of columns are rounded."""
LEAST_S = 1e-3
"""A part of a bucket below which it has no rate yet: times are exact to a quarter microsecond."""
GAP_S = 2.0
"""A pause this long without a report is unknown rather than idle."""


class Window(Struct, frozen=True):
    """The part of a `Track` that a plot shows: mean and peak of each column, oldest first."""

    means: tuple[float, ...]
    peaks: tuple[float, ...]

    @property
    def highest(self) -> float:
        """The largest mean; 0 if none is known."""
        return max((mean for mean in self.means if mean == mean), default=0.0)

    @property
    def highest_peak(self) -> float:
        return max((peak for peak in self.peaks if peak == peak), default=0.0)


class PlotColumns(Struct, frozen=True):
    """The columns of a plot over the last `PLOTTED` buckets of `bucket_s` seconds, `back_s` seconds
    ago.

    Column i, counted from 1970, covers [i, i + 1) times `column_s`. The first one is even: a
    braille cell holds two columns, so a cell, once drawn, only moves to the left.
    """

    first: int
    count: int
    column_s: float

    @classmethod
    def of(cls, bucket_s: float, now: float, count: int, back_s: float = 0.0) -> PlotColumns:
        """`count` must be even and positive."""
        column_s = bucket_s * PLOTTED / count
        end = int((now - back_s) / column_s)
        end += 1 - end % 2
        return cls(end - count + 1, count, column_s)

    @property
    def starts_at(self) -> float:
        return self.first * self.column_s

    @property
    def span_s(self) -> float:
        return self.count * self.column_s

    def cell_at(self, at: float) -> int:
        """The cell, of two columns, in which a time lies; it may be outside of the plot."""
        return int((at - self.starts_at) // (2 * self.column_s))

    def time_of(self, cell: int) -> float:
        """The middle of a cell."""
        return self.starts_at + (2 * cell + 1) * self.column_s

    def place_of(self, cell: int) -> int:
        """Where a cell stands in a plot that sweeps."""
        return (self.first // 2 + cell) % (self.count // 2)

    def swept(self, values: Sequence[float]) -> tuple[float, ...]:
        """Each value at its index modulo their count; the two oldest, of one cell, become a gap.
        So no cell moves, and an empty cell after the newest overwrites the oldest."""
        seam = -self.first % self.count
        gapped = (NOTHING, NOTHING, *values[2:])
        return gapped[seam:] + gapped[:seam]


class Track(Struct, frozen=True):
    """An immutable copy of a `Series`. `last` is its newest bucket's index, counted from 1970."""

    bucket_s: float
    last: int = 0
    means: Sequence[float] = ()
    peaks: Sequence[float] = ()

    @property
    def span_s(self) -> float:
        """Seconds that a plot of it shows."""
        return PLOTTED * self.bucket_s

    def window(
        self, now: float, count: int, back_s: float = 0.0, *, sweeps: bool = False
    ) -> Window:
        """`count` columns over the last `PLOTTED` buckets before `now` - `back_s`. A column's mean
        is that of the buckets it overlaps, by their shares. With `sweeps` cells do not move."""
        columns = PlotColumns.of(self.bucket_s, now, count, back_s)
        ratio = PLOTTED / count
        low = math.floor(columns.first * ratio)
        high = math.ceil((columns.first + count) * ratio) + 1
        first = self.last - len(self.means) + 1
        begin, end = max(low, first), min(high, self.last + 1)
        if begin >= end:
            nothing = (NOTHING,) * count
            return Window(nothing, nothing)
        before, after = (NOTHING,) * (begin - low), (NOTHING,) * (high - end)
        places = [column * ratio - low for column in range(columns.first, columns.first + count)]
        taken = slice(begin - first, end - first)
        known = (*before, *self.means[taken], *after)
        means = tuple(_mean(known, place, place + ratio) for place in places)
        known = (*before, *self.peaks[taken], *after)
        peaks = tuple(_peak(known, place, place + ratio) for place in places)
        if sweeps:
            means, peaks = columns.swept(means), columns.swept(peaks)
        return Window(means, peaks)

    def cell_of(self, at: float, now: float, count: int, sweeps: bool = False) -> int | None:
        """The braille cell of time `at` in the window of `count` columns that ends with `now`;
        None if it is outside."""
        columns = PlotColumns.of(self.bucket_s, now, count)
        cell = columns.cell_at(at)
        if not 0 <= cell < count // 2:
            return None
        return columns.place_of(cell) if sweeps else cell


def _mean(values: Sequence[float], start: float, end: float) -> float:
    """The mean of `values`, one a unit, from `start` to `end`; `NOTHING` if none is known. It is
    always the same NaN: windows are compared, and tuples hold NaNs equal only if they are one
    object."""
    first, last = int(start + LEAST_SHARE), int(end - LEAST_SHARE)
    if first == last:
        value = values[first]
        return value if value == value else NOTHING
    total = weight = 0.0
    for index in range(first, last + 1):
        value = values[index]
        if value == value:
            share = min(end, index + 1) - max(start, index)
            total += value * share
            weight += share
    return total / weight if weight else NOTHING


def _peak(values: Sequence[float], start: float, end: float) -> float:
    """The largest of `values` from `start` to `end`; `NOTHING` if none is known."""
    first, last = int(start + LEAST_SHARE), int(end - LEAST_SHARE)
    return max((v for v in values[first : last + 1] if v == v), default=NOTHING)


EMPTY_TRACK = Track(0.5)


def is_hour(track: Track) -> bool:
    """Whether a track covers the last hour rather than the last minute."""
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

    def add(self, at: float, value: float, since: float | None = None) -> None:
        """A late value counts in the newest bucket. A value that holds from `since` on is also that
        of the buckets without a sample between `since` and `at`: so a step longer than a bucket
        leaves no gaps."""
        if self._extend(int(at / self._bucket_s), value, since):
            self._peaks[-1] = self._means[-1] = value
            self._sum, self._count = value, 1
            return
        self._sum += value
        self._count += 1
        self._means[-1] = self._sum / self._count
        self._peaks[-1] = max(self._peaks[-1], value)

    def _extend(self, index: int, value: float, since: float | None) -> bool:
        """Makes bucket `index` the newest; those skipped hold `value` from `since` on, if given,
        else nothing. False if it is not newer than the newest."""
        self._track = None
        if self._means and index <= self._last:
            return False
        missed = min(index - self._last - 1, self._length) if self._means else 0
        held = 0
        if since is not None:
            held = max(0, min(missed, index - int(since / self._bucket_s)))
        fresh = [NOTHING] * (missed - held) + [value] * held + [NOTHING]
        self._means.extend(fresh)
        self._peaks.extend(fresh)
        self._last = index
        del self._means[: -self._length], self._peaks[: -self._length]
        return True

    def fill(self, samples: Sequence[tuple[float, float, float]]) -> None:
        """Fills buckets without samples, also before the first one; other buckets are unchanged.
        `samples` are (time, value, peak) in order of time."""
        if not samples:
            return
        other = Series(self._bucket_s, self._length)
        oldest = samples[-1][0] - self._length * self._bucket_s
        for at, value, peak in samples:
            if at > oldest:
                other.add(at, value)
                other._peaks[-1] = max(other._peaks[-1], peak)
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


class RateSeries(Series):
    """Amounts a second, such as tokens. An amount is spread evenly over the time in which it was
    done, so that a step longer than a bucket counts in each bucket it took."""

    _until = -math.inf
    """End of the newest work."""

    def add_work(self, since: float, until: float, amount: float) -> None:
        """An amount done from `since` to `until`; an earlier amount's end is the least `since`. The
        time between two amounts counts as 0 unless it is a gap of more than `GAP_S`; an amount of 0
        at a time says that nothing was done until then."""
        if until < self._until:
            return  # late: an order of events that no bucket could show
        start = max(since, self._until)
        rate = amount / (until - start) if until > start else 0.0
        idle_since = self._until if start - self._until <= GAP_S else None
        self._reach(start, idle_since)
        self._reach(until, start)
        first = self._last - len(self._means) + 1
        for index in range(max(first, int(start / self._bucket_s)), self._last + 1):
            begin = index * self._bucket_s
            overlap = min(until, begin + self._bucket_s) - max(start, begin)
            if overlap > 0:
                known = self._means[index - first]
                share = rate * overlap / self._bucket_s
                self._means[index - first] = share if known != known else known + share
        self._until = until

    def _reach(self, at: float, since: float | None) -> None:
        """Extends to the bucket of `at`; those skipped are 0 from `since` on, if given."""
        if self._extend(int(at / self._bucket_s), 0.0, since):
            self._means[-1] = 0.0

    def fill(self, samples: Sequence[tuple[float, float, float]]) -> None:
        last = self._last
        super().fill(samples)
        if self._last > last:
            self._until = (self._last + 1) * self._bucket_s

    @property
    def track(self) -> Track:
        """The newest bucket's rate is that of its time until the newest work."""
        if self._track is None:
            means = self._means[:]
            elapsed = self._until - self._last * self._bucket_s
            if means and elapsed < LEAST_S:
                means[-1] = NOTHING
            elif means and elapsed < self._bucket_s:
                means[-1] *= self._bucket_s / elapsed
            self._track = Track(self._bucket_s, self._last, means, means)
        return self._track


class PercentileSeries(Series):
    """p50 (as means) and p99 (as peaks) of a growing histogram in each bucket."""

    def __init__(self, bounds: Sequence[float], bucket_s: float = 0.5, length: int = 1200) -> None:
        super().__init__(bucket_s, length)
        self._bounds = tuple(bounds)
        self._known: tuple[int, ...] = ()
        self._growth: tuple[int, ...] = ()
        """Of bucket `_growth_index`."""
        self._growth_index = -1

    def add_counts(self, at: float, counts: tuple[int, ...]) -> None:
        """The histogram at a time. The first one, and one of a restarted process, has no growth. A
        percentile beyond the last bound is drawn at that bound."""
        known, self._known = self._known, counts
        if len(known) != len(self._bounds) + 1 or len(counts) != len(known):
            return
        growth = tuple(new - old for old, new in zip(known, counts, strict=True))
        if min(growth) < 0 or not any(growth):
            return
        self._extend(int(at / self._bucket_s), NOTHING, None)
        if self._growth_index == self._last:
            growth = tuple(map(add, self._growth, growth))
        self._growth, self._growth_index = growth, self._last
        for values, q in ((self._means, 0.5), (self._peaks, 0.99)):
            value = bucket_percentile(self._bounds, self._growth, q)
            values[-1] = NOTHING if value is None else min(value, self._bounds[-1])


class TallyTrack(Struct, frozen=True):
    """An immutable copy of a `TallySeries`: the counts of each kind in each bucket."""

    bucket_s: float
    last: int = 0
    counts: tuple[Sequence[int], ...] = ()

    def cells(self, columns: PlotColumns) -> list[tuple[int, ...]]:
        """The counts of each kind in each cell of a plot, over all buckets that the cell
        overlaps."""
        length = len(self.counts[0]) if self.counts else 0
        first = self.last - length + 1
        ratio = 2 * columns.column_s / self.bucket_s
        found = []
        for cell in range(columns.count // 2):
            start = columns.first * columns.column_s / self.bucket_s + cell * ratio
            low = int(start + LEAST_SHARE) - first
            high = math.ceil(start + ratio - LEAST_SHARE) - first
            taken = slice(max(0, low), max(0, high))
            found.append(tuple(sum(kind[taken]) for kind in self.counts))
        return found


class TallySeries:
    """How often each of `kinds` kinds occurred in each of the last `length` buckets."""

    def __init__(self, kinds: int, bucket_s: float = 0.5, length: int = 1200) -> None:
        self._counts = tuple(array("I") for _ in range(kinds))
        self._bucket_s, self._length = bucket_s, length
        self._last = 0
        self._track: TallyTrack | None = TallyTrack(bucket_s)

    def add(self, at: float, kind: int, since: float | None = None, times: int = 1) -> None:
        """A kind counts in the bucket of `at`, and if it holds from `since` on, also in those
        between that have none."""
        self._track = None
        index = int(at / self._bucket_s)
        if not self._counts[0] or index - self._last > self._length:
            for counts in self._counts:
                del counts[:]
            self._last = index - 1
        if index > self._last:
            missed = index - self._last - 1
            held = 0
            if since is not None:
                held = max(0, min(missed, index - int(since / self._bucket_s)))
            for number, counts in enumerate(self._counts):
                own = times if number == kind else 0
                counts.extend([0] * (missed - held) + [own] * held + [0])
                del counts[: -self._length]
            self._last = index
        place = len(self._counts[0]) - 1 - (self._last - index)
        if place >= 0:
            self._counts[kind][place] += times

    def fill(self, samples: Sequence[tuple[float, Sequence[int]]]) -> None:
        """Fills buckets without counts, also before the first one; other buckets are unchanged.
        `samples` are (time, counts of the kinds) in order of time."""
        if not samples:
            return
        other = TallySeries(len(self._counts), self._bucket_s, self._length)
        for at, counts in samples:
            for kind, times in enumerate(counts[: len(self._counts)]):
                other.add(at, kind, times=times)
        known = {**other._by_index(), **self._by_index()}
        self._track = None
        for counts in self._counts:
            del counts[:]
        self._last = 0
        for index in sorted(known):
            for kind, times in enumerate(known[index]):
                self.add((index + 0.5) * self._bucket_s, kind, times=times)

    def _by_index(self) -> dict[int, tuple[int, ...]]:
        """The counts of each bucket that has some, by index."""
        first = self._last - len(self._counts[0]) + 1
        columns = zip(*self._counts, strict=True)
        return {first + at: counts for at, counts in enumerate(columns) if any(counts)}

    @property
    def track(self) -> TallyTrack:
        """An immutable copy of the series."""
        if self._track is None:
            counts = tuple(kind[:] for kind in self._counts)
            self._track = TallyTrack(self._bucket_s, self._last, counts)
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

    def clear(self) -> None:
        self._window.clear()

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
