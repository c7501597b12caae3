"""Shrink and expand over many adapters of mixed rank, read where they lie: in the pool's pages.

A *group* is up to `GROUP_ROWS` tokens that share an adapter, so that they share its read and one
tensor-core product; tokens without an adapter are in no group and are never touched. The grids
depend on shapes alone, so the kernels can be captured in a graph; groups that are not there end at
once.
"""

from __future__ import annotations

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
    first_rank = tl.program_id(1) * BLOCK_R
    ranks = tl.load(sites + slot * 8 + SITE * 2 + 1)
    if first_rank >= ranks:
        return
    split = tl.program_id(2)
    first = tl.load(sites + slot * 8 + SITE * 2)
    rows = tl.arange(0, BLOCK_M)
    is_row = rows < tl.load(counts + group)
    token = tl.load(tokens + tl.load(starts + group) + rows, mask=is_row, other=0)
    rank = first_rank + tl.arange(0, BLOCK_R)
    is_rank = rank < ranks
    columns = tl.arange(0, BLOCK_K)
    found = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    # Splits take turns over the blocks, so that all end together.
    for start in range(split * BLOCK_K, IN, SPLITS * BLOCK_K):
        element = first + rank * IN + start
        page = tl.load(pages + slot * max_pages + element // PAGE, mask=is_rank, other=0)
        place = page.to(tl.int64) * PAGE + element % PAGE
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
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    slot = tl.load(slots + group)
    if slot < 0:
        return
    column = tl.program_id(1) * BLOCK_N
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
    rows = tl.arange(0, BLOCK_M)
    is_row = rows < tl.load(counts + group)
    token = tl.load(tokens + tl.load(starts + group) + rows, mask=is_row, other=0)
    columns = tl.arange(0, BLOCK_N)
    found = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, own_ranks, BLOCK_R):
        rank = start + tl.arange(0, BLOCK_R)
        is_rank = rank < own_ranks
        shrunk = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
        for split in range(SPLITS):
            where = (split * num_tokens + token)[:, None] * RANKS + first_rank + rank[None, :]
            shrunk += tl.load(partials + where, mask=is_row[:, None] & is_rank[None, :], other=0.0)
        element = first + rank * width + column - begin
        page = tl.load(pages + slot * max_pages + element // PAGE, mask=is_rank, other=0)
        place = page.to(tl.int64) * PAGE + element % PAGE
        b = tl.load(pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0)
        found = tl.dot(shrunk.to(b.dtype), b, found, input_precision=PRECISION)
    out = y + token.to(tl.int64)[:, None] * y_stride + column + columns[None, :]
    before = tl.load(out, mask=is_row[:, None], other=0.0)
    tl.store(out, (before + found).to(before.dtype), mask=is_row[:, None])


def choose_splits(num_groups: int, in_features: int, rank_blocks: int, block: int) -> int:
    """Pieces of K: about `PROGRAMS` programs in all, at least two blocks each."""
    wanted = -(-PROGRAMS // (num_groups * rank_blocks))
    most = max(1, in_features // (2 * block))
    return 1 << (max(1, min(wanted, most, MOST_SPLITS)) - 1).bit_length()


PROGRAMS = 1024
"""Programs that keep 132 multiprocessors busy."""
MOST_SPLITS = 16


def add_lora_paged(
    y: Tensor,
    x: Tensor,
    pool: Tensor,
    tables: AdapterTables,
    groups: Groups,
    *,
    site: int,
    first_module: int,
    out_features: tuple[int, ...],
    max_ranks: int,
    unit: int,
    block_m: int = GROUP_ROWS,
) -> None:
    """y[t] += (x[t] @ A.T) @ B.T of t's adapter, for every token t of a group.

    x [num_tokens, in_features], y [num_tokens, sum(out_features)], rows contiguous; pool
    [num_pages, elements] of one layer. `max_ranks` bounds the ranks of a site's modules together, a
    multiple of RANK_BLOCK. `unit`, a power of two from 16 on, divides every size and where each
    matrix begins, so that no tile straddles a page.
    """
    num_tokens, in_features = x.shape
    page = pool.shape[1]
    num_groups = len(groups.slots)
    precision = "ieee" if x.dtype == torch.float32 else "tf32"
    block_k = min(unit, 256 if block_m == GROUP_ROWS else 64)
    rank_blocks = max_ranks // RANK_BLOCK
    splits = choose_splits(num_groups, in_features, rank_blocks, block_k)
    partials = torch.empty((splits, num_tokens, max_ranks), dtype=torch.float32, device=x.device)
    assert page % unit == 0 and y.shape[1] == sum(out_features) and x.stride(1) == y.stride(1) == 1
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
        SITE=site,
        IN=in_features,
        PAGE=page,
        RANKS=max_ranks,
        SPLITS=splits,
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        BLOCK_K=block_k,
        PRECISION=precision,
    )
    outs = (*out_features, 0, 0)[:3]
    block_n = min(unit, 256 if block_m == GROUP_ROWS else 128)
    _expand[(num_groups, sum(out_features) // block_n)](
        y,
        y.stride(0),
        pool,
        tables.pages,
        tables.modules,
        *groups,
        partials,
        tables.pages.shape[1],
        num_tokens,
        FIRST_MODULE=first_module,
        OUT_0=outs[0],
        OUT_1=outs[1],
        OUT_2=outs[2],
        PAGE=page,
        RANKS=max_ranks,
        SPLITS=splits,
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        BLOCK_N=block_n,
        PRECISION=precision,
    )
