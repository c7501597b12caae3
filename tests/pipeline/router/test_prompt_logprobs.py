"""Logprobs and pooled states of prompts on their way from the workers to the server: each once and
all of them, whatever dies meanwhile."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
from router_core import NOW, ask, make_core, sent, worker_ready

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    NO_TOKEN,
    AnswerHeard,
    Batch,
    Message,
    OpenStream,
    PromptLogprobs,
    PromptScored,
    Ready,
    Request,
    ResumeRequest,
    SampledToken,
    SamplingParams,
    SequenceLogprobs,
    StreamToken,
    StreamTokens,
    Tokens,
)
from loraconsole.pipeline.model.batch_torch import ScoredRow
from loraconsole.pipeline.router.core import RouterCore
from loraconsole.pipeline.router.effects import Send
from loraconsole.pipeline.runner.live_sequences import LiveSequence, LiveSequences


def request(
    name: str, num_prompt: int, tokens: int, most: int | None = 0, pooling: str = ""
) -> Request:
    params = SamplingParams(max_tokens=tokens, prompt_logprobs=most, pooling=pooling)
    return msgspec.structs.replace(ask(name), params=params, prompt_ids=(5,) * num_prompt)


def piece_of(start: int, count: int) -> PromptLogprobs:
    """Each token's logprob is its index."""
    values = struct.pack(f"<{count}f", *range(start, start + count))
    return PromptLogprobs(start, values, b"", bytes(4 * count))


class Worker:
    """The worker's own bookkeeping, without a model."""

    def __init__(self) -> None:
        self.live = LiveSequences()
        self.pooled: dict[int, list[PromptLogprobs]] = {}

    def _pooled_state(self, sequence: LiveSequence) -> PromptLogprobs:
        """What comes of a prompt, all of whose positions must have been pooled once."""
        pieces = self.pooled.pop(sequence.number)
        if sequence.params.pooling == "last":
            assert [(piece.start, piece.count) for piece in pieces] == [(sequence.num_prompt, 1)]
        else:
            places = [p for piece in pieces for p in range(piece.start, piece.start + piece.count)]
            assert places == [*range(1, sequence.num_prompt + 1)]
        return PromptLogprobs(1, b"", b"", b"", b"state", sequence.num_prompt)

    def compute(self, batch: Batch) -> Tokens:
        for number in batch.release:
            self.live.release(number)
        for admission in batch.admit:
            self.live.admit(admission, admission.adapter)
        sampled, scored = [], []
        for row in batch.rows:
            sequence = self.live[row.sequence]
            step = sequence.advance(row, None, [])
            if step.start == 0:  # perhaps again, after a preemption
                self.pooled.pop(row.sequence, None)
            if step.samples:
                sequence.known += 1
                sampled.append(SampledToken(row.sequence, 7))
            if isinstance(step, ScoredRow):
                piece = piece_of(step.scores_from + 1, step.num_scores)
                if sequence.params.pooling:
                    self.pooled.setdefault(row.sequence, []).append(piece)
                    if step.scores_to < sequence.num_prompt:
                        continue
                    piece = self._pooled_state(sequence)
                scored.append(SequenceLogprobs(row.sequence, piece))
        return Tokens(batch.epoch, batch.step, 0, tuple(sampled), prompt_logprobs=tuple(scored))


class Client:
    """What the server has of each request; repeats are dropped, and a gap is an error."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.pieces: dict[str, list[PromptLogprobs]] = {}
        self.tokens: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self.repeated = 0

    def add(self, asked: Request) -> Request:
        self.requests[asked.request_id] = asked
        self.pieces[asked.request_id], self.tokens[asked.request_id] = [], []
        return asked

    def scores(self, name: str) -> list[float]:
        return [v for p in self.pieces[name] for (v,) in struct.iter_unpack("<f", p.logprobs)]

    def count(self, name: str) -> int:
        return sum(piece.count for piece in self.pieces[name])

    def hear(self, message: Message) -> None:
        if isinstance(message, PromptScored):
            name = message.request_id
            known = 1 + self.count(name)
            assert message.piece.start <= known, "a gap"
            fresh = message.piece.after(known - message.piece.start)
            self.repeated += message.piece.count - fresh.count
            if fresh.count:
                self.pieces[name].append(fresh)
        if isinstance(message, StreamTokens):
            for token in message.tokens:
                self._hear_token(token)

    def _hear_token(self, token: StreamToken) -> None:
        name = token.request_id
        own = self.requests[name]
        if own.params.prompt_logprobs is not None:
            assert 1 + self.count(name) == own.scored_at_end, "a token before its prompt"
        if token.token_id != NO_TOKEN and token.index == len(self.tokens[name]):
            self.tokens[name].append(token.token_id)
        if token.finish_reason:
            self.ended.add(name)

    def to_resume(self, name: str) -> ResumeRequest:
        return ResumeRequest(
            request=self.requests[name],
            token_ids=tuple(self.tokens[name]),
            prompt_logprobs=tuple(self.pieces[name]),
        )


class Ring:
    """A core between a client and a worker; two steps are under way, as in the router."""

    def __init__(self, **limits: int) -> None:
        self.limits = {"num_pages": 24, "max_prefill_tokens": 16, "chunk_tokens": 8} | limits
        self.core, self.client, self.worker = make_core(), Client(), Worker()
        self.incarnation = 1
        self.under_way: list[Tokens] = []
        self.give(self.ready())
        self.worker = Worker()

    def ready(self) -> Message:
        self.incarnation += 1
        return worker_ready(incarnation=self.incarnation, **self.limits)

    def give(self, message: Message) -> None:
        self.core.handle_message(message, NOW)
        for effect in self.core.effects.take_pending():
            if isinstance(effect, Send) and effect.to == "detokenizer":
                self.client.hear(effect.message)

    def ask(self, asked: Request) -> None:
        self.give(self.client.add(asked))

    def post(self) -> bool:
        batch = self.core.plan_step(NOW) if len(self.core.steps) < 2 else None
        if batch is not None:
            self.under_way.append(self.worker.compute(batch))
        return batch is not None

    def answer(self) -> bool:
        if not self.under_way:
            return False
        tokens = self.under_way.pop(0)
        self.core.handle_message(tokens, NOW)
        stream = self.core.finish_step(tokens.step, NOW)
        for effect in self.core.effects.take_pending():
            if isinstance(effect, Send) and effect.to == "detokenizer":
                self.client.hear(effect.message)
        if stream is not None:
            self.client.hear(stream)
        for name in self.client.ended:
            self.core.handle_message(AnswerHeard(name), NOW)
        return True

    def run(self) -> None:
        while self.post() or self.answer():
            pass

    def kill_worker(self) -> None:
        """The next worker has the KV of all steps that were answered."""
        self.under_way.clear()
        self.worker = Worker()
        ready = self.ready()
        assert isinstance(ready, type(worker_ready()))
        self.give(msgspec.structs.replace(ready, has_kept_kv=True))

    def kill_router(self, *, answered: bool) -> None:
        """The worker finishes its steps, `answered` or not, and keeps what they have computed."""
        while answered and self.answer():
            pass
        self.under_way.clear()
        record, kept = self.core.record(), self.worker.live.kept()
        assert record is not None
        self.core = RouterCore(Config(run="/nowhere"), 9_000 + self.incarnation, NOW, record=record)
        self.worker = Worker()
        self.give(Ready("detokenizer", 1))
        for name in [n for n in self.client.requests if n not in self.client.ended]:
            self.give(self.client.to_resume(name))
        ready = self.ready()
        assert isinstance(ready, type(worker_ready()))
        self.give(msgspec.structs.replace(ready, kept=kept))
        self.give(Ready("server", 1))

    def check(self) -> None:
        for name, asked in self.client.requests.items():
            assert name in self.client.ended
            assert len(self.client.tokens[name]) == asked.params.max_tokens
            wants = asked.params.prompt_logprobs is not None
            pooling = asked.params.pooling
            expected = range(1, len(asked.prompt_ids)) if wants and not pooling else ()
            assert self.client.scores(name) == [*expected]
            states = [piece.state for piece in self.client.pieces[name] if piece.state]
            assert states == ([b"state"] if pooling else [])
        self.core.scheduler.check()
        assert not len(self.core.scheduler)


@pytest.mark.parametrize("num_prompt", [1, 2, 8, 9, 17, 40])
@pytest.mark.parametrize(("most", "pooling"), [(None, ""), (0, ""), (0, "mean"), (0, "last")])
def test_an_answer_without_tokens_ends_when_its_prompt_is_computed(
    num_prompt: int, most: int | None, pooling: str
) -> None:
    """Also where one token of it is left for the last step."""
    ring = Ring()
    ring.ask(request("beside", 3, 30, most))
    ring.post()
    ring.ask(request("a", num_prompt, 0, most, pooling))
    ring.run()
    ring.check()


def test_an_answer_without_tokens_ends_again_after_a_restart() -> None:
    core = make_core()
    core.handle_message(ResumeRequest(request=request("a", 1, 0), token_ids=()), NOW)
    [opened, end] = sent(core, "detokenizer")
    assert isinstance(opened, OpenStream)
    assert end == StreamTokens((StreamToken("a", 0, NO_TOKEN, (), "length"),))
    core.handle_message(ResumeRequest(request=request("b", 4, 0), token_ids=()), NOW)
    assert len(core.scheduler) == 1, "its prompt is not scored yet"
    core.handle_message(ResumeRequest(request=request("c", 1, 0, 0, "last"), token_ids=()), NOW)
    assert len(core.scheduler) == 2, "nor this one pooled"


@pytest.mark.parametrize("pooling", ["", "mean"])
def test_a_preempted_prompt_is_not_scored_twice(pooling: str) -> None:
    """One that is computed while another request decodes into its last page."""
    ring = Ring(num_pages=11, chunk_tokens=2)
    ring.ask(request("old", 4, 20))
    ring.post()
    young = request("young", 30, 1, 0, pooling)
    ring.ask(msgspec.structs.replace(young, arrived_at=NOW + 1))
    ring.run()
    ring.check()
    assert ring.core.scheduler.preemptions > 0
    assert ring.client.repeated == 0


def test_kv_kept_over_a_router_is_used_as_far_as_its_logprobs_were_delivered() -> None:
    ring = Ring()
    ring.ask(request("a", 40, 3))
    ring.post()
    ring.answer()
    ring.post()
    delivered = len(ring.client.scores("a"))
    ring.kill_router(answered=False)
    batch = ring.core.plan_step(NOW)
    assert batch is not None
    [admission] = batch.admit
    assert (admission.computed, admission.scored) == (delivered, delivered + 1)
    ring.under_way.append(ring.worker.compute(batch))
    ring.run()
    ring.check()
    assert ring.client.repeated == delivered, "the detokenizer gets those delivered again"


def test_a_detokenizer_that_comes_back_gets_the_logprobs_again_before_the_tokens() -> None:
    ring = Ring()
    ring.ask(request("a", 20, 5))
    while not ring.client.tokens["a"]:
        ring.post()
        ring.answer()
    ring.core.handle_message(Ready("detokenizer", 2), NOW)
    kinds = [type(message) for message in sent(ring.core, "detokenizer")]
    assert kinds == [OpenStream, *[PromptScored] * len(ring.client.pieces["a"]), StreamTokens]


@pytest.mark.parametrize("seed", range(12))
def test_every_logprob_arrives_once_whatever_dies(seed: int) -> None:
    rng, ring = random.Random(seed), Ring(num_pages=20)
    for turn in range(300):
        match rng.randrange(14):
            case 0:
                most = rng.choice((None, 0, 0))
                pooling = "" if most is None else rng.choice(("", "", "mean", "last"))
                count, tokens = rng.randint(1, 40), rng.randint(0, 9)
                asked = request(f"r{turn}", count, tokens, most, pooling)
                ring.ask(msgspec.structs.replace(asked, arrived_at=NOW + turn))
            case 1 if turn % 7 == 0:
                ring.kill_worker()
            case 2 if turn % 5 == 0:
                ring.kill_router(answered=rng.random() < 0.5)
            case 3:
                ring.give(Ready("detokenizer", turn + 2))
            case 4 | 5 | 6 | 7 | 8:
                ring.post()
            case _:
                ring.answer()
    ring.run()
    ring.check()
    assert len(ring.client.requests) > 8
