"""The places of adapters in the pool, and the adapter of each token, in the form that the LoRA
kernels read. Imports no Triton: these are filled without it on a CPU."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NUM_SITES, SITE_FIELDS = 4, 2
NUM_MODULES, MODULE_FIELDS = 7, 3
"""Sizes of a slot's entry in `AdapterTables.sites` and `.modules`."""


class AdapterTables(NamedTuple):
    """Places of adapters by slot; int32 on the device.

    Elements of an adapter are numbered through its pages. Its A matrices of a site lie one below
    the other from `sites[..., 0]` on, [rank, in_features]; B.T of a module from `modules[..., 2]`
    on, [rank, out_features] with the scale in it.
    """

    pages: Tensor
    """[num_slots, max_pages]"""
    sites: Tensor
    """[num_slots, NUM_SITES, SITE_FIELDS]: first element of A, ranks of all its modules together"""
    modules: Tensor
    """[num_slots, NUM_MODULES, MODULE_FIELDS]: rank, first rank among the site's, first element of
    B"""


class Groups(NamedTuple):
    """Tokens by adapter; int32 on the device. Tokens of slot -1 have no adapter; a group that is
    not there has slot -1 and no tokens."""

    slots: Tensor
    """[max_groups]"""
    starts: Tensor
    """[max_groups], into `tokens`"""
    counts: Tensor
    """[max_groups], 0 to the size of a group"""
    tokens: Tensor
    """[max_tokens], tokens of one adapter side by side"""


class Site(NamedTuple):
    """A site of a layer, as it is known before any step."""

    number: int
    first_module: int
    out_features: tuple[int, ...]


class Shrunk(NamedTuple):
    """x @ A.T of a site for tokens with adapters, before B: what is left to add to y."""

    partials: Tensor
    """float32 [splits, num_tokens, ranks], pieces of K that are still to be summed"""
    pool: Tensor
    """[num_pages, elements] of one layer"""
    tables: AdapterTables
    groups: Groups
    owners: Tensor
    """int32 [num_tokens]: each token's slot, or -1"""
    site: Site
    unit: int
    """A power of two that divides every size and where each matrix begins: no tile of this many
    elements straddles a page."""


def largest_block(*sizes: int, most: int) -> int:
    """The largest power of two up to `most` that divides all sizes."""
    block = most
    while any(size % block for size in sizes):
        block //= 2
    return block
