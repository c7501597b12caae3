"""`RequestTimes`: when the requests of a replay came, began, got their tokens and ended.

Pure; times are the router's, in unix seconds.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from ..messages import LATENCY_BUCKETS_MS, NO_TOKEN, Refused, StreamToken
from .effects import Effect, Send
from .event_lines import Asked, Decided

LENGTH, STOP, ABORTED, REFUSED = "length", "stop", "aborted", "refused"
"""How a request ends; "" while it has not."""


class RequestTime:
    """One request."""

    def __init__(self, asked: Asked) -> None:
        self.request_id = asked.request
        self.adapter = asked.adapter
        self.num_prompt = asked.num_prompt
        self.max_tokens = asked.max_tokens
        self.arrived_at = asked.at
        self.admitted_at: float | None = None
        """When it first left the queue."""
        self.tokens = array("d")
        """The time of each output token."""
        self.ended_at: float | None = None
        self.end = ""
        self.reason = ""
        """Why it was aborted or refused."""

    @property
    def is_answered(self) -> bool:
        """Whether its answer is complete."""
        return self.end in (LENGTH, STOP)


class RequestTimes:
    """All requests of one run, by id, and the histograms that a server would keep of them."""

    def __init__(self) -> None:
        self.by_id: dict[str, RequestTime] = {}
        self.requests = self.errors = self.prompt_tokens = self.output_tokens = self.live = 0
        self.ttft = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.inter_token = [0] * (len(LATENCY_BUCKETS_MS) + 1)

    def note_asked(self, asked: Asked) -> None:
        if asked.request in self.by_id and asked.outputs is not None:
            return  # the router holds it: it goes on
        self.by_id[asked.request] = RequestTime(asked)
        self.requests += 1
        self.live += 1
        self.prompt_tokens += asked.num_prompt

    def note_decided(self, decided: Decided) -> None:
        for decision in decided.decisions:
            request = self.by_id.get(decision.request)
            if decision.is_admitted and request and request.admitted_at is None:
                request.admitted_at = decided.at

    def note_tokens(self, tokens: Iterable[StreamToken], now: float) -> None:
        for token in tokens:
            request = self.by_id[token.request_id]
            if token.token_id == NO_TOKEN:  # an end without a token
                self._end(request, token.finish_reason or LENGTH, "", now)
                continue
            since, histogram = request.arrived_at, self.ttft
            if request.tokens:
                since, histogram = request.tokens[-1], self.inter_token
            histogram[bisect_left(LATENCY_BUCKETS_MS, (now - since) * 1e3)] += 1
            request.tokens.append(now)
            self.output_tokens += 1
            if token.finish_reason is not None:
                self._end(request, token.finish_reason, "", now)

    def note_effects(self, effects: Iterable[Effect], now: float) -> None:
        """The refusals among the pending effects; one that was noted before is not changed."""
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Refused):
                self.note_refused(effect.message, now)

    def note_refused(self, refused: Refused, now: float) -> None:
        """A request that the router refuses or ends early."""
        if request := self.by_id.get(refused.request_id):
            self.errors += not request.end
            end = ABORTED if refused.status == 499 else REFUSED
            self._end(request, end, refused.reason, now)

    def note_aborted(self, request_id: str, reason: str, now: float) -> None:
        """A request whose client left; one that has ended already is not changed."""
        if request := self.by_id.get(request_id):
            self._end(request, ABORTED, reason, now)

    def note_stopped(self, request_id: str, now: float) -> None:
        """A request whose answer ended with a stop string."""
        if request := self.by_id.get(request_id):
            self._end(request, STOP, "", now)

    def _end(self, request: RequestTime, end: str, reason: str, now: float) -> None:
        if request.end:
            return
        request.end, request.reason, request.ended_at = end, reason, now
        self.live -= 1
