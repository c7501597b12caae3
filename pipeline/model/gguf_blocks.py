"""The blocks of GGUF's simple types in torch: 4-bit codes, and weights in float32.

Bit for bit what the gguf package computes with numpy, in a third of the time and without holding
the interpreter's lock, so that several threads can read one model.
"""

from __future__ import annotations

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from .cpu_kernels import INT4_GROUP

Q4_0, Q4_1, Q8_0 = (
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q8_0,
)
HEAD_BYTES = {Q4_0: 2, Q4_1: 4, Q8_0: 2}
"""Bytes of float16 before a block's codes: the scale, in Q4_1 also the minimum."""
INT4_KINDS = (Q4_0, Q4_1)


def heads_of(blocks: Tensor, kind: GGMLQuantizationType) -> Tensor:
    """The scale of each block, in Q4_1 also the minimum: float32 [num_blocks, 1 or 2].
    blocks uint8 [num_blocks, bytes of a block]."""
    return blocks[:, : HEAD_BYTES[kind]].contiguous().view(torch.float16).float()


def codes_of(blocks: Tensor, kind: GGMLQuantizationType, codes: Tensor) -> Tensor:
    """Fills `codes` [num_blocks, 32], of any type, with the codes of 4-bit blocks, 0 to 15.

    The first 16 weights are in the low halves of 16 bytes, the last 16 in the high ones.
    """
    nibbles = blocks[:, HEAD_BYTES[kind] :]
    low, high = codes.view(-1, 2, INT4_GROUP // 2).unbind(1)
    low.copy_(nibbles & 15)
    high.copy_(nibbles >> 4)
    return codes


def dequantize_blocks(blocks: Tensor, kind: GGMLQuantizationType) -> Tensor:
    """The weights of blocks of a kind in `HEAD_BYTES`, float32 [num_blocks, 32]."""
    heads = heads_of(blocks, kind)
    if kind == Q8_0:
        return blocks[:, HEAD_BYTES[kind] :].view(torch.int8).float().mul_(heads)
    weights = codes_of(blocks, kind, torch.empty(len(blocks), INT4_GROUP))
    if kind == Q4_0:
        return weights.sub_(8).mul_(heads)
    return weights.mul_(heads[:, :1]).add_(heads[:, 1:])
