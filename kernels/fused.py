"""The work between the matrix products of a layer, each in one pass over its data: the residual
sum with its norm, the rotation with the write of K and V, the gate.

Each also adds the remaining adapter part of its input (`Shrunk`): B is read here, so that adding
needs no launch and no pass over the activations of its own. This is done token by token, even if
several share an adapter: B is then read from the L2, which is faster than tensor cores, which wait
12 us for a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .layouts import Shrunk
from .lora import RANK_BLOCK, Tiles, module_at, token_delta, warps_for

ROTATE_COLUMNS = 256
GATE = Tiles(256, 512)
"""Columns per program: of q, k and v together, and of the gate."""


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


@triton.jit(
    do_not_specialize=["module", "max_pages", "num_tokens", "ranks", "splits"],
    do_not_specialize_on_alignment=["owners"],
)
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
        more = token_delta(
            (partials, num_tokens, ranks, splits),
            (pool, pages, modules, max_pages),
            token,
            slot,
            module + tl.arange(0, 1),
            tl.full((1,), True, tl.int1),
            tile * UNIT,
            tl.full((1,), SIZE, tl.int32),
            is_tile,
            columns,
            PAGE,
            MOST,
            TILES,
            UNIT,
            BLOCK_R,
        )
        added = (added + more).to(delta.dtype.element_ty)
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
    """(max_pages, num_tokens, ranks, splits)."""
    splits, num_tokens, ranks = shrunk.partials.shape
    return shrunk.tables.pages.shape[1], num_tokens, ranks, splits


@triton.jit(
    do_not_specialize=["max_pages", "num_tokens", "ranks", "splits"],
    do_not_specialize_on_alignment=[
        "places_page",
        "places",
        "partials",
        "pages",
        "modules",
        "owners",
    ],
)
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
            column = head * DIM
            member, begin, width = module_at(column, Q_HEADS * DIM, KV_HEADS * DIM)
            delta = token_delta(
                (partials, num_tokens, ranks, splits),
                (pool, pages, modules, max_pages),
                token,
                slot,
                member,
                is_head,
                column - begin,
                width,
                is_head,
                dim,
                PAGE,
                MOST,
                HEADS,
                BLOCK,
                BLOCK_R,
            )
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
    # Padding stores no K or V.
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
    """Adds the adapters' products (see `can_rotate`), rotates q and k in place, each pair (a, b) as
    a + ib, and stores k and v in their pages.

    heads [num_tokens, num_heads + 2 num_kv_heads, head_dim]; rotation float32
    [num_tokens, head_dim / 2, 2], real and imaginary; pages and places int32 [num_tokens]: each
    token's page (-1 for padding) and its place in the page.
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
    """Whether `rotate_write` can add adapter products: no head may straddle a page."""
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


@triton.jit(
    do_not_specialize=["max_pages", "num_tokens", "ranks", "splits"],
    do_not_specialize_on_alignment=["owners"],
)
def _silu_mul_lora(
    gate_up,
    out,
    partials,
    pool,
    pages,
    modules,
    owners,
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
    BLOCK_R: tl.constexpr,
):
    token = tl.program_id(0)
    block = tl.program_id(1)
    slot = tl.load(owners + token)
    columns = tl.arange(0, UNIT)
    # Tiles of gate, then tiles of up at the same columns.
    index = tl.arange(0, 2 * TILES)
    side = index // TILES
    tile = block * TILES + index % TILES
    is_tile = tile < SIZE // UNIT
    at = (side * SIZE + tile * UNIT)[:, None] + columns[None, :]
    row = gate_up + token.to(tl.int64) * 2 * SIZE
    states = tl.load(row + at, mask=is_tile[:, None], other=0.0)
    if slot >= 0:
        more = token_delta(
            (partials, num_tokens, ranks, splits),
            (pool, pages, modules, max_pages),
            token,
            slot,
            FIRST_MODULE + side,
            tl.full((1,), True, tl.int1),
            tile * UNIT,
            tl.full((1,), SIZE, tl.int32),
            is_tile,
            columns,
            PAGE,
            MOST,
            2 * TILES,
            UNIT,
            BLOCK_R,
        )
        states = (states + more).to(states.dtype)
    gate, up = tl.split(tl.permute(tl.reshape(states, (2, TILES, UNIT)), (1, 2, 0)))
    g = gate.to(tl.float32)
    result = g / (1.0 + tl.exp(-g)) * up.to(tl.float32)
    own = block * TILES + tl.arange(0, TILES)
    tl.store(
        out + token.to(tl.int64) * SIZE + own[:, None] * UNIT + columns[None, :],
        result.to(out.dtype.element_ty),
        mask=(own < SIZE // UNIT)[:, None],
    )


def silu_mul(gate_up: Tensor, out: Tensor, shrunk: Shrunk | None = None) -> Tensor:
    """silu(gate) * up, after adding the adapters' products to both. gate_up [num_tokens, 2 n], gate
    first -> out [num_tokens, n]."""
    num_tokens, size = out.shape
    if shrunk is None:
        block = min(1024, triton.next_power_of_2(size))
        _silu_mul[(num_tokens, triton.cdiv(size, block))](gate_up, out, SIZE=size, BLOCK=block)
        return out
    unit, tiles = GATE.cut(shrunk.unit)
    _silu_mul_lora[(num_tokens, triton.cdiv(size, tiles * unit))](
        gate_up,
        out,
        shrunk.partials,
        shrunk.pool,
        shrunk.tables.pages,
        shrunk.tables.modules,
        shrunk.owners,
        *_sizes(shrunk),
        SIZE=size,
        FIRST_MODULE=shrunk.site.first_module,
        PAGE=shrunk.pool.shape[1],
        UNIT=unit,
        TILES=tiles,
        MOST=triton.next_power_of_2(len(shrunk.partials)),
        BLOCK_R=RANK_BLOCK,
        num_warps=warps_for(2 * tiles, unit),
    )
    return out
