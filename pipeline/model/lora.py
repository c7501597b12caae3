"""`AdapterStore`: the adapters a worker holds; `LoraBatch`: what they add to one step.

Rows of a batch name different adapters or none. Rows without one are never touched: they are bit
for bit what they would be alone. Knows tokens and adapters, not requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...kernels import reference
from ..card import ModelCard
from ..messages import AdapterInfo
from .adapter import SITES, Adapter, AdapterError, SiteWeights, read_adapter

MOST_STACKS = 8
"""Stacks kept for batches to come; those used longest ago go first."""

Ints = npt.NDArray[np.int64]


class AdapterStack:
    """Adapters of one padded rank side by side, so that one batched product serves all.

    `sites[site]` has a [num_layers, num_adapters, width, in] and b likewise; a site that none of
    them changes is missing.
    """

    def __init__(self, adapters: tuple[Adapter, ...]) -> None:
        self.position = {adapter.name: index for index, adapter in enumerate(adapters)}
        self.sites: dict[str, SiteWeights] = {}
        for site in SITES:
            present = next((a.sites[site] for a in adapters if site in a.sites), None)
            if present is not None:
                nothing = SiteWeights(torch.zeros_like(present.a), torch.zeros_like(present.b))
                parts = [adapter.sites.get(site, nothing) for adapter in adapters]
                self.sites[site] = SiteWeights(
                    torch.stack([part.a for part in parts], dim=1),
                    torch.stack([part.b for part in parts], dim=1),
                )

    @property
    def nbytes(self) -> int:
        return sum(site.a.nbytes + site.b.nbytes for site in self.sites.values())


class AdapterStore:
    """Adapters by name, and the stacks made of them. Loading never raises: a broken adapter is
    an `AdapterInfo` with a reason."""

    def __init__(self, card: ModelCard, dtype: torch.dtype, device: torch.device) -> None:
        self._card, self._dtype, self._device = card, dtype, device
        self._adapters: dict[str, Adapter] = {}
        self._stacks: dict[tuple[str, ...], AdapterStack] = {}

    @property
    def nbytes(self) -> int:
        """Memory taken, stacks included."""
        held: list[Adapter | AdapterStack] = [*self._adapters.values(), *self._stacks.values()]
        return sum(item.nbytes for item in held)

    def __contains__(self, name: str) -> bool:
        return name in self._adapters

    def __getitem__(self, name: str) -> Adapter:
        return self._adapters[name]

    def load(self, name: str, path: str) -> AdapterInfo:
        """Reads an adapter; what came of it. On failure nothing is held and `reason` says why."""
        try:
            adapter = read_adapter(name, path, self._card, self._dtype, self._device)
        except AdapterError as error:
            return AdapterInfo(name, path, 0, (), 0, "", str(error))
        self._adapters[name] = adapter
        return adapter.info

    def unload(self, name: str) -> None:
        """Forgets an adapter; no batch may name it any more."""
        del self._adapters[name]
        self._stacks = {key: stack for key, stack in self._stacks.items() if name not in key}

    def stack(self, names: set[str]) -> AdapterStack:
        """A stack that holds these adapters, all of one padded rank, and few others.

        One made before is taken while at least half of it is of use: adapters come and go with
        requests, and each copy costs a pass over their weights.
        """
        most = 2 * len(names) + 2
        for key in reversed(self._stacks):
            if len(key) <= most and names.issubset(key):
                self._stacks[key] = stack = self._stacks.pop(key)  # now the latest used
                return stack
        key = tuple(sorted(names))
        for latest in reversed(self._stacks):
            same_rank = self[latest[0]].padded_rank == self[key[0]].padded_rank
            if same_rank and len(names.union(latest)) <= most:
                key = tuple(sorted(names.union(latest)))
                break
        while len(self._stacks) >= MOST_STACKS:
            del self._stacks[next(iter(self._stacks))]
        self._stacks[key] = stack = AdapterStack(tuple(self[name] for name in key))
        return stack


@dataclass(frozen=True)
class AdapterSegment:
    """Consecutive tokens of one adapter."""

    tokens: slice
    stack: AdapterStack
    position: int

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """Adds the adapter's part to its tokens' rows of y."""
        if weights := self.stack.sites.get(site):
            a, b = weights.a[layer, self.position], weights.b[layer, self.position]
            reference.add_lora(y[self.tokens], x[self.tokens], a, b)


@dataclass(frozen=True)
class AdapterRows:
    """Consecutive tokens of several adapters in any order, none of them many."""

    tokens: slice
    stack: AdapterStack
    rows: Tensor
    places: Tensor

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """Adds to each token's row of y what its adapter makes of its row of x."""
        if weights := self.stack.sites.get(site):
            reference.add_lora_rows(
                y[self.tokens],
                x[self.tokens],
                weights.a[layer],
                weights.b[layer],
                self.rows,
                self.places,
            )


@dataclass(frozen=True)
class LoraBatch:
    """All LoRA products of a step. A step without adapters has no `LoraBatch` at all."""

    parts: tuple[AdapterSegment | AdapterRows, ...]

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """y += what the adapters make of x; y [num_tokens, out], x [num_tokens, in]."""
        for part in self.parts:
            part.add(y, x, layer, site)


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of a step that share an adapter: a piece of a prompt, which gets its own
    product, or a single token, which is `joint` with its neighbours."""

    start: int
    stop: int
    adapter: str
    joint: bool


@dataclass
class LoraPlan:
    """Which tokens go through which stack: made on the host, before its tensors exist.

    `joint` holds (tokens, stack, rows, places) for an `AdapterRows` each.
    """

    segments: list[AdapterSegment] = field(default_factory=list)
    joint: list[tuple[slice, AdapterStack, Ints, Ints]] = field(default_factory=list)


def plan_lora(spans: Sequence[Span], store: AdapterStore) -> LoraPlan:
    """The products for spans in token order; joint spans of one padded rank must be neighbours."""
    plan = LoraPlan()
    names: dict[int, set[str]] = {}
    joint: dict[int, list[Span]] = {}
    for span in spans:
        rank = store[span.adapter].padded_rank
        names.setdefault(rank, set()).add(span.adapter)
        if span.joint:
            joint.setdefault(rank, []).append(span)
    stacks = {rank: store.stack(members) for rank, members in names.items()}
    for span in spans:
        if not span.joint:
            stack = stacks[store[span.adapter].padded_rank]
            tokens = slice(span.start, span.stop)
            plan.segments.append(AdapterSegment(tokens, stack, stack.position[span.adapter]))
    for rank, members in joint.items():
        _plan_joint(plan, members, stacks[rank])
    return plan


def _plan_joint(plan: LoraPlan, spans: list[Span], stack: AdapterStack) -> None:
    tokens = slice(spans[0].start, spans[-1].stop)
    owners = np.array([stack.position[span.adapter] for span in spans])  # one token a span
    if (owners == owners[0]).all():
        plan.segments.append(AdapterSegment(tokens, stack, int(owners[0])))
        return
    counts = np.bincount(owners, minlength=len(stack.position))
    most = int(counts.max())
    order = np.argsort(owners, kind="stable")
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.empty_like(owners)
    places[order] = owners[order] * most + within
    rows = np.zeros(len(counts) * most, dtype=np.int64)
    rows[places] = np.arange(len(owners))
    plan.joint.append((tokens, stack, rows, places))
