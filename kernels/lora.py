"""Shrink and expand over many adapters of mixed rank, read directly from the pool's pages.

A *group* is up to `GROUP_ROWS` tokens (`PROMPT_GROUP_ROWS` for prompts) with the same adapter. They
share one read of it and a tensor-core product. A single token is summed in vectors: all its loads
are issued before the first value is used, while a loop would wait for every page look-up and every
block in turn.

The grids depend on shapes alone, so the kernels can be captured in a graph; unused groups return at
once. `multiple_of` states that a tile begins at a multiple of 16 elements, which the compiler
cannot see through the page table: without it, loads are two bytes wide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layouts import (
    MODULE_FIELDS,
    NUM_MODULES,
    NUM_SITES,
    SITE_FIELDS,
    AdapterTables,
    Groups,
    Shrunk,
    Site,
)

GROUP_ROWS = 16
"""Single tokens that share one read: the fewest rows of a tensor-core product."""
PROMPT_GROUP_ROWS = 64
"""Tokens of a prompt that share one read of their adapter."""
RANK_BLOCK = 16

# The tables' layout, as constants for the kernels.
_SITE_FIELDS: tl.constexpr = tl.constexpr(SITE_FIELDS)
_SLOT_SITES: tl.constexpr = tl.constexpr(NUM_SITES * SITE_FIELDS)
_MODULE_FIELDS: tl.constexpr = tl.constexpr(MODULE_FIELDS)
_SLOT_MODULES: tl.constexpr = tl.constexpr(NUM_MODULES * MODULE_FIELDS)


@triton.jit
def page_tiles(pool, pages, at, inside, columns, PAGE: tl.constexpr):
    """Loads the tiles that begin at elements at[i, j] -> [i, j, unit]; 0 where not inside."""
    page = tl.load(pages + at // PAGE, mask=inside, other=0)
    place = tl.multiple_of(page.to(tl.int64) * PAGE + at % PAGE, [16, 16])
    return tl.load(
        pool + place[:, :, None] + columns[None, None, :], mask=inside[:, :, None], other=0.0
    )


@triton.jit
def module_at(column, out_0, out_1):
    """The module that a column of a site belongs to: its number, first column and width. A site has
    one to three modules side by side; the second and third have the same width."""
    is_second = (column >= out_0).to(tl.int32)
    is_third = (column >= out_0 + out_1).to(tl.int32)
    begin = is_second * out_0 + is_third * out_1
    return is_second + is_third, begin, tl.where(is_second > 0, out_1, out_0)


@triton.jit
def module_entry(modules, slot, module):
    """Pointer to a slot's entry for a module: rank, first rank in the site, first element of B."""
    return modules + slot * _SLOT_MODULES + module * _MODULE_FIELDS


@triton.jit
def token_delta(
    shrunk,
    adapters,
    token,
    slot,
    module,
    is_module,
    column,
    width,
    is_tile,
    columns,
    PAGE: tl.constexpr,
    MOST: tl.constexpr,
    TILES: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """The product that `slot`'s adapter adds to one token at some tiles: float32 [TILES, UNIT].

    `shrunk` is (partials, num_tokens, ranks, splits), `adapters` (pool, pages, modules, max_pages).
    `column` [TILES]: each tile's first column within its module. `module` and `width` [TILES, or 1
    if equal for all]: the module's number, looked up where `is_module`, and its outputs.
    """
    partials, num_tokens, ranks, splits = shrunk
    pool, pages, modules, max_pages = adapters
    pages += slot * max_pages
    entry = module_entry(modules, slot, module)
    own = tl.load(entry, mask=is_module, other=0)
    first_rank = tl.load(entry + 1, mask=is_module, other=0)
    first = tl.load(entry + 2, mask=is_module, other=0) + column
    split = tl.arange(0, MOST)
    delta = tl.zeros((TILES, UNIT), dtype=tl.float32)
    for start in range(0, tl.max(own, axis=0), BLOCK_R):
        rank = start + tl.arange(0, BLOCK_R)
        is_rank = rank[None, :] < own[:, None]
        # Tiles before ranks: the compiler spreads the first dimension over warps, and a sum over
        # ranks must stay within a thread.
        at = first[:, None] + rank[None, :] * width[:, None]
        b = page_tiles(pool, pages, at, is_rank & is_tile[:, None], columns, PAGE)
        spot = (split * num_tokens + token)[:, None, None] * ranks
        spot = spot + (first_rank[:, None] + rank[None, :])[None, :, :]
        some = (split < splits)[:, None, None] & is_rank[None, :, :]
        summed = tl.sum(tl.load(partials + spot, mask=some, other=0.0), axis=0)
        delta += tl.sum(b.to(tl.float32) * summed[:, :, None], axis=1)
    return delta


@triton.jit
def group_shrunk(
    partials,
    token,
    is_row,
    num_tokens,
    ranks,
    rank,
    is_rank,
    SPLITS: tl.constexpr,
):
    """x @ A.T at `rank` for tokens of a group, summed over splits. float32 [tokens, ranks]"""
    at = token[:, None] * ranks + rank[None, :]
    inside = is_row[:, None] & is_rank[None, :]
    found = tl.load(partials + at, mask=inside, other=0.0)
    for split in tl.static_range(1, SPLITS):
        found += tl.load(partials + split * num_tokens * ranks + at, mask=inside, other=0.0)
    return found


@triton.jit
def rank_block(pool, pages, first, stride, rank, is_rank, column, columns, PAGE: tl.constexpr):
    """One tile of the rows `rank` of the matrix that begins at element `first`: [ranks, unit]."""
    at = first + rank * stride + column
    page = tl.load(pages + at // PAGE, mask=is_rank, other=0)
    place = tl.multiple_of(page.to(tl.int64) * PAGE + at % PAGE, [16])
    return tl.load(pool + place[:, None] + columns[None, :], mask=is_rank[:, None], other=0.0)


@triton.jit
def _shrink_group(
    x,
    x_stride,
    pool,
    pages,
    first,
    in_tiles,
    rank,
    is_rank,
    tokens,
    count,
    split,
    partials,
    num_tokens,
    ranks,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    columns = tl.arange(0, UNIT)
    rows = tl.arange(0, BLOCK_M)
    is_row = rows < count
    token = tl.load(tokens + rows, mask=is_row, other=0)
    found = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for tile in range(split * TILES, tl.minimum(in_tiles, (split + 1) * TILES)):
        a = rank_block(
            pool, pages, first, in_tiles * UNIT, rank, is_rank, tile * UNIT, columns, PAGE
        )
        inputs = tl.load(
            x + token.to(tl.int64)[:, None] * x_stride + tile * UNIT + columns[None, :],
            mask=is_row[:, None],
            other=0.0,
        )
        found = tl.dot(inputs, tl.trans(a), found, input_precision=PRECISION)
    where = (split * num_tokens + token)[:, None] * ranks + rank[None, :]
    tl.store(partials + where, found, mask=is_row[:, None] & is_rank[None, :])


@triton.jit(
    do_not_specialize=["site", "max_pages", "num_tokens", "ranks", "in_tiles"],
    do_not_specialize_on_alignment=["slots", "starts", "counts", "tokens"],
)
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
    site,
    max_pages,
    num_tokens,
    ranks,
    in_tiles,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    MAY_BE_ALONE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    slot = tl.load(slots + group)
    count = tl.load(counts + group)
    start = tl.load(starts + group)
    if slot < 0:
        return
    split = tl.program_id(1)
    entry = sites + slot * _SLOT_SITES + site * _SITE_FIELDS
    first = tl.load(entry)
    own = tl.load(entry + 1)
    first_rank = tl.program_id(2) * BLOCK_R
    if first_rank >= own:
        return
    tokens += start
    rank = first_rank + tl.arange(0, BLOCK_R)
    is_rank = rank < own
    pages += slot * max_pages
    is_alone = False
    if MAY_BE_ALONE:
        is_alone = count == 1
    if is_alone:
        columns = tl.arange(0, UNIT)
        tile = split * TILES + tl.arange(0, TILES)
        is_tile = tile < in_tiles
        at = first + rank[:, None] * (in_tiles * UNIT) + tile[None, :] * UNIT
        a = page_tiles(pool, pages, at, is_rank[:, None] & is_tile[None, :], columns, PAGE)
        token = tl.load(tokens)
        inputs = tl.load(
            x + token.to(tl.int64) * x_stride + tile[:, None] * UNIT + columns[None, :],
            mask=is_tile[:, None],
            other=0.0,
        )
        products = a.to(tl.float32) * inputs.to(tl.float32)[None, :, :]
        spot = (split * num_tokens + token) * ranks + rank
        tl.store(partials + spot, tl.sum(tl.sum(products, axis=2), axis=1), mask=is_rank)
    else:
        _shrink_group(
            x,
            x_stride,
            pool,
            pages,
            first,
            in_tiles,
            rank,
            is_rank,
            tokens,
            count,
            split,
            partials,
            num_tokens,
            ranks,
            PAGE,
            UNIT,
            TILES,
            BLOCK_M,
            BLOCK_R,
            PRECISION,
        )


@triton.jit(
    do_not_specialize=[
        "first_module",
        "out_0",
        "out_1",
        "out_tiles",
        "max_pages",
        "num_tokens",
        "ranks",
        "splits",
    ],
    do_not_specialize_on_alignment=["owners"],
)
def _expand_tokens(
    y,
    y_stride,
    pool,
    pages,
    modules,
    owners,
    partials,
    first_module,
    out_0,
    out_1,
    out_tiles,
    max_pages,
    num_tokens,
    ranks,
    splits,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    token = tl.program_id(0)
    slot = tl.load(owners + token)
    if slot < 0:
        return
    tile = tl.program_id(1) * TILES + tl.arange(0, TILES)
    is_tile = tile < out_tiles
    columns = tl.arange(0, UNIT)
    column = tile * UNIT
    out = y + token.to(tl.int64) * y_stride + column[:, None] + columns[None, :]
    before = tl.load(out, mask=is_tile[:, None], other=0.0)
    member, begin, width = module_at(column, out_0, out_1)
    delta = token_delta(
        (partials, num_tokens, ranks, splits),
        (pool, pages, modules, max_pages),
        token,
        slot,
        first_module + member,
        is_tile,
        column - begin,
        width,
        is_tile,
        columns,
        PAGE,
        MOST,
        TILES,
        UNIT,
        BLOCK_R,
    )
    tl.store(out, (before + delta).to(before.dtype), mask=is_tile[:, None])


@triton.jit(
    do_not_specialize=[
        "first_module",
        "out_0",
        "out_1",
        "max_pages",
        "num_tokens",
        "ranks",
    ],
    do_not_specialize_on_alignment=["slots", "starts", "counts", "tokens"],
)
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
    first_module,
    out_0,
    out_1,
    max_pages,
    num_tokens,
    ranks,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    slot = tl.load(slots + group)
    if slot < 0:
        return
    count = tl.load(counts + group)
    start = tl.load(starts + group)
    columns = tl.arange(0, UNIT)
    own_pages = pages + slot * max_pages
    rows = tl.arange(0, BLOCK_M)
    is_row = rows < count
    token = tl.load(tokens + start + rows, mask=is_row, other=0)
    # All tiles of a program lie in one module.
    first_tile = tl.program_id(1) * TILES
    member, begin, width = module_at(first_tile * UNIT, out_0, out_1)
    entry = module_entry(modules, slot, first_module + member)
    own = tl.load(entry)
    first_rank = tl.load(entry + 1)
    first = tl.load(entry + 2)
    # Not pipelined: there is usually only one block of ranks, and prefetched page look-ups would go
    # through shared memory and its barriers.
    for start_rank in tl.range(0, own, BLOCK_R, num_stages=1):
        rank = start_rank + tl.arange(0, BLOCK_R)
        is_rank = rank < own
        shrunk = group_shrunk(
            partials, token, is_row, num_tokens, ranks, first_rank + rank, is_rank, SPLITS
        )
        for tile in tl.range(first_tile, first_tile + TILES, num_stages=1):
            now = tile * UNIT
            out = y + token.to(tl.int64)[:, None] * y_stride + now + columns[None, :]
            before = tl.load(out, mask=is_row[:, None], other=0.0)
            b = rank_block(pool, own_pages, first, width, rank, is_rank, now - begin, columns, PAGE)
            found = tl.dot(shrunk.to(b.dtype), b, input_precision=PRECISION)
            tl.store(out, (before + found).to(before.dtype), mask=is_row[:, None])


class Tiles(NamedTuple):
    """How a kernel splits its columns: tiles of at most `unit`, `columns` columns per program."""

    unit: int
    columns: int

    def cut(self, unit: int) -> tuple[int, int]:
        """(unit, tiles per program) if pages allow tiles of up to `unit`. Powers of two."""
        own = min(unit, self.unit)
        return own, max(1, self.columns // own)


SHRINK = {"token": Tiles(256, 1024), "chunk": Tiles(128, 512), "prompt": Tiles(64, 4096)}
EXPAND = {"token": Tiles(256, 512), "chunk": Tiles(128, 256), "prompt": Tiles(128, 1024)}
"""By kind of group. Programs of few columns give more parallelism; programs of many columns look up
adapters and pages less often and leave fewer pieces of K to sum."""
FEW_GROUPS = 64
"""Up to this many prompt groups count as a chunk: too few to fill a GPU with long programs."""


def kind_of(groups: Groups, block_m: int) -> str:
    if block_m == GROUP_ROWS:
        return "token"
    return "chunk" if len(groups.slots) <= FEW_GROUPS else "prompt"


def warps_for(tiles: int, unit: int) -> int:
    """Warps for which a row of the tiles is 16 bytes per thread: each thread then holds all ranks
    of its columns, and the sum over ranks stays within it."""
    return max(1, min(16, tiles * unit // 256))


def precision(x: Tensor) -> str:
    """`input_precision` of a tensor-core product with x: float32 is not rounded to tf32."""
    return "ieee" if x.dtype.itemsize == 4 else "tf32"


def shrink_paged(
    x: Tensor,
    pool: Tensor,
    tables: AdapterTables,
    groups: Groups,
    owners: Tensor,
    site: Site,
    *,
    max_ranks: int,
    unit: int,
    block_m: int = GROUP_ROWS,
    alone: bool = True,
) -> Shrunk:
    """x[t] @ A.T with t's adapter, for every token t of a group, in pieces of K.

    x [num_tokens, in_features], rows contiguous; pool [num_pages, elements] of one layer;
    `max_ranks`, a multiple of RANK_BLOCK: upper bound of the sum of the site's ranks; groups have
    at most `block_m` tokens; `unit`: see `Shrunk`, at least 16. `alone`: a single token of an
    adapter is summed in vectors, so in another order than several are.
    """
    num_tokens, in_features = x.shape
    page = pool.shape[1]
    assert page % unit == 0 and in_features % unit == 0 and x.stride(1) == 1
    assert max_ranks % RANK_BLOCK == 0
    own_unit, tiles = SHRINK[kind_of(groups, block_m)].cut(unit)
    splits = triton.cdiv(in_features, own_unit * tiles)
    partials = x.new_empty((splits, num_tokens, max_ranks), dtype=torch.float32)
    _shrink[(len(groups.slots), splits, max_ranks // RANK_BLOCK)](
        x,
        x.stride(0),
        pool,
        tables.pages,
        tables.sites,
        *groups,
        partials,
        site.number,
        tables.pages.shape[1],
        num_tokens,
        max_ranks,
        in_features // own_unit,
        PAGE=page,
        UNIT=own_unit,
        TILES=tiles,
        MAY_BE_ALONE=alone and block_m != PROMPT_GROUP_ROWS,
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        PRECISION=precision(x),
        num_warps=warps_for(tiles, own_unit) if block_m == GROUP_ROWS else 4,
    )
    return Shrunk(partials, pool, tables, groups, owners, site, unit)


def expand_paged(y: Tensor, shrunk: Shrunk, *, block_m: int = GROUP_ROWS) -> None:
    """y[t] += s[t] @ B.T with t's adapter, for every token t of a group.

    y [num_tokens, sum(out_features)], rows contiguous. Single tokens are computed one by one, in
    the same way as by the next reader of y.
    """
    partials, pool, tables, groups, owners, site, unit = shrunk
    page, outs = pool.shape[1], site.out_features
    splits, num_tokens, ranks = partials.shape
    assert y.shape[1] == sum(outs) and y.stride(1) == 1 and len(y) == num_tokens
    own_unit, tiles = EXPAND[kind_of(groups, block_m)].cut(unit)
    sizes = (outs[0], outs[1] if len(outs) > 1 else sum(outs))
    whole = (tables.pages.shape[1], num_tokens, ranks, splits)
    most = triton.next_power_of_2(splits)
    if block_m == GROUP_ROWS:
        _expand_tokens[(num_tokens, triton.cdiv(sum(outs), tiles * own_unit))](
            y,
            y.stride(0),
            pool,
            tables.pages,
            tables.modules,
            owners,
            partials,
            site.first_module,
            *sizes,
            sum(outs) // own_unit,
            *whole,
            PAGE=page,
            UNIT=own_unit,
            TILES=tiles,
            MOST=most,
            BLOCK_R=RANK_BLOCK,
            num_warps=warps_for(tiles, own_unit),
        )
        return
    while math.gcd(*outs) % (tiles * own_unit):
        tiles //= 2
    _expand[(len(groups.slots), sum(outs) // (tiles * own_unit))](
        y,
        y.stride(0),
        pool,
        tables.pages,
        tables.modules,
        *groups,
        partials,
        site.first_module,
        *sizes,
        *whole[:3],
        PAGE=page,
        UNIT=own_unit,
        TILES=tiles,
        SPLITS=splits,
        BLOCK_M=block_m,
        BLOCK_R=RANK_BLOCK,
        PRECISION=precision(y),
        num_warps=8,
    )
