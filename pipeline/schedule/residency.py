"""`Residency`: which adapters are in the pool's pages, which are evicted, and the workers' orders
for both. Knows no request: callers pass the sequences' demand in pages.
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
from .adapter_registry import AdapterRecord, AdapterRegistry
from .page_allocator import PageAllocator

WorkerOrder = PlaceAdapter | EvictAdapter | DropAdapter | CheckAdapter

KV_OF_REQUESTS = "KV pages of requests"
"""What an adapter is evicted for, if not for another adapter or a verification."""
TRIAL_NEIGHBOURS = 3
"""Most other adapters in the batch of a verification."""


class TrialReservation:
    """The pages that a verification holds until it is done: the adapter's own, its neighbours', and
    scratch pages for the tokens that the workers generate."""

    def __init__(self, order_id: str, adapter: AdapterRecord, num_pages: int) -> None:
        self.order_id = order_id
        self.adapter = adapter
        self.num_pages = num_pages
        self.pages: tuple[int, ...] = ()
        self.held = [adapter]


class Residency:
    """Allocates and frees adapters' pages, in the pool that the scheduler uses too. Times are unix
    seconds."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self.registry = registry
        self.pool = PageAllocator(0, 1)
        self.epoch = 0
        self.orders: list[WorkerOrder] = []
        """Orders for the workers, to be sent before the next batch."""
        self.evicted: list[tuple[AdapterRecord, int]] = []
        """Adapters that lost their pages to others, and how many pages; the caller reports and
        clears them."""
        self.trials: dict[str, TrialReservation] = {}
        """By the id of the operator's order."""

    def reset(self, epoch: int, pool: PageAllocator, now: float) -> None:
        """Starts over with new workers and an empty pool: placed adapters are HOST again."""
        for order_id in list(self.trials):
            self.end_trial(order_id)
        self.epoch, self.pool = epoch, pool
        self.orders.clear()
        for adapter in self.registry:
            if adapter.state in (AdapterState.GPU, AdapterState.LOADING):
                adapter.lose_pages(now)

    def pinned_pages(self, but: AdapterRecord | None = None) -> int:
        """Pages that pinned adapters take or, if not placed yet, will take; without `but`."""
        return sum(a.info.pages for a in self.registry if a.pinned and a.info and a is not but)

    def can_ever_hold(self, num_tokens: int, adapter: AdapterRecord) -> bool:
        """Whether a sequence of `num_tokens` fits if it runs alone, beside its adapter and the
        pinned ones."""
        own = adapter.info.pages if adapter.info else 0
        pinned = self.pinned_pages(but=adapter)
        return self.pool.pages_for(num_tokens) + own + pinned <= self.pool.total

    def max_adapters(self, max_running: int) -> int:
        """Adapters that a step of `max_running` rows can use at once: as many as half of the pool
        holds, each as large as those read so far on average; before any is read, one a row."""
        pages = [
            adapter.info.pages
            for adapter in self.registry
            if adapter.info and adapter.state is not AdapterState.FAILED
        ]
        if not pages or not sum(pages):
            return max_running
        fitting = self.pool.total // 2 * len(pages) // sum(pages)
        return max(1, min(max_running, fitting)) if max_running else 0

    # -- placing

    def settle(self, adapter: AdapterRecord, kv_pages: int, now: float) -> None:
        """Handles an adapter that was just read. It is FAILED if it can never get its pages. It is
        placed at once if adapters then hold at most half the pool and `kv_pages`, the worst case of
        all running sequences, fit beside them. A pinned one may evict idle adapters."""
        assert adapter.info is not None
        if reason := self.objection(adapter.info, adapter.pinned, adapter):
            adapter.change_state(AdapterState.FAILED, now, reason)
            return
        pages = adapter.info.pages
        wanted = self.pool.adapters + pages
        if adapter.pinned:
            self.place_or_wait(adapter, kv_pages, now, unwanted=True)
        elif (
            pages <= self.pool.free
            and wanted <= self.pool.total // 2
            and wanted + kv_pages <= self.pool.total
        ):
            self.place(adapter, now)

    def objection(self, info: AdapterInfo, pinned: bool, but: AdapterRecord | None = None) -> str:
        """Why an adapter can never get its pages; "" if it can. `but` is its own record, whose
        pages are not counted twice."""
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

    def place_or_wait(
        self,
        adapter: AdapterRecord,
        kv_pages: int,
        now: float,
        *,
        unwanted: bool = False,
        shortages: list[tuple[int, int]] | None = None,
    ) -> str:
        """Why a request must wait for its adapter; "" if it need not. Starts to place the adapter
        if it fits beside `kv_pages`, the worst case of all sequences with this one. With `unwanted`
        only adapters without waiting requests are evicted for it.

        `shortages` holds the (pages, KV pages) for which this pass over the queue found no room.
        Room only shrinks within a pass, so a request that needs no less is not tried.
        """
        if adapter.state is AdapterState.GPU:
            return ""
        if adapter.state is not AdapterState.HOST or adapter.info is None:
            return f"adapter {adapter.name} is {adapter.state.value}"
        pages = adapter.info.pages
        known = any(pages >= p and kv_pages >= k for p, k in shortages or ())
        if known or not self.make_room(
            pages,
            kv_pages + pages,
            self.registry.idle(unwanted=unwanted),
            now,
            f"adapter {adapter.name}",
        ):
            if shortages is not None and not known:
                shortages.append((pages, kv_pages))
            return f"no pages for adapter {adapter.name}: it takes {pages}"
        self.place(adapter, now)
        return f"adapter {adapter.name} is loading" if adapter.info.num_bytes else ""

    def place(self, adapter: AdapterRecord, now: float) -> None:
        """Allocates an adapter's pages and orders the workers to copy it there. Raises
        `OutOfPages`."""
        assert adapter.state is AdapterState.HOST and adapter.info is not None
        if not adapter.info.num_bytes:  # an ablation: there is nothing to compute with
            adapter.change_state(AdapterState.GPU, now)
            return
        adapter.pages = self.pool.allocate_adapter(adapter.info.pages)
        adapter.change_state(AdapterState.LOADING, now)
        self.orders.append(PlaceAdapter(self.epoch, adapter.key, adapter.pages))

    def make_room(
        self, pages: int, worst: int, idle: Iterable[AdapterRecord], now: float, winner: str
    ) -> bool:
        """Evicts `idle` adapters, in their order, until `pages` are free and `worst` pages fit
        beside the adapters. False, with none evicted, if that is impossible. `winner` names what
        takes the pages."""
        pool = self.pool
        leaving = _leaving(pages, worst, idle, pool.free, pool.adapters, pool.total)
        for adapter in leaving or ():
            self.evict(adapter, now, winner)
        return leaving is not None

    # -- evicting

    def evict(self, adapter: AdapterRecord, now: float, winner: str = "") -> None:
        """Frees an adapter's pages. No running sequence uses it, so no later step reads them.
        `winner` names what takes them; "" if the adapter itself is unloaded or has failed."""
        pages = adapter.lose_pages(now, winner and f"evicted for {winner}")
        self.pool.release_adapter(pages)
        if winner:
            adapter.tally.evictions += 1
            self.evicted.append((adapter, len(pages)))
        self.orders.append(EvictAdapter(adapter.key))

    def fail_placement(self, adapter: AdapterRecord, error: str, now: float) -> None:
        """Marks an adapter FAILED that a worker could not copy into its pages, though others may
        have."""
        if adapter.state in (AdapterState.LOADING, AdapterState.GPU):
            self.evict(adapter, now)
        adapter.change_state(AdapterState.FAILED, now, error)

    def sweep(self, now: float) -> list[AdapterRecord]:
        """Frees the pages of unloaded adapters without requests. Returns those adapters, GONE."""
        gone = self.registry.forget_drained()
        for adapter in gone:
            if adapter.state is AdapterState.GPU:
                self.evict(adapter, now)
            adapter.change_state(AdapterState.GONE, now)
            self.orders.append(DropAdapter(adapter.key))
        return gone

    # -- trials

    def begin_trial(self, order_id: str, adapter: AdapterRecord, num_pages: int) -> None:
        """Verifies an adapter as soon as it is placed and `num_pages` are free. The caller has
        checked that the pool can hold both."""
        self.trials[order_id] = TrialReservation(order_id, adapter, num_pages)
        adapter.held += 1

    def start_trials(self, kv_pages: int, now: float) -> None:
        """Starts the trials for which there is room beside `kv_pages`, the worst case of all
        sequences. Their pages count as KV."""
        for trial in self.trials.values():
            worst = kv_pages + trial.num_pages
            if trial.pages or self.place_or_wait(trial.adapter, worst, now, unwanted=True):
                continue
            idle = self.registry.idle(unwanted=True)
            winner = f"the verification of {trial.adapter.name}"
            if not self.make_room(trial.num_pages, worst, idle, now, winner):
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
                    order=trial.order_id,
                    key=trial.adapter.key,
                    others=tuple(adapter.key for adapter in others),
                    pages=trial.pages,
                )
            )

    def end_trial(self, order_id: str) -> None:
        """Frees a trial's pages and lets its adapters be evicted again."""
        trial = self.trials.pop(order_id)
        self.pool.release(trial.pages)
        for adapter in trial.held:
            adapter.held -= 1

    @property
    def trial_pages(self) -> int:
        return sum(len(trial.pages) for trial in self.trials.values())

    # -- plans

    def plan(self, infos: Iterable[AdapterInfo], kv_pages: int) -> tuple[AdapterPlan, ...]:
        """The cost of loading these one after the other, beside `kv_pages` of sequences. Changes
        nothing."""
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
    pages: int,
    worst: int,
    idle: Iterable[AdapterRecord],
    free: int,
    adapters: int,
    total: int,
) -> list[AdapterRecord] | None:
    """The adapters of `idle`, in their order, to evict so that `pages` are free and `worst` fit
    beside the adapters. None if that is impossible."""
    leaving: list[AdapterRecord] = []
    candidates = iter(idle)
    while free < pages or adapters + worst > total:
        adapter = next(candidates, None)
        if adapter is None:
            return None
        leaving.append(adapter)
        free += len(adapter.pages)
        adapters -= len(adapter.pages)
    return leaving
