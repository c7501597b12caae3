"""`RequestCounters`: counts of HTTP requests and answers, and histograms of their latencies."""

from __future__ import annotations

import bisect
from collections import Counter

from ...messages import LATENCY_BUCKETS_MS


class Histogram:
    """Counts per bucket of `LATENCY_BUCKETS_MS`; the last bucket is unbounded."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.sum_ms = 0.0

    def observe(self, ms: float) -> None:
        self.counts[bisect.bisect_left(LATENCY_BUCKETS_MS, ms)] += 1
        self.sum_ms += ms


class RequestCounters:
    """Counters of HTTP requests and answers since the server started."""

    def __init__(self) -> None:
        self.requests = self.errors = self.prompt_tokens = self.output_tokens = 0
        self.failures = 0
        """Answers with 500: bugs of the server."""
        self.resumed = 0
        """Answers that a client took up again."""
        self.abandoned = 0
        """Answers of an earlier server that no client came back for."""
        self.connection_refusals: Counter[str] = Counter()
        """Connections that were cut or refused, by the reason."""
        self.ttft = Histogram()
        """Arrival to first token, ms."""
        self.inter_token = Histogram()
        """Time between two pieces of a stream's text, ms."""
