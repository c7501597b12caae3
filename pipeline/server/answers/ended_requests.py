"""`EndedRequests`: how requests ended, how long they took and how large they were, for metrics that
other servers have too.

A request is one choice of one prompt. Latencies of answers that an earlier server had begun are
not known, and left out.
"""

from __future__ import annotations

from collections import Counter

from ...messages import LATENCY_BUCKETS_MS, AnswerTimes
from ...runtime.clock import unix_time
from .histogram import Histogram
from .streams import Stream

TOKEN_BUCKETS: tuple[int, ...] = tuple(base * 10**power for power in range(6) for base in (1, 2, 5))
"""Of a request: 1 to 500 000."""
CHOICE_BUCKETS = (1, 2, 5, 10, 20, 50, 100)
PREEMPTION_BUCKETS = (0, 1, 2, 3, 4, 5, 10, 20)
ABORT, ERROR = "abort", "error"
"""Why a request ended without an answer; an answer ends with `stop` or `length`."""


class EndedRequests:
    """Counters since the server started. Times are in milliseconds."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter(stop=0, length=0, abort=0, error=0)
        """Requests by what ended them."""
        self.prompts_computed = 0
        """Prompt tokens of requests whose first token has come."""
        self.latency = Histogram(LATENCY_BUCKETS_MS)
        """Arrival to the end."""
        self.time_per_token = Histogram(LATENCY_BUCKETS_MS)
        """Mean time between the tokens of a request."""
        self.queued = Histogram(LATENCY_BUCKETS_MS)
        self.prefill = Histogram(LATENCY_BUCKETS_MS)
        self.decode = Histogram(LATENCY_BUCKETS_MS)
        self.inference = Histogram(LATENCY_BUCKETS_MS)
        """Admission to the last token."""
        self.preemptions = Histogram(PREEMPTION_BUCKETS)
        self.prompt_tokens = Histogram(TOKEN_BUCKETS)
        self.output_tokens = Histogram(TOKEN_BUCKETS)
        self.max_tokens = Histogram(TOKEN_BUCKETS)
        """What requests allowed."""
        self.choices = Histogram(CHOICE_BUCKETS)
        """Choices of a prompt."""
        self.longest_choice = Histogram(TOKEN_BUCKETS)
        """Output tokens of a prompt's longest choice."""

    def note_answered(self, stream: Stream, latency_ms: float) -> None:
        """Counts a request whose answer is complete. `latency_ms` is from its arrival on."""
        assert stream.finish_reason is not None
        self.reasons[stream.finish_reason] += 1
        if stream.is_restored:
            return
        request, num_tokens = stream.request, stream.num_tokens
        self.latency.observe(latency_ms)
        self.prompt_tokens.observe(len(request.prompt_ids))
        self.output_tokens.observe(num_tokens)
        self.max_tokens.observe(request.params.max_tokens)
        if num_tokens > 1 and stream.first_token_at is not None:
            decode_ms = (unix_time() - stream.first_token_at) * 1e3
            self.time_per_token.observe(max(0.0, decode_ms) / (num_tokens - 1))
        choices = stream.choices
        if all(choice.finish_reason is not None for choice in choices):
            self.choices.observe(len(choices))
            self.longest_choice.observe(max(choice.num_tokens for choice in choices))

    def note_times(self, times: AnswerTimes) -> None:
        """Counts the phases of a request, which the router has measured."""
        self.queued.observe(times.queued_s * 1e3)
        self.prefill.observe(times.prefill_s * 1e3)
        self.decode.observe(times.decode_s * 1e3)
        self.inference.observe((times.prefill_s + times.decode_s) * 1e3)
        self.preemptions.observe(times.preemptions)

    def note_refused(self, status: int, *, has_begun: bool) -> None:
        """Counts a request that the router has refused or ended. One that is wrong itself (4xx)
        counts only if its answer `has_begun`: it was not refused, and has failed."""
        if status == 499:
            self.reasons[ABORT] += 1
        elif status >= 500 or has_begun:
            self.reasons[ERROR] += 1

    def note_abandoned(self) -> None:
        """Counts a request whose client has left."""
        self.reasons[ABORT] += 1
