"""`RequestCounters`: counts of HTTP requests and answers, and histograms of their latencies."""

from __future__ import annotations

from collections import Counter

from ...messages import LATENCY_BUCKETS_MS
from .ended_requests import EndedRequests
from .histogram import Histogram


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
        self.queue_refusals = 0
        """Answers with 429: the queue was full."""
        self.connection_refusals: Counter[str] = Counter()
        """Connections that were cut or refused, by the reason."""
        self.ttft = Histogram(LATENCY_BUCKETS_MS)
        """Arrival to first token, ms."""
        self.inter_token = Histogram(LATENCY_BUCKETS_MS)
        """Time between two pieces of a stream's text, ms."""
        self.ended = EndedRequests()
