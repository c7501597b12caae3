"""What stands between the matrix products of a layer, each in one pass over its data: the residual
sum with its norm, the rotation with the write of K and V, the gate.

Each also takes what adapters still have to add to its input (`Shrunk`): B is read here, so that no
launch and no pass over the activations is spent on adding alone.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .lora import (
    GROUP_ROWS,
    RANK_BLOCK,
    Tiles,
    group_shrunk,
    page_tiles,
    precision,
    rank_block,
    token_delta,
    warps_for,
)
from .tables import Shrunk

ROTATE_COLUMNS = 512
GATE = Tiles(256, 1024)
"""Of q, k and v, and of the gate, a program."""


@triton.jit
def _add_norm(hidden, delta, weight, out, eps, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < SIZE
    x = tl.load(hidden + row * SIZE + at, mask=inside, other=0.0)
    x = (x + tl.load(delta + row * SIZE + at, mask=inside, other=0.0)).to(hidden.dtype.element_ty)
    tl.store(hidden + row * SIZE + at, x, mask=inside)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + at, (x * scale * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["module", "max_pages", "num_tokens", "ranks", "splits"])
def _add_norm_lora(
    hidden,
    delta,
    weight,
    out,
    eps,
    partials,
    pool,
    pages,
    modules,
    owners,
    module,
    max_pages,
    num_tokens,
    ranks,
    splits,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    token = tl.program_id(0)
    slot = tl.load(owners + token)
    row = token.to(tl.int64)
    tile = tl.arange(0, TILES)
    columns = tl.arange(0, UNIT)
    is_tile = tile < SIZE // UNIT
    at = tile[:, None] * UNIT + columns[None, :]
    inside = is_tile[:, None]
    x = tl.load(hidden + row * SIZE + at, mask=inside, other=0.0)
    added = tl.load(delta + row * SIZE + at, mask=inside, other=0.0)
    if slot >= 0:
        lora = token_delta(
            partials,
            token,
            num_tokens,
            ranks,
            splits,
            pool,
            pages + slot * max_pages,
            modules + slot * 21 + module * 3,
            SIZE,
            tile * UNIT,
            is_tile,
            columns,
            PAGE,
            MOST,
            TILES,
            UNIT,
            BLOCK_R,
        )
        added = (added + lora).to(delta.dtype.element_ty)
    x = (x + added).to(hidden.dtype.element_ty)
    tl.store(hidden + row * SIZE + at, x, mask=inside)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(tl.sum(x * x, axis=1), axis=0) / SIZE + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + at, (x * scale * gain).to(out.dtype.element_ty), mask=inside)


def add_norm_(
    hidden: Tensor,
    delta: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor,
    shrunk: Shrunk | None = None,
) -> Tensor:
    """hidden += delta (+ s @ B.T), then out = hidden / sqrt(mean(hidden²) + eps) * weight.

    hidden, delta, out [num_tokens, n], contiguous; weight [n].
    """
    size = hidden.shape[1]
    if shrunk is None:
        block = triton.next_power_of_2(size)
        warps = 8 if block > 2048 else 4
        _add_norm[(len(hidden),)](
            hidden, delta, weight, out, eps, SIZE=size, BLOCK=block, num_warps=warps
        )
        return out
    tiles = triton.next_power_of_2(size // shrunk.unit)
    _add_norm_lora[(len(hidden),)](
        hidden,
        delta,
        weight,
        out,
        eps,
        shrunk.partials,
        shrunk.pool,
        shrunk.tables.pages,
        shrunk.tables.modules,
        shrunk.owners,
        shrunk.site.first_module,
        *_sizes(shrunk),
        SIZE=size,
        PAGE=shrunk.pool.shape[1],
        UNIT=shrunk.unit,
        TILES=tiles,
        MOST=triton.next_power_of_2(len(shrunk.partials)),
        BLOCK_R=RANK_BLOCK,
        num_warps=warps_for(tiles, shrunk.unit),
    )
    return out


def _sizes(shrunk: Shrunk) -> tuple[int, int, int, int]:
    """max_pages, num_tokens, ranks, splits"""
    splits, num_tokens, ranks = shrunk.partials.shape
    return shrunk.tables.pages.shape[1], num_tokens, ranks, splits


@triton.jit(do_not_specialize=["max_pages", "num_tokens", "ranks", "splits"])
def _rotate_write(
    heads,
    stride,
    rotation,
    pool,
    places_page,
    places,
    partials,
    pages,
    modules,
    owners,
    max_pages,
    num_tokens,
    ranks,
    splits,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    LORA: tl.constexpr,
    PAGE: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    dim = tl.arange(0, BLOCK)
    is_head = head < Q_HEADS + 2 * KV_HEADS
    inside = is_head[:, None] & (dim < DIM)[None, :]
    at = heads + token.to(tl.int64) * stride + head[:, None] * DIM + dim[None, :]
    states = tl.load(at, mask=inside, other=0.0)
    pair = tl.arange(0, BLOCK // 2)
    is_pair = pair < DIM // 2
    turn = rotation + (token.to(tl.int64) * (DIM // 2) + pair) * 2
    real = tl.load(turn, mask=is_pair, other=1.0)
    imaginary = tl.load(turn + 1, mask=is_pair, other=0.0)
    page = tl.load(places_page + token).to(tl.int64)
    place = tl.load(places + token)
    if LORA:
        slot = tl.load(owners + token)
        if slot >= 0:
            # The module of each head, and what is known of it.
            is_kv = (head >= Q_HEADS).to(tl.int32)
            member = is_kv + (head >= Q_HEADS + KV_HEADS).to(tl.int32)
            begin = is_kv * Q_HEADS + (member - is_kv) * KV_HEADS
            width = tl.where(is_kv > 0, KV_HEADS, Q_HEADS) * DIM
            about = modules + slot * 21 + member * 3
            own = tl.load(about, mask=is_head, other=0)
            first_rank = tl.load(about + 1, mask=is_head, other=0)
            first = tl.load(about + 2, mask=is_head, other=0)
            own_pages = pages + slot * max_pages
            delta = tl.zeros((HEADS, BLOCK), dtype=tl.float32)
            split = tl.arange(0, MOST)
            for start in range(0, tl.max(own, axis=0), BLOCK_R):
                rank = start + tl.arange(0, BLOCK_R)
                is_rank = rank[None, :] < own[:, None]  # [heads, ranks]
                element = (first + (head - begin) * DIM)[:, None] + rank[None, :] * width[:, None]
                b = page_tiles(pool, own_pages, element, is_rank, dim, PAGE)
                spot = (split * num_tokens + token)[:, None, None] * ranks
                spot = spot + (first_rank[:, None] + rank[None, :])[None, :, :]
                some = (split < splits)[:, None, None] & is_rank[None, :, :]
                weight = tl.sum(tl.load(partials + spot, mask=some, other=0.0), axis=0)
                delta += tl.sum(b.to(tl.float32) * weight[:, :, None], axis=1)
            states = (states + delta).to(states.dtype)
    even, odd = tl.split(tl.reshape(states, (HEADS, BLOCK // 2, 2)))
    a = even.to(tl.float32)
    b = odd.to(tl.float32)
    turned = tl.join(
        a * real[None, :] - b * imaginary[None, :], a * imaginary[None, :] + b * real[None, :]
    )
    rotated = tl.reshape(turned, (HEADS, BLOCK)).to(states.dtype)
    states = tl.where((head < Q_HEADS + KV_HEADS)[:, None], rotated, states)
    tl.store(at, states, mask=inside)
    # Of padding no head is kept.
    first_kept = tl.where(page >= 0, Q_HEADS, Q_HEADS + 2 * KV_HEADS)
    row = (page * (2 * KV_HEADS) + head - Q_HEADS) * PAGE_SIZE + place
    tl.store(
        pool + row[:, None] * DIM + dim[None, :],
        states,
        mask=inside & (head >= first_kept)[:, None],
    )


def rotate_write(
    heads: Tensor,
    rotation: Tensor,
    pool: Tensor,
    pages: Tensor,
    places: Tensor,
    num_heads: int,
    shrunk: Shrunk | None = None,
) -> None:
    """Adds what adapters add (see `can_rotate`), rotates q and k in place, each pair (a, b) as
    a + ib, and stores k and v in their pages.

    heads [num_tokens, num_heads + 2 num_kv_heads, head_dim]; rotation float32
    [num_tokens, head_dim / 2, 2], real and imaginary; pages and places int32 [num_tokens]: the page
    of each token, or -1 where it is padding, and its place in it.
    """
    num_tokens, count, dim = heads.shape
    _, _, num_kv_heads, page_size, _ = pool.shape
    assert heads.stride(1) == dim and heads.stride(2) == 1 and rotation.is_contiguous()
    assert shrunk is None or can_rotate(shrunk.unit, dim)
    block = triton.next_power_of_2(dim)
    each = max(1, min(ROTATE_COLUMNS // block, triton.next_power_of_2(count)))
    lora = (
        (pages, pages, pages, pages, 0, 0, 0, 0)
        if shrunk is None
        else (
            shrunk.partials,
            shrunk.tables.pages,
            shrunk.tables.modules,
            shrunk.owners,
            *_sizes(shrunk),
        )
    )
    _rotate_write[(num_tokens, triton.cdiv(count, each))](
        heads,
        heads.stride(0),
        rotation,
        pool,
        pages,
        places,
        *lora,
        Q_HEADS=num_heads,
        KV_HEADS=num_kv_heads,
        DIM=dim,
        PAGE_SIZE=page_size,
        HEADS=each,
        BLOCK=block,
        LORA=shrunk is not None,
        PAGE=pool[0].numel(),
        MOST=1 if shrunk is None else triton.next_power_of_2(len(shrunk.partials)),
        BLOCK_R=RANK_BLOCK,
        num_warps=warps_for(each, block),
    )


def can_rotate(unit: int, head_dim: int) -> bool:
    """Whether `rotate_write` can add: no head may straddle a page."""
    return unit % head_dim == 0


@triton.jit
def _silu_mul(gate_up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + at, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * SIZE + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate(gate, up):
    """silu(gate) * up in float32."""
    g = gate.to(tl.float32)
    return g / (1.0 + tl.exp(-g)) * up.to(tl.float32)


@triton.jit
def _gate_alone(
    gate_up,
    out,
    partials,
    num_tokens,
    ranks,
    splits,
    pool,
    pages,
    module,
    slot,
    token,
    tile,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    MOST: tl.constexpr,
    TILES: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One token, all tiles at once."""
    columns = tl.arange(0, UNIT)
    is_tile = tile < SIZE // UNIT
    inside = is_tile[:, None]
    at = tile[:, None] * UNIT + columns[None, :]
    row = gate_up + token.to(tl.int64) * 2 * SIZE
    gate = tl.load(row + at, mask=inside, other=0.0)
    up = tl.load(row + SIZE + at, mask=inside, other=0.0)
    if slot >= 0:
        own = (partials, token, num_tokens, ranks, splits, pool, pages)
        where = (SIZE, tile * UNIT, is_tile, columns)
        gate_delta = token_delta(*own, module, *where, PAGE, MOST, TILES, UNIT, BLOCK_R)
        up_delta = token_delta(*own, module + 3, *where, PAGE, MOST, TILES, UNIT, BLOCK_R)
        gate = (gate + gate_delta).to(gate.dtype)
        up = (up + up_delta).to(up.dtype)
    result = _gate(gate, up).to(out.dtype.element_ty)
    tl.store(out + token.to(tl.int64) * SIZE + at, result, mask=inside)


@triton.jit
def _group_delta(
    partials,
    token,
    is_row,
    num_tokens,
    ranks,
    splits,
    pool,
    pages,
    module,
    width,
    column,
    columns,
    PAGE: tl.constexpr,
    MOST: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As `token_delta`, for the tokens of a group and one tile. float32 [BLOCK_M, UNIT]"""
    own = tl.load(module)
    first_rank = tl.load(module + 1)
    first = tl.load(module + 2)
    delta = tl.zeros((BLOCK_M, UNIT), dtype=tl.float32)
    for start in range(0, own, BLOCK_R):
        rank = start + tl.arange(0, BLOCK_R)
        is_rank = rank < own
        b = rank_block(pool, pages, first, width, rank, is_rank, column, columns, PAGE)
        shrunk = group_shrunk(
            partials, token, is_row, num_tokens, ranks, splits, first_rank + rank, is_rank, MOST
        )
        delta = tl.dot(shrunk.to(b.dtype), b, delta, input_precision=PRECISION)
    return delta


@triton.jit
def _gate_group(
    gate_up,
    out,
    partials,
    num_tokens,
    ranks,
    splits,
    pool,
    pages,
    module,
    slot,
    token,
    is_row,
    tile,
    SIZE: tl.constexpr,
    PAGE: tl.constexpr,
    MOST: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The tokens of a group, one tile."""
    columns = tl.arange(0, UNIT)
    inside = is_row[:, None]
    states = gate_up + token.to(tl.int64)[:, None] * (2 * SIZE) + tile * UNIT + columns[None, :]
    gate = tl.load(states, mask=inside, other=0.0)
    up = tl.load(states + SIZE, mask=inside, other=0.0)
    if slot >= 0:
        own = (partials, token, is_row, num_tokens, ranks, splits, pool, pages)
        at = (SIZE, tile * UNIT, columns)
        gate_delta = _group_delta(*own, module, *at, PAGE, MOST, UNIT, BLOCK_M, BLOCK_R, PRECISION)
        up_delta = _group_delta(
            *own, module + 3, *at, PAGE, MOST, UNIT, BLOCK_M, BLOCK_R, PRECISION
        )
        gate = (gate + gate_delta).to(gate.dtype)
        up = (up + up_delta).to(up.dtype)
    result = _gate(gate, up).to(out.dtype.element_ty)
    row = out + token.to(tl.int64)[:, None] * SIZE
    tl.store(row + tile * UNIT + columns[None, :], result, mask=inside)


@triton.jit(do_not_specialize=["max_pages", "num_tokens", "ranks", "splits"])
def _silu_mul_lora(
    gate_up,
    out,
    partials,
    pool,
    pages,
    modules,
    slots,
    starts,
    counts,
    tokens,
    max_pages,
    num_tokens,
    ranks,
    splits,
    SIZE: tl.constexpr,
    FIRST_MODULE: tl.constexpr,
    PAGE: tl.constexpr,
    UNIT: tl.constexpr,
    TILES: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0)
    count = tl.load(counts + group)
    if count == 0:
        return
    slot = tl.load(slots + group)
    tokens += tl.load(starts + group)
    first_tile = tl.program_id(1) * TILES
    module = modules + slot * 21 + FIRST_MODULE * 3
    shrunk = (partials, num_tokens, ranks, splits, pool, pages + slot * max_pages, module, slot)
    if count == 1:
        tile = first_tile + tl.arange(0, TILES)
        token = tl.load(tokens)
        _gate_alone(gate_up, out, *shrunk, token, tile, SIZE, PAGE, MOST, TILES, UNIT, BLOCK_R)
    else:
        rows = tl.arange(0, BLOCK_M)
        is_row = rows < count
        own = tl.load(tokens + rows, mask=is_row, other=0)
        for now in range(first_tile, tl.minimum(first_tile + TILES, SIZE // UNIT)):
            _gate_group(
                gate_up,
                out,
                *shrunk,
                own,
                is_row,
                now,
                SIZE,
                PAGE,
                MOST,
                UNIT,
                BLOCK_M,
                BLOCK_R,
                PRECISION,
            )


def silu_mul(gate_up: Tensor, out: Tensor, shrunk: Shrunk | None = None) -> Tensor:
    """silu(gate) * up, each with what adapters add. gate_up [num_tokens, 2 n], gate first
    -> out [num_tokens, n]. With adapters, only tokens of a group are computed."""
    num_tokens, size = out.shape
    if shrunk is None:
        block = min(1024, triton.next_power_of_2(size))
        _silu_mul[(num_tokens, triton.cdiv(size, block))](gate_up, out, SIZE=size, BLOCK=block)
        return out
    unit, tiles = GATE.cut(shrunk.unit)
    _silu_mul_lora[(len(shrunk.groups.slots), triton.cdiv(size, tiles * unit))](
        gate_up,
        out,
        shrunk.partials,
        shrunk.pool,
        shrunk.tables.pages,
        shrunk.tables.modules,
        *shrunk.groups,
        *_sizes(shrunk),
        SIZE=size,
        FIRST_MODULE=shrunk.site.first_module,
        PAGE=shrunk.pool.shape[1],
        UNIT=unit,
        TILES=tiles,
        MOST=triton.next_power_of_2(len(shrunk.partials)),
        BLOCK_M=GROUP_ROWS,
        BLOCK_R=RANK_BLOCK,
        PRECISION=precision(gate_up),
        num_warps=warps_for(tiles, unit),
    )
    return out
