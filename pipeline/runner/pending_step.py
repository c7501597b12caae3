"""`PendingStep`: a launched step; its tokens are read when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from ..messages import NO_TOKEN, Logprob, SampledToken, SequenceLogprobs, Step
from ..model.sampler import NOTHING_ALLOWED, Sampled
from ..runtime.clock import unix_time
from .scored_rows import ScoredRows, StepScores

NO_CANDIDATE = (
    "no token continues the answer in its grammar; if allowed_token_ids, bad_words or logit_bias "
    "are set, they may rule out the rest"
)
"""Why a row has no token though its grammar goes on."""


@dataclass(frozen=True)
class IssuedStep:
    """A step issued to the device: its tokens, being copied to the host, and its times."""

    sampled: Sampled
    copy_us: int = 0
    busy_us: int = 0
    events: tuple[torch.cuda.Event, ...] = ()
    """On a GPU: before the inputs' copy, after it, and after the tokens' copy to the host; only
    the last with --no-step-times."""
    logits: Tensor | None = None
    """[num_samples, vocab_size]; None unless requested."""
    scores: StepScores | None = None
    """Of the prompts that are scored or pooled; None if there are none."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Why rows cannot go on in their grammars."""
    waited_us: int = 0
    """Time in which sampling waited for the masks of grammars."""

    def token_ids(self) -> list[int]:
        """Waits for the chosen tokens."""
        if self.events:
            self.events[-1].synchronize()
        found: list[int] = self.sampled.token_ids.tolist()
        return found


class PendingStep:
    """A launched step. `wait` is called once, from any thread."""

    def __init__(
        self,
        issued: Future[IssuedStep],
        sequences: list[int],
        step: Step,
        compare: Callable[[Step], Step] | None,
        scored: ScoredRows | None,
    ) -> None:
        """`compare` adds the time without adapters to the measured step; None if that is not
        estimated for this step. `scored`: whose prompts are scored; None: none are."""
        self._issued, self._sequences, self._step = issued, sequences, step
        self._compare, self._scored = compare, scored

    @property
    def logits(self) -> Tensor | None:
        """After `wait`: the logits the tokens were chosen from; None unless requested."""
        return self._issued.result().logits

    @property
    def prompt_logprobs(self) -> tuple[SequenceLogprobs, ...]:
        """After `wait`: the logprobs of the pieces of prompts that are scored."""
        scores = self._issued.result().scores
        return () if self._scored is None or scores is None else self._scored.pieces(scores)

    def wait(self) -> tuple[tuple[SampledToken, ...], Step]:
        """Blocks until the tokens are on the host. Re-raises an exception of the step."""
        started = time.perf_counter()
        issued = self._issued.result()
        copy_us, busy_us = issued.copy_us, issued.busy_us
        if issued.events:
            issued.events[-1].synchronize()
        if len(issued.events) == 3:
            begun, copied, done = issued.events
            copy_us = int(begun.elapsed_time(copied) * 1e3)
            busy_us = int(copied.elapsed_time(done) * 1e3)
        sync_us = microseconds_since(started)
        step = msgspec.structs.replace(
            self._step, at=unix_time(), copy_us=copy_us, busy_us=busy_us, sync_us=sync_us
        )
        if issued.events and issued.waited_us:  # a GPU's launch waits for the step before
            launch_us = max(0, step.launch_us - issued.waited_us)
            step = msgspec.structs.replace(step, launch_us=launch_us)
        if self._compare is not None:
            step = self._compare(step)
        return tuple(_tokens(issued, self._sequences)), step


def _tokens(issued: IssuedStep, sequences: Sequence[int]) -> Iterator[SampledToken]:
    """A step's tokens, from tensors on the host."""
    sampled = issued.sampled
    logprobs: dict[int, tuple[Logprob, ...]] = {}
    token_ids: list[int] = sampled.token_ids.tolist()
    for place, row in enumerate(sampled.logprob_rows):
        wanted = sampled.logprob_counts[place]
        best = zip(
            sampled.best_ids[place, :wanted].tolist(),
            sampled.best_logprobs[place, :wanted].tolist(),
            strict=True,
        )
        chosen = Logprob(token_ids[row], float(sampled.chosen_logprobs[place]))
        logprobs[row] = (chosen, *(Logprob(token, value) for token, value in best))
    for row, (sequence, token) in enumerate(zip(sequences, token_ids, strict=True)):
        if row in issued.errors or token == NOTHING_ALLOWED:
            yield SampledToken(sequence, NO_TOKEN, (), issued.errors.get(row, NO_CANDIDATE))
        else:
            yield SampledToken(sequence, token, logprobs.get(row, ()))


def microseconds_since(started: float) -> int:
    """Microseconds since `started`, a value of `time.perf_counter`."""
    return int((time.perf_counter() - started) * 1e6)
