"""The places of adapters in the pool, and each token's adapter, in the form that the LoRA kernels
read. Imports no Triton, so that a CPU can use these without it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NUM_SITES, SITE_FIELDS = 4, 2
NUM_MODULES, MODULE_FIELDS = 7, 3
"""Shapes of a slot's entry in `AdapterTables.sites` and `.modules`."""


class AdapterTables(NamedTuple):
    """Places of adapters by slot; int32 on the device.

    Elements of an adapter are numbered across its pages. A site's A matrices [rank, in_features]
    are adjacent, from `sites[..., 0]` on; a module's B.T [rank, out_features], times the scale,
    begins at `modules[..., 2]`.
    """

    pages: Tensor
    """[num_slots, max_pages]"""
    sites: Tensor
    """[num_slots, NUM_SITES, SITE_FIELDS]: first element of A, sum of its modules' ranks"""
    modules: Tensor
    """[num_slots, NUM_MODULES, MODULE_FIELDS]: rank, first rank among the site's, first element of
    B"""


class Groups(NamedTuple):
    """Tokens by adapter; int32 on the device. Tokens of slot -1 have no adapter; an unused group
    has slot -1 and no tokens."""

    slots: Tensor
    """[max_groups]"""
    starts: Tensor
    """[max_groups], into `tokens`"""
    counts: Tensor
    """[max_groups], 0 to the size of a group"""
    tokens: Tensor
    """[max_tokens], tokens of one adapter adjacent"""


class Site(NamedTuple):
    """The fixed facts about a site of a layer."""

    number: int
    first_module: int
    out_features: tuple[int, ...]


class Shrunk(NamedTuple):
    """x @ A.T of a site for tokens with adapters; its product with B is still to be added to y."""

    partials: Tensor
    """float32 [splits, num_tokens, ranks], partial sums over pieces of K, not yet added"""
    pool: Tensor
    """[num_pages, elements] of one layer"""
    tables: AdapterTables
    groups: Groups
    owners: Tensor
    """int32 [num_tokens]: each token's slot, or -1"""
    site: Site
    unit: int
    """A power of two that divides every size and each matrix's first element, so that no tile of
    this many elements straddles a page."""


def largest_block(*sizes: int, most: int) -> int:
    """The largest power of two up to `most` that divides all sizes."""
    block = most
    while any(size % block for size in sizes):
        block //= 2
    return block
