"""From what clients saw to figures: `Timeline` of each request in, one `Result` of the run out.

Throughput, latency and satisfaction are defined as in S-LoRA's benchmark, the counter gap as in the
Virtual Token Counter's. Pure arithmetic: knows no server and reads no clock.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from ..runtime.percentile import percentile

INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""What a token costs in the Virtual Token Counter (w_p, w_q)."""
SLO_SECONDS = 6.0
"""S-LoRA's: a first token after this long counts as useless."""
STRIP_SECONDS = 10.0
"""S-LoRA's: seconds at either end of a run in which the server warms up or runs empty."""


class Timeline(msgspec.Struct):
    """One request: when it was sent and its text came, seconds of one clock; `tokens` as the server
    counts them, else one a chunk. `late` is how long after its time the client sent it. `aborted`:
    the server said that it gave it up; any other `error` is a failure."""

    model: str
    sent: float
    chunks: list[float]
    input_len: int = 0
    tokens: int = 0
    late: float = 0.0
    error: str = ""
    aborted: bool = False

    @property
    def ttft(self) -> float:
        """Seconds to the first token; infinite where none came or the request failed."""
        return self.chunks[0] - self.sent if self.chunks and not self.error else math.inf

    def service(self) -> Iterator[tuple[float, float]]:
        """(time, weighted tokens) of its service: the prompt with the first chunk, and each chunk's
        tokens. A chunk may hold several (text held back), so each counts by the request's mean."""
        each = OUTPUT_WEIGHT * self.tokens / max(1, len(self.chunks))
        for number, at in enumerate(self.chunks):
            yield at, each + (INPUT_WEIGHT * self.input_len if number == 0 else 0.0)


class AdapterResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one adapter's clients got. `service` in tokens, weighted, while requests still came."""

    requests: int
    completed: int
    service: float
    ttft_ms_p50: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run; None where it does not show a value. T is `seconds`, from the first send
    to the last end.

    `throughput` = completed / T in requests/s; `strip_throughput` = (completed - 2 * 10 s * rate) /
    (T - 20 s), for open loops long enough. `decode_tokens_s` counts only while every one of the
    concurrent streams decodes, between the last first token and the first last one.
    `satisfaction` = 1 - (TTFT / slo)^2, 0 from the SLO on; `slo_attainment` the share below it;
    what was aborted or failed counts 0 in both. `jain` = (sum x)^2 / (n sum x^2) over the service x
    of each adapter while requests still came: 1 where all got as much, 1/n where one got all, None
    where all requests came at once.
    `counter_gap`: see the function.
    """

    seconds: float
    requests: int
    completed: int
    aborted: int
    errors: int
    input_tokens: int
    output_tokens: int
    throughput: float
    strip_throughput: float | None
    tokens_s: float
    decode_tokens_s: float | None
    latency_s: float | None
    per_token_latency_s: float | None
    per_output_token_latency_s: float | None
    ttft_ms: float | None
    ttft_ms_p50: float | None
    ttft_ms_p90: float | None
    ttft_ms_p99: float | None
    inter_token_ms_p50: float | None
    inter_token_ms_p99: float | None
    slo_attainment: float
    satisfaction: float
    satisfaction_p10: float | None
    satisfaction_p50: float | None
    jain: float | None
    counter_gap: float
    late_ms_max: float
    """How far behind its arrivals the client itself fell: where this is large, the figures are the
    client's."""
    adapters: dict[str, AdapterResult]
    error: str = ""
    """The most frequent one."""


def summarise(
    lines: Sequence[Timeline],
    seconds: float,
    *,
    slo_seconds: float = SLO_SECONDS,
    rate: float | None = None,
    concurrency: int | None = None,
) -> Result:
    """Figures of a run of at least one request. `rate` where it was an open loop of that many
    requests/s, `concurrency` where it was a closed one."""
    good = [line for line in lines if not line.error]
    ends = [(line, line.chunks[-1] - line.sent) for line in good if line.chunks]
    ttft = [line.ttft * 1e3 for line, _ in ends]
    gaps = [(b - a) * 1e3 for line in good for a, b in itertools.pairwise(line.chunks)]
    output = sum(line.tokens for line in good)
    content = [satisfaction(line.ttft, slo_seconds) for line in lines]
    until = max(line.sent for line in lines)
    adapters = {
        model: _adapter(list(own), until)
        for model, own in itertools.groupby(
            sorted(lines, key=lambda line: line.model), lambda line: line.model
        )
    }
    errors = Counter(line.error for line in lines if line.error and not line.aborted)
    ttft_ms_p50, ttft_ms_p90, ttft_ms_p99 = _percentiles(ttft, 0.5, 0.9, 0.99)
    inter_token_ms_p50, inter_token_ms_p99 = _percentiles(gaps, 0.5, 0.99)
    satisfaction_p10, satisfaction_p50 = _percentiles(content, 0.1, 0.5)
    return Result(
        seconds=round(seconds, 3),
        requests=len(lines),
        completed=len(good),
        aborted=sum(line.aborted for line in lines),
        errors=errors.total(),
        input_tokens=sum(line.input_len for line in good),
        output_tokens=output,
        throughput=round(len(good) / seconds, 4),
        strip_throughput=strip_throughput(len(good), seconds, rate) if rate else None,
        tokens_s=round(output / seconds, 2),
        decode_tokens_s=decode_rate(good, concurrency) if concurrency == len(lines) else None,
        latency_s=_mean([latency for _, latency in ends]),
        per_token_latency_s=_mean(
            [latency / max(1, line.input_len + line.tokens) for line, latency in ends]
        ),
        per_output_token_latency_s=_mean([latency / max(1, line.tokens) for line, latency in ends]),
        ttft_ms=_mean(ttft),
        ttft_ms_p50=ttft_ms_p50,
        ttft_ms_p90=ttft_ms_p90,
        ttft_ms_p99=ttft_ms_p99,
        inter_token_ms_p50=inter_token_ms_p50,
        inter_token_ms_p99=inter_token_ms_p99,
        slo_attainment=round(sum(line.ttft < slo_seconds for line in lines) / len(lines), 4),
        satisfaction=round(statistics.fmean(content), 4),
        satisfaction_p10=satisfaction_p10,
        satisfaction_p50=satisfaction_p50,
        jain=jain_index([adapter.service for adapter in adapters.values()]),
        counter_gap=round(counter_gap(lines), 2),
        late_ms_max=round(max(line.late for line in lines) * 1e3, 2),
        adapters=adapters,
        error=errors.most_common(1)[0][0] if errors else "",
    )


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a run, a line of `bench --live`. Counts are of requests; percentiles are of
    requests that have ended, milliseconds."""

    load: str
    run: int
    """From 1."""
    runs: int
    done: int
    total: int
    seconds: float
    errors: int = 0
    tokens: int = 0
    streamed: int = 0
    """Pieces of text that have come, of requests that still run too: about a token each."""
    ttft_ms: tuple[float | None, float | None, float | None] = (None, None, None)
    """50th, 90th, 99th; so are the next."""
    inter_token_ms: tuple[float | None, float | None, float | None] = (None, None, None)


def live(
    lines: Sequence[Timeline], *, load: str, run: int, runs: int, total: int, seconds: float
) -> Live:
    """From the requests of a run that have ended so far."""
    good = [line for line in lines if not line.error]
    ttft = [line.ttft * 1e3 for line in good if line.chunks]
    gaps = [(b - a) * 1e3 for line in good for a, b in itertools.pairwise(line.chunks)]

    def three(values: list[float]) -> tuple[float | None, float | None, float | None]:
        p50, p90, p99 = _percentiles(values, 0.5, 0.9, 0.99)
        return p50, p90, p99

    return Live(
        load=load,
        run=run,
        runs=runs,
        done=len(lines),
        total=total,
        seconds=round(seconds, 3),
        errors=len(lines) - len(good),
        tokens=sum(line.tokens for line in good),
        ttft_ms=three(ttft),
        inter_token_ms=three(gaps),
    )


def _adapter(lines: list[Timeline], until: float) -> AdapterResult:
    served = sum(amount for line in lines for at, amount in line.service() if at <= until)
    first = [line.ttft * 1e3 for line in lines if line.chunks and not line.error]
    (ttft_ms_p50,) = _percentiles(first, 0.5)
    return AdapterResult(
        requests=len(lines),
        completed=sum(not line.error for line in lines),
        service=round(served, 2),
        ttft_ms_p50=ttft_ms_p50,
    )


def satisfaction(ttft: float, slo_seconds: float = SLO_SECONDS) -> float:
    """S-LoRA's reward of a first token after `ttft` seconds: 1 - (ttft / slo)^2, never below 0."""
    return 1 - (ttft / slo_seconds) ** 2 if ttft < slo_seconds else 0.0


def strip_throughput(completed: int, seconds: float, rate: float) -> float | None:
    """Requests/s without what came in the first and the last 10 s of arrivals, over a time that is
    20 s shorter (S-LoRA). None where nothing is left."""
    count = completed - 2 * int(STRIP_SECONDS * rate)
    time = seconds - 2 * STRIP_SECONDS
    return round(count / time, 4) if count > 0 and time > 0 else None


def decode_rate(lines: Sequence[Timeline], concurrency: int | None) -> float | None:
    """Tokens/s while all of `concurrency` streams decode: prompts and stragglers left out. None
    where a request failed, or they never all did."""
    if len(lines) != concurrency or not all(line.chunks for line in lines):
        return None
    begin = max(line.chunks[0] for line in lines)
    end = min(line.chunks[-1] for line in lines)
    if end <= begin:
        return None
    tokens = sum(
        sum(begin < at <= end for at in line.chunks) * line.tokens / len(line.chunks)
        for line in lines
    )
    return round(tokens / (end - begin), 2)


def jain_index(values: Sequence[float]) -> float | None:
    """Jain's fairness index: (sum x)^2 / (n sum x^2), from 1/n to 1; None of nothing or zeros."""
    squares = sum(value * value for value in values)
    return round(sum(values) ** 2 / (len(values) * squares), 4) if squares else None


def counter_gap(lines: Sequence[Timeline]) -> float:
    """The largest difference, at any time, between the Virtual Token Counters of two clients (here:
    adapters) that were both kept waiting, in weighted tokens.

    A client's counter grows with its service: w_p * prompt with the first token, w_q with each. It
    waits while a request of its has no first token. When it begins to, its counter is lifted to the
    least of those that wait, so that no client saves service up. VTC bounds this by
    max(w_p * longest prompt, w_q * tokens that fit in a batch); first come, first served does not.
    What the clients see lags behind what the scheduler counted by a step.
    """
    events: list[tuple[float, int, str, float]] = []
    for line in lines:
        if line.error and not line.chunks:
            continue  # when it ceased to wait is not known
        events.append((line.sent, 0, line.model, 0.0))
        for number, (at, amount) in enumerate(line.service()):
            events.append((at, 1 if number == 0 else 2, line.model, amount))
    counters: dict[str, float] = {}
    waits: dict[str, int] = {}
    largest = 0.0
    for _, kind, model, amount in sorted(events):
        if kind == 0:
            if model not in waits:
                least = min((counters[other] for other in waits), default=0.0)
                counters[model] = max(counters.get(model, 0.0), least)
            waits[model] = waits.get(model, 0) + 1
        else:
            counters[model] += amount
            if kind == 1:
                waits[model] -= 1
                if not waits[model]:
                    del waits[model]
        if model in waits and len(waits) > 1:
            known = [counters[other] for other in waits]
            largest = max(largest, max(known) - min(known))
    return largest


def _percentiles(values: Sequence[float], *shares: float) -> list[float | None]:
    """The percentile of each share, rounded to 4 places; None where there are no values."""
    ordered = sorted(values)
    found = [percentile(ordered, share) for share in shares]
    return [None if value is None else round(value, 4) for value in found]


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 6) if values else None
