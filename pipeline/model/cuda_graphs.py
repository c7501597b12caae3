"""`PagedSteps`: steps by our own kernels. Those that fit a `Bucket` are captured once and replayed,
one launch instead of six hundred; all others (long prompts, larger ranks) are launched kernel by
kernel.

A step without adapters has graphs of its own, without any LoRA kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...kernels.attention import PREFILL_BLOCK
from ...kernels.precompile import compiled_ahead
from ...kernels.sampling import best_tokens
from ..model_files.model_config import ModelConfig
from .adapter_store import AdapterStore
from .batch_kernels import MOST_PROMPTS, Bucket, PagedBatch, PagedPlan, largest_rank
from .batch_torch import StepRow
from .compute_queue import ComputeQueue, sent
from .layers import Rotary
from .llama import Llama
from .page_pool import PAGE_SIZE, PagePool, pages_for

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Rows of the graphs of single tokens alone."""
MIXED_ROWS = (8, 32, 64, 128, 256)
PROMPT_TOKENS = (64, 192, 256, 512)
"""Prompt tokens of the graphs of steps that carry prompts beside single tokens."""
RANKS = (0, 16, 64)
LONG_PROMPT = 8192
"""Tokens that are enough for the kernels of long prompts."""


@dataclass(frozen=True)
class Captured:
    """A graph, the buffers of its inputs, and its outputs."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor
    """[samples, vocab_size]"""
    best: Tensor
    """int32 [samples]"""


@dataclass(frozen=True)
class StepResult:
    """The results of a step, by sample. A later step of its bucket overwrites it."""

    logits: Tensor
    """[num_samples, vocab_size]"""
    places: Tensor
    """int32 [num_samples], where in the flat history their next tokens are kept"""
    best: Tensor
    """int32 [num_samples], the most probable tokens; they stand in the history already"""


class PagedSteps:
    """Plans steps for the kernels and runs them, through a graph where one fits."""

    def __init__(
        self,
        model_config: ModelConfig,
        pool: PagePool,
        store: AdapterStore,
        rotary: Rotary,
        history: Tensor,
        queue: ComputeQueue,
        *,
        max_pages: int,
    ) -> None:
        """`history` int32 [num_slots, width] is never moved from here on: graphs hold its address.
        `max_pages` bounds a sequence."""
        self._model_config, self._pool, self._store = model_config, pool, store
        self._rotary, self._history, self._queue = rotary, history, queue
        self._max_pages = max_pages
        self._captured: dict[Bucket, Captured | None] = {}
        """None: steps are padded to it, and launched."""
        on_gpu = queue.device.type == "cuda"
        self._side = torch.cuda.Stream(queue.device) if on_gpu else None

    # -- steps

    def plan(self, rows: Sequence[StepRow], *, may_replay: bool) -> PagedPlan:
        """The plan of a step on the host, padded where a graph fits it."""
        return self._plan(rows, self._bucket(rows) if may_replay else None)

    def run(self, plan: PagedPlan, model: Llama, *, replay: bool = True) -> StepResult:
        """Computes a step, or replays it where it was padded and `replay` says so: a graph is of
        the model that it was captured from."""
        inputs = torch.from_numpy(plan.inputs.pack())
        captured = self._captured[plan.bucket] if plan.bucket and replay else None
        if captured is None:
            result = self._result(model, self._batch(plan, sent(inputs, self._queue.device)))
        else:
            captured.inputs.copy_(inputs.pin_memory(), non_blocking=True)
            captured.graph.replay()
            places = plan.inputs.views(captured.inputs)["sample_history"]
            result = StepResult(captured.logits, places, captured.best)
        count = len(plan.samples)
        return StepResult(result.logits[:count], result.places[:count], result.best[:count])

    def _result(self, model: Llama, batch: PagedBatch, pages: Tensor | None = None) -> StepResult:
        logits = model(batch, self._pool.pages if pages is None else pages)
        places = batch.sample_history
        best = places
        if len(places):
            best = best_tokens(logits, places, self._history.view(-1))
        return StepResult(logits, places, best)

    def _plan(self, rows: Sequence[StepRow], bucket: Bucket | None) -> PagedPlan:
        width = self._history.shape[1]
        return PagedPlan(
            rows, self._store, history_width=width, max_pages=self._max_pages, bucket=bucket
        )

    def _batch(self, plan: PagedPlan, flat: Tensor) -> PagedBatch:
        return PagedBatch(
            plan,
            flat,
            self._model_config,
            self._pool.pages,
            self._history,
            self._rotary,
            self._store,
            self._side,
        )

    def _example(self, bucket: Bucket) -> PagedPlan:
        """One token of the base, padded."""
        return self._plan([StepRow(0, 0, 1, 1, [0], None)], bucket)

    def _bucket(self, rows: Sequence[StepRow]) -> Bucket | None:
        """The smallest captured step that takes these rows."""
        counts = [row.num_tokens for row in rows if row.num_tokens > 1]
        single, tokens = len(rows) - len(counts), sum(counts)
        if len(counts) > MOST_PROMPTS:
            return None
        is_mixed = bool(counts) or not all(row.samples for row in rows)
        sizes = (
            _least(MIXED_ROWS if is_mixed else ROWS, single),
            _least(PROMPT_TOKENS, tokens) if is_mixed else 0,
            _least(RANKS, largest_rank(rows, self._store)),
        )
        bucket = Bucket(*sizes)
        return bucket if bucket in self._captured else None

    def base_rows(self, num_rows: int) -> int:
        """Rows that a step of the base with `num_rows` rows computes, padding included."""
        rows = _least(ROWS, num_rows)
        return rows if Bucket(rows) in self._captured else num_rows

    # -- graphs

    def to_capture(self, most_rows: int, *, with_adapters: bool) -> list[Bucket]:
        """The graphs to make: the largest first, the others fit in their memory."""
        ranks = RANKS if with_adapters else (0,)
        alone = product(ROWS, (0,), ranks)
        mixed = product(MIXED_ROWS, PROMPT_TOKENS, ranks[:2])
        buckets = [Bucket(*sizes) for sizes in (*alone, *mixed) if sizes[0] <= most_rows]
        return sorted(buckets, key=lambda bucket: -bucket.rows - bucket.prompt_tokens)

    def make_kernels(
        self,
        model: Llama,
        buckets: list[Bucket],
        begun: Callable[[], object],
        made: Callable[[], object],
    ) -> None:
        """Makes all kernels that steps of these buckets, and longer prompts, launch: many at a
        time, found by tracing the smallest and the largest steps of a kind through two layers."""
        part, pages = model.with_layers(model.layers[:2]), self._pool.pages[:2]
        kinds: dict[tuple[int, int], list[Bucket]] = {}
        for bucket in sorted(buckets):
            kinds.setdefault(bucket[1:], []).append(bucket)
        rank = max((bucket.rank for bucket in buckets), default=0)
        plans = [self._example(Bucket(1, LONG_PROMPT, rank))]
        plans += [self._example(own[i]) for own in kinds.values() for i in (0, -1)]
        length = min(PREFILL_BLOCK, self._max_pages * PAGE_SIZE)
        prompt = StepRow(0, 0, length, length, [*range(pages_for(length))], None)
        plans.append(self._plan([prompt], None))
        with compiled_ahead(begun, made):
            for plan in plans:
                self._result(
                    part,
                    self._batch(
                        plan, sent(torch.from_numpy(plan.inputs.pack()), self._queue.device)
                    ),
                    pages,
                )

    def capture(self, model: Llama, buckets: list[Bucket], bar: Callable[[], object]) -> None:
        """Runs a step of each bucket once, so that every kernel is made, and once more into a
        graph; `bar` is called after each."""
        memory = torch.cuda.graph_pool_handle()
        for bucket in buckets:
            self._captured[bucket] = self._capture(model, bucket, memory)
            bar()

    def _capture(self, model: Llama, bucket: Bucket, memory: Any) -> Captured:
        example = self._example(bucket)
        inputs = torch.from_numpy(example.inputs.pack()).to(self._queue.device)

        def step() -> StepResult:
            return self._result(model, self._batch(example, inputs))

        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=memory, stream=self._queue.stream, capture_error_mode="thread_local"
        ):
            result = step()
        return Captured(graph, inputs, result.logits, result.best)


def _least(sizes: Sequence[int], needed: int) -> int:
    """The smallest size that suffices, or -1."""
    return next((size for size in sizes if size >= needed), -1)
