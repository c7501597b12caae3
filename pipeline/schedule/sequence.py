"""`Sequence`: one live request with all its tokens. Knows no page pool and no policy."""

from __future__ import annotations

import enum

from ..messages import BatchRow, Request, RequestView
from .adapter_registry import AdapterRecord


class SequenceState(enum.Enum):
    """Changed by the scheduler alone."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """A request, its tokens so far, and how far its computation has been posted to the workers.

    `num_scheduled` tokens have been posted for computation; `in_flight` of the sampled tokens
    are not back yet, so the length to plan with is `len(token_ids) + in_flight`.
    """

    def __init__(self, request: Request, number: int, adapter: AdapterRecord) -> None:
        self.request = request
        self.adapter = adapter
        self.number = number
        self.token_ids: list[int] = list(request.prompt_ids)
        self.num_prompt = len(request.prompt_ids)
        self.max_length = self.num_prompt + request.params.max_tokens
        self.age = (request.arrived_at, number)
        """What is older comes first; no two are equal."""
        self.num_scheduled = 0
        self.in_flight = 0
        self.pages: list[int] = []
        self.state = SequenceState.WAITING
        self.reason = "queued"
        self.examined = 0
        """The pass of admission that `reason` is of."""
        self.noted = ""
        """The reason last written down."""
        self.adapter_at: float | None = None
        """When its adapter came to be in the pool, where it was not when the request arrived."""
        self.admitted_at: float | None = None
        """For the first time; preemption does not change it."""
        self.first_token_at: float | None = None
        self.is_charged = False
        """Its prompt was paid for by its client, under a policy that counts."""
        self.stops: frozenset[int] = frozenset()
        """Tokens that end it."""
        self.decode_row = BatchRow(number, 1)
        """Its row of every step but those that need a page."""

    @property
    def length(self) -> int:
        """Tokens known or on their way."""
        return len(self.token_ids) + self.in_flight

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def remaining(self) -> int:
        """Tokens that may still be asked for."""
        return self.max_length - len(self.token_ids) - self.in_flight

    @property
    def pending(self) -> int:
        """Tokens whose computation has not been posted yet; 1 is an ordinary decode step."""
        return self.length - self.num_scheduled

    @property
    def size(self) -> tuple[int, int]:
        """(tokens held, tokens to come), as `Demand` counts them."""
        return self.length, self.remaining

    def restart(self) -> None:
        """Back to the queue with all its tokens so far; its pages are gone."""
        self.pages = []
        self.num_scheduled = 0
        self.state = SequenceState.WAITING

    def view(self, reason: str) -> RequestView:
        """With the reason why it waits."""
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
        )
