"""Shrink and expand over many adapters of mixed rank, read where they lie: in the pool's pages.

A *group* is up to `GROUP_ROWS` tokens that share an adapter, so that they share its read and one
tensor-core product; tokens without an adapter are in no group and are never touched. The grids
depend on shapes alone, so the kernels can be captured in a graph; groups that are not there end at
once. That a tile begins at a multiple of 16 elements must be said: the compiler cannot see it
through the page table and would read two bytes at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tables import AdapterTables, Groups

GROUP_ROWS = 16
"""Tokens a group: the fewest that a tensor core multiplies."""
RANK_BLOCK = 16


@triton.jit
def _shrink(
    x,
    x_stride,
    pool,
    pages,
    sites,
    slots,
    starts,
    counts,
    tokens,
    partials,
    max_pages,
    num_tokens,
    SITE: tl.constexpr,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    slot = tl.load(slots + group)
    if slot < 0:
        return
    count = tl.load(counts + group)
    start_token = tl.load(starts + group)
    first_rank = tl.program_id(1) * BLOCK_R
    ranks = tl.load(sites + slot * 8 + SITE * 2 + 1)
    if first_rank >= ranks:
        return
    split = tl.program_id(2)
    first = tl.load(sites + slot * 8 + SITE * 2)
    rank = first_rank + tl.arange(0, BLOCK_R)
    is_rank = rank < ranks
    columns = tl.arange(0, BLOCK_K)
    if count == 1:
        # Nobody shares the read: sums without a tensor core, which would wait for shared memory.
        only = tl.load(tokens + start_token)
        sums = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
        for start in range(split * BLOCK_K, IN, SPLITS * BLOCK_K):
            at = first + rank * IN + start
            page = tl.load(pages + slot * max_pages + at // PAGE, mask=is_rank, other=0)
            place = tl.multiple_of(page.to(tl.int64) * PAGE + at % PAGE, [16])
            a = tl.load(pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0)
            inputs = tl.load(x + only.to(tl.int64) * x_stride + start + columns)
            sums += a.to(tl.float32) * inputs.to(tl.float32)[None, :]
        spot = (split * num_tokens + only) * RANKS + rank
        tl.store(partials + spot, tl.sum(sums, axis=1), mask=is_rank)
    else:
        rows = tl.arange(0, BLOCK_M)
        is_row = rows < count
        token = tl.load(tokens + start_token + rows, mask=is_row, other=0)
        found = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
        # Splits take turns over the blocks, so that all end together.
        for start in range(split * BLOCK_K, IN, SPLITS * BLOCK_K):
            element = first + rank * IN + start
            page = tl.load(pages + slot * max_pages + element // PAGE, mask=is_rank, other=0)
            place = tl.multiple_of(page.to(tl.int64) * PAGE + element % PAGE, [16])
            a = tl.load(pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0)
            inputs = tl.load(
                x + token.to(tl.int64)[:, None] * x_stride + start + columns[None, :],
                mask=is_row[:, None],
                other=0.0,
            )
            found = tl.dot(inputs, tl.trans(a), found, input_precision=PRECISION)
        where = (split * num_tokens + token)[:, None] * RANKS + rank[None, :]
        tl.store(partials + where, found, mask=is_row[:, None] & is_rank[None, :])


@triton.jit
def _expand(
    y,
    y_stride,
    pool,
    pages,
    modules,
    slots,
    starts,
    counts,
    tokens,
    partials,
    max_pages,
    num_tokens,
    FIRST_MODULE: tl.constexpr,
    OUT_0: tl.constexpr,
    OUT_1: tl.constexpr,
    OUT_2: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    slot = tl.load(slots + group)
    if slot < 0:
        return
    column = tl.program_id(1) * (BLOCK_N * BLOCKS)
    member = 0
    begin = 0
    width = OUT_0
    if column >= OUT_0 and OUT_1 > 0:
        member = 1
        begin = OUT_0
        width = OUT_1
        if column >= OUT_0 + OUT_1 and OUT_2 > 0:
            member = 2
            begin = OUT_0 + OUT_1
            width = OUT_2
    about = modules + slot * 21 + (FIRST_MODULE + member) * 3
    own_ranks = tl.load(about)
    if own_ranks == 0:
        return
    first_rank = tl.load(about + 1)
    first = tl.load(about + 2)
    count = tl.load(counts + group)
    start_token = tl.load(starts + group)
    columns = tl.arange(0, BLOCK_N)
    if count == 1:
        only = tl.load(tokens + start_token)
        for first_rank_now in range(0, own_ranks, BLOCK_R):
            rank = first_rank_now + tl.arange(0, BLOCK_R)
            is_rank = rank < own_ranks
            weights = tl.zeros((BLOCK_R,), dtype=tl.float32)
            for split in tl.static_range(SPLITS):
                spot = (split * num_tokens + only) * RANKS + first_rank + rank
                weights += tl.load(partials + spot, mask=is_rank, other=0.0)
            # Many columns a program: looking up who and where takes as long as reading a block.
            for block in range(0, BLOCKS):
                now = column + block * BLOCK_N
                at = first + rank * width + now - begin
                page = tl.load(pages + slot * max_pages + at // PAGE, mask=is_rank, other=0)
                place = tl.multiple_of(page.to(tl.int64) * PAGE + at % PAGE, [16])
                b = tl.load(
                    pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0
                )
                target = y + only.to(tl.int64) * y_stride + now + columns
                old = tl.load(target)
                sums = tl.sum(b.to(tl.float32) * weights[:, None], axis=0)
                tl.store(target, (old + sums).to(old.dtype))
    else:
        rows = tl.arange(0, BLOCK_M)
        is_row = rows < count
        token = tl.load(tokens + start_token + rows, mask=is_row, other=0)
        for first_rank_now in range(0, own_ranks, BLOCK_R):
            rank = first_rank_now + tl.arange(0, BLOCK_R)
            is_rank = rank < own_ranks
            mask = is_row[:, None] & is_rank[None, :]
            shrunk = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
            for split in tl.static_range(SPLITS):
                where = (split * num_tokens + token)[:, None] * RANKS + first_rank + rank[None, :]
                shrunk += tl.load(partials + where, mask=mask, other=0.0)
            for block in range(0, BLOCKS):
                now = column + block * BLOCK_N
                element = first + rank * width + now - begin
                page = tl.load(pages + slot * max_pages + element // PAGE, mask=is_rank, other=0)
                place = tl.multiple_of(page.to(tl.int64) * PAGE + element % PAGE, [16])
                b = tl.load(
                    pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0
                )
                out = y + token.to(tl.int64)[:, None] * y_stride + now + columns[None, :]
                before = tl.load(out, mask=is_row[:, None], other=0.0)
                found = tl.dot(shrunk.to(b.dtype), b, input_precision=PRECISION)
                tl.store(out, (before + found).to(before.dtype), mask=is_row[:, None])


def choose_splits(num_groups: int, in_features: int, rank_blocks: int, block: int) -> int:
    """Pieces of K: about `SHRINK_PROGRAMS` programs in all, at least two blocks each."""
    wanted = -(-SHRINK_PROGRAMS // (num_groups * rank_blocks))
    most = max(1, in_features // (2 * block))
    return 1 << (max(1, min(wanted, most, MOST_SPLITS)) - 1).bit_length()


SHRINK_PROGRAMS = 512
EXPAND_PROGRAMS = 2048
"""About so many programs, by sweep on an H200 (kernels/NOTES.md)."""
MOST_SPLITS = 16


def choose_blocks(num_groups: int, out_features: tuple[int, ...], block: int) -> int:
    """Blocks of columns a program: within one module, and about `EXPAND_PROGRAMS` in all."""
    in_module = math.gcd(*out_features) // block
    wanted = max(1, num_groups * sum(out_features) // block // EXPAND_PROGRAMS)
    return max(n for n in range(1, in_module + 1) if in_module % n == 0 and n <= wanted)


class Site(NamedTuple):
    """What is known of a site before any step."""

    number: int
    first_module: int
    out_features: tuple[int, ...]
    max_ranks: int
    """Bounds the ranks of its modules together, a multiple of RANK_BLOCK."""


def shrink_paged(
    x: Tensor,
    pool: Tensor,
    tables: AdapterTables,
    groups: Groups,
    site: Site,
    *,
    unit: int,
    block_m: int = GROUP_ROWS,
) -> Tensor:
    """x[t] @ A.T of t's adapter, for every token t of a group, in pieces of K that are still to be
    summed: float32 [splits, num_tokens, max_ranks].

    x [num_tokens, in_features], rows contiguous; pool [num_pages, elements] of one layer. `unit`, a
    power of two from 16 on, divides every size and where each matrix begins, so that no tile
    straddles a page.
    """
    num_tokens, in_features = x.shape
    num_groups, page = len(groups.slots), pool.shape[1]
    assert page % unit == 0 and x.stride(1) == 1
    tuned = TUNED if block_m == GROUP_ROWS else TUNED_PROMPT
    block_k, rank_blocks = min(unit, tuned.block_k), site.max_ranks // RANK_BLOCK
    splits = choose_splits(num_groups, in_features, rank_blocks, block_k)
    partials = x.new_empty((splits, num_tokens, site.max_ranks), dtype=torch.float32)
    _shrink[(num_groups, rank_blocks, splits)](
        x,
        x.stride(0),
        pool,
        tables.pages,
        tables.sites,
        *groups,
        partials,
        tables.pages.shape[1],
        num_tokens,
        SITE=site.number,
        IN=in_features,
        PAGE=page,
        RANKS=site.max_ranks,
        SPLITS=splits,
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        BLOCK_K=block_k,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        num_warps=tuned.shrink_warps,
    )
    return partials


def expand_paged(
    y: Tensor,
    partials: Tensor,
    pool: Tensor,
    tables: AdapterTables,
    groups: Groups,
    site: Site,
    *,
    unit: int,
    block_m: int = GROUP_ROWS,
) -> None:
    """y[t] += s[t] @ B.T of t's adapter, s being what `shrink_paged` gave.

    y [num_tokens, sum(out_features)], rows contiguous.
    """
    num_groups, page, outs = len(groups.slots), pool.shape[1], site.out_features
    assert y.shape[1] == sum(outs) and y.stride(1) == 1
    tuned = TUNED if block_m == GROUP_ROWS else TUNED_PROMPT
    block_n = min(unit, tuned.block_n)
    blocks = choose_blocks(num_groups, outs, block_n)
    padded = (*outs, 0, 0)[:3]
    _expand[(num_groups, sum(outs) // (block_n * blocks))](
        y,
        y.stride(0),
        pool,
        tables.pages,
        tables.modules,
        *groups,
        partials,
        tables.pages.shape[1],
        len(y),
        FIRST_MODULE=site.first_module,
        OUT_0=padded[0],
        OUT_1=padded[1],
        OUT_2=padded[2],
        PAGE=page,
        RANKS=site.max_ranks,
        SPLITS=partials.shape[0],
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        BLOCK_N=block_n,
        BLOCKS=blocks,
        PRECISION="ieee" if y.dtype == torch.float32 else "tf32",
        num_warps=tuned.expand_warps,
    )


class Tuned(NamedTuple):
    """Tiles and warps."""

    block_k: int
    block_n: int
    shrink_warps: int
    expand_warps: int


TUNED = Tuned(256, 512, 2, 2)
TUNED_PROMPT = Tuned(64, 128, 4, 4)
