"""`ForwardBatch`: the batch of one step for plain torch; all tensors of its forward pass.

Made in two stages: `TorchPlan` on the host, from rows and page tables (numpy, no device);
`TorchPlan.to_device` turns it into tensors after one copy. Knows rows and pages; neither weights
nor requests.

The tokens of all rows are concatenated, ordered so that what is computed together is a slice:

    base prompts | base single tokens | single tokens with adapters | prompts with adapters

Single tokens (decode rows) are sorted by length: rows of similar length share one attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...kernels import reference
from ...kernels.layouts import Shrunk
from .adapter_store import (
    AdapterRows,
    AdapterSegment,
    AdapterStore,
    LoraBatch,
    TokenRange,
    plan_lora,
)
from .fixed_order import FixedOrder
from .layers import Rotary
from .page_pool import PAGE_SIZE, Ints, PagePool, pages_for

WASTED_PAGES = 16
"""Most padding pages in a group of decode rows: gathering and multiplying 16 pages costs as much as
the four operations of one more group, about 30 µs a layer on two cores."""
GROUP_BYTES = 8 << 20
"""Keys and values that one group may gather, so that they are still in the cache when used."""
MASK_ENTRIES = 1 << 22
"""Most entries of a prompt's mask; a longer prompt is split into pieces of fewer queries."""
FIXED_ENTRIES = 1 << 15
"""The same with a fixed order of sums, where all scores of a piece are in memory at once."""


@dataclass(frozen=True)
class StepRow:
    """One sequence's part of a step: tokens `start` to `start + num_tokens` of its `known` tokens.

    `slot` is its row in the token history, `pages` its page table.
    """

    slot: int
    start: int
    num_tokens: int
    known: int
    pages: list[int]
    adapter: str | None

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the row includes the last known token, so that the next one is sampled."""
        return self.stop == self.known


@dataclass(frozen=True)
class ScoredRow(StepRow):
    """A piece of a prompt, of some of whose positions the logprobs of the next tokens are wanted
    too: `scores_from` to `scores_to`, at least one."""

    scores_from: int
    scores_to: int

    @property
    def num_scores(self) -> int:
        return self.scores_to - self.scores_from


@dataclass(frozen=True)
class View:
    """The pages that some tokens attend to, and the token slots in them that each token sees."""

    index: Tensor
    """The index for `gather_pages`."""
    mask: Tensor
    """For decode rows [num_rows num_kv_heads, 1, length], 0 or -inf; for a prompt bool
    [num_tokens, length], or with a fixed order [1, queries of a KV head, length], 0 or -inf."""


@dataclass(frozen=True)
class Attention:
    """Tokens whose attention is computed together: decode rows of similar length, or one prompt.

    `views` has one view per attention window of the model's layers (0: no window). For a prompt it
    may be None: it attends to its own tokens only, and no page is read.
    """

    tokens: slice
    decode: bool
    views: dict[int, View | None]


@dataclass(frozen=True)
class ForwardBatch:
    """One step on the device."""

    token_ids: Tensor
    """[num_tokens]"""
    rotation: Tensor
    """complex64 [num_tokens, 1, head_dim / 2]"""
    write_index: Tensor
    """The index for `write_pages`."""
    attention: tuple[Attention, ...]
    """Parts of the attention in token order; together they cover all tokens."""
    lora: LoraBatch | None
    sample_tokens: Tensor
    """[num_samples + num_scores], indices of the tokens whose logits are wanted"""
    sample_history: Tensor
    """[num_samples], places of their next tokens in the flat history"""
    score_history: Tensor | None
    """[num_scores], likewise; None if no prompt is scored"""
    order: FixedOrder | None = None
    """Set if no token's sums may depend on the rest of the batch."""

    def rotate_write(
        self, heads: Tensor, num_heads: int, pool: Tensor, rest: Shrunk | None
    ) -> None:
        """Rotates q and k in place and stores k and v in their pages."""
        assert rest is None, "adapter products are already added here"
        num_kv_heads = (heads.shape[1] - num_heads) // 2
        reference.rotate_(heads[:, : num_heads + num_kv_heads], self.rotation)
        reference.write_pages(pool, heads[:, num_heads:], self.write_index)

    def attend(
        self, heads: Tensor, num_heads: int, pool: Tensor, scale: float, window: int
    ) -> Tensor:
        """[num_tokens, num_heads head_dim]"""
        parts = [
            _attend(heads[part.tokens], num_heads, part, pool, scale, window, self.order)
            for part in self.attention
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(
    heads: Tensor,
    num_heads: int,
    part: Attention,
    pool: Tensor,
    scale: float,
    window: int,
    order: FixedOrder | None,
) -> Tensor:
    """heads [num_tokens, q + 2 kv, head_dim] -> [num_tokens, q head_dim]."""
    num_kv_heads = (heads.shape[1] - num_heads) // 2
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    view = part.views[window]
    if order is not None:
        assert view is not None
        return _attend_fixed(q, view, part.decode, pool, scale, order)
    if view is None:
        return reference.attend_prefill(q, k.transpose(0, 1), v.transpose(0, 1), None, scale)
    if part.decode:
        keys, values = reference.gather_pages(pool, view.index, num_rows=len(q))
        return reference.attend_decode(q, keys, values, view.mask, scale)
    keys, values = reference.gather_pages(pool, view.index, num_rows=1)
    return reference.attend_prefill(q, keys[0], values[0], view.mask, scale)


def _attend_fixed(
    q: Tensor, view: View, decode: bool, pool: Tensor, scale: float, order: FixedOrder
) -> Tensor:
    """q [num_tokens, num_heads, head_dim] -> [num_tokens, num_heads head_dim]."""
    num_tokens, _, head_dim = q.shape
    num_kv_heads = pool.shape[2]
    keys, values = reference.gather_pages(pool, view.index, num_rows=num_tokens if decode else 1)
    keys, values = keys.reshape(-1, *keys.shape[2:]), values.reshape(-1, *values.shape[2:])
    q = q.reshape(num_tokens, num_kv_heads, -1, head_dim)
    group = q.shape[2]
    if decode:
        q = order.padded(q.reshape(num_tokens * num_kv_heads, group, head_dim))
        out = reference.attend_fixed(q, keys, values, view.mask, scale, order.keys)
        return out[:, :group].reshape(num_tokens, -1)
    # KV heads are the batch; the query heads of one are neighbours of the same token.
    q = order.padded(q.transpose(0, 1).reshape(num_kv_heads, num_tokens * group, head_dim))
    out = reference.attend_fixed(q, keys, values, view.mask, scale, order.keys)
    out = out[:, : num_tokens * group].view(num_kv_heads, num_tokens, group, head_dim)
    return out.transpose(0, 1).reshape(num_tokens, -1)


@dataclass(frozen=True)
class StepResult:
    """The results of a step, by sample. The next step that replays the same graph overwrites
    them."""

    logits: Tensor
    """[num_samples, vocab_size]"""
    places: Tensor
    """Integers [num_samples], places of their next tokens in the flat history"""
    best: Tensor | None = None
    """int32 [num_samples], the most probable tokens, already written to the history; None if the
    kernels have not chosen them"""
    scored: Tensor | None = None
    """[num_scores, hidden_size], the states of the scored tokens of prompts"""
    score_history: Tensor | None = None
    """Integers [num_scores], places of their next tokens in the flat history"""


class Staging:
    """Collects integer arrays and copies them to the device in one transfer."""

    def __init__(self) -> None:
        self._arrays: list[Ints] = []

    def add(self, values: Ints | Sequence[int]) -> int:
        """Adds an array; returns the ticket (index) of its tensor."""
        self._arrays.append(np.ascontiguousarray(values, dtype=np.int64))
        return len(self._arrays) - 1

    def ship(self, device: torch.device) -> list[Tensor]:
        """The arrays as int64 tensors, by ticket. Does not wait for the device."""
        if device.type == "cpu":
            return [torch.from_numpy(array) for array in self._arrays]
        if not self._arrays:  # a step that only releases
            return []
        # torch's pinned-memory cache keeps the buffer until the copy is done.
        flat = torch.from_numpy(np.concatenate(self._arrays)).pin_memory()
        return [*flat.to(device, non_blocking=True).split([len(a) for a in self._arrays])]


@dataclass(frozen=True)
class _Look:
    """A `View` on the host. `index` and `ends` are tickets; `ends` holds the first slot that each
    query does not see: it sees the `window` slots before it, or all of them if `window` is 0."""

    index: int
    ends: int
    length: int
    window: int


def score_places(rows: Iterable[tuple[int, StepRow]], history_width: int) -> tuple[Ints, Ints]:
    """Of the scores of all rows, each given after the index of its first token in the step: the
    indices of the tokens, and the places of their next tokens in the flat history."""
    tokens: list[int] = []
    places: list[int] = []
    for first, row in rows:
        if not isinstance(row, ScoredRow):
            continue
        positions = range(row.scores_from, row.scores_to)
        tokens += [first + position - row.start for position in positions]
        places += [row.slot * history_width + position + 1 for position in positions]
    return np.array(tokens, dtype=np.int64), np.array(places, dtype=np.int64)


class TorchPlan:
    """A step on the host: its rows in token order, and the index arrays made of their pages."""

    def __init__(
        self,
        rows: Sequence[StepRow],
        staging: Staging,
        pool: PagePool,
        store: AdapterStore,
        *,
        windows: tuple[int, ...],
        history_width: int,
        has_scores: bool = False,
        num_heads: int = 0,
        order: FixedOrder | None = None,
    ) -> None:
        """`windows`: the attention windows of the layers, 0 for none. `has_scores`: some rows have
        scores. `num_heads` (query heads) is needed with an `order` only."""
        self._staging, self._pool, self._windows = staging, pool, windows
        self._group, self._order = num_heads // pool.heads, order
        self.rows = _in_token_order(rows, store)
        starts = np.array([row.start for row in self.rows])
        counts = np.array([row.num_tokens for row in self.rows])
        ends = np.cumsum(counts)
        self.num_tokens = int(ends[-1])
        self._first: list[int] = (ends - counts).tolist()
        positions = np.arange(self.num_tokens) + np.repeat(starts - (ends - counts), counts)
        slots = np.repeat([row.slot for row in self.rows], counts)

        add = staging.add
        self._positions = add(positions)
        self._known = add(np.repeat([row.known for row in self.rows], counts))
        self._history = add(slots * history_width + positions)
        self._write = add(pool.write_index(self._pages_of(counts, positions), positions))
        sampling = [index for index, row in enumerate(self.rows) if row.samples]
        self.samples = [self.rows[index] for index in sampling]
        wanted, self._score_history, self.scored = ends[sampling] - 1, -1, list[ScoredRow]()
        if has_scores:
            self.scored = [row for row in self.rows if isinstance(row, ScoredRow)]
            tokens, places = score_places(zip(self._first, self.rows, strict=True), history_width)
            wanted = np.concatenate([wanted, tokens])
            self._score_history = add(places)
        self._sample_tokens = add(wanted)
        self._sample_history = add([r.slot * history_width + r.known for r in self.samples])
        self._attention = [*self._plan_attention()]
        self._lora = plan_lora([*self._spans()], store, order)
        self._joint = [(add(rows), add(places)) for _, _, rows, places in self._lora.joint]

    # -- on the host

    def _pages_of(self, counts: Ints, positions: Ints) -> Ints:
        """Each token's page. counts [num_rows], positions [num_tokens] -> [num_tokens]."""
        tables = [
            np.asarray(row.pages[row.start // PAGE_SIZE : pages_for(row.stop)], dtype=np.int64)
            for row in self.rows
        ]
        sizes = np.array([len(table) for table in tables])
        skipped = np.array([row.start // PAGE_SIZE for row in self.rows])
        first = np.cumsum(sizes) - sizes - skipped
        pages: Ints = np.concatenate(tables)[np.repeat(first, counts) + positions // PAGE_SIZE]
        return pages

    def _plan_attention(self) -> Iterator[tuple[slice, bool, list[_Look | None]]]:
        """(tokens, decode, one `_Look` per window) of each `Attention`."""
        index = 0
        while index < len(self.rows):
            first, row = self._first[index], self.rows[index]
            if row.num_tokens == 1:
                group = self._group_from(index)
                looks = [self._look(group, window) for window in self._windows]
                yield slice(first, first + len(group)), True, [*looks]
                index += len(group)
                continue
            for piece in self._pieces(row):
                start = first + piece.start - row.start
                yield (
                    slice(start, start + piece.num_tokens),
                    False,
                    [
                        self._look([piece], window) if self._reads_pages(piece, window) else None
                        for window in self._windows
                    ],
                )
            index += 1

    def _group_from(self, index: int) -> list[StepRow]:
        """Decode rows from `index` on that share one attention: limited in padding and in the bytes
        of their keys and values."""
        page_bytes = self._pool.nbytes // self._pool.num_pages // len(self._pool.pages)
        group: list[StepRow] = []
        longest = used = 0
        for row in self.rows[index:]:
            size = pages_for(row.stop)
            total = max(longest, size) * (len(group) + 1)
            fits = total - used - size <= WASTED_PAGES and total * page_bytes <= GROUP_BYTES
            if row.num_tokens != 1 or (group and not fits):
                break
            group.append(row)
            longest, used = max(longest, size), used + size
        return group

    def _pieces(self, row: StepRow) -> Iterator[StepRow]:
        """A prompt, split into pieces if its mask would be too large."""
        step = row.num_tokens
        if self._order is not None:
            step = max(self._order.rows, FIXED_ENTRIES // row.stop)
        elif any(_is_masked(row, window) for window in self._windows):
            step = max(1, MASK_ENTRIES // row.stop)
        for start in range(row.start, row.stop, step):
            yield replace(row, start=start, num_tokens=min(step, row.stop - start))

    def _reads_pages(self, row: StepRow, window: int) -> bool:
        return self._order is not None or _is_masked(row, window)

    def _look(self, rows: Sequence[StepRow], window: int) -> _Look:
        """The whole pages that decode rows, or one prompt, see, from the first query's first."""
        first_pages = [max(0, r.start + 1 - window) // PAGE_SIZE if window else 0 for r in rows]
        if self._order is not None:  # sums over keys are cut at the same keys in every step
            each = self._order.keys // PAGE_SIZE
            first_pages = [page // each * each for page in first_pages]
        tables = [r.pages[p : pages_for(r.stop)] for r, p in zip(rows, first_pages, strict=True)]
        width = max(len(table) for table in tables)
        # Padding is masked, and repeats the row's own pages, so that no NaN of another row leaks.
        padded = np.array([t + t[:1] * (width - len(t)) for t in tables], dtype=np.int64)
        ends = [
            row.start + query + 1 - page * PAGE_SIZE
            for row, page in zip(rows, first_pages, strict=True)
            for query in range(row.num_tokens)
        ]
        add = self._staging.add
        return _Look(add(self._pool.gather_index(padded)), add(ends), width * PAGE_SIZE, window)

    def _spans(self) -> Iterator[TokenRange]:
        for first, row in zip(self._first, self.rows, strict=True):
            if row.adapter is not None:
                yield TokenRange(first, first + row.num_tokens, row.adapter, row.num_tokens == 1)

    # -- to the device

    def to_device(
        self, tensors: list[Tensor], history: Tensor, rotary: Rotary, dtype: torch.dtype
    ) -> ForwardBatch:
        """The batch, made of the shipped tensors; masks and rotations are computed on the device.

        history int32 [num_slots, history_width] holds every sequence's known tokens.
        """
        attention = []
        for tokens, decode, looks in self._attention:
            views = [None if look is None else self._view(look, tensors) for look in looks]
            if decode:
                views = [view and self._for_decode(view, dtype) for view in views]
            elif self._order is not None:
                views = [view and self._for_prompt(view, dtype, self._order) for view in views]
            by_window = dict(zip(self._windows, views, strict=True))
            attention.append(Attention(tokens, decode, by_window))
        rows = [
            AdapterRows(tokens, stack, tensors[rows], tensors[places])
            for (tokens, stack, _, _), (rows, places) in zip(
                self._lora.joint, self._joint, strict=True
            )
        ]
        parts: tuple[AdapterSegment | AdapterRows, ...] = (*self._lora.segments, *rows)
        return ForwardBatch(
            token_ids=history.view(-1).index_select(0, tensors[self._history]),
            rotation=rotary(tensors[self._positions], tensors[self._known]),
            write_index=tensors[self._write],
            attention=tuple(attention),
            lora=LoraBatch(parts) if parts else None,
            sample_tokens=tensors[self._sample_tokens],
            sample_history=tensors[self._sample_history],
            score_history=tensors[self._score_history] if self.scored else None,
            order=self._order,
        )

    def _view(self, look: _Look, tensors: list[Tensor]) -> View:
        """The view with its mask as bool [num_queries, length]."""
        ends = tensors[look.ends][:, None]
        slots = torch.arange(look.length, device=ends.device)
        seen = slots < ends
        if look.window:
            seen &= slots >= ends - look.window
        return View(tensors[look.index], seen)

    def _for_decode(self, view: View, dtype: torch.dtype) -> View:
        """The view with its mask as numbers to add, [num_rows num_kv_heads, 1, length]."""
        mask = _as_numbers(view.mask, dtype)
        return View(view.index, mask.repeat_interleave(self._pool.heads, dim=0).unsqueeze(1))

    def _for_prompt(self, view: View, dtype: torch.dtype, order: FixedOrder) -> View:
        """The view with its mask as numbers to add, [1, queries of a KV head, length]."""
        mask = _as_numbers(view.mask, dtype).repeat_interleave(self._group, dim=0)
        return View(view.index, order.padded(mask.unsqueeze(0)))


def _as_numbers(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to scores: 0 where `seen`, else -inf."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))


def _is_masked(row: StepRow, window: int) -> bool:
    """Whether plain causal attention over the prompt's own tokens is not enough: it has earlier
    tokens, or a window hides some."""
    return row.start > 0 or 0 < window < row.stop


def _in_token_order(rows: Sequence[StepRow], store: AdapterStore) -> list[StepRow]:
    def order(row: StepRow) -> tuple[int, int, str, int]:
        single = row.num_tokens == 1
        if row.adapter is None:
            return (int(single), 0, "", row.stop if single else 0)
        if single:
            return (2, store.padded_rank(row.adapter), "", row.stop)
        return (3, 0, row.adapter, 0)

    return sorted(rows, key=order)
