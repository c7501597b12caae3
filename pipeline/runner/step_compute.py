"""`StepCompute`: a step on the device, from its staged inputs to its tokens' way back to the host.

Holds the token history. Knows no batch and no sequence.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ..model.batch_torch import Staging, StepRow, TorchPlan
from ..model.compute_queue import ComputeQueue
from ..model.llama import Llama
from ..model.page_pool import pages_for
from ..model.sampler import NOTHING_SAMPLED, SampleRow, sample
from ..runtime.spans import Spans
from .loaded_model import LoadedModel
from .pending_step import IssuedStep, microseconds_since

if TYPE_CHECKING:  # they need Triton
    from ..model.batch_kernels import PagedPlan
    from ..model.cuda_graphs import PagedSteps

FIRST_SLOTS = 32
"""Rows of the token history at first; they double when more sequences live."""

AnyPlan: TypeAlias = "TorchPlan | PagedPlan"


class StepCompute:
    """Made, and its `issue` run, in the order of the queue."""

    def __init__(
        self, loaded: LoadedModel, queue: ComputeQueue, spans: Spans, max_rows: int
    ) -> None:
        """`max_rows`: rows of a step, at most, on a GPU."""
        self._loaded, self._queue, self._spans = loaded, queue, spans
        width = loaded.max_model_len + 1  # a token may be sampled behind the last place
        slots = FIRST_SLOTS
        if queue.device.type == "cuda":  # never moved: graphs remember where it is
            slots += 2 * max_rows
        self._history = torch.zeros((slots, width), dtype=torch.int32, device=queue.device)
        self.paged = self.make_paged() if loaded.kernels.paged else None
        """Steps by our kernels; None: by plain torch."""

    def make_paged(self) -> PagedSteps:
        from ..model.cuda_graphs import PagedSteps  # which needs Triton

        loaded = self._loaded
        return PagedSteps(
            loaded.config,
            loaded.pool,
            loaded.store,
            loaded.rotary,
            self._history,
            self._queue,
            max_pages=pages_for(loaded.max_model_len),
        )

    def plan(self, rows: Sequence[StepRow], staging: Staging, *, may_replay: bool) -> AnyPlan:
        """How the rows are computed; their indices go to `staging`."""
        if self.paged is not None:
            return self.paged.plan(rows, may_replay=may_replay)
        with self._queue.issuing():  # it may gather adapters
            return TorchPlan(
                rows,
                staging,
                self._loaded.pool,
                self._loaded.store,
                windows=self._loaded.windows,
                history_width=self._history.shape[1],
            )

    def base_rows(self, count: int) -> int:
        """Rows that a step of the base with `count` rows computes, padding included."""
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
        *,
        times: bool,
        keep_logits: bool,
    ) -> IssuedStep:
        """A step from its staged inputs to its tokens' way back. Runs in the queue's order.

        `admitted`: (slot, ticket of its tokens) of each new sequence. `clean`: ticket of the pages
        that are zeroed first.
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
        if clean is not None and self.paged is None:  # our kernels do not look beyond a length
            self._loaded.pool.clean(tensors[clean])
        sampled, kept = NOTHING_SAMPLED, None
        if plan is not None:
            with self._spans.span("forward"):
                logits, places, best = self._forward(plan, tensors, model)
            if keep_logits:
                kept = logits.float().clone()
            if best is not None and all(row.takes_best for row in choices):
                sampled = replace(NOTHING_SAMPLED, token_ids=best)
            elif choices:
                with self._spans.span("sample"):
                    sampled = sample(logits.float(), choices, self._history)
                # The next step may be launched already: it must find a token that there is.
                token_ids = sampled.token_ids.int().clamp(min=0)
                self._history.view(-1).index_copy_(0, places.long(), token_ids)
        if events:
            sampled = sampled.to_host()
            events[-1].record()
        busy_us = microseconds_since(started) if times else 0
        return IssuedStep(sampled, busy_us=busy_us, events=events, logits=kept)

    def _forward(
        self, plan: AnyPlan, tensors: list[Tensor], model: Llama
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits [num_samples, vocab_size], where the tokens chosen from them are kept, and the
        most probable ones where they were found and kept already."""
        loaded = self._loaded
        if isinstance(plan, TorchPlan):
            batch = plan.to_device(
                tensors, self._history, loaded.rotary, loaded.precision.activations
            )
            return model(batch, loaded.pool.pages), batch.sample_history, None
        assert self.paged is not None
        # Ranks begin to span layers at different moments: padded alike, they still sum alike.
        result = self.paged.run(plan, model, replay=model is loaded.model)
        return result.logits, result.places, result.best

    def _grow_history(self, num_slots: int) -> None:
        old = self._history
        if num_slots > len(old):
            assert self.paged is None, f"{num_slots} sequences at once, and graphs know {len(old)}"
            self._history = old.new_zeros((2 * num_slots, old.shape[1]))
            self._history[: len(old)] = old
