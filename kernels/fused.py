"""What stands between the matrix products of a layer, each in one pass over its data: the residual
sum with its norm, the rotation with the write of K and V, the gate."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


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


def add_norm_(hidden: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """hidden += delta, then out = hidden / sqrt(mean(hidden²) + eps) * weight.

    hidden, delta, out [num_tokens, n], contiguous; weight [n].
    """
    size = hidden.shape[1]
    block = triton.next_power_of_2(size)
    _add_norm[(len(hidden),)](
        hidden, delta, weight, out, eps, SIZE=size, BLOCK=block, num_warps=8 if block > 2048 else 4
    )
    return out


@triton.jit
def _rotate_write(
    heads,
    stride,
    rotation,
    pool,
    pages,
    places,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pair = tl.arange(0, BLOCK)
    inside = pair < DIM // 2
    at = heads + token * stride + head * DIM + 2 * pair
    even = tl.load(at, mask=inside, other=0.0)
    odd = tl.load(at + 1, mask=inside, other=0.0)
    if head < Q_HEADS + KV_HEADS:
        turn = rotation + (token * (DIM // 2) + pair) * 2
        real = tl.load(turn, mask=inside, other=0.0)
        imaginary = tl.load(turn + 1, mask=inside, other=0.0)
        a = even.to(tl.float32)
        b = odd.to(tl.float32)
        even = (a * real - b * imaginary).to(heads.dtype.element_ty)
        odd = (a * imaginary + b * real).to(heads.dtype.element_ty)
        tl.store(at, even, mask=inside)
        tl.store(at + 1, odd, mask=inside)
    page = tl.load(pages + token)
    if head >= Q_HEADS and page >= 0:
        place = (
            pool
            + (
                (page.to(tl.int64) * (2 * KV_HEADS) + head - Q_HEADS) * PAGE_SIZE
                + tl.load(places + token)
            )
            * DIM
            + 2 * pair
        )
        tl.store(place, even, mask=inside)
        tl.store(place + 1, odd, mask=inside)


def rotate_write(
    heads: Tensor, rotation: Tensor, pool: Tensor, pages: Tensor, places: Tensor, num_heads: int
) -> None:
    """Rotates q and k in place, each pair (a, b) as a + ib, and stores k and v in their pages.

    heads [num_tokens, num_heads + 2 num_kv_heads, head_dim]; rotation float32
    [num_tokens, head_dim / 2, 2], real and imaginary; pages and places int32 [num_tokens]: the page
    of each token, or -1 where it is padding, and its place in it.
    """
    num_tokens, count, dim = heads.shape
    _, _, num_kv_heads, page_size, _ = pool.shape
    assert heads.stride(1) == dim and heads.stride(2) == 1 and rotation.is_contiguous()
    _rotate_write[(num_tokens, count)](
        heads,
        heads.stride(0),
        rotation,
        pool,
        pages,
        places,
        Q_HEADS=num_heads,
        KV_HEADS=num_kv_heads,
        DIM=dim,
        PAGE_SIZE=page_size,
        BLOCK=max(16, triton.next_power_of_2(dim // 2)),
        num_warps=1,
    )


@triton.jit
def _silu_mul(gate_up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + at, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * SIZE + at, result.to(out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, out: Tensor) -> Tensor:
    """silu(gate) * up. gate_up [num_tokens, 2 n], gate first -> out [num_tokens, n]."""
    num_tokens, size = out.shape
    block = min(1024, triton.next_power_of_2(size))
    _silu_mul[(num_tokens, triton.cdiv(size, block))](gate_up, out, SIZE=size, BLOCK=block)
    return out
