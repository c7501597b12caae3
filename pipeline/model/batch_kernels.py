"""`PagedBatch`: the batch of one step for our Triton kernels, which read pages themselves.

Made in two stages like `ForwardBatch`, with the same interface to a model. All its integers are
sent in one copy. Padded to a `Bucket`, they have the same layout in every step, so that the step
can be captured in a graph. Tokens are concatenated: single tokens first, then prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...kernels.attention import (
    CHUNK_BLOCK,
    PREFILL_BLOCK,
    attend_decode_paged,
    attend_prefill_paged,
    chunk_splits,
)
from ...kernels.fixed import attend_fixed_paged
from ...kernels.fused import can_rotate, rotate_write
from ...kernels.layouts import AdapterTables, Groups, Shrunk, Site
from ...kernels.lora import (
    GROUP_ROWS,
    PROMPT_GROUP_ROWS,
    RANK_BLOCK,
    expand_paged,
    shrink_paged,
)
from ..model_files.model_config import ModelConfig
from .adapter import SITES, module_shapes
from .adapter_store import AdapterStore
from .batch_torch import ScoredRow, StepRow, score_places
from .layers import Rotary
from .page_pool import PAGE_SIZE

Int32s = npt.NDArray[np.int32]

MOST_PROMPTS = 32
"""Most prompts, or pieces of prompts, in a step that has a bucket."""


class Bucket(NamedTuple):
    """The capacity of a captured step: single tokens, tokens of prompts, and the largest rank of an
    adapter's module (0: no adapters)."""

    rows: int
    prompt_tokens: int = 0
    rank: int = 0


class Inputs:
    """Named int32 arrays that are sent as one."""

    def __init__(self) -> None:
        self._arrays: dict[str, Int32s] = {}

    def __setitem__(self, name: str, values: npt.ArrayLike) -> None:
        self._arrays[name] = np.ascontiguousarray(values, dtype=np.int32)

    def pack(self) -> Int32s:
        return np.concatenate([array.reshape(-1) for array in self._arrays.values()])

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The arrays as views of `flat`, a tensor with the contents of `pack`."""
        found, first = {}, 0
        for name, array in self._arrays.items():
            found[name] = flat[first : first + array.size].view(array.shape)
            first += array.size
        return found


def largest_rank(rows: Sequence[StepRow], store: AdapterStore) -> int:
    """The largest padded rank among the adapters of these rows; 0 if there are none."""
    keys = {row.adapter for row in rows if row.adapter is not None}
    return max((store.padded_rank(key) for key in keys), default=0)


class PagedPlan:
    """A step on the host, padded to `bucket` if one is given."""

    def __init__(
        self,
        rows: Sequence[StepRow],
        store: AdapterStore,
        *,
        history_width: int,
        max_pages: int,
        bucket: Bucket | None = None,
        has_scores: bool = False,
        queries: int = 0,
    ) -> None:
        """`has_scores`: some rows have scores; there is no bucket then. `queries`: queries of a
        block, if no token's sums may depend on the rest of the batch; 0: they may."""
        self._is_fixed = bool(queries)
        self._single = [row for row in rows if row.num_tokens == 1]
        self._prompts = [row for row in rows if row.num_tokens > 1]
        self.rows = [*self._single, *self._prompts]
        self.samples = [row for row in self.rows if row.samples]
        self.scored = list[ScoredRow]()
        if has_scores:
            self.scored += [row for row in self.rows if isinstance(row, ScoredRow)]
        self.bucket = bucket
        self.block = queries or (CHUNK_BLOCK if bucket else PREFILL_BLOCK)
        room = bucket or Bucket(len(self._single), sum(row.num_tokens for row in self._prompts))
        self._num_single, self._num_prompt_tokens = room.rows, room.prompt_tokens
        self._num_prompts = MOST_PROMPTS if bucket else len(self._prompts)
        self.inputs = Inputs()
        self._store = store
        self._place_tokens(history_width)
        if self._num_single:
            self._describe_single(max_pages)
        if self._num_prompt_tokens:
            self._describe_prompts(max_pages if bucket else 0)
        self.rank = bucket.rank if bucket else largest_rank(rows, store)
        if self.rank:
            self._describe_adapters()

    def _place_tokens(self, history_width: int) -> None:
        """Sets each token's place in the history, position, page and place in the page, and the
        tokens whose successors are wanted."""
        counts = np.array([row.num_tokens for row in self.rows], dtype=np.int64)
        starts = np.array([row.start for row in self.rows], dtype=np.int64)
        ends = np.cumsum(counts)
        positions = np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)
        slots = np.repeat([row.slot for row in self.rows], counts)
        pages = np.concatenate(
            [
                np.asarray(row.pages, dtype=np.int64)[np.arange(row.start, row.stop) // PAGE_SIZE]
                if row.num_tokens > 1
                else np.array([row.pages[row.start // PAGE_SIZE]])
                for row in self.rows
            ]
        )
        singles = len(self._single)
        between = self._num_single - singles
        behind = self._num_prompt_tokens - (len(positions) - singles)

        def padded(values: npt.NDArray[np.int64], rest: int) -> npt.NDArray[np.int64]:
            if not between and not behind:
                return values
            return np.concatenate(
                [values[:singles], [rest] * between, values[singles:], [rest] * behind]
            )

        inputs = self.inputs
        inputs["history"] = padded(slots * history_width + positions, 0)
        inputs["positions"] = padded(positions, 0)
        inputs["known"] = padded(np.repeat([row.known for row in self.rows], counts), 1)
        inputs["pages"] = padded(pages, -1)
        inputs["places"] = padded(positions % PAGE_SIZE, 0)
        self._first_prompt_tokens: list[int] = ((ends - counts)[singles:] + between).tolist()
        last = ends - 1 + np.where(np.arange(len(counts)) >= singles, between, 0)
        sampling = [index for index, row in enumerate(self.rows) if row.samples]
        wanted = [r.slot * history_width + r.known for r in self.samples]
        rest = 0
        if self.bucket:
            rest = self._num_single + bool(self._num_prompt_tokens) * MOST_PROMPTS - len(wanted)
        # Without prompts, `sample_tokens` lists every single token in order, padding included.
        fill = range(len(wanted), len(wanted) + rest) if not self._num_prompt_tokens else [0] * rest
        fill = [*fill]
        if self.scored:
            assert self.bucket is None, "a graph has no place for scores"
            scored = zip((ends - counts).tolist(), self.rows, strict=True)
            tokens, places = score_places(scored, history_width)
            fill, inputs["score_history"] = tokens.tolist(), places
        inputs["sample_tokens"] = [*last[sampling].tolist(), *fill]
        inputs["sample_history"] = [*wanted, *[-1] * rest]

    def _describe_single(self, max_pages: int) -> None:
        tables = np.zeros((self._num_single, max_pages), dtype=np.int32)
        lengths = np.zeros(self._num_single, dtype=np.int32)
        for index, row in enumerate(self._single):
            tables[index, : len(row.pages)] = row.pages
            lengths[index] = row.stop
        self.inputs["tables"], self.inputs["lengths"] = tables, lengths

    def _describe_prompts(self, max_pages: int) -> None:
        rows, inputs = self._prompts, self.inputs
        width = max_pages or max(len(row.pages) for row in rows)
        tables = np.zeros((self._num_prompts, width), dtype=np.int32)
        blocks = []
        for index, row in enumerate(rows):
            tables[index, : len(row.pages)] = row.pages
            blocks += [(index, start) for start in range(0, row.num_tokens, self.block)]
        if self.bucket:
            most = self._num_prompt_tokens // self.block + MOST_PROMPTS
            blocks += [(-1, 0)] * (most - len(blocks))
        inputs["prompt_tables"] = tables
        inputs["prompt_blocks"] = np.array(blocks).T
        sequences = np.zeros((3, self._num_prompts), dtype=np.int32)
        sequences[0, : len(rows)] = self._first_prompt_tokens
        sequences[1, : len(rows)] = [row.start for row in rows]
        sequences[2, : len(rows)] = [row.num_tokens for row in rows]
        inputs["prompt_sequences"] = sequences

    # -- adapters

    def _describe_adapters(self) -> None:
        """Sorts tokens by adapter into groups that read it once."""
        owners = np.full(self._num_single + self._num_prompt_tokens, -1, dtype=np.int32)
        for index, row in enumerate(self._single):
            if row.adapter is not None:
                owners[index] = self._store.slot(row.adapter)
        if self._is_fixed:  # tokens of prompts are like single ones
            for first, row in zip(self._first_prompt_tokens, self._prompts, strict=True):
                if row.adapter is not None:
                    owners[first : first + row.num_tokens] = self._store.slot(row.adapter)
        self.inputs["owners"] = owners
        alike = len(owners) if self._is_fixed else self._num_single
        order = np.argsort(owners[:alike], kind="stable").tolist()
        spans = [
            (slot, list(own))
            for slot, own in groupby(order, key=lambda i: int(owners[i]))
            if slot >= 0
        ]
        self._group("groups", spans, GROUP_ROWS, alike)
        if not self._num_prompt_tokens or self._is_fixed:
            return
        spans = [
            (self._store.slot(row.adapter), list(range(first, first + row.num_tokens)))
            for first, row in zip(self._first_prompt_tokens, self._prompts, strict=True)
            if row.adapter is not None
        ]
        most = self._num_prompt_tokens // PROMPT_GROUP_ROWS + MOST_PROMPTS
        self._group("prompt_groups", spans, PROMPT_GROUP_ROWS, most)

    def _group(
        self, name: str, spans: Iterable[tuple[int, list[int]]], rows: int, most: int
    ) -> None:
        """Adds groups of at most `rows` tokens of one adapter; a bucket pads them to `most`."""
        found: list[tuple[int, int, int]] = []
        tokens: list[int] = []
        for slot, own in spans:
            for start in range(0, len(own), rows):
                part = own[start : start + rows]
                found.append((slot, len(tokens), len(part)))
                tokens += part
        if self.bucket:
            found += [(-1, 0, 0)] * (most - len(found))
            tokens += [0] * (self._num_single + self._num_prompt_tokens - len(tokens))
        if found:
            self.inputs[name] = np.array(found).T
            self.inputs[f"{name}_tokens"] = tokens


@dataclass(frozen=True)
class LoraPart:
    """The single tokens, or the prompts' tokens: their groups, most tokens per group, and a side
    stream for work that need not wait for the base's product."""

    groups: Groups
    rows: int
    side: torch.cuda.Stream | None


@dataclass(frozen=True)
class PagedLora:
    """All LoRA products of a step, read from the pool's pages."""

    sites: dict[str, Site]
    rank: int
    """Padded rank of the largest module."""
    pool: Tensor
    """[num_layers, num_pages, elements]"""
    tables: AdapterTables
    owners: Tensor
    """int32 [num_tokens], adapter slots of single tokens; -1 for all other tokens"""
    parts: tuple[LoraPart, ...]
    unit: int
    readers: frozenset[str]
    """Sites whose next reader adds the remaining part for single tokens."""
    is_fixed: bool = False
    """No token's sums may depend on the rest of the batch."""

    def begin(self, x: Tensor, layer: int, site: str) -> Callable[[Tensor, bool], Shrunk | None]:
        """Records that x is ready. The returned function computes the adapters' products of x,
        concurrently with the base's product issued in between, and adds them to y or leaves them
        to y's next reader. x [num_tokens, in], y [num_tokens, out]."""
        about = self.sites[site]
        ranks = -(-self.rank * len(about.out_features) // RANK_BLOCK) * RANK_BLOCK

        def shrink(part: LoraPart) -> Shrunk:
            with nullcontext() if part.side is None else torch.cuda.stream(part.side):
                return shrink_paged(
                    x,
                    self.pool[layer],
                    self.tables,
                    part.groups,
                    self.owners,
                    about,
                    max_ranks=ranks,
                    unit=self.unit,
                    block_m=part.rows,
                    alone=not self.is_fixed,
                )

        for part in self.parts:
            if part.side is not None:
                part.side.wait_stream(torch.cuda.current_stream())

        def finish(y: Tensor, whole: bool) -> Shrunk | None:
            # Issued after the base's product, with which they overlap: issued before it, they
            # occupied the slots of its programs, which wait for each other (3 % of a step).
            rest = None
            for shrunk, part in [(shrink(part), part) for part in self.parts]:
                if part.side is not None:
                    torch.cuda.current_stream().wait_stream(part.side)
                if part.rows == GROUP_ROWS and not whole and site in self.readers:
                    rest = shrunk
                else:
                    expand_paged(y, shrunk, block_m=part.rows)
            return rest

        return finish


def lora_sites(model_config: ModelConfig) -> dict[str, Site]:
    """Each site in the form that the kernels need."""
    shapes, found, first = module_shapes(model_config), {}, 0
    for index, (name, members) in enumerate(SITES.items()):
        found[name] = Site(index, first, tuple(shapes[member][0] for member in members))
        first += len(members)
    return found


class PagedBatch:
    """One step on the device, with the same interface to a `Llama` as `ForwardBatch`."""

    def __init__(
        self,
        plan: PagedPlan,
        flat: Tensor,
        model_config: ModelConfig,
        pool: Tensor,
        history: Tensor,
        rotary: Rotary,
        store: AdapterStore,
        side: torch.cuda.Stream | None = None,
        max_model_len: int = 0,
    ) -> None:
        """`flat`: the packed `plan.inputs`. pool [num_layers, num_pages, …]. `max_model_len` is set
        if no token's sums may depend on the rest of the batch."""
        views = plan.inputs.views(flat)
        self._views, self._block, self._longest = views, plan.block, max_model_len
        self.token_ids = history.view(-1).index_select(0, views["history"])
        rotation = rotary(views["positions"], views["known"])
        self._rotation = torch.view_as_real(rotation.squeeze(1))
        self.sample_tokens, self.sample_history = views["sample_tokens"], views["sample_history"]
        self.score_history = views.get("score_history")
        self.lora = None
        if "owners" in views:
            self.lora = PagedLora(
                lora_sites(model_config),
                plan.rank,
                pool.view(*pool.shape[:2], -1),
                store.tables,
                views["owners"],
                tuple(_parts(views, side)),
                store.unit,
                _readers(store.unit, model_config.head_dim, is_fixed=bool(max_model_len)),
                bool(max_model_len),
            )
        if max_model_len and "lengths" in views:
            # A single token is a sequence of one query, after those before it.
            lengths = views["lengths"]
            index = torch.arange(len(lengths), dtype=torch.int32, device=lengths.device)
            self._single_blocks = (index, torch.zeros_like(index))
            self._single_sequences = (index, lengths - 1, lengths.clamp(max=1))

    def rotate_write(
        self, heads: Tensor, num_heads: int, pool: Tensor, rest: Shrunk | None
    ) -> None:
        pages, places = self._views["pages"], self._views["places"]
        rotate_write(heads, self._rotation, pool, pages, places, num_heads, rest)

    def attend(
        self, heads: Tensor, num_heads: int, pool: Tensor, scale: float, window: int
    ) -> Tensor:
        views, q = self._views, heads[:, :num_heads]
        out = heads.new_empty((len(heads), num_heads * heads.shape[2]))
        single = len(views["lengths"]) if "lengths" in views else 0
        if self._longest:
            return self._attend_fixed(q, pool, out, single, scale, window)
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
            splits = 1
            if self._block == CHUNK_BLOCK:
                splits = chunk_splits((len(q) - single) // CHUNK_BLOCK, num_heads)
            attend_prefill_paged(
                q,
                pool,
                views["prompt_tables"],
                (rows, starts),
                (firsts, positions, lengths),
                out,
                scale=scale,
                window=window,
                block=self._block,
                splits=splits,
                lead=single,
            )
        return out

    def _attend_fixed(
        self, q: Tensor, pool: Tensor, out: Tensor, single: int, scale: float, window: int
    ) -> Tensor:
        """q [num_tokens, num_heads, head_dim] -> out, in one order of each token's sums."""
        views = self._views

        def attend(name: str, blocks: Any, sequences: Any, lead: int, end: int) -> None:
            attend_fixed_paged(
                q[:end],
                pool,
                views[name],
                tuple(blocks),
                tuple(sequences),
                out[:end],
                scale=scale,
                window=window,
                lead=lead,
                max_model_len=self._longest,
            )

        if single:
            attend("tables", self._single_blocks, self._single_sequences, 0, single)
        if "prompt_blocks" in views:
            blocks, sequences = views["prompt_blocks"], views["prompt_sequences"]
            attend("prompt_tables", blocks, sequences, single, len(q))
        return out


def _readers(unit: int, head_dim: int, *, is_fixed: bool) -> frozenset[str]:
    """Sites whose next reader adds the remaining adapter part. None if sums have one order: a norm
    that adds it sums in another order than one that does not."""
    if is_fixed:
        return frozenset()
    return frozenset(SITES) - (set() if can_rotate(unit, head_dim) else {"qkv"})


def _parts(views: dict[str, Tensor], side: torch.cuda.Stream | None) -> Iterable[LoraPart]:
    for name, rows in (("groups", GROUP_ROWS), ("prompt_groups", PROMPT_GROUP_ROWS)):
        if name in views:
            slots, starts, counts = views[name]
            groups = Groups(slots, starts, counts, views[f"{name}_tokens"])
            # A prompt's product fills the GPU, so overlapping it gains nothing.
            yield LoraPart(groups, rows, side if rows == GROUP_ROWS else None)
