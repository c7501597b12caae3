"""torch's own products of packed weights on a CPU, and which of them the installed torch has.

The only place that uses torch internals: their names are private, and another torch version may
lack them. If `why_not_packed` or `why_not_int4` gives a reason, weights are not packed.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

INT4_GROUP = 32
"""Weights that share a scale and a minimum, in GGUF's 4-bit blocks and in torch's kernel."""
PACK_ROWS = 32
"""Rows that oneDNN packs a weight for: this packing serves 1 to 512 rows within 3 % of the best,
while one for a single row takes 1.5 times as long at 16."""
_CLOSE = 0.05
"""Allowed difference of a trial product from torch's usual one: bfloat16 rounds by 0.4 %."""


@functools.cache
def why_not_packed() -> str:
    """Why oneDNN's packed weights are not used; "" if a trial product is right."""
    if not torch.backends.mkldnn.is_available():
        return f"torch {torch.__version__} is built without oneDNN"
    try:
        weight, x = _trial(out_features=16)
        y = packed_product(x, pack(weight), None)
        return _compared("packed linear", y, F.linear(x, weight))
    except Exception as error:  # a missing name, other parameters, another layout
        return f"torch {torch.__version__}, packed linear: {_reason(error)}"


@functools.cache
def why_not_int4() -> str:
    """Why 4-bit weights are not used; "" if a trial product is right."""
    try:
        weight, x = _trial(out_features=16)  # values that fit in 4 bits
        scale = torch.full((1, 16, 2), 0.0, dtype=torch.bfloat16)
        scale[..., 0] = 1.0
        packed = pack_int4((weight + 8).to(torch.uint8))
        return _compared("4-bit product", int4_product(x, packed, scale), F.linear(x, weight))
    except Exception as error:
        return f"torch {torch.__version__}, 4-bit product: {_reason(error)}"


def multiplies_bfloat16() -> bool:
    """Whether torch reports that this processor has bfloat16 multiply instructions."""
    if not torch.backends.mkldnn.is_available():
        return False
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def pack(weight: Tensor) -> Tensor:
    """`weight` [out_features, in_features] in oneDNN's own layout, its type unchanged."""
    packed: Tensor = _onednn()._reorder_linear_weight(weight, PACK_ROWS)
    return packed


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """y = x @ W.T + bias; x [num_tokens, in_features] and y have the packed weight's type."""
    y: Tensor = _onednn()._linear_pointwise.default(x, packed, bias, "none", [], "")
    return y


def pack_int4(q: Tensor) -> Tensor:
    """`q` uint8 [out_features, in_features], 0 to 15, two to a byte in the kernel's own layout."""
    packed: Tensor = torch._convert_weight_to_int4pack_for_cpu(q.int(), 1)
    return packed


def int4_product(x: Tensor, packed: Tensor, scale_and_middle: Tensor) -> Tensor:
    """y = x @ W.T with w = (q - 8) * scale + middle; computed in bfloat16, y float32.

    x [num_tokens, in_features]; scale_and_middle bfloat16 [groups, out_features, 2].
    """
    y: Tensor = torch._weight_int4pack_mm_for_cpu(
        x.bfloat16(), packed, INT4_GROUP, scale_and_middle
    )
    return y.float()


def _onednn() -> Any:
    return torch.ops.mkldnn


def _trial(out_features: int) -> tuple[Tensor, Tensor]:
    """A weight of whole numbers from -8 to 7 and two rows of x, one group wide."""
    weight = (torch.arange(out_features * INT4_GROUP) * 7 % 16 - 8).float()
    x = (torch.arange(2 * INT4_GROUP) % 5 - 2).float() / 4
    return weight.view(out_features, INT4_GROUP), x.view(2, INT4_GROUP)


def _compared(name: str, y: Tensor, expected: Tensor) -> str:
    if torch.allclose(y.float(), expected, rtol=_CLOSE, atol=_CLOSE):
        return ""
    return f"torch {torch.__version__}, {name}: a trial comes out wrong"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
