"""Lines of an event log: everything that the router's decisions depend on, and each decision with
its arithmetic. `RouterCore` makes them, `EventLog` writes them, `replay` feeds them to a new core.

Knows no text and only the number of tokens: a log has no prompt, no answer and no key.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

import msgspec

from ..config import Config
from ..messages import (
    Abort,
    AdapterChecked,
    AdapterPlaced,
    AdapterRead,
    Batch,
    Drain,
    LoadAdapter,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    PromptLogprobs,
    Ready,
    ReloadAdapter,
    Request,
    Resume,
    ResumeRequest,
    SamplingParams,
    SetScheduler,
    StopFound,
    UnloadAdapter,
    VerifyAdapter,
    WeightsMerged,
    WorkerReady,
)
from ..schedule.admission import Decision
from ..schedule.pets import LatencyTable
from ..schedule.scheduler import Scheduler
from .record import RouterRecord

FORMAT = 2
"""Incremented when a line changes its meaning, or the same inputs give another decision."""
STOP_TOKEN = 1
"""The last token of replayed answers that end before their length."""

Logged: TypeAlias = (
    Abort
    | StopFound
    | Ready
    | WorkerReady
    | AdapterRead
    | AdapterPlaced
    | AdapterChecked
    | WeightsMerged
    | LoadAdapter
    | ReloadAdapter
    | UnloadAdapter
    | PinAdapter
    | PlanAdapters
    | VerifyAdapter
    | MergeAdapter
    | SetScheduler
    | Drain
    | Resume
)
"""Messages that are written as they are."""
WRITTEN = get_args(Logged)


class EventLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", gc=False):
    """One line. `at` is the router's clock, unix seconds."""

    at: float


class Started(EventLine, frozen=True, kw_only=True, tag="started"):
    """The first line: the settings by which the router decides."""

    format: int
    protocol: int
    """Protocol of the messages in the log."""
    version: str
    incarnation: int
    config: Config
    """Without its keys."""
    table: LatencyTable
    record: RouterRecord | None = None
    """Of the earlier router whose work goes on."""


class Got(EventLine, frozen=True, kw_only=True, tag="got"):
    """A message that is written as it is."""

    message: Logged


class Asked(EventLine, frozen=True, kw_only=True, tag="asked"):
    """A request, without its tokens: a new one, or one of an earlier router."""

    request: str
    adapter: str | None
    num_prompt: int
    max_tokens: int
    arrived_at: float
    outputs: int | None = None
    """Tokens that an earlier router delivered; None: it is new."""
    scored: int | None = None
    """Tokens of its prompt whose logprobs an earlier router delivered; None: it asks for none, or
    has all."""

    def to_message(self) -> Request | ResumeRequest:
        """A message that leads to the same decisions."""
        request = self._to_request()
        if self.outputs is None:
            return request
        pieces: tuple[PromptLogprobs, ...] = ()
        if self.scored is not None:
            numbers = bytes(4 * (self.scored - 1))
            pieces = (PromptLogprobs(1, numbers, b"", numbers),)
        return ResumeRequest(request=request, token_ids=(0,) * self.outputs, prompt_logprobs=pieces)

    def _to_request(self) -> Request:
        params = SamplingParams(
            max_tokens=self.max_tokens,
            stop_token_ids=(STOP_TOKEN,),
            ignore_eos=True,
            prompt_logprobs=None if self.scored is None else 0,
        )
        return Request(
            request_id=self.request,
            adapter=self.adapter,
            prompt_ids=(0,) * self.num_prompt,
            params=params,
            arrived_at=self.arrived_at,
        )


class Answered(EventLine, frozen=True, kw_only=True, tag="answered"):
    """The tokens of a step are back; with them the answers of the `stopped` requests ended."""

    step: int
    stopped: tuple[str, ...] = ()


class StepFailed(EventLine, frozen=True, kw_only=True, tag="failed"):
    """A step raised in a worker."""

    step: int
    error: str


class RanksDiffered(EventLine, frozen=True, kw_only=True, tag="differed"):
    """The ranks chose different tokens, and the workers were reset."""


class Fetched(EventLine, frozen=True, kw_only=True, tag="fetched"):
    """An adapter came from the hub, or could not be fetched (`error`)."""

    key: str
    directory: str
    error: str = ""


class Decided(EventLine, frozen=True, kw_only=True, tag="decided"):
    """One planned step: the decisions about the queue, and the state of the pool after them."""

    step: int | None
    """None if there was nothing to compute."""
    rows: int
    running: int
    waiting: int
    free: int
    kv: int
    adapters: int
    preemptions: int
    decisions: tuple[Decision, ...] = ()
    given_up: tuple[str, ...] = ()

    @classmethod
    def of(cls, at: float, scheduler: Scheduler, batch: Batch | None) -> Decided:
        """The line of the last `next_batch`. Clears the scheduler's list of decisions."""
        decisions = tuple(scheduler.decisions or ())
        if scheduler.decisions:
            scheduler.decisions.clear()
        return cls(
            at=at,
            step=None if batch is None else batch.step,
            rows=0 if batch is None else len(batch.rows),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free=scheduler.pool.free,
            kv=scheduler.pool.kv,
            adapters=scheduler.pool.adapters,
            preemptions=scheduler.preemptions,
            decisions=decisions,
            given_up=tuple(sequence.request.request_id for sequence, _ in scheduler.refused),
        )


class Full(EventLine, frozen=True, kw_only=True, tag="full"):
    """The file has reached its largest size: nothing follows, though the router continued."""


AnyLine: TypeAlias = (
    Started | Got | Asked | Answered | StepFailed | RanksDiffered | Fetched | Decided | Full
)


def line_of_message(message: object, at: float) -> AnyLine | None:
    """The line of a message to the router; None if decisions do not depend on it, or if its effect
    has its own line."""
    if isinstance(message, Request):
        return _asked(message, at)
    if isinstance(message, ResumeRequest):
        scored, request = message.num_scored, message.request
        lacks = request.params.prompt_logprobs is not None and scored < request.scored_at_end
        return _asked(request, at, len(message.known_ids), scored if lacks else None)
    if isinstance(message, WRITTEN):
        return Got(at=at, message=message)
    return None


def _asked(
    request: Request, at: float, outputs: int | None = None, scored: int | None = None
) -> Asked:
    return Asked(
        at=at,
        request=request.request_id,
        adapter=request.adapter,
        num_prompt=len(request.prompt_ids),
        max_tokens=request.params.max_tokens,
        arrived_at=request.arrived_at,
        outputs=outputs,
        scored=scored,
    )
