"""`PagedBatch`: one step for kernels that read pages themselves.

Made in two moves like `ForwardBatch`, and in the same terms to a model. All its integers travel in
one copy; padded to a bucket of rows they have the same places in every step, so that a step of
single tokens can be captured in a graph. Tokens lie flat: single tokens first, then prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...kernels.attention import PREFILL_BLOCK, attend_decode_paged, attend_prefill_paged
from ...kernels.fused import rotate_write
from ...kernels.lora import GROUP_ROWS, RANK_BLOCK, Site, expand_paged, shrink_paged
from ...kernels.tables import AdapterTables, Groups
from ..card import ModelCard
from .adapter import SITES, module_shapes
from .forward_batch import StepRow
from .layers import Rotary
from .lora import AdapterStore
from .pages import PAGE_SIZE

Int32s = npt.NDArray[np.int32]

PROMPT_GROUP_ROWS = 64
"""Tokens of a prompt that share one read of their adapter."""


class Inputs:
    """Named int32 arrays that travel as one."""

    def __init__(self) -> None:
        self._arrays: dict[str, Int32s] = {}

    def __setitem__(self, name: str, values: npt.ArrayLike) -> None:
        self._arrays[name] = np.ascontiguousarray(values, dtype=np.int32)

    def pack(self) -> Int32s:
        return np.concatenate([array.reshape(-1) for array in self._arrays.values()])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The arrays as parts of a tensor that holds what `pack` gave."""
        found, first = {}, 0
        for name, array in self._arrays.items():
            found[name] = flat[first : first + array.size].view(array.shape)
            first += array.size
        return found


class PagedPlan:
    """A step on the host. A `bucket` pads single tokens to so many rows, and allows no prompts."""

    def __init__(
        self,
        rows: Sequence[StepRow],
        store: AdapterStore,
        *,
        history_width: int,
        max_pages: int,
        bucket: int = 0,
    ) -> None:
        single = [row for row in rows if row.num_tokens == 1]
        prompts = [row for row in rows if row.num_tokens > 1]
        self.rows = [*single, *prompts]
        self.samples = [row for row in self.rows if row.samples]
        self.num_single = bucket or len(single)
        self.is_padded = bucket > 0
        self.inputs = Inputs()
        self._store = store
        self._place_tokens(history_width, bucket)
        self._describe_single(single, max_pages)
        self._describe_prompts(prompts)
        self._group(self._spans(single, prompts), "lora", GROUP_ROWS, bucket)
        adapters = {row.adapter for row in rows if row.adapter is not None}
        self.padded_rank = max((store.padded_rank(key) for key in adapters), default=0)

    def _place_tokens(self, history_width: int, bucket: int) -> None:
        counts = np.array([row.num_tokens for row in self.rows], dtype=np.int64)
        starts = np.array([row.start for row in self.rows], dtype=np.int64)
        ends = np.cumsum(counts)
        self.first_tokens: list[int] = (ends - counts).tolist()
        self.num_tokens = int(ends[-1])
        positions = np.arange(self.num_tokens) + np.repeat(starts - (ends - counts), counts)
        slots = np.repeat([row.slot for row in self.rows], counts)
        pages = np.concatenate(
            [
                np.asarray(row.pages, dtype=np.int64)[np.arange(row.start, row.stop) // PAGE_SIZE]
                if row.num_tokens > 1
                else np.array([row.pages[row.start // PAGE_SIZE]])
                for row in self.rows
            ]
        )
        padding = bucket - self.num_tokens if bucket else 0

        def padded(values: npt.NDArray[np.int64], rest: int) -> npt.NDArray[np.int64]:
            return np.concatenate([values, np.full(padding, rest)]) if padding else values

        inputs = self.inputs
        inputs["history"] = padded(slots * history_width + positions, 0)
        inputs["positions"] = padded(positions, 0)
        inputs["known"] = padded(np.repeat([row.known for row in self.rows], counts), 1)
        inputs["pages"] = padded(pages, -1)
        inputs["places"] = padded(positions % PAGE_SIZE, 0)
        sampling = [index for index, row in enumerate(self.rows) if row.samples]
        samples = np.arange(bucket) if bucket else (ends[sampling] - 1)
        inputs["sample_tokens"] = samples
        inputs["sample_history"] = [r.slot * history_width + r.known for r in self.samples] + [
            0
        ] * (bucket - len(self.samples) if bucket else 0)
        self.num_tokens += padding

    def _describe_single(self, rows: Sequence[StepRow], max_pages: int) -> None:
        tables = np.zeros((self.num_single, max_pages), dtype=np.int32)
        lengths = np.zeros(self.num_single, dtype=np.int32)
        for index, row in enumerate(rows):
            tables[index, : len(row.pages)] = row.pages
            lengths[index] = row.stop
        self.inputs["tables"], self.inputs["lengths"] = tables, lengths

    def _describe_prompts(self, rows: Sequence[StepRow]) -> None:
        if not rows:
            return
        inputs = self.inputs
        tables = np.zeros((len(rows), max(len(row.pages) for row in rows)), dtype=np.int32)
        blocks = []
        for index, row in enumerate(rows):
            tables[index, : len(row.pages)] = row.pages
            blocks += [(index, start) for start in range(0, row.num_tokens, PREFILL_BLOCK)]
        inputs["prompt_tables"] = tables
        inputs["prompt_blocks"] = np.array(blocks).T
        inputs["prompt_sequences"] = [
            self.first_tokens[len(self.first_tokens) - len(rows) :],
            [row.start for row in rows],
            [row.num_tokens for row in rows],
        ]

    # -- adapters

    def _spans(
        self, single: Sequence[StepRow], prompts: Sequence[StepRow]
    ) -> list[tuple[int, list[int]]]:
        """(slot of the adapter, its single tokens); prompts get groups of their own."""
        own = [(self._store.slot(r.adapter), i) for i, r in enumerate(single) if r.adapter]
        if any(row.adapter for row in prompts):
            spans = []
            for first, row in zip(self.first_tokens[len(single) :], prompts, strict=True):
                if row.adapter:
                    tokens = list(range(first, first + row.num_tokens))
                    spans.append((self._store.slot(row.adapter), tokens))
            self._group(spans, "prompt_lora", PROMPT_GROUP_ROWS, 0)
        own.sort()
        return [
            (slot, [index for _, index in members])
            for slot, members in groupby(own, key=lambda pair: pair[0])
        ]

    def _group(self, spans: list[tuple[int, list[int]]], name: str, most: int, bucket: int) -> None:
        """Pieces of at most `most` tokens of one adapter. With a bucket, places for as many groups
        as there are rows."""
        slots: list[int] = []
        starts: list[int] = []
        counts: list[int] = []
        tokens: list[int] = []
        for slot, own in spans:
            for start in range(0, len(own), most):
                part = own[start : start + most]
                slots.append(slot)
                starts.append(len(tokens))
                counts.append(len(part))
                tokens += part
        size = bucket or len(slots)
        if not size:
            return
        rest = size - len(slots)
        self.inputs[f"{name}_groups"] = [
            slots + [-1] * rest,
            starts + [0] * rest,
            counts + [0] * rest,
        ]
        self.inputs[f"{name}_tokens"] = tokens + [0] * ((bucket or len(tokens)) - len(tokens))


@dataclass(frozen=True)
class PagedLora:
    """All LoRA products of a step, from the pages of the pool."""

    sites: dict[str, Site]
    pool: Tensor
    """[num_layers, num_pages, elements]"""
    tables: AdapterTables
    parts: tuple[tuple[Groups, int, torch.cuda.Stream | None], ...]
    """Groups, tokens a group at most, and a stream for what need not wait for the base."""
    unit: int

    def begin(self, x: Tensor, layer: int, site: str) -> Callable[[Tensor], None]:
        """Starts on what the adapters make of x, beside the base's product; the function returned
        adds it. x [num_tokens, in], y [num_tokens, out]."""
        pool, about = self.pool[layer], self.sites[site]
        shrunk = []
        for groups, block_m, side in self.parts:
            with _beside(side):
                args = (pool, self.tables, groups, about)
                partials = shrink_paged(x, *args, unit=self.unit, block_m=block_m)
            shrunk.append((partials, args, block_m, side))

        def finish(y: Tensor) -> None:
            for partials, args, block_m, side in shrunk:
                if side is not None:
                    torch.cuda.current_stream().wait_stream(side)
                expand_paged(y, partials, *args, unit=self.unit, block_m=block_m)

        return finish


def _beside(side: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    """Behind what was issued so far, and not before what is issued next."""
    if side is None:
        return nullcontext()
    side.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(side)


def lora_sites(card: ModelCard, padded_rank: int) -> dict[str, Site]:
    """Each site as the kernels want to know it, for adapters of at most such a rank."""
    shapes, found, first = module_shapes(card), {}, 0
    for index, (name, members) in enumerate(SITES.items()):
        ranks = -(-padded_rank * len(members) // RANK_BLOCK) * RANK_BLOCK
        outs = tuple(shapes[member][0] for member in members)
        found[name] = Site(index, first, outs, ranks)
        first += len(members)
    return found


class PagedBatch:
    """One step on the device, to a `Llama` what a `ForwardBatch` is."""

    def __init__(
        self,
        plan: PagedPlan,
        flat: Tensor,
        card: ModelCard,
        pool: Tensor,
        history: Tensor,
        rotary: Rotary,
        store: AdapterStore,
        padded_rank: int,
        side: torch.cuda.Stream | None = None,
    ) -> None:
        """`flat` holds what `plan.inputs` packed. pool [num_layers, num_pages, …]."""
        views = plan.inputs.views(flat)
        self._views, self._num_single = views, plan.num_single
        self.token_ids = history.view(-1).index_select(0, views["history"])
        rotation = rotary(views["positions"], views["known"])
        self._rotation = torch.view_as_real(rotation.squeeze(1))
        self.sample_tokens, self.sample_history = views["sample_tokens"], views["sample_history"]
        parts = []
        for name, most in (("lora", GROUP_ROWS), ("prompt_lora", PROMPT_GROUP_ROWS)):
            if padded_rank and f"{name}_groups" in views:
                slots, starts, counts = views[f"{name}_groups"]
                groups = Groups(slots, starts, counts, views[f"{name}_tokens"])
                parts.append((groups, most, side if most == GROUP_ROWS else None))
        elements = pool.view(*pool.shape[:2], -1)
        self.lora = (
            PagedLora(
                lora_sites(card, padded_rank), elements, store.tables, tuple(parts), store.unit
            )
            if parts
            else None
        )

    def rotate_write(self, heads: Tensor, num_heads: int, pool: Tensor) -> None:
        rotate_write(
            heads, self._rotation, pool, self._views["pages"], self._views["places"], num_heads
        )

    def attend(
        self, heads: Tensor, num_heads: int, pool: Tensor, scale: float, window: int
    ) -> Tensor:
        views, q = self._views, heads[:, :num_heads]
        out = heads.new_empty((len(heads), num_heads * heads.shape[2]))
        single = self._num_single
        if single:
            attend_decode_paged(
                q[:single],
                pool,
                views["tables"],
                views["lengths"],
                out[:single],
                scale=scale,
                window=window,
            )
        if "prompt_blocks" in views:
            rows, starts = views["prompt_blocks"]
            firsts, positions, lengths = views["prompt_sequences"]
            attend_prefill_paged(
                q,
                pool,
                views["prompt_tables"],
                (rows, starts),
                (firsts, positions, lengths),
                out,
                scale=scale,
                window=window,
            )
        return out
