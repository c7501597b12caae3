"""Requests of a router that died go on in the next one."""

from __future__ import annotations

import msgspec
import pytest
from router_core import NOW, answer, ask, make_core, sent, worker_ready

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Abort,
    AnswerHeard,
    Logprob,
    OpenStream,
    Ready,
    Refused,
    Request,
    ResumeRequest,
    SampledToken,
    SamplingParams,
    StreamToken,
    StreamTokens,
    Tokens,
)
from loraconsole.pipeline.router.core import RouterCore


def with_logprobs(name: str) -> Request:
    return Request(
        request_id=name,
        adapter=None,
        prompt_ids=(1, 2),
        params=SamplingParams(max_tokens=5, logprobs=1),
        arrived_at=NOW,
    )


def streamed(core: RouterCore) -> list[StreamToken]:
    messages = sent(core, "detokenizer")
    return [token for m in messages if isinstance(m, StreamTokens) for token in m.tokens]


def test_a_request_goes_on_after_the_tokens_that_were_delivered() -> None:
    core = make_core()
    core.handle_message(ResumeRequest(request=ask("a", tokens=4), token_ids=(7, 8)), NOW)
    messages = sent(core, "detokenizer")
    assert [type(message) for message in messages] == [OpenStream, StreamTokens]
    batch = core.plan_step(NOW)
    assert batch is not None
    [admission] = batch.admit
    assert (admission.token_ids, admission.num_prompt) == ((1, 2, 7, 8), 2)
    answer(core, batch, token=9)
    tokens = core.finish_step(batch.step, NOW)
    assert tokens is not None
    assert [(t.index, t.token_id, t.finish_reason) for t in tokens.tokens] == [(2, 9, None)]


def test_a_request_that_is_held_already_is_not_resumed() -> None:
    """Neither one that runs, nor one whose last text the server may lack."""
    core = make_core()
    core.handle_message(ask("runs"), NOW)
    core.handle_message(ask("ended", tokens=1), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch)
    core.finish_step(batch.step, NOW)
    sent(core)
    for name in ("runs", "ended"):
        core.handle_message(ResumeRequest(request=ask(name), token_ids=(1, 1, 1)), NOW)
    assert not sent(core)
    [sequence] = core.scheduler.sequences()
    assert sequence.token_ids == [1, 2, 7]


def test_requests_wait_for_the_workers_and_are_aborted_meanwhile() -> None:
    core = RouterCore(Config(run="/nowhere"), 7_000, NOW)
    for name in ("a", "b", "c"):
        core.handle_message(ResumeRequest(request=ask(name), token_ids=(7,)), NOW)
    core.handle_message(Abort("b", "client gone"), NOW)
    core.handle_message(AnswerHeard("c"), NOW)
    assert not sent(core, "server") and not len(core.scheduler)
    core.handle_message(worker_ready(), NOW)
    assert [sequence.request_id for sequence in core.scheduler.sequences()] == ["a"]
    assert not sent(core, "server")


def test_an_answer_of_which_only_the_end_was_lost_ends() -> None:
    core = make_core()
    core.handle_message(ResumeRequest(request=ask("a", tokens=2), token_ids=(7, 8)), NOW)
    assert [(t.token_id, t.finish_reason) for t in streamed(core)] == [(7, None), (8, "length")]
    assert not len(core.scheduler)
    core.handle_message(Ready("detokenizer", 2), NOW)
    assert len(streamed(core)) == 2
    core.handle_message(AnswerHeard("a"), NOW)
    core.handle_message(Ready("detokenizer", 3), NOW)
    assert not streamed(core)


def test_what_cannot_be_served_any_more_is_refused_by_name() -> None:
    core = make_core()
    core.handle_message(ResumeRequest(request=ask("a", adapter="gone"), token_ids=(7,)), NOW)
    core.handle_message(ResumeRequest(request=ask("b", tokens=500), token_ids=(7,)), NOW)
    [first, second] = sent(core, "server")
    assert isinstance(first, Refused) and first.status == 404 and "'gone'" in first.reason
    assert isinstance(second, Refused) and second.status == 400 and "500" in second.reason
    assert not len(core.scheduler)


@pytest.mark.parametrize("has_logprobs", [True, False])
def test_logprobs_of_delivered_tokens_are_kept_or_computed_again(has_logprobs: bool) -> None:
    """A detokenizer that dies later must get them, too."""
    core = make_core()
    known = ((Logprob(7, -0.5), Logprob(9, -1.0)),)
    resumed = ResumeRequest(request=with_logprobs("a"), token_ids=(7,), logprobs=known)
    if not has_logprobs:
        resumed = msgspec.structs.replace(resumed, logprobs=())
    core.handle_message(resumed, NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    expected = (1, 2, 7) if has_logprobs else (1, 2)
    assert batch.admit[0].token_ids == expected
    row, new = batch.rows[0], (Logprob(8, -0.1), Logprob(9, -2.0))
    core.handle_message(
        Tokens(batch.epoch, batch.step, 0, (SampledToken(row.sequence, 8, new),)), NOW
    )
    core.finish_step(batch.step, NOW)
    sent(core)
    core.handle_message(Ready("detokenizer", 2), NOW)
    assert [token.logprobs for token in streamed(core)] == (
        [*known, new] if has_logprobs else [new]
    )


def test_a_resumed_request_counts_as_started() -> None:
    """Its first token was in time, and its prompt was charged."""
    core = make_core()
    resumed = ResumeRequest(request=ask("a"), token_ids=(7,), first_token_at=NOW - 5)
    core.handle_message(resumed, NOW)
    core.plan_step(NOW)
    [sequence] = core.scheduler.sequences()
    assert (sequence.first_token_at, sequence.admitted_at) == (NOW - 5, NOW - 5)
    assert sequence.is_charged
    assert core.registry.base.view(NOW).wait_p50_ms is None
