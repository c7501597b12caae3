"""`PagedSteps`: steps by our own kernels. Those of single tokens are captured once for each bucket
of rows and of ranks and replayed, one launch instead of six hundred; all others (prompts, larger
ranks) are launched kernel by kernel.

A step without adapters has graphs of its own, without any LoRA kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..card import ModelCard
from .device import ComputeQueue, sent
from .forward_batch import StepRow
from .layers import Rotary
from .llama import Llama
from .lora import AdapterStore
from .paged_batch import PagedBatch, PagedPlan
from .pages import PagePool

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
RANKS = (0, 16, 32, 64)
CAPTURED_RANKS = 2
"""Of `RANKS`, at start; each takes seconds to make."""


@dataclass(frozen=True)
class Captured:
    """A graph, where its inputs go, and what comes out: float32 logits [rows, vocab_size]."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class PagedSteps:
    """Plans steps for the kernels and runs them, through a graph where one fits."""

    def __init__(
        self,
        card: ModelCard,
        pool: PagePool,
        store: AdapterStore,
        rotary: Rotary,
        history: Tensor,
        queue: ComputeQueue,
        *,
        max_pages: int,
    ) -> None:
        """`history` int32 [num_slots, width] is never moved from here on: graphs remember where it
        is. `max_pages` bounds a sequence."""
        self._card, self._pool, self._store = card, pool, store
        self._rotary, self._history, self._queue = rotary, history, queue
        self._max_pages = max_pages
        self._captured: dict[tuple[int, int], Captured] = {}
        on_gpu = queue.device.type == "cuda"
        self._side = torch.cuda.Stream(queue.device) if on_gpu else None

    # -- steps

    def plan(self, rows: Sequence[StepRow], *, may_replay: bool) -> PagedPlan:
        """A step on the host, padded where a graph will take it."""
        bucket = 0
        if may_replay and all(row.num_tokens == 1 and row.samples for row in rows):
            keys = {row.adapter for row in rows if row.adapter is not None}
            rank = max((self._store.padded_rank(key) for key in keys), default=0)
            bucket, _ = self._bucket(len(rows), rank) or (0, 0)
        return self._plan(rows, bucket)

    def run(self, plan: PagedPlan, model: Llama) -> tuple[Tensor, Tensor]:
        """Logits [num_samples, vocab_size], and where the tokens chosen from them are kept. A step
        that was padded is replayed; its logits are overwritten by the next of its bucket."""
        inputs = torch.from_numpy(plan.inputs.pack())
        count, rank = len(plan.samples), plan.padded_rank
        bucket = self._bucket(plan.num_single, rank) if plan.is_padded else None
        if bucket is None:
            batch = self._batch(plan, sent(inputs, self._queue.device), rank)
            return model(batch, self._pool.pages), batch.sample_history.long()
        captured = self._captured[bucket]
        captured.inputs.copy_(inputs.pin_memory(), non_blocking=True)
        captured.graph.replay()
        places = plan.inputs.views(captured.inputs)["sample_history"]
        return captured.logits[:count], places[:count].long()

    def _plan(self, rows: Sequence[StepRow], bucket: int) -> PagedPlan:
        width = self._history.shape[1]
        return PagedPlan(
            rows, self._store, history_width=width, max_pages=self._max_pages, bucket=bucket
        )

    def _batch(self, plan: PagedPlan, flat: Tensor, padded_rank: int) -> PagedBatch:
        return PagedBatch(
            plan,
            flat,
            self._card,
            self._pool.pages,
            self._history,
            self._rotary,
            self._store,
            padded_rank,
            self._side,
        )

    def _bucket(self, num_rows: int, padded_rank: int) -> tuple[int, int] | None:
        """The smallest captured step that takes so many rows of such adapters."""
        rows = next((rows for rows in ROWS if rows >= num_rows), None)
        rank = next((rank for rank in RANKS if rank >= padded_rank), None)
        if rows is None or rank is None or (rows, rank) not in self._captured:
            return None
        return rows, rank

    def base_rows(self, num_rows: int) -> int:
        """How many a step of the base with so many rows computes, padding included."""
        bucket = self._bucket(num_rows, 0)
        return bucket[0] if bucket else num_rows

    # -- graphs

    def to_capture(self, most_rows: int, *, with_adapters: bool) -> list[tuple[int, int]]:
        """The (rows, rank) of the graphs to make: the largest first, the others fit in its
        memory."""
        ranks = RANKS[:CAPTURED_RANKS] if with_adapters else (0,)
        return [(rows, rank) for rows in reversed(ROWS) if rows <= most_rows for rank in ranks]

    def capture(
        self, model: Llama, buckets: list[tuple[int, int]], bar: Callable[[], object]
    ) -> None:
        """Runs a step of each bucket once, so that every kernel is made, and once more into a
        graph; `bar` is called after each."""
        memory = torch.cuda.graph_pool_handle()
        for bucket in buckets:
            self._captured[bucket] = self._capture(model, *bucket, memory)
            bar()

    def _capture(self, model: Llama, rows: int, rank: int, memory: Any) -> Captured:
        example = self._plan([StepRow(0, 0, 1, 1, [0], None)], rows)
        inputs = torch.from_numpy(example.inputs.pack()).to(self._queue.device)

        def step() -> Tensor:
            return model(self._batch(example, inputs, rank), self._pool.pages)

        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=memory, stream=self._queue.stream, capture_error_mode="thread_local"
        ):
            logits = step()
        return Captured(graph, inputs, logits)
