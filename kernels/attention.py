"""Attention over paged KV: one token per row (decode), or consecutive tokens of a prompt.

The pool of one layer is [num_pages, 2, num_kv_heads, page_size, head_dim], keys before values.
Query heads that share a KV head share its read. Rows of length 0 are padding: their output is zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(
    do_not_specialize=["max_pages", "window", "splits"],
    do_not_specialize_on_alignment=["tables", "lengths"],
)
def _decode(
    q,
    q_stride,
    pool,
    tables,
    lengths,
    out,
    partial_out,
    partial_max,
    partial_sum,
    max_pages,
    scale,
    window,
    splits,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + row)
    begin = 0
    if window > 0:
        begin = tl.maximum(0, length - window) // BLOCK_N * BLOCK_N
    blocks = tl.cdiv(length - begin, BLOCK_N)
    each = tl.cdiv(blocks, splits)
    first = begin + split * each * BLOCK_N
    last = tl.minimum(length, first + each * BLOCK_N)
    member = tl.arange(0, BLOCK_G)
    dim = tl.arange(0, BLOCK_D)
    is_member = member < GROUP
    is_dim = dim < DIM
    mask = is_member[:, None] & is_dim[None, :]
    queries = tl.load(
        q + row * q_stride + (head * GROUP + member)[:, None] * DIM + dim[None, :],
        mask=mask,
        other=0.0,
    )
    largest = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    found = tl.zeros((BLOCK_G, BLOCK_D), dtype=tl.float32)
    for start in range(first, last, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        is_token = token < length
        page = tl.load(tables + row * max_pages + token // PAGE_SIZE, mask=is_token, other=0)
        place = (
            page.to(tl.int64) * (2 * KV_HEADS * PAGE_SIZE * DIM)
            + (head * PAGE_SIZE + token % PAGE_SIZE) * DIM
        )
        inside = is_token[:, None] & is_dim[None, :]
        keys = tl.load(pool + place[:, None] + dim[None, :], mask=inside, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        seen = is_token
        if window > 0:
            seen = seen & (token >= length - window)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(now == float("-inf"), 0.0, now)
        weights = tl.exp(scores - shift[:, None])
        decay = tl.exp(largest - shift)
        values = tl.load(
            pool + place[:, None] + KV_HEADS * PAGE_SIZE * DIM + dim[None, :],
            mask=inside,
            other=0.0,
        )
        total = total * decay + tl.sum(weights, axis=1)
        found = found * decay[:, None] + tl.dot(
            weights.to(values.dtype), values, input_precision=PRECISION
        )
        largest = now
    heads = row * KV_HEADS * GROUP + head * GROUP + member
    if IS_WHOLE:
        safe = tl.where(total > 0, total, 1.0)
        result = found / safe[:, None]
        tl.store(
            out + heads[:, None] * DIM + dim[None, :], result.to(out.dtype.element_ty), mask=mask
        )
    else:
        where = heads * splits + split
        tl.store(partial_out + where[:, None] * DIM + dim[None, :], found, mask=mask)
        tl.store(partial_max + where, largest, mask=is_member)
        tl.store(partial_sum + where, total, mask=is_member)


@triton.jit(do_not_specialize=["splits"])
def _combine(
    partial_out,
    partial_max,
    partial_sum,
    out,
    splits,
    DIM: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    head = tl.program_id(0)
    split = tl.arange(0, MOST)
    dim = tl.arange(0, BLOCK_D)
    peaks = tl.load(partial_max + head * splits + split, mask=split < splits, other=float("-inf"))
    sums = tl.load(partial_sum + head * splits + split, mask=split < splits, other=0.0)
    largest = tl.max(peaks, axis=0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    weight = tl.exp(peaks - shift)
    parts = tl.load(
        partial_out + (head * splits + split)[:, None] * DIM + dim[None, :],
        mask=(dim < DIM)[None, :] & (sums > 0)[:, None],
        other=0.0,
    )
    total = tl.sum(weight * sums, axis=0)
    total = tl.where(total > 0, total, 1.0)
    result = tl.sum(parts * weight[:, None], axis=0) / total
    tl.store(out + head * DIM + dim, result.to(out.dtype.element_ty), mask=dim < DIM)


MOST_SPLITS = 16


def decode_splits(num_rows: int, num_kv_heads: int) -> int:
    """Pieces to cut the context into, for about 512 programs in all."""
    return min(MOST_SPLITS, triton.next_power_of_2(max(1, 512 // (num_rows * num_kv_heads))))


def attend_decode_paged(
    q: Tensor,
    pool: Tensor,
    tables: Tensor,
    lengths: Tensor,
    out: Tensor,
    *,
    scale: float,
    window: int,
) -> Tensor:
    """Attention of one token per row over the row's own pages.

    q [num_rows, num_heads, head_dim], heads contiguous; tables int32 [num_rows, max_pages];
    lengths int32 [num_rows], the row's own token included; `window` 0: full attention
    -> out [num_rows, num_heads head_dim].
    """
    num_rows, num_heads, dim = q.shape
    _, _, num_kv_heads, page_size, _ = pool.shape
    splits = decode_splits(num_rows, num_kv_heads)
    assert q.stride(1) == dim and q.stride(2) == 1 and out.is_contiguous()
    block_d = max(16, triton.next_power_of_2(dim))
    group = num_heads // num_kv_heads
    cells = num_rows * num_heads * splits if splits > 1 else 0
    scratch = [q.new_empty(size, dtype=torch.float32) for size in (cells * dim, cells, cells)]
    precision = "ieee" if pool.dtype.itemsize == 4 else "tf32"
    _decode[(num_rows, num_kv_heads, splits)](
        q,
        q.stride(0),
        pool,
        tables,
        lengths,
        out,
        *scratch,
        tables.shape[1],
        scale,
        window,
        splits,
        KV_HEADS=num_kv_heads,
        GROUP=group,
        DIM=dim,
        PAGE_SIZE=page_size,
        IS_WHOLE=splits == 1,
        BLOCK_G=max(16, triton.next_power_of_2(group)),
        BLOCK_D=block_d,
        BLOCK_N=64,
        PRECISION=precision,
    )
    if splits > 1:
        _combine[(num_rows * num_heads,)](
            *scratch, out, splits, DIM=dim, MOST=MOST_SPLITS, BLOCK_D=block_d, num_warps=2
        )
    return out


@triton.jit(
    do_not_specialize=["max_pages", "window", "splits"],
    do_not_specialize_on_alignment=["tables", "rows", "starts", "firsts", "positions", "lengths"],
)
def _prefill(
    q,
    q_stride,
    pool,
    tables,
    rows,
    starts,
    firsts,
    positions,
    lengths,
    out,
    partial_out,
    partial_max,
    partial_sum,
    max_pages,
    scale,
    window,
    splits,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(rows + block)
    if row < 0:
        return
    skipped = tl.load(starts + block)
    first = tl.load(firsts + row)
    length = tl.load(lengths + row)
    base = tl.load(positions + row)
    query = skipped + tl.arange(0, BLOCK_M)
    is_query = query < length
    position = base + query
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < DIM
    mask = is_query[:, None] & is_dim[None, :]
    token = (first + query).to(tl.int64)
    queries = tl.load(
        q + token[:, None] * q_stride + head * DIM + dim[None, :], mask=mask, other=0.0
    )
    last = tl.minimum(base + skipped + BLOCK_M, base + length)
    begin = 0
    if window > 0:
        begin = tl.maximum(0, base + skipped + 1 - window) // BLOCK_N * BLOCK_N
    if not IS_WHOLE:
        each = tl.cdiv(tl.cdiv(last - begin, BLOCK_N), splits) * BLOCK_N
        begin += tl.program_id(2) * each
        last = tl.minimum(last, begin + each)
    largest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    found = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for start in range(begin, last, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        is_key = at < last
        page = tl.load(tables + row * max_pages + at // PAGE_SIZE, mask=is_key, other=0)
        place = (
            page.to(tl.int64) * (2 * KV_HEADS * PAGE_SIZE * DIM)
            + ((head // GROUP) * PAGE_SIZE + at % PAGE_SIZE) * DIM
        )
        inside = is_key[:, None] & is_dim[None, :]
        keys = tl.load(pool + place[:, None] + dim[None, :], mask=inside, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        seen = at[None, :] <= position[:, None]
        if window > 0:
            seen = seen & (at[None, :] > position[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(now == float("-inf"), 0.0, now)
        weights = tl.exp(scores - shift[:, None])
        decay = tl.exp(largest - shift)
        values = tl.load(
            pool + place[:, None] + KV_HEADS * PAGE_SIZE * DIM + dim[None, :],
            mask=inside,
            other=0.0,
        )
        total = total * decay + tl.sum(weights, axis=1)
        found = found * decay[:, None] + tl.dot(
            weights.to(values.dtype), values, input_precision=PRECISION
        )
        largest = now
    heads = token * (KV_HEADS * GROUP) + head
    if IS_WHOLE:
        safe = tl.where(total > 0, total, 1.0)
        tl.store(
            out + heads[:, None] * DIM + dim[None, :],
            (found / safe[:, None]).to(out.dtype.element_ty),
            mask=mask,
        )
    else:
        where = heads * splits + tl.program_id(2)
        tl.store(partial_out + where[:, None] * DIM + dim[None, :], found, mask=mask)
        tl.store(partial_max + where, largest, mask=is_query)
        tl.store(partial_sum + where, total, mask=is_query)


PREFILL_BLOCK = 64
"""Queries per program."""
CHUNK_BLOCK = 32
"""Queries per program if there are a few hundred: with 64 every program would be alone on its
multiprocessor and wait for every block of keys (250 us a layer at 4 000 keys)."""
CHUNK_PROGRAMS = 1024
"""Target number of programs if queries are few, reached by cutting the context into pieces."""


def chunk_splits(num_blocks: int, num_heads: int) -> int:
    """Pieces that the context is cut into for `num_blocks` blocks of queries."""
    return min(8, triton.next_power_of_2(max(1, CHUNK_PROGRAMS // max(1, num_blocks * num_heads))))


def attend_prefill_paged(
    q: Tensor,
    pool: Tensor,
    tables: Tensor,
    blocks: tuple[Tensor, Tensor],
    sequences: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    *,
    scale: float,
    window: int,
    block: int = PREFILL_BLOCK,
    splits: int = 1,
    lead: int = 0,
) -> Tensor:
    """Causal attention of consecutive tokens of several sequences, each over its own pages.

    q [num_tokens, num_heads, head_dim]; tables int32 [num_sequences, max_pages]; blocks: for each
    block of `block` queries, its sequence (-1: unused) and its first query within the sequence,
    int32 [num_blocks]; sequences: first token in q, position of that token, number of tokens,
    int32 [num_sequences]; `splits`: pieces of the context, each computed by its own programs. With
    splits, the first `lead` tokens of q belong to no sequence and the rest are consecutive
    -> out [num_tokens, num_heads head_dim], of which only these sequences' tokens are written.
    """
    num_tokens, num_heads, dim = q.shape
    _, _, num_kv_heads, page_size, _ = pool.shape
    assert q.stride(1) == dim and q.stride(2) == 1 and out.is_contiguous()
    firsts, positions, lengths = sequences
    cells = num_tokens * num_heads * splits if splits > 1 else 0
    scratch = [q.new_empty(size, dtype=torch.float32) for size in (cells * dim, cells, cells)]
    block_d = max(16, triton.next_power_of_2(dim))
    _prefill[(len(blocks[0]), num_heads, splits)](
        q,
        q.stride(0),
        pool,
        tables,
        *blocks,
        firsts,
        positions,
        lengths,
        out,
        *scratch,
        tables.shape[1],
        scale,
        window,
        splits,
        KV_HEADS=num_kv_heads,
        GROUP=num_heads // num_kv_heads,
        DIM=dim,
        PAGE_SIZE=page_size,
        IS_WHOLE=splits == 1,
        BLOCK_M=block,
        BLOCK_D=block_d,
        BLOCK_N=64,
        PRECISION="ieee" if pool.dtype.itemsize == 4 else "tf32",
    )
    if splits > 1:
        first = lead * num_heads * splits
        parts = (scratch[0][first * dim :], scratch[1][first:], scratch[2][first:])
        _combine[((num_tokens - lead) * num_heads,)](
            *parts, out[lead:], splits, DIM=dim, MOST=MOST_SPLITS, BLOCK_D=block_d, num_warps=2
        )
    return out
