"""`PagedSteps`: steps by our own kernels. Steps that fit a captured `Bucket` replay its graph, one
launch instead of six hundred; all others (long prompts, larger ranks) are launched kernel by
kernel.

Steps without adapters have their own graphs, without LoRA kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ...kernels.attention import PREFILL_BLOCK
from ...kernels.fixed import queries_per_block
from ...kernels.precompile import compiled_ahead
from ...kernels.sampling import best_tokens
from ..model_files.model_config import ModelConfig
from .adapter_store import AdapterStore
from .batch_kernels import MOST_PROMPTS, Bucket, PagedBatch, PagedPlan, largest_rank
from .batch_torch import StepResult, StepRow
from .compute_queue import ComputeQueue, sent
from .fixed_order import SIZES
from .layers import Rotary
from .llama import Llama
from .page_pool import PAGE_SIZE, PagePool, pages_for

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Rows of the graphs for single tokens only."""
MIXED_ROWS = (8, 32, 64, 128, 256)
PROMPT_TOKENS = (64, 192, 256, 512)
"""Prompt tokens of the graphs for prompts beside single tokens."""
RANKS = (0, 16, 64)
LONG_PROMPT = 8192
"""A prompt length that uses the kernels of long prompts."""


@dataclass(frozen=True)
class Captured:
    """A graph, its input buffer and its outputs."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor
    """[samples, vocab_size]"""
    best: Tensor
    """int32 [samples]"""


class PagedSteps:
    """Plans steps for the kernels and runs them, through a graph if one fits."""

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
        deterministic: bool = False,
    ) -> None:
        """`history` int32 [num_slots, width] must never be reallocated: graphs hold its address.
        `max_pages`: most pages of a sequence. `deterministic`: no token's sums may depend on the
        rest of its step."""
        self._model_config, self._pool, self._store = model_config, pool, store
        self._rotary, self._history, self._queue = rotary, history, queue
        self._max_pages = max_pages
        self._longest = max_pages * PAGE_SIZE if deterministic else 0
        heads, kv_heads = model_config.num_heads, model_config.num_kv_heads
        least = SIZES[0] if deterministic else 1
        self._rows = tuple(rows for rows in ROWS if rows >= least)
        self._queries = queries_per_block(heads, kv_heads) if deterministic else 0
        self._captured: dict[Bucket, Captured | None] = {}
        """None: steps are padded to the bucket but launched kernel by kernel."""
        on_gpu = queue.device.type == "cuda"
        self._side = torch.cuda.Stream(queue.device) if on_gpu else None

    # -- steps

    def plan(
        self, rows: Sequence[StepRow], *, may_replay: bool, has_scores: bool = False
    ) -> PagedPlan:
        """The plan of a step on the host, padded if a graph fits it. None has a place for scores of
        prompts."""
        may_replay = may_replay and not has_scores
        return self._plan(rows, self._bucket(rows) if may_replay else None, has_scores)

    def run(self, plan: PagedPlan, model: Llama, *, replay: bool = True) -> StepResult:
        """Computes a step; replays its graph if it was padded and `replay` is true. `replay` must
        be false unless `model` is the one that the graphs were captured from."""
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
        assert result.best is not None
        return replace(
            result,
            logits=result.logits[:count],
            places=result.places[:count],
            best=result.best[:count],
        )

    def _result(self, model: Llama, batch: PagedBatch, pages: Tensor | None = None) -> StepResult:
        states = model.states(batch, self._pool.pages if pages is None else pages)
        places, scored = batch.sample_history, None
        if batch.score_history is not None:
            states, scored = states[: len(places)], states[len(places) :]
        logits = model.logits(states)
        best = places
        if len(places):
            best = best_tokens(logits, places, self._history.view(-1))
        return StepResult(logits, places, best, scored, batch.score_history)

    def _plan(
        self, rows: Sequence[StepRow], bucket: Bucket | None, has_scores: bool = False
    ) -> PagedPlan:
        return PagedPlan(
            rows,
            self._store,
            history_width=self._history.shape[1],
            max_pages=self._max_pages,
            bucket=bucket,
            has_scores=has_scores,
            queries=self._queries,
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
            self._longest,
        )

    def _example(self, bucket: Bucket) -> PagedPlan:
        """A plan of one base-model token, padded to `bucket`."""
        return self._plan([StepRow(0, 0, 1, 1, [0], None)], bucket)

    def _bucket(self, rows: Sequence[StepRow]) -> Bucket | None:
        """The smallest captured bucket that holds these rows, if any."""
        counts = [row.num_tokens for row in rows if row.num_tokens > 1]
        single, tokens = len(rows) - len(counts), sum(counts)
        if len(counts) > MOST_PROMPTS:
            return None
        is_mixed = bool(counts) or not all(row.samples for row in rows)
        sizes = (
            _least(MIXED_ROWS if is_mixed else self._rows, single),
            _least(PROMPT_TOKENS, tokens) if is_mixed else 0,
            _least(RANKS, largest_rank(rows, self._store)),
        )
        bucket = Bucket(*sizes)
        return bucket if bucket in self._captured else None

    def base_rows(self, num_rows: int) -> int:
        """Rows computed by a base-model step of `num_rows` rows, padding included."""
        rows = _least(self._rows, num_rows)
        return rows if Bucket(rows) in self._captured else num_rows

    # -- graphs

    def to_capture(self, most_rows: int, *, with_adapters: bool) -> list[Bucket]:
        """The graphs to capture, the largest first, so that the others fit in its memory."""
        ranks = RANKS if with_adapters else (0,)
        alone = product(self._rows, (0,), ranks)
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
        """Compiles in parallel all kernels that steps of these buckets, and longer prompts, launch.
        They are found by tracing the smallest and largest step of each kind through two layers."""
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
        """Runs a step of each bucket once, so that all kernels are compiled, then captures it in a
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
        assert result.best is not None
        return Captured(graph, inputs, result.logits, result.best)


def _least(sizes: Sequence[int], needed: int) -> int:
    """The smallest size that is at least `needed`, or -1."""
    return next((size for size in sizes if size >= needed), -1)
