"""`PlotHistory`: all that is drawn over time, at one resolution. The store keeps one of the last
minutes and one of the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ...pipeline.messages import (
    LATENCY_BUCKETS_MS,
    Moment,
    RouterStats,
    ServerStats,
    Step,
    StepLimit,
)
from ...pipeline.runtime.step_statistics import PARTS, began_at, part_us
from .time_series import GAP_S, PercentileSeries, RateSeries, Series, TallySeries

LIMITS = tuple(StepLimit)
"""The order of the kinds in `PlotHistory.limits` and `Moment.limits`."""
_INDEX_OF_LIMIT = {limit: index for index, limit in enumerate(LIMITS)}


class PlotHistory:
    """Series of throughput, load, latencies, parts of steps and their limits. Times are the
    senders'."""

    def __init__(self, bucket_s: float, length: int) -> None:
        self.decode = RateSeries(bucket_s, length)
        """Tokens a second, as `prefill`."""
        self.prefill = RateSeries(bucket_s, length)
        self.running = Series(bucket_s, length)
        self.waiting = Series(bucket_s, length)
        self.parts = {part: Series(bucket_s, length) for part in PARTS}
        """Milliseconds of each part of a step."""
        self.read_rate = Series(bucket_s, length)
        self.lora_overhead = Series(bucket_s, length)
        self.first_token = PercentileSeries(LATENCY_BUCKETS_MS, bucket_s, length)
        """Milliseconds, as `inter_token`."""
        self.inter_token = PercentileSeries(LATENCY_BUCKETS_MS, bucket_s, length)
        self.limits = TallySeries(len(LIMITS), bucket_s, length)
        """Steps by what kept waiting requests out of them."""
        self._stepped_at: float | None = None
        """End of the newest step; None before the first."""
        self._counted: RouterStats | None = None
        """The newest counters with more steps than those before."""

    def fold_step(self, step: Step) -> None:
        """A step of rank 0. All it says holds for the whole time that it took."""
        since, at = began_at(step, self._stepped_at or 0.0), step.at
        self._stepped_at = at
        for part, series in self.parts.items():
            series.add(at, part_us(step, part) / 1e3, since)
        if (rate := step.read_bytes_s) is not None:
            self.read_rate.add(at, rate, since)
        if (overhead := step.lora_overhead) is not None:
            self.lora_overhead.add(at, overhead, since)
        self.decode.add_work(since, at, step.tokens - step.prompt_tokens)
        self.prefill.add_work(since, at, step.prompt_tokens)
        self.limits.add(at, _INDEX_OF_LIMIT[step.limit], since)

    def fold_router(self, stats: RouterStats, before: RouterStats | None) -> None:
        """Counters of the router, and those before them. Throughput is taken from them only where
        no worker reports steps, as in a replay."""
        at = stats.at
        since = before.at if before is not None and 0 <= at - before.at <= GAP_S else None
        self.running.add(at, stats.running, since)
        self.waiting.add(at, stats.waiting, since)
        if not stats.running:
            self.decode.add_work(at, at, 0)
            self.prefill.add_work(at, at, 0)
        if self._stepped_at is not None:
            return
        counted = self._counted
        if counted is None or stats.steps < counted.steps or not stats.running:
            self._counted = stats
        if counted is None or stats.steps <= counted.steps or at <= counted.at:
            return
        self._counted = stats
        self.decode.add_work(counted.at, at, stats.decode_tokens - counted.decode_tokens)
        self.prefill.add_work(counted.at, at, stats.prefill_tokens - counted.prefill_tokens)

    def fold_server(self, stats: ServerStats) -> None:
        self.first_token.add_counts(stats.at, stats.ttft)
        self.inter_token.add_counts(stats.at, stats.inter_token)

    def fill(self, moments: Sequence[Moment]) -> None:
        """Fills in the seconds before this console connected."""
        series: dict[str, Series] = {
            "running": self.running,
            "waiting": self.waiting,
            "read_bytes_s": self.read_rate,
            "lora_overhead": self.lora_overhead,
            **{f"{part}_ms": series for part, series in self.parts.items()},
        }
        for field, one in series.items():
            one.fill(_halves([(moment, getattr(moment, field)) for moment in moments]))
        worked = list(_worked(moments))
        self.decode.fill(_halves([(moment, by.decode_tokens_s) for moment, by in worked]))
        self.prefill.fill(_halves([(moment, by.prefill_tokens_s) for moment, by in worked]))
        for latency, name in ((self.first_token, "ttft"), (self.inter_token, "inter_token")):
            medians, slowest = f"{name}_p50_ms", f"{name}_p99_ms"
            known = [(m, getattr(m, medians), getattr(m, slowest)) for m in moments]
            latency.fill([(m.at - 0.5, p50, p99) for m, p50, p99 in known if p50 is not None])
        self.limits.fill(
            [(m.at - before, m.limits) for m in moments if m.limits for before in (0.75, 0.25)]
        )


def _halves(
    known: Sequence[tuple[Moment, float | None]],
) -> list[tuple[float, float, float]]:
    """Samples for `Series.fill` of values of a second each: one for each half of the second."""
    return [
        (moment.at - before, value, value)
        for moment, value in known
        if value is not None
        for before in (0.75, 0.25)
    ]


def _worked(moments: Sequence[Moment]) -> list[tuple[Moment, Moment]]:
    """Each moment with the one whose throughput it has: while a step longer than a second runs,
    that of the second in which it ends."""
    found: list[tuple[Moment, Moment]] = []
    rest: list[Moment] = []
    for is_inside, group in groupby(moments, lambda m: m.running > 0 and m.steps == 0):
        members = list(group)
        if is_inside:
            rest = members
            continue
        follows = rest and members[0].at - rest[-1].at <= GAP_S
        found += [(moment, members[0] if follows else moment) for moment in rest]
        found += [(moment, moment) for moment in members]
        rest = []
    return found + [(moment, moment) for moment in rest]
