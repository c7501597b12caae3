"""`DecodeGraphs`: steps of single tokens, captured once for each bucket of rows and of ranks, and
replayed: one launch instead of six hundred.

A step without adapters has graphs of its own, without any LoRA kernel. Steps that fit none
(prompts, larger ranks) are launched kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .forward_batch import StepRow
from .llama import Llama
from .paged_batch import PagedBatch, PagedPlan

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
RANKS = (0, 16, 32, 64)


@dataclass(frozen=True)
class Captured:
    """A graph, where its inputs go, and what comes out: float32 logits [rows, vocab_size]."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class DecodeGraphs:
    """Captured steps of one model by (rows, padded rank)."""

    def __init__(self, most_rows: int, device: torch.device) -> None:
        self.rows = tuple(rows for rows in ROWS if rows <= most_rows)
        self._device = device
        self._captured: dict[tuple[int, int], Captured] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def bucket(self, num_rows: int, padded_rank: int) -> tuple[int, int] | None:
        """The smallest captured step that takes so many rows of such adapters."""
        rows = next((rows for rows in self.rows if rows >= num_rows), None)
        rank = next((rank for rank in RANKS if rank >= padded_rank), None)
        if rows is None or rank is None or (rows, rank) not in self._captured:
            return None
        return rows, rank

    def capture(
        self,
        model: Llama,
        pages: Tensor,
        rows: int,
        rank: int,
        plan: Callable[[StepRow, int], PagedPlan],
        batch: Callable[[PagedPlan, Tensor, int], PagedBatch],
        stream: torch.cuda.Stream,
    ) -> None:
        """Runs a step once, so that every kernel is made, and once more into a graph."""
        example = plan(StepRow(0, 0, 1, 1, [0], None), rows)
        inputs = torch.from_numpy(example.inputs.pack()).to(self._device)

        def step() -> Tensor:
            return model(batch(example, inputs, rank), pages)

        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._memory, stream=stream, capture_error_mode="thread_local"
        ):
            logits = step()
        self._captured[rows, rank] = Captured(graph, inputs, logits)

    def inputs(self, bucket: tuple[int, int]) -> Tensor:
        """Where a step's inputs lie on the device."""
        return self._captured[bucket].inputs

    def run(self, bucket: tuple[int, int], inputs: Tensor) -> Tensor:
        """Replays a step with `inputs`, as its plan packed them. What comes back is overwritten by
        the next step of the bucket."""
        captured = self._captured[bucket]
        captured.inputs.copy_(inputs.pin_memory(), non_blocking=True)
        captured.graph.replay()
        return captured.logits
