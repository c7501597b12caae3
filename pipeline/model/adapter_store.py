"""`AdapterStore`: the adapters a worker holds; `LoraBatch`: the LoRA products of one step.

Rows of a batch name different adapters or none. Rows without an adapter are never touched: their
results are bit for bit those of a batch without adapters. Knows tokens and adapters, not requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import torch
from torch import Tensor

from ...kernels import reference
from ...kernels.layouts import (
    MODULE_FIELDS,
    NUM_MODULES,
    NUM_SITES,
    SITE_FIELDS,
    AdapterTables,
    largest_block,
)
from ..adapter_files.peft_config import MOST_RANK
from ..config import Config
from ..messages import AdapterInfo
from ..model_files.model_config import ModelConfig
from ..runtime.guarded_file import AdapterError
from .adapter import SITES, Adapter, measure_adapter, module_shapes, read_adapter
from .compute_queue import sent
from .fixed_order import FixedOrder
from .page_pool import Ints, PagePool, page_elements
from .shard import WHOLE, Shard

MOST_RESIDENT = 4096
"""Maximum adapters in pages at a time, on a GPU."""
MOST_STACKS = 8
"""Stacks cached for later batches; the least recently used is evicted first."""


@dataclass(frozen=True)
class SiteWeights:
    """Adapters at one site, all layers: y += (x @ a.T) @ b.

    a [num_layers, num_adapters, width, in_features], b [… width, out_features]; width is the
    padded rank times the modules of the site, and b is zero except at each module's own outputs.
    """

    a: Tensor
    b: Tensor


class AdapterStack:
    """Adapters of one padded rank side by side, so that one batched product serves all. Gathered
    from the pool's pages once per mixture of adapters, not in each step.

    A site that no adapter changes is missing from `sites`.
    """

    def __init__(
        self,
        adapters: tuple[Adapter, ...],
        weights: Sequence[Tensor],
        model_config: ModelConfig,
        padded: int,
    ) -> None:
        """weights: each adapter's page contents, [num_layers, elements]."""
        self.position = {adapter.info.key: index for index, adapter in enumerate(adapters)}
        self.sites: dict[str, SiteWeights] = {}
        shapes = module_shapes(model_config)
        changed = {part.module for adapter in adapters for part in adapter.parts}
        for site, members in SITES.items():
            if changed.isdisjoint(members):
                continue
            out_features = [shapes[member][0] for member in members]
            in_features = shapes[members[0]][1]
            lead = (model_config.num_layers, len(adapters), padded * len(members))
            a = weights[0].new_zeros((*lead, in_features))
            b = weights[0].new_zeros((*lead, sum(out_features)))
            for index, (adapter, content) in enumerate(zip(adapters, weights, strict=True)):
                for part in adapter.parts:
                    if part.module not in members:
                        continue
                    place = members.index(part.module)
                    rows = slice(place * padded, place * padded + part.rank)
                    first = sum(out_features[:place])
                    columns = slice(first, first + out_features[place])
                    a[:, index, rows] = _matrix(content, part.a, part.rank, in_features)
                    b[:, index, rows, columns] = _matrix(
                        content, part.b, part.rank, out_features[place]
                    )
            self.sites[site] = SiteWeights(a, b)

    @property
    def nbytes(self) -> int:
        return sum(site.a.nbytes + site.b.nbytes for site in self.sites.values())


def _matrix(content: Tensor, start: int, rows: int, columns: int) -> Tensor:
    """The matrix from element `start` of each layer, [num_layers, rows, columns]."""
    return content[:, start : start + rows * columns].reshape(-1, rows, columns)


def tile_of(model_config: ModelConfig) -> int:
    """The largest tile, up to 256 elements, that divides every size the kernels tile and the start
    of each matrix."""
    sizes = [size for shape in module_shapes(model_config).values() for size in shape]
    return largest_block(*sizes, page_elements(model_config), most=256)


class AdapterStore:
    """Adapters by key: host copies, and those that the router placed in the pool's pages.

    `read` and `measure` may be called from any thread, all other methods only from the thread that
    launches steps. The ablation flags of `config` change where adapters are stored and how they are
    padded, never the results. `model_config` is the whole model's; contents and sizes are those of
    one shard.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        dtype: torch.dtype,
        pool: PagePool,
        config: Config | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        config = config or Config()
        self._whole, self._shard = model_config, shard
        self._model_config, self._dtype, self._pool = shard.model_config(model_config), dtype, pool
        self._base, self._roots = config.model, config.adapter_roots()
        self._in_pool, self._all_alike = not config.no_mem_pool, config.bmm
        self._adapters: dict[str, Adapter] = {}
        self._pages: dict[str, tuple[int, ...]] = {}
        self._own: dict[str, Tensor] = {}
        """Contents of adapters outside the pool, [num_layers, elements]."""
        self._free_slots = list(range(MOST_RESIDENT - 1, -1, -1))
        self._slots: dict[str, int] = {}
        self.unit = tile_of(self._model_config)
        self.tables = self.make_tables(MOST_RESIDENT if pool.pages.is_cuda else 0)
        self._stacks: dict[tuple[str, ...], AdapterStack] = {}

    @property
    def nbytes(self) -> int:
        """Bytes outside the pool: host copies, stacks, and adapters placed in their own memory."""
        hosts = sum(adapter.host.nbytes for adapter in [*self._adapters.values()])
        own = sum(tensor.nbytes for tensor in [*self._own.values()])
        return hosts + own + sum(stack.nbytes for stack in [*self._stacks.values()])

    def __contains__(self, key: str) -> bool:
        """Whether the adapter is placed."""
        return key in self._pages

    def __getitem__(self, key: str) -> Adapter:
        return self._adapters[key]

    def infos(self) -> tuple[AdapterInfo, ...]:
        """All adapters in host memory."""
        return tuple(adapter.info for adapter in [*self._adapters.values()])

    def padded_rank(self, key: str) -> int:
        """The adapter's rank rounded up to a power of two (at least 8), or with `--bmm` the largest
        of all adapters. Adapters of one padded rank share a stack."""
        if self._all_alike:
            return max(adapter.padded_rank for adapter in [*self._adapters.values()])
        return self[key].padded_rank

    def read(self, key: str, path: str) -> AdapterInfo:
        """Reads an adapter into host memory. Never raises: on failure nothing is held and the
        result's `reason` says why."""
        try:
            adapter = read_adapter(
                key,
                path,
                self._whole,
                self._dtype,
                base=self._base,
                roots=self._roots,
                shard=self._shard,
            )
        except AdapterError as error:
            return AdapterInfo(key, path, 0, (), 0, 0, "", str(error))
        adapter = replace(adapter, info=self._as_placed(adapter.info))
        if self._pool.pages.is_cuda:
            adapter = replace(adapter, host=adapter.host.pin_memory())
        self._adapters[key] = adapter
        return adapter.info

    def measure(self, path: str) -> AdapterInfo:
        """The result that `read` would return, from the headers alone. Never raises."""
        try:
            info = measure_adapter(
                "",
                path,
                self._whole,
                self._dtype,
                base=self._base,
                roots=self._roots,
                shard=self._shard,
            )
        except AdapterError as error:
            return AdapterInfo("", path, 0, (), 0, 0, "", str(error))
        return self._as_placed(info)

    def check_digest(self, known: AdapterInfo) -> None:
        """Raises `AdapterError` if an adapter's files changed since they were read."""
        found = read_adapter(known.key, known.path, self._whole, self._dtype, roots=self._roots)
        if found.info.digest != known.digest:
            raise AdapterError(f"the files of {known.key} changed since they were read: reload it")

    def _as_placed(self, info: AdapterInfo) -> AdapterInfo:
        return info if self._in_pool else msgspec.structs.replace(info, pages=0)

    def place(self, key: str, pages: Sequence[int]) -> None:
        """Copies an adapter into pages. Raises `ValueError` if their number is wrong."""
        adapter, device = self._adapters[key], self._pool.pages.device
        if len(pages) != adapter.info.pages:
            raise ValueError(f"adapter {key} has {adapter.info.pages} pages, not {len(pages)}")
        if self._in_pool:
            table = self._table(pages)
            self._pool.put(table, adapter.host.to(device, non_blocking=True))
            if len(self.tables.sites):
                self._enter(key, table)
        else:
            self._own[key] = adapter.host.to(device, non_blocking=True, copy=True)
        self._pages[key] = tuple(pages)

    def slot(self, key: str) -> int:
        """A placed adapter's row in `tables`."""
        return self._slots[key]

    def make_tables(self, slots: int) -> AdapterTables:
        """Tables for kernels that read pages; none on a CPU. Never reallocated: graphs hold their
        addresses."""
        device, sizes = self._pool.pages.device, module_shapes(self._model_config).values()
        most_pages = -(-MOST_RANK * sum(map(sum, sizes)) // page_elements(self._model_config))
        return AdapterTables(
            *(
                torch.zeros((slots, *shape), dtype=torch.int32, device=device)
                for shape in ((most_pages,), (NUM_SITES, SITE_FIELDS), (NUM_MODULES, MODULE_FIELDS))
            )
        )

    def _enter(self, key: str, table: Tensor) -> None:
        """Adds an adapter to the kernels' tables. No step still uses the slot's previous owner."""
        slot = self._slots[key] = self._free_slots.pop()
        parts = {part.module: part for part in self._adapters[key].parts}
        sites, modules = [], []
        for members in SITES.values():
            own = [parts[member] for member in members if member in parts]
            sites.append((own[0].a if own else 0, sum(part.rank for part in own)))
            first = 0
            for member in members:
                part = parts.get(member)
                modules.append((part.rank, first, part.b) if part else (0, 0, 0))
                first += part.rank if part else 0
        for tensor, values in ((self.tables.sites, sites), (self.tables.modules, modules)):
            tensor[slot] = sent(torch.tensor(values, dtype=torch.int32), table.device)
        self.tables.pages[slot, : len(table)] = table.int()

    def _leave(self, key: str) -> None:
        if (slot := self._slots.pop(key, None)) is not None:
            self._free_slots.append(slot)

    def _table(self, pages: Sequence[int]) -> Tensor:
        return sent(torch.tensor(pages, dtype=torch.int64), self._pool.pages.device)

    def _content(self, key: str) -> Tensor:
        """The contents of a placed adapter, [num_layers, elements]."""
        if self._in_pool:
            return self._pool.take(self._table(self._pages[key]))
        return self._own[key]

    def evict(self, key: str) -> None:
        """Releases an adapter's pages, which may be reused at once; the host copy is kept."""
        self._pages.pop(key, None)
        self._own.pop(key, None)
        self._leave(key)
        self._stacks = {keys: stack for keys, stack in self._stacks.items() if key not in keys}

    def evict_all(self) -> None:
        for key in [*self._slots]:
            self._leave(key)
        self._pages.clear()
        self._own.clear()
        self._stacks.clear()

    def drop(self, key: str) -> None:
        """Drops an adapter, including its host copy."""
        self.evict(key)
        self._adapters.pop(key, None)

    def stack(self, names: set[str]) -> AdapterStack:
        """A stack that holds these adapters, all of one padded rank, and few others.

        An existing stack is reused while about half of it is needed: adapters come and go with
        requests, and each rebuild costs a pass over their weights.
        """
        most = 2 * len(names) + 2
        for key in reversed(self._stacks):
            if len(key) <= most and names.issubset(key):
                self._stacks[key] = stack = self._stacks.pop(key)  # now the latest used
                return stack
        key = tuple(sorted(names))
        for latest in reversed(self._stacks):
            same_rank = self.padded_rank(latest[0]) == self.padded_rank(key[0])
            if same_rank and len(names.union(latest)) <= most:
                key = tuple(sorted(names.union(latest)))
                break
        while len(self._stacks) >= MOST_STACKS:
            del self._stacks[next(iter(self._stacks))]
        weights = [self._content(name) for name in key]
        self._stacks[key] = stack = AdapterStack(
            tuple(self[name] for name in key), weights, self._model_config, self.padded_rank(key[0])
        )
        return stack


@dataclass(frozen=True)
class AdapterSegment:
    """Consecutive tokens of one adapter."""

    tokens: slice
    stack: AdapterStack
    position: int
    order: FixedOrder | None = None

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """Adds the adapter's part to its tokens' rows of y."""
        if weights := self.stack.sites.get(site):
            a, b = weights.a[layer, self.position], weights.b[layer, self.position]
            own = y[self.tokens]
            if self.order is None:
                reference.add_lora(own, x[self.tokens], a, b)
                return
            padded = self.order.padded(x[self.tokens])
            own.add_(torch.mm(torch.mm(padded, a.t()), b)[: len(own)])


@dataclass(frozen=True)
class AdapterRows:
    """Consecutive tokens of several adapters in any order, few of each."""

    tokens: slice
    stack: AdapterStack
    rows: Tensor
    places: Tensor

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """Adds to each token's row of y the product of its adapter with its row of x."""
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

    def begin(self, x: Tensor, layer: int, site: str) -> Callable[[Tensor, bool], None]:
        """Starts nothing: without captured steps, starting early gains nothing."""
        return lambda y, whole: self.add(y, x, layer, site)

    def add(self, y: Tensor, x: Tensor, layer: int, site: str) -> None:
        """y += LoRA products of x; y [num_tokens, out], x [num_tokens, in]."""
        for part in self.parts:
            part.add(y, x, layer, site)


@dataclass(frozen=True)
class TokenRange:
    """Consecutive tokens of a step with one adapter: a piece of a prompt, which gets its own
    product, or (`joint`) a single token, which shares a product with its neighbours."""

    start: int
    stop: int
    adapter: str
    joint: bool


@dataclass
class LoraPlan:
    """The assignment of tokens to stacks, made on the host before the tensors exist.

    `joint` holds (tokens, stack, rows, places), one for each `AdapterRows`.
    """

    segments: list[AdapterSegment] = field(default_factory=list)
    joint: list[tuple[slice, AdapterStack, Ints, Ints]] = field(default_factory=list)


def plan_lora(
    spans: Sequence[TokenRange], store: AdapterStore, order: FixedOrder | None = None
) -> LoraPlan:
    """The products for spans in token order; joint spans of one padded rank must be neighbours."""
    plan = LoraPlan()
    names: dict[int, set[str]] = {}
    joint: dict[int, list[TokenRange]] = {}
    for span in spans:
        rank = store.padded_rank(span.adapter)
        names.setdefault(rank, set()).add(span.adapter)
        if span.joint:
            joint.setdefault(rank, []).append(span)
    stacks = {rank: store.stack(members) for rank, members in names.items()}
    for span in spans:
        if not span.joint:
            stack = stacks[store.padded_rank(span.adapter)]
            tokens = slice(span.start, span.stop)
            plan.segments.append(AdapterSegment(tokens, stack, stack.position[span.adapter], order))
    for rank, members in joint.items():
        _plan_joint(plan, members, stacks[rank], order)
    return plan


def _plan_joint(
    plan: LoraPlan, spans: list[TokenRange], stack: AdapterStack, fixed: FixedOrder | None
) -> None:
    tokens = slice(spans[0].start, spans[-1].stop)
    owners = np.array([stack.position[span.adapter] for span in spans])  # one token a span
    if (owners == owners[0]).all():
        plan.segments.append(AdapterSegment(tokens, stack, int(owners[0]), fixed))
        return
    counts = np.bincount(owners, minlength=len(stack.position))
    most = int(counts.max())
    if fixed is not None:
        most += -most % fixed.rows
    order = np.argsort(owners, kind="stable")
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.empty_like(owners)
    places[order] = owners[order] * most + within
    rows = np.zeros(len(counts) * most, dtype=np.int64)
    rows[places] = np.arange(len(owners))
    plan.joint.append((tokens, stack, rows, places))
