"""Products and attention that give a row the same bits in every batch: one order of each sum,
whatever the number of rows, and the same for a prompt's tokens and single tokens.

A product is never cut along K, and all its tiles have the same `BLOCK_K`. Attention cuts the keys
of a sequence at the same places in every step, and one compiled kernel serves prompts and single
tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention import MOST_SPLITS, _combine


@triton.jit(do_not_specialize=["num_rows"])
def _product(
    x,
    x_stride,
    weight,
    bias,
    y,
    num_rows,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Programs that run together share rows of the weight: GROUP blocks of rows, then the next
    # outputs.
    program = tl.program_id(0)
    blocks_m = tl.cdiv(num_rows, BLOCK_M)
    blocks_n = tl.cdiv(OUT, BLOCK_N)
    first = program // (GROUP * blocks_n) * GROUP
    size = tl.minimum(blocks_m - first, GROUP)
    within = program % (GROUP * blocks_n)
    row = (first + within % size) * BLOCK_M + tl.arange(0, BLOCK_M)
    out = within // size * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = row < num_rows
    is_out = out < OUT
    column = tl.arange(0, BLOCK_K)
    inputs = x + row.to(tl.int64)[:, None] * x_stride + column[None, :]
    weights = weight + out.to(tl.int64)[:, None] * IN + column[None, :]
    found = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, IN, BLOCK_K):
        is_column = start + column < IN
        a = tl.load(inputs + start, mask=is_row[:, None] & is_column[None, :], other=0.0)
        b = tl.load(weights + start, mask=is_out[:, None] & is_column[None, :], other=0.0)
        found = tl.dot(a, tl.trans(b), found, input_precision=PRECISION)
    if HAS_BIAS:
        found += tl.load(bias + out, mask=is_out, other=0.0).to(tl.float32)[None, :]
    where = y + row.to(tl.int64)[:, None] * OUT + out[None, :]
    tl.store(where, found.to(y.dtype.element_ty), mask=is_row[:, None] & is_out[None, :])


class Blocks(NamedTuple):
    """The tile of a program, and how it is compiled."""

    rows: int
    outs: int
    warps: int
    stages: int


BLOCK_K = 128
BLOCKS = (
    (16, Blocks(16, 32, 4, 6)),
    (32, Blocks(32, 64, 4, 5)),
    (64, Blocks(64, 64, 4, 5)),
    (128, Blocks(128, 64, 4, 4)),
    (1 << 30, Blocks(128, 128, 8, 3)),
)
"""The tile by the largest number of rows that it is for. More rows share a read of the weight; with
few rows many programs read it together."""
GROUP = 8
"""Blocks of rows that share a read of the weight through the L2."""


def fixed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias, each row the same bits in every batch.

    x [num_rows, in_features], rows contiguous; weight [out_features, in_features], contiguous;
    bias [out_features] -> [num_rows, out_features].
    """
    (num_rows, size), (out_features, in_features) = x.shape, weight.shape
    assert size == in_features and x.stride(1) == 1 and weight.is_contiguous()
    y = x.new_empty((num_rows, out_features))
    blocks = next(blocks for most, blocks in BLOCKS if num_rows <= most)
    wide = x.element_size() == 4
    grid = triton.cdiv(num_rows, blocks.rows) * triton.cdiv(out_features, blocks.outs)
    _product[(grid,)](
        x,
        x.stride(0),
        weight,
        weight if bias is None else bias,
        y,
        num_rows,
        OUT=out_features,
        IN=in_features,
        HAS_BIAS=bias is not None,
        BLOCK_M=blocks.rows,
        BLOCK_N=blocks.outs,
        BLOCK_K=BLOCK_K // 4 if wide else BLOCK_K,
        GROUP=GROUP,
        PRECISION="ieee" if wide else "tf32",
        num_warps=blocks.warps,
        num_stages=2 if wide else blocks.stages,
    )
    return y


@triton.jit(
    do_not_specialize=["max_pages", "window", "lead"],
    do_not_specialize_on_alignment=["tables", "rows", "starts", "firsts", "positions", "lengths"],
)
def _attend(
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
    lead,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    row = tl.load(rows + block)
    if row < 0:
        return
    first = tl.load(firsts + row)
    length = tl.load(lengths + row)
    base = tl.load(positions + row)
    skipped = tl.load(starts + block)
    # A row of the tile is a query head of a token; heads of one KV head are neighbours.
    lane = tl.arange(0, ROWS)
    query = skipped + lane // GROUP
    member = head * GROUP + lane % GROUP
    is_query = (query < length) & (lane < ROWS // GROUP * GROUP)
    position = base + query
    dim = tl.arange(0, BLOCK_D)
    is_dim = dim < DIM
    mask = is_query[:, None] & is_dim[None, :]
    token = (first + query).to(tl.int64)
    queries = tl.load(
        q + token[:, None] * q_stride + member[:, None] * DIM + dim[None, :], mask=mask, other=0.0
    )
    last = tl.minimum(base + skipped + ROWS // GROUP, base + length)
    begin = 0
    if window > 0:
        begin = tl.maximum(0, base + skipped + 1 - window) // BLOCK_N * BLOCK_N
    if SPLITS > 1:
        begin = tl.maximum(begin, split * SPLIT_KEYS)
        last = tl.minimum(last, (split + 1) * SPLIT_KEYS)
    largest = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    found = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(begin, last, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        is_key = at < last
        page = tl.load(tables + row * max_pages + at // PAGE_SIZE, mask=is_key, other=0)
        place = (
            page.to(tl.int64) * (2 * KV_HEADS * PAGE_SIZE * DIM)
            + (head * PAGE_SIZE + at % PAGE_SIZE) * DIM
        )
        inside = is_key[:, None] & is_dim[None, :]
        keys = tl.load(pool + place[:, None] + dim[None, :], mask=inside, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        seen = (at[None, :] <= position[:, None]) & is_key[None, :]
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
    if SPLITS == 1:
        heads = token * (KV_HEADS * GROUP) + member
        safe = tl.where(total > 0, total, 1.0)
        tl.store(
            out + heads[:, None] * DIM + dim[None, :],
            (found / safe[:, None]).to(out.dtype.element_ty),
            mask=mask,
        )
    else:
        where = ((token - lead) * (KV_HEADS * GROUP) + member) * SPLITS + split
        tl.store(partial_out + where[:, None] * DIM + dim[None, :], found, mask=mask)
        tl.store(partial_max + where, largest, mask=is_query)
        tl.store(partial_sum + where, total, mask=is_query)


TILE_ROWS = 64
"""Query heads per program: the queries of a block times the heads that share a KV head."""
LEAST_SPLIT = 128
"""Fewest keys of a piece of a context."""


def fixed_split_keys(max_model_len: int) -> int:
    """Keys of a piece that a context is cut into, so that the longest has `MOST_SPLITS` pieces."""
    piece: int = triton.next_power_of_2(triton.cdiv(max_model_len, MOST_SPLITS))
    return max(LEAST_SPLIT, piece)


def queries_per_block(num_heads: int, num_kv_heads: int) -> int:
    """Queries of a block for `attend_fixed_paged`."""
    return max(1, TILE_ROWS // (num_heads // num_kv_heads))


def attend_fixed_paged(
    q: Tensor,
    pool: Tensor,
    tables: Tensor,
    blocks: tuple[Tensor, Tensor],
    sequences: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    *,
    scale: float,
    window: int,
    lead: int,
    max_model_len: int,
) -> Tensor:
    """Causal attention of consecutive tokens of several sequences, each over its own pages.

    q [num_tokens, num_heads, head_dim], of which the first `lead` tokens belong to no sequence; the
    other arguments are those of `attend_prefill_paged`, with `queries_per_block` queries a block
    -> out [num_tokens, num_heads head_dim], of which only the tokens after `lead` are written.
    """
    num_tokens, num_heads, dim = q.shape
    _, _, num_kv_heads, page_size, _ = pool.shape
    assert q.stride(1) == dim and q.stride(2) == 1 and out.is_contiguous()
    group = num_heads // num_kv_heads
    keys = fixed_split_keys(max_model_len)
    splits = triton.cdiv(max_model_len, keys)
    own = num_tokens - lead
    cells = own * num_heads * splits if splits > 1 else 0
    scratch = [q.new_empty(size, dtype=torch.float32) for size in (cells * dim, cells, cells)]
    block_d = max(16, triton.next_power_of_2(dim))
    _attend[(len(blocks[0]), num_kv_heads, splits)](
        q,
        q.stride(0),
        pool,
        tables,
        *blocks,
        *sequences,
        out,
        *scratch,
        tables.shape[1],
        scale,
        window,
        lead,
        KV_HEADS=num_kv_heads,
        GROUP=group,
        DIM=dim,
        PAGE_SIZE=page_size,
        SPLITS=splits,
        SPLIT_KEYS=keys,
        ROWS=max(TILE_ROWS, triton.next_power_of_2(group)),
        BLOCK_D=block_d,
        BLOCK_N=64,
        PRECISION="ieee" if pool.dtype.itemsize == 4 else "tf32",
    )
    if splits > 1:
        _combine[(own * num_heads,)](
            *scratch, out[lead:], splits, DIM=dim, MOST=MOST_SPLITS, BLOCK_D=block_d, num_warps=2
        )
    return out
