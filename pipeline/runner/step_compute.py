"""`StepCompute`: a step on the device, from its staged inputs to its tokens' copy to the host.

Holds the token history. Knows no batch and no sequence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ..model.batch_torch import Staging, StepResult, StepRow, TorchPlan
from ..model.compute_queue import ComputeQueue
from ..model.llama import Llama
from ..model.page_pool import pages_for
from ..model.sampler import NOTHING_SAMPLED, SampleRow, TokenMask, sample
from ..runtime.spans import Spans
from .grammar_masks import ConstrainedRows, GrammarMasks, token_mask
from .loaded_model import LoadedModel
from .pending_step import IssuedStep, microseconds_since
from .pooled_states import PooledStates
from .prompt_scores import score_prompts
from .scored_rows import ScoredRows, StepScores

if TYPE_CHECKING:  # these modules need Triton
    from ..model.batch_kernels import PagedPlan
    from ..model.cuda_graphs import PagedSteps

FIRST_SLOTS = 32
"""Initial rows of the token history; it doubles when more sequences are live."""

AnyPlan: TypeAlias = "TorchPlan | PagedPlan"


class StepCompute:
    """Computes steps over one loaded model. Constructed, and `issue` called, in the queue."""

    def __init__(
        self,
        loaded: LoadedModel,
        queue: ComputeQueue,
        spans: Spans,
        masks: GrammarMasks,
        max_rows: int,
    ) -> None:
        """`max_rows`: maximum rows of a step, used on a GPU."""
        self._loaded, self._queue, self._spans = loaded, queue, spans
        self.masks = masks
        self._pooled = PooledStates()
        width = loaded.max_model_len + 1  # a token may be sampled after the last position
        slots = FIRST_SLOTS
        if queue.device.type == "cuda":  # never reallocated: graphs hold its address
            slots += 2 * max_rows
        self._history = torch.zeros((slots, width), dtype=torch.int32, device=queue.device)
        self.paged = self.make_paged() if loaded.kernels.paged else None
        """Runs steps with our kernels; None: steps run in plain torch."""

    def make_paged(self) -> PagedSteps:
        from ..model.cuda_graphs import PagedSteps  # needs Triton

        loaded = self._loaded
        return PagedSteps(
            loaded.config,
            loaded.pool,
            loaded.store,
            loaded.rotary,
            self._history,
            self._queue,
            max_pages=pages_for(loaded.max_model_len),
            deterministic=loaded.deterministic,
        )

    def plan(
        self,
        rows: Sequence[StepRow],
        staging: Staging,
        *,
        may_replay: bool,
        has_scores: bool = False,
    ) -> AnyPlan:
        """The plan for computing the rows; in plain torch, index arrays are added to `staging`.
        `has_scores`: some rows have scores."""
        if self.paged is not None:
            return self.paged.plan(rows, may_replay=may_replay, has_scores=has_scores)
        with self._queue.issuing():  # it may gather adapters
            return TorchPlan(
                rows,
                staging,
                self._loaded.pool,
                self._loaded.store,
                windows=self._loaded.windows,
                history_width=self._history.shape[1],
                num_heads=self._loaded.config.num_heads,
                order=self._loaded.order,
                has_scores=has_scores,
            )

    def base_rows(self, count: int) -> int:
        """Rows computed by a base-model step of `count` rows, padding included."""
        return count if self.paged is None else self.paged.base_rows(count)

    def issue(
        self,
        staging: Staging,
        num_slots: int,
        admitted: Sequence[tuple[int, int]],
        clean: int | None,
        plan: AnyPlan | None,
        choices: Sequence[SampleRow],
        model: Llama,
        constrained: ConstrainedRows,
        *,
        times: bool,
        keep_logits: bool,
        scored: ScoredRows | None,
    ) -> IssuedStep:
        """Issues a step: inputs, forward pass, sampling, tokens back. Runs in the queue.

        `admitted`: (slot, ticket of its tokens) of each new sequence. `clean`: ticket of the pages
        to zero first. `constrained`: the rows of `choices` with a grammar. With such rows it waits
        on a GPU for the tokens of the step before, while the device computes this one.
        `scored`: the prompts that are scored or pooled; None: there are none.
        """
        on_gpu = self._queue.device.type == "cuda"
        events: tuple[torch.cuda.Event, ...] = ()
        if on_gpu:
            events = tuple(torch.cuda.Event(enable_timing=times) for _ in range(3 if times else 1))
        started = time.perf_counter()
        if len(events) == 3:
            events[0].record()
        tensors = staging.ship(self._queue.device)
        if len(events) == 3:
            events[1].record()
        self._grow_history(num_slots)
        for slot, ticket in admitted:
            tokens = tensors[ticket]
            self._history[slot, : len(tokens)] = tokens
        if clean is not None and self.paged is None:  # our kernels never read past a length
            self._loaded.pool.clean(tensors[clean])
        sampled, kept, scores = NOTHING_SAMPLED, None, None
        computing = self.masks.start(constrained) if constrained else None
        mask: TokenMask | None = None
        errors: dict[int, str] = {}
        waited_us = 0
        if plan is not None:
            with self._spans.span("forward"):
                result = self._forward(plan, tensors, model)
            if keep_logits:
                kept = result.logits.float().clone()
            if result.best is not None and all(row.takes_best for row in choices):
                sampled = replace(NOTHING_SAMPLED, token_ids=result.best)
            elif choices:
                if computing is not None:
                    began = time.perf_counter()
                    with self._spans.span("await masks"):
                        masks = computing()
                    waited_us = microseconds_since(began)
                    mask = token_mask(constrained, masks, self._queue.device)
                    errors = {constrained[at][0]: error for at, error in masks.errors.items()}
                with self._spans.span("sample"):
                    sampled = sample(result.logits.float(), choices, self._history, mask)
                # The next step may be launched already: it must find a valid token id.
                token_ids = sampled.token_ids.int().clamp(min=0)
                self._history.view(-1).index_copy_(0, result.places.long(), token_ids)
            if scored is not None:
                with self._spans.span("score_prompts"):
                    scores = self._score(result, model, scored)
        if events:
            sampled = sampled.to_host()
            scores = scores and scores.to_host()
            events[-1].record()
        busy_us = microseconds_since(started) if times else 0
        issued = IssuedStep(sampled, 0, busy_us, events, kept, scores, errors, waited_us)
        if constrained:
            self.masks.add_step(issued, constrained)
        return issued

    def _score(self, result: StepResult, model: Llama, scored: ScoredRows) -> StepScores:
        states, history = result.scored, result.score_history
        assert states is not None and history is not None
        pooled = None
        if pieces := scored.pooled:
            pooled = self._pooled.pool(states, pieces)
            places = scored.places
            if not places:
                return StepScores(None, pooled)
            kept = torch.tensor(places, device=states.device)
            states, history = states.index_select(0, kept), history.index_select(0, kept)
        token_ids = self._history.view(-1).index_select(0, history.long()).long()
        vocab_size = self._loaded.config.vocab_size
        logprobs = score_prompts(states, model.logits, token_ids, scored.most, vocab_size)
        return StepScores(logprobs, pooled)

    def _forward(self, plan: AnyPlan, tensors: list[Tensor], model: Llama) -> StepResult:
        loaded = self._loaded
        if isinstance(plan, TorchPlan):
            batch = plan.to_device(
                tensors, self._history, loaded.rotary, loaded.precision.activations
            )
            states, places = model.states(batch, loaded.pool.pages), batch.sample_history
            scored = None
            if batch.score_history is not None:
                states, scored = states[: len(places)], states[len(places) :]
            return StepResult(
                model.logits(states), places, scored=scored, score_history=batch.score_history
            )
        assert self.paged is not None
        # Ranks may start layer spans at different steps; equal padding keeps their sums matching.
        return self.paged.run(plan, model, replay=model is loaded.model)

    def _grow_history(self, num_slots: int) -> None:
        old = self._history
        if num_slots > len(old):
            assert self.paged is None, f"{num_slots} sequences, but graphs hold {len(old)} slots"
            self._history = old.new_zeros((2 * num_slots, old.shape[1]))
            self._history[: len(old)] = old
