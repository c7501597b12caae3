"""Choosing tokens on the device: the most probable one of each row, written into the history inside
a graph; and the tokens that a grammar rules out."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_TOKEN = -1
"""Replaces a token if none can be chosen: a logit is NaN, the largest infinite, or all equal."""
BLOCK = 4096
"""Logits per program: 32 programs a row for a vocabulary of 128 256."""


@triton.jit
def _best_of_block(logits, stride, values, least, token_ids, size, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    block = tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    some = tl.load(logits + row.to(tl.int64) * stride + at, mask=inside, other=float("-inf"))
    some = some.to(tl.float32)
    # tl.max of NaN is undefined: replace NaN by infinity, so that its row gets no token.
    some = tl.where(some == some, some, float("inf"))
    value, place = tl.max(some, axis=0, return_indices=True)
    spot = row * tl.num_programs(1) + block
    tl.store(values + spot, value)
    tl.store(least + spot, tl.min(tl.where(inside, some, float("inf")), axis=0))
    tl.store(token_ids + spot, block * BLOCK + place)


@triton.jit(do_not_specialize_on_alignment=["places", "history"])
def _best_of_row(
    values, least, token_ids, places, history, chosen, num_blocks, BLOCKS: tl.constexpr
):
    row = tl.program_id(0)
    block = tl.arange(0, BLOCKS)
    inside = block < num_blocks
    some = tl.load(values + row * num_blocks + block, mask=inside, other=float("-inf"))
    value, best = tl.max(some, axis=0, return_indices=True)
    token = tl.load(token_ids + row * num_blocks + best)
    lows = tl.load(least + row * num_blocks + block, mask=inside, other=float("inf"))
    is_usable = (tl.abs(value) != float("inf")) & (tl.min(lows, axis=0) < value)
    tl.store(chosen + row, tl.where(is_usable, token, -1))
    place = tl.load(places + row)
    if place >= 0:  # the next step may be launched already: it must find a valid token id
        tl.store(history + place, tl.where(is_usable, token, 0))


def best_tokens(logits: Tensor, places: Tensor, history: Tensor) -> Tensor:
    """argmax over each row, the lowest token if several are best; also written to
    history[places[row]] unless that place is negative. A row with unusable logits gets `NO_TOKEN`,
    and 0 in the history.

    logits [num_rows, vocab_size], rows contiguous; places int32 [num_rows]; history int32, flat
    -> int32 [num_rows].
    """
    num_rows, size = logits.shape
    assert logits.stride(1) == 1 and history.is_contiguous()
    blocks = triton.cdiv(size, BLOCK)
    values = logits.new_empty((num_rows, blocks), dtype=torch.float32)
    least = torch.empty_like(values)
    token_ids = logits.new_empty((num_rows, blocks), dtype=torch.int32)
    chosen = logits.new_empty(num_rows, dtype=torch.int32)
    _best_of_block[(num_rows, blocks)](
        logits, logits.stride(0), values, least, token_ids, size, BLOCK=BLOCK
    )
    _best_of_row[(num_rows,)](
        values,
        least,
        token_ids,
        places,
        history,
        chosen,
        blocks,
        BLOCKS=triton.next_power_of_2(blocks),
        num_warps=1,
    )
    return chosen


@triton.jit
def _forbid(logits, stride, bits, bits_stride, rows, size, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = tl.load(rows + place).to(tl.int64)
    byte = tl.load(bits + place * bits_stride + at // 8, mask=inside, other=0)
    is_allowed = (byte.to(tl.int32) >> (at % 8)) & 1
    tl.store(logits + row * stride + at, float("-inf"), mask=inside & (is_allowed == 0))


def forbid_tokens(logits: Tensor, bits: Tensor, rows: Tensor) -> None:
    """Sets logits[rows[i], t] to minus infinity, in place, unless bit t % 8 of bits[i, t // 8] is
    set.

    logits [num_rows, vocab_size], rows contiguous; bits uint8 [n, at least vocab_size / 8]; rows
    int32 [n].
    """
    size = logits.shape[1]
    assert logits.stride(1) == 1 and bits.stride(1) == 1 and 8 * bits.shape[1] >= size
    _forbid[(len(bits), triton.cdiv(size, BLOCK))](
        logits, logits.stride(0), bits, bits.stride(0), rows, size, BLOCK=BLOCK
    )
