"""Where adapters lie in the pool, and which tokens are whose, as the LoRA kernels want to know it.
Imports no Triton: who fills these may run without it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AdapterTables(NamedTuple):
    """Where adapters lie, by slot; int32 on the device.

    Elements of an adapter are numbered through its pages. Its A matrices of a site lie one below
    the other from `sites[..., 0]` on, [rank, in_features]; B.T of a module from `modules[..., 2]`
    on, [rank, out_features] with the scale in it.
    """

    pages: Tensor
    """[num_slots, max_pages]"""
    sites: Tensor
    """[num_slots, 4, 2]: first element of A, ranks of all its modules together"""
    modules: Tensor
    """[num_slots, 7, 3]: rank, first rank among the site's, first element of B"""


class Groups(NamedTuple):
    """Tokens by adapter; int32 on the device. A group that is not there has slot -1."""

    slots: Tensor
    """[max_groups]"""
    starts: Tensor
    """[max_groups], into `tokens`"""
    counts: Tensor
    """[max_groups], 1 to GROUP_ROWS"""
    tokens: Tensor
    """[max_tokens], tokens of one adapter side by side"""


def largest_block(*sizes: int, most: int) -> int:
    """The largest power of two up to `most` that divides all sizes."""
    block = most
    while any(size % block for size in sizes):
        block //= 2
    return block
