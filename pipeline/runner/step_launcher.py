"""`StepLauncher`: turns a `Batch` into a launched step.

Launching and reading are separate: `launch` issues the work of a step, `PendingStep.wait` blocks
for its tokens. So the next step is launched before this one's tokens are read. Knows neither
sockets nor requests.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import torch

from ..config import Config
from ..messages import Admission, Batch, KeptSequence, Message, Step, SyncPoint
from ..model.batch_torch import ScoredRow, Staging, StepRow
from ..model.compute_queue import ComputeQueue
from ..model.llama import Llama
from ..model.sampler import SampleRow
from ..model.token_rules import TokenRules
from ..runtime.clock import unix_time
from ..runtime.spans import Spans
from .layer_spans import with_layer_spans
from .live_sequences import LiveSequence, LiveSequences
from .loaded_model import LoadedModel
from .pending_step import PendingStep, microseconds_since
from .scored_rows import ScoredRows
from .step_bytes import StepBytes
from .step_compute import AnyPlan, StepCompute
from .step_timer import StepTimer, new_step


@dataclass(frozen=True)
class MergedModel:
    """The model with an adapter merged into its weights, for steps in which every row uses it."""

    key: str
    model: Llama
    num_bytes: StepBytes


class StepLauncher:
    """Live sequences and the steps that compute them. Used from one thread."""

    def __init__(
        self,
        config: Config,
        rank: int,
        loaded: LoadedModel,
        compute: StepCompute,
        queue: ComputeQueue,
        timer: StepTimer,
        spans: Spans,
        publish: Callable[[Message], None],
    ) -> None:
        self._config, self._rank, self._loaded, self._compute = config, rank, loaded, compute
        self._queue, self._timer, self._spans, self._publish = queue, timer, spans, publish
        self._merged: MergedModel | None = None
        self.sequences = LiveSequences()

    def reset(self) -> tuple[KeptSequence, ...]:
        """Waits for all launched steps, then drops every sequence and evicts every adapter; the
        host copies of the adapters are kept. Returns what the pages hold of the sequences, until
        the next step writes to them."""
        self._queue.synchronize()
        self._compute.masks.forget()
        self._loaded.store.evict_all()
        kept = self.sequences.kept()
        self.sequences.clear()
        return kept

    def launch(self, batch: Batch, *, keep_logits: bool = False) -> PendingStep:
        """Issues a step. Does not wait for the device, except before prompts with --sync-points."""
        if batch.admit and self._config.sync_points:
            self.synchronize("prefill: before")
        started = time.perf_counter()
        timer, live = self._timer, self.sequences
        for number in batch.release:
            live.release(number)
        staging = Staging()
        admitted = [self._admit(admission, staging) for admission in batch.admit]
        sequences = [live[row.sequence] for row in batch.rows]
        step = new_step(self._rank, batch, sequences)
        skips_adapters = self._config.no_lora_compute
        unclean: list[int] = []
        rows = [
            sequence.advance(row, None if skips_adapters else sequence.adapter, unclean)
            for sequence, row in zip(sequences, batch.rows, strict=True)
        ]
        rows, merged = self._choose_weights(rows)
        if timer.is_on:
            num_bytes = merged.num_bytes if merged else self._loaded.num_bytes
            step = timer.count_bytes(step, rows, num_bytes, self._loaded.store)
        by_slot = {sequence.slot: sequence for sequence in sequences}
        spans_layers = self._spans.layers
        plan: AnyPlan | None = None
        sampling: list[LiveSequence] = []
        choices: list[SampleRow] = []
        scores: ScoredRows | None = None
        if rows:
            has_scores = live.has_scored and any(isinstance(row, ScoredRow) for row in rows)
            plan = self._compute.plan(
                rows, staging, may_replay=merged is None, has_scores=has_scores
            )
            if has_scores:
                scores = ScoredRows.of(plan.scored, by_slot)
            sampling = [by_slot[row.slot] for row in plan.samples]
            choices = [
                SampleRow(s.params, s.slot, s.num_prompt, s.known, s.rules) for s in sampling
            ]
        for sequence in sampling:
            sequence.known += 1
        constrained = live.constrained(sampling)
        clean = staging.add(unclean) if unclean else None
        num_slots = live.num_slots
        model = self._loaded.model if merged is None else merged.model
        if spans_layers:
            model = with_layer_spans(model, self._spans, self._settle)
        work = functools.partial(
            self._compute.issue,
            *(staging, num_slots, admitted, clean, plan, choices, model, constrained),
            times=timer.is_on,
            keep_logits=keep_logits,
            scored=scores,
        )
        host_us = microseconds_since(started)
        started = time.perf_counter()
        issued = self._queue.submit(work)
        step = msgspec.structs.replace(
            step,
            host_us=host_us,
            launch_us=microseconds_since(started),
            sampled=len(sampling),
        )
        compare = self._comparison(rows, step) if merged is None and not spans_layers else None
        numbers = [sequence.number for sequence in sampling]
        return PendingStep(issued, numbers, step, compare, scores)

    def _comparison(self, rows: list[StepRow], step: Step) -> Callable[[Step], Step] | None:
        """For a timed step that only decodes: what adds the time that the base alone would take."""
        if not self._timer.is_on or not rows or step.phase != "decode":
            return None
        has_adapters = any(row.adapter is not None for row in rows)
        return self._timer.compare(self._compute.base_rows(len(rows)), has_adapters=has_adapters)

    def _choose_weights(self, rows: list[StepRow]) -> tuple[list[StepRow], MergedModel | None]:
        """If every row has the merged copy's adapter: the rows without it, and the copy. Otherwise
        the rows unchanged, and None."""
        merged = self._merged
        if merged is None or any(row.adapter != merged.key for row in rows):
            return rows, None
        return [replace(row, adapter=None) for row in rows], merged

    def _admit(self, admission: Admission, staging: Staging) -> tuple[int, int]:
        """Admits a sequence; returns (slot, ticket of its tokens)."""
        adapter = None if self._config.no_lora else admission.adapter
        if adapter is not None and adapter not in self._loaded.store:
            raise ValueError(f"adapter {adapter!r} is not placed")
        sequence = self.sequences.admit(admission, adapter)
        sequence.rules = TokenRules.of(admission.params, self._loaded.config.eos_token_ids)
        return sequence.slot, staging.add(admission.token_ids)

    def use_merged(self, merged: MergedModel | None) -> None:
        """Takes effect from the next step on. Waits for the device before and after: running steps
        still read the dropped copy, whose memory may be reused by another stream."""
        if merged is None and self._merged is None:
            return
        for name in ("merge: before", "merge: after"):
            self.synchronize(name)
            self._merged = merged

    def synchronize(self, name: str) -> None:
        """Waits until all issued work is done, and publishes how long that took."""
        started = time.perf_counter()
        with self._spans.span("synchronize({})", name):
            self._queue.synchronize()
        wait_us = microseconds_since(started)
        self._publish(SyncPoint(self._rank, name, unix_time(), wait_us))

    def _settle(self) -> None:
        """For layer spans: a span file holds device time only if each layer waits for the device.
        A profiler that reads NVTX attributes kernels to ranges itself and must not be disturbed."""
        recording = self._spans.recording
        if self._queue.device.type == "cuda" and recording and not recording.has_nvtx:
            torch.cuda.current_stream().synchronize()
