"""`Sequence`: one live request with all its tokens. Knows no page pool and no policy."""

from __future__ import annotations

import enum

from ..messages import (
    NO_TOKEN,
    AnswerTimes,
    BatchRow,
    Logprob,
    PromptLogprobs,
    Request,
    RequestView,
    ResumeRequest,
    StreamToken,
)
from ..runtime.wording import short_id
from .adapter_registry import AdapterRecord


class SequenceState(enum.Enum):
    """State of a sequence. Changed only by the scheduler."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """A request, its tokens so far, and how far its computation has been posted to the workers.

    `num_scheduled` tokens have been posted for computation; while it waits, those whose KV its
    pages still hold after a restart of the workers. `in_flight` sampled tokens have not
    come back yet, so the length for planning is `len(token_ids) + in_flight`.
    """

    def __init__(self, request: Request, number: int, adapter: AdapterRecord) -> None:
        self.request = request
        self.request_id = request.request_id
        self.adapter = adapter
        self.tally = adapter.tally
        self.number = number
        self.token_ids: list[int] = list(request.prompt_ids)
        self.logprobs: list[tuple[Logprob, ...]] = []
        """Of each output token, if the request asks for them."""
        self.prompt_logprobs: list[PromptLogprobs] = []
        """Of the first `num_scored` tokens of the prompt, if the request asks for them."""
        self.num_scored = 1
        self.num_prompt = len(request.prompt_ids)
        self.max_length = self.num_prompt + request.params.max_tokens
        self.age = (request.arrived_at, number)
        """Sort key, oldest first; unique."""
        self.num_scheduled = 0
        self.in_flight = 0
        self.pages: list[int] = []
        self.state = SequenceState.WAITING
        self.reason = "queued"
        self.examined = 0
        """Number of the admission pass that set `reason`."""
        self.noted = ""
        """The reason in its last recorded `Decision`."""
        self.adapter_at: float | None = None
        """When its adapter was placed; None if it already was when the request arrived."""
        self.admitted_at: float | None = None
        """Time of its first admission; preemption does not change it."""
        self.first_token_at: float | None = None
        self.is_continued = False
        """Whether an earlier router had begun its answer."""
        self.preemptions = 0
        self.is_charged = False
        """Whether its prompt was charged to its client, under a policy that counts."""
        self.stops: frozenset[int] = frozenset()
        """Tokens that end it."""
        self.has_bare_end = False
        """Whether its answer has ended without an end token."""
        self.decode_row = BatchRow(number, 1)
        """Its row in decode steps that need no new page."""

    @property
    def length(self) -> int:
        """Tokens known or in flight."""
        return len(self.token_ids) + self.in_flight

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def remaining(self) -> int:
        """Tokens that may still be sampled."""
        return self.max_length - len(self.token_ids) - self.in_flight

    @property
    def pending(self) -> int:
        """Tokens whose computation has not been posted yet; 1 is an ordinary decode step."""
        return self.length - self.num_scheduled

    @property
    def size(self) -> tuple[int, int]:
        """(tokens held, tokens to come), an entry of `Demand`."""
        return self.length, self.remaining

    @property
    def lacks_scores(self) -> bool:
        """Whether logprobs of the prompt are still to come."""
        wants_scores = self.request.params.prompt_logprobs is not None
        return wants_scores and self.num_scored < self.request.scored_at_end

    @property
    def is_pooling(self) -> bool:
        """Whether its prompt is to be computed by one worker from the start: the sum of its states
        so far is in no page."""
        return bool(self.request.params.pooling) and self.lacks_scores

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to compute, none of it being in flight."""
        return self.remaining <= 0 and not self.lacks_scores

    def bare_end(self, finish_reason: str) -> StreamToken:
        """The end of its answer, if no token ends it."""
        return StreamToken(self.request_id, self.num_output, NO_TOKEN, (), finish_reason)

    def add_scores(self, piece: PromptLogprobs) -> PromptLogprobs | None:
        """Adds logprobs of the prompt. Returns those that are new: a prompt that was preempted is
        computed again. None if none are."""
        fresh = piece.after(self.num_scored - piece.start)
        if not fresh.count:
            return None
        assert fresh.start == self.num_scored, f"{fresh.start} after {self.num_scored}"
        self.prompt_logprobs.append(fresh)
        self.num_scored += fresh.count
        return fresh

    def continue_after(self, resumed: ResumeRequest, now: float) -> None:
        """Takes over the logprobs and tokens that an earlier router has delivered."""
        for piece in resumed.prompt_logprobs:
            self.add_scores(piece)
        if not resumed.known_ids:
            return
        self.token_ids.extend(resumed.known_ids)
        if self.request.params.logprobs is not None:
            self.logprobs.extend(resumed.logprobs)
        self.first_token_at = self.admitted_at = resumed.first_token_at or now
        self.is_charged = self.is_continued = True

    def times(self, now: float) -> AnswerTimes | None:
        """The phases of a sequence whose last token came at `now`; None if they are not known."""
        admitted, first = self.admitted_at, self.first_token_at
        if admitted is None or first is None or self.is_continued:
            return None
        arrived = self.request.arrived_at
        return AnswerTimes(
            max(0.0, admitted - arrived), first - admitted, now - first, self.preemptions
        )

    def roll_back(self, num_tokens: int) -> None:
        """Forgets that `num_tokens` tokens were posted: their step was not answered. It may have
        been preempted since that step, and then nothing of it is computed."""
        self.num_scheduled = max(0, self.num_scheduled - num_tokens)

    @property
    def short_id(self) -> str:
        """The end of its request's id, as in the console's tables."""
        return short_id(self.request_id)

    def view(self, reason: str, place: int = 0) -> RequestView:
        """The sequence for the screen; `reason` and `place`, that in the queue, are shown if it
        waits."""
        if self.state is SequenceState.WAITING:
            phase = "waiting"
        else:
            phase = "decode" if self.num_scheduled >= self.num_prompt else "prefill"
        return RequestView(
            request_id=self.request.request_id,
            adapter=self.request.adapter,
            phase=phase,
            reason=reason if self.state is SequenceState.WAITING else "",
            arrived_at=self.request.arrived_at,
            first_token_at=self.first_token_at,
            num_prompt=self.num_prompt,
            num_computed=min(self.num_scheduled, self.num_prompt),
            num_output=self.num_output,
            max_tokens=self.request.params.max_tokens,
            pages=len(self.pages),
            adapter_at=self.adapter_at,
            admitted_at=self.admitted_at,
            place=place,
        )
