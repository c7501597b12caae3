"""Statistics of a run as clients saw it: each request's `Timeline` in, one `Result` out.

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
"""Weights of prompt and output tokens in the Virtual Token Counter (w_p, w_q)."""
SLO_SECONDS = 6.0
"""S-LoRA's limit: a first token after this long counts as useless."""
STRIP_SECONDS = 10.0
"""S-LoRA's seconds at each end of a run in which the server warms up or runs empty."""


class Timeline(msgspec.Struct):
    """One request: the times in seconds at which it was sent and its chunks of text arrived.
    `tokens`: the server's count, else one per chunk. `late`: how long after its due time it was
    sent. `aborted`: the server reported that it aborted the request; any other `error` is a
    failure."""

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
        """Seconds to the first token; infinite if none arrived or the request failed."""
        return self.chunks[0] - self.sent if self.chunks and not self.error else math.inf

    def service(self) -> Iterator[tuple[float, float]]:
        """(time, weighted tokens) of its service: the prompt with the first chunk, and each chunk's
        tokens. A chunk may hold several (text held back), so each counts as the request's mean."""
        each = OUTPUT_WEIGHT * self.tokens / max(1, len(self.chunks))
        for number, at in enumerate(self.chunks):
            yield at, each + (INPUT_WEIGHT * self.input_len if number == 0 else 0.0)


class AdapterResult(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter's result. `service`: weighted tokens, until the last request was sent."""

    requests: int
    completed: int
    service: float
    """Weighted tokens."""
    ttft_ms_p50: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run; None for a value that the run cannot show. T is `seconds`, from the
    first send to the last end.

    `throughput` = completed / T in requests/s; `strip_throughput` = (completed - 2 * 10 s * rate) /
    (T - 20 s), for open loops long enough. `decode_tokens_s` covers only the time in which all
    concurrent streams decode, from the latest first token to the earliest last token.
    `satisfaction` = 1 - (TTFT / slo)^2, 0 from the SLO on; `slo_attainment`: share of requests
    below it; aborted and failed requests count 0 in both. `jain` = (sum x)^2 / (n sum x^2) over
    each adapter's service x until the last request was sent: 1 if all got the same, 1/n if one got
    all, None if all requests were sent at once.
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
    """Requests/s."""
    strip_throughput: float | None
    """Requests/s."""
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
    """Share, 0 to 1."""
    satisfaction: float
    """0 to 1."""
    satisfaction_p10: float | None
    """0 to 1."""
    satisfaction_p50: float | None
    """0 to 1."""
    jain: float | None
    """1/n to 1."""
    counter_gap: float
    """Weighted tokens."""
    late_ms_max: float
    """The largest delay of the client itself in sending: if this is large, the figures reflect the
    client, not the server."""
    adapters: dict[str, AdapterResult]
    error: str = ""
    """The most frequent error."""


def summarise(
    lines: Sequence[Timeline],
    seconds: float,
    *,
    slo_seconds: float = SLO_SECONDS,
    rate: float | None = None,
    concurrency: int | None = None,
) -> Result:
    """The result of a run of at least one request. `rate`: requests/s of an open loop;
    `concurrency`: that of a closed loop."""
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
    """Progress of a run, one line of `bench --live`. Counts are of requests; percentiles are over
    ended requests, in milliseconds."""

    load: str
    run: int
    """Number of this run, from 1."""
    runs: int
    done: int
    total: int
    seconds: float
    errors: int = 0
    tokens: int = 0
    streamed: int = 0
    """Chunks of text received, about one token each, including those of running requests."""
    ttft_ms: tuple[float | None, float | None, float | None] = (None, None, None)
    """50th, 90th and 99th percentile, as in `inter_token_ms`."""
    inter_token_ms: tuple[float | None, float | None, float | None] = (None, None, None)


def live(
    lines: Sequence[Timeline], *, load: str, run: int, runs: int, total: int, seconds: float
) -> Live:
    """The progress of a run from its ended requests."""
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
    """S-LoRA's reward for a first token after `ttft` seconds: 1 - (ttft / slo)^2, at least 0."""
    return 1 - (ttft / slo_seconds) ** 2 if ttft < slo_seconds else 0.0


def strip_throughput(completed: int, seconds: float, rate: float) -> float | None:
    """Requests/s without the arrivals of the first and last 10 s, over a time that is 20 s shorter
    (S-LoRA). None if nothing is left."""
    count = completed - 2 * int(STRIP_SECONDS * rate)
    time = seconds - 2 * STRIP_SECONDS
    return round(count / time, 4) if count > 0 and time > 0 else None


def decode_rate(lines: Sequence[Timeline], concurrency: int | None) -> float | None:
    """Tokens/s while all `concurrency` streams decode, without prompts and stragglers. None if a
    request failed, or if they never all decode at once."""
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
    """Jain's fairness index: (sum x)^2 / (n sum x^2), from 1/n to 1; None if all values are 0."""
    squares = sum(value * value for value in values)
    return round(sum(values) ** 2 / (len(values) * squares), 4) if squares else None


def counter_gap(lines: Sequence[Timeline]) -> float:
    """The largest difference, at any time, between the Virtual Token Counters of two clients (here:
    adapters) that were both waiting, in weighted tokens.

    A client's counter grows with its service: w_p * prompt with the first token, w_q with each
    token. A client waits while one of its requests has no first token. When it starts to wait, its
    counter is raised to the smallest of the waiting clients, so that no client accumulates credit.
    VTC bounds the gap by max(w_p * longest prompt, w_q * tokens that fit in a batch); first come,
    first served does not. The clients' view lags the scheduler's counters by a step.
    """
    events: list[tuple[float, int, str, float]] = []
    for line in lines:
        if line.error and not line.chunks:
            continue  # the time at which it stopped waiting is unknown
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
    """The percentile of each share, rounded to 4 places; None if there are no values."""
    ordered = sorted(values)
    found = [percentile(ordered, share) for share in shares]
    return [None if value is None else round(value, 4) for value in found]


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 6) if values else None
