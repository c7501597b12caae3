"""`Residency`: which adapters are in the pool's pages, who must go for whom, and what the workers
are told of it. Knows no request: what sequences may come to need is handed to it in pages.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..messages import (
    AdapterInfo,
    AdapterPlan,
    AdapterState,
    CheckAdapter,
    DropAdapter,
    EvictAdapter,
    PlaceAdapter,
)
from .adapter_registry import Adapter, AdapterRegistry
from .page_allocator import BlockPool

WorkerOrder = PlaceAdapter | EvictAdapter | DropAdapter | CheckAdapter


TRIAL_NEIGHBOURS = 3


class Trial:
    """An adapter that is being verified: until that is done it and its neighbours stay in their
    pages, beside scratch pages for what the workers generate with them."""

    def __init__(self, order: str, adapter: Adapter, num_pages: int) -> None:
        self.order = order
        self.adapter = adapter
        self.num_pages = num_pages
        self.pages: tuple[int, ...] = ()
        self.held = [adapter]


class Residency:
    """Gives adapters their pages and takes them back. The pool is the scheduler's as well."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self.registry = registry
        self.pool = BlockPool(0, 1)
        self.epoch = 0
        self.orders: list[WorkerOrder] = []
        """For the workers, to be sent before the next batch."""
        self.trials: dict[str, Trial] = {}
        """By the order that asked for them."""

    def reset(self, epoch: int, pool: BlockPool) -> None:
        """New workers with an empty pool: what was placed is on the host again."""
        for order in list(self.trials):
            self.end_trial(order)
        self.epoch, self.pool = epoch, pool
        self.orders.clear()
        for adapter in self.registry:
            if adapter.state in (AdapterState.GPU, AdapterState.LOADING):
                adapter.lose_pages()

    def pinned_pages(self, but: Adapter | None = None) -> int:
        """What pinned adapters take, or will take when they are placed."""
        return sum(a.info.pages for a in self.registry if a.pinned and a.info and a is not but)

    # -- placing

    def settle(self, adapter: Adapter, kv_pages: int) -> None:
        """An adapter was read. FAILED where it may not have its pages; else placed at once, while
        adapters take less than half the pool and `kv_pages`, what all that runs may come to need,
        fit beside them. One that is pinned is placed whatever idles in its way."""
        assert adapter.info is not None
        if reason := self.objection(adapter.info, adapter.pinned, adapter):
            adapter.become(AdapterState.FAILED, reason)
            return
        pages = adapter.info.pages
        wanted = self.pool.adapters + pages
        if adapter.pinned:
            self.wait(adapter, kv_pages, unwanted=True)
        elif (
            pages <= self.pool.free
            and wanted <= self.pool.total // 2
            and wanted + kv_pages <= self.pool.total
        ):
            self.place(adapter)

    def objection(self, info: AdapterInfo, pinned: bool, but: Adapter | None = None) -> str:
        """Why an adapter may not have its pages, however long it waits; "" where it may."""
        own, total = info.pages, self.pool.total
        if own >= total:
            return f"it takes {own} of the pool's {total} pages; see --max-total-tokens"
        all_pinned = own + self.pinned_pages(but)
        if pinned and all_pinned > total // 2:
            return (
                f"pinned adapters would take {all_pinned} of the pool's {total} pages, "
                "more than half; see --max-total-tokens"
            )
        return ""

    def wait(
        self,
        adapter: Adapter,
        kv_pages: int,
        *,
        unwanted: bool = False,
        shortages: list[tuple[int, int]] | None = None,
    ) -> str:
        """Why a request must wait for its adapter, "" where it need not. Starts to place it where
        it fits beside `kv_pages`, what all sequences may come to need with this one; with
        `unwanted` nobody gives way whom others wait for.

        `shortages` remembers (pages, KV pages) for which there was no room in a pass over many
        requests, in which room only shrinks: who asks for no less need not look.
        """
        if adapter.state is AdapterState.GPU:
            return ""
        if adapter.state is not AdapterState.HOST or adapter.info is None:
            return f"adapter {adapter.name} is {adapter.state.value}"
        pages = adapter.info.pages
        known = any(pages >= p and kv_pages >= k for p, k in shortages or ())
        if known or not self.make_room(
            pages, kv_pages + pages, self.registry.idle(unwanted=unwanted)
        ):
            if shortages is not None and not known:
                shortages.append((pages, kv_pages))
            return f"no pages for adapter {adapter.name}: it takes {pages}"
        self.place(adapter)
        return f"adapter {adapter.name} is loading" if adapter.info.num_bytes else ""

    def place(self, adapter: Adapter) -> None:
        """Gives an adapter on the host its pages; the workers copy it there. Raises
        `OutOfPages`."""
        assert adapter.state is AdapterState.HOST and adapter.info is not None
        if not adapter.info.num_bytes:  # an ablation: there is nothing to compute with
            adapter.become(AdapterState.GPU)
            return
        adapter.pages = self.pool.allocate_adapter(adapter.info.pages)
        adapter.become(AdapterState.LOADING)
        self.orders.append(PlaceAdapter(self.epoch, adapter.key, adapter.pages))

    def make_room(self, now: int, worst: int, idle: Iterable[Adapter]) -> bool:
        """Whether `now` pages are free, and `worst` beside the adapters at all; evicts as many of
        the `idle` adapters, in their order, as make it so."""
        pool = self.pool
        leaving = _leaving(now, worst, idle, pool.free, pool.adapters, pool.total)
        for adapter in leaving or ():
            self.evict(adapter)
        return leaving is not None

    # -- taking back

    def evict(self, adapter: Adapter) -> None:
        """No step posted later reads its pages: nobody who runs has it."""
        self.pool.release_adapter(adapter.lose_pages())
        self.orders.append(EvictAdapter(adapter.key))

    def unplaced(self, adapter: Adapter, error: str) -> None:
        """A worker could not copy it; others may have."""
        if adapter.state in (AdapterState.LOADING, AdapterState.GPU):
            self.evict(adapter)
        adapter.become(AdapterState.FAILED, error)

    def sweep(self) -> list[Adapter]:
        """Gives back what adapters hold that were unloaded and that nobody has any more."""
        gone = self.registry.drained()
        for adapter in gone:
            if adapter.state is AdapterState.GPU:
                self.evict(adapter)
            adapter.become(AdapterState.GONE)
            self.orders.append(DropAdapter(adapter.key))
        return gone

    # -- trials

    def begin_trial(self, order: str, adapter: Adapter, num_pages: int) -> None:
        """Verifies an adapter as soon as it is placed and `num_pages` are free. The caller has seen
        that this can be."""
        self.trials[order] = Trial(order, adapter, num_pages)
        adapter.held += 1

    def start_trials(self, kv_pages: int) -> None:
        """Starts those for which there is room beside `kv_pages`, what all sequences may come to
        need. Their pages count as KV."""
        for trial in self.trials.values():
            worst = kv_pages + trial.num_pages
            if trial.pages or self.wait(trial.adapter, worst, unwanted=True):
                continue
            if not self.make_room(trial.num_pages, worst, self.registry.idle(unwanted=True)):
                continue
            trial.pages = self.pool.allocate(trial.num_pages)
            kv_pages += trial.num_pages
            placed = [a for a in self.registry if a.state is AdapterState.GPU and a.pages]
            others = [a for a in placed if a is not trial.adapter][:TRIAL_NEIGHBOURS]
            for adapter in others:
                adapter.held += 1
            trial.held += others
            self.orders.append(
                CheckAdapter(
                    epoch=self.epoch,
                    order=trial.order,
                    key=trial.adapter.key,
                    others=tuple(adapter.key for adapter in others),
                    pages=trial.pages,
                )
            )

    def end_trial(self, order: str) -> None:
        """Its adapters may go, its pages are free."""
        trial = self.trials.pop(order)
        self.pool.release(trial.pages)
        for adapter in trial.held:
            adapter.held -= 1

    @property
    def trial_pages(self) -> int:
        return sum(len(trial.pages) for trial in self.trials.values())

    # -- what would be

    def plan(self, infos: Iterable[AdapterInfo], kv_pages: int) -> tuple[AdapterPlan, ...]:
        """What loading these would cost, one after the other, beside `kv_pages` of sequences.
        Changes nothing."""
        idle = [*self.registry.idle()]
        free, adapters, total = self.pool.free, self.pool.adapters, self.pool.total
        plans = []
        for info in infos:
            reason = info.reason or self.objection(info, pinned=False)
            worst = kv_pages + info.pages
            going = None if reason else _leaving(info.pages, worst, idle, free, adapters, total)
            plans.append(
                AdapterPlan(
                    path=info.path,
                    rank=info.rank,
                    target_modules=info.target_modules,
                    num_bytes=info.num_bytes,
                    pages=info.pages,
                    kv_tokens=info.pages * self.pool.page_size,
                    free_pages=free,
                    evicts=tuple(adapter.name for adapter in going or ()),
                    fits=going is not None,
                    reason=reason,
                    warning=info.warning,
                )
            )
            if going is not None:
                gained = sum(len(adapter.pages) for adapter in going) - info.pages
                idle, free, adapters = idle[len(going) :], free + gained, adapters - gained
        return tuple(plans)


def _leaving(
    now: int, worst: int, idle: Iterable[Adapter], free: int, adapters: int, total: int
) -> list[Adapter] | None:
    """Which of the `idle` adapters, in their order, must go so that `now` pages are free and
    `worst` fit beside the adapters; None where even all of them do not make that room."""
    leaving: list[Adapter] = []
    candidates = iter(idle)
    while free < now or adapters + worst > total:
        adapter = next(candidates, None)
        if adapter is None:
            return None
        leaving.append(adapter)
        free += len(adapter.pages)
        adapters -= len(adapter.pages)
    return leaving
