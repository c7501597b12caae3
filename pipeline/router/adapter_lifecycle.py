"""`AdapterLifecycle`: loads, reloads, unloads, pins, plans and verifies adapters by operators'
orders. Each order is answered once: at once if it is refused, else when it is done.

Pure, like the core that holds it. Decides nothing about pages (`Residency` does) and knows no
request. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..config import Config
from ..messages import (
    AdapterChecked,
    AdapterInfo,
    AdapterMeasured,
    AdapterOrder,
    AdapterPlaced,
    AdapterRead,
    AdapterState,
    DropAdapter,
    LoadAdapter,
    MeasureAdapter,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    ReadAdapter,
    ReloadAdapter,
    Request,
    UnloadAdapter,
    Verification,
    VerifyAdapter,
    WeightsMerged,
    WorkerReady,
)
from ..run_directory import is_hub_id
from ..schedule.adapter_registry import AdapterPlace, AdapterRecord, AdapterRefused
from ..schedule.policies import Policy
from ..schedule.scheduler import Scheduler
from .adapter_merge import AdapterMerge
from .effects import AdapterFetched, Effects, FetchAdapter, ShowReading
from .event_lines import Fetched
from .order_replies import OrderReplies
from .record import AdapterEntry, RouterRecord

WorkerAnswer: TypeAlias = (
    AdapterRead | AdapterPlaced | AdapterMeasured | AdapterChecked | WeightsMerged
)
"""Workers' answers about adapters."""

TRIAL_PAGES = 16
"""Scratch pages of a verification: six sequences of 40 tokens."""


@dataclass
class PlanUnderWay:
    """An order to plan, and the adapters measured for it so far, by index of their path."""

    order: PlanAdapters
    infos: dict[int, AdapterInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialUnderWay:
    """An order to verify that the workers are carrying out."""

    order: VerifyAdapter
    adapter: AdapterRecord
    started_at: float


class AdapterLifecycle:
    """Operators' orders about adapters, and the workers' answers."""

    def __init__(
        self, config: Config, scheduler: Scheduler, effects: Effects, incarnation: int
    ) -> None:
        self._config, self._scheduler, self._effects = config, scheduler, effects
        self._registry, self._residency = scheduler.registry, scheduler.residency
        self.replies = OrderReplies(effects, self._registry)
        self._merge = AdapterMerge(config, self._registry, effects, self.replies)
        self.settled: list[AdapterRecord] = []
        """Adapters that were read, pinned or failed since the core's last check: some requests may
        never be served now."""
        self.has_changed = False
        """Whether adapters have changed since the core's last check."""
        self.has_just_read_all = False
        """Whether the last adapter of a start was read since the core's last check."""
        self._arrivals: dict[str, LoadAdapter | ReloadAdapter] = {}
        """Orders to be answered when their adapter has been read, by its key."""
        self._departures: dict[str, UnloadAdapter] = {}
        """Orders to be answered when their adapter is unloaded, by its key."""
        self._plans: dict[str, PlanUnderWay] = {}
        self._trials: dict[str, TrialUnderWay] = {}
        self._unread: set[str] = set()
        """Keys of the adapters that new workers have not read yet."""
        self._num_to_read = 0
        self._kept_by: dict[str, AdapterRecord] = {}
        """By request of an earlier router: the generation that served it, if new requests get
        another."""
        self._last_reading = incarnation
        """Number of the newest `ReadAdapter`; it differs from those of earlier routers."""

    @property
    def num_unread(self) -> int:
        """Adapters that must still be read before the start is complete."""
        return len(self._unread)

    # -- the record

    def entries(self) -> tuple[AdapterEntry, ...]:
        """All adapters, with the orders that are not answered yet."""
        users: dict[str, list[str]] = {}
        if any(adapter.is_draining for adapter in self._registry):
            for sequence in self._scheduler.sequences():
                users.setdefault(sequence.adapter.key, []).append(sequence.request_id)
        return tuple(
            AdapterEntry(
                name=adapter.name,
                path=adapter.path,
                directory=adapter.directory,
                generation=adapter.generation,
                digest=adapter.digest,
                place=place,
                pinned=adapter.pinned,
                order=self._arrivals.get(adapter.key) or self._departures.get(adapter.key),
                requests=tuple(users.get(adapter.key, ())) if adapter.is_draining else (),
            )
            for place, adapter in self._registry.places()
        )

    def merges(self) -> tuple[str, MergeAdapter | None]:
        """Key of the adapter merged by an order, and the order that is not answered yet."""
        return self._merge.kept_key, self._merge.order

    def restore(self, record: RouterRecord, now: float) -> None:
        """Goes on with the adapters and the orders of an earlier router."""
        adapters: list[tuple[AdapterPlace, AdapterRecord]] = []
        for entry in record.adapters:
            adapter = AdapterRecord(
                entry.name, entry.path, now, entry.generation, pinned=entry.pinned
            )
            adapter.directory, adapter.digest = entry.directory, entry.digest
            adapters.append((entry.place, adapter))
            if isinstance(entry.order, UnloadAdapter):
                self._departures[entry.key] = entry.order
            elif entry.order is not None:
                self._arrivals[entry.key] = entry.order
            self._kept_by.update(dict.fromkeys(entry.requests, adapter))
        self._registry.restore(adapters)
        self._merge.restore(record.merged, record.merge)
        self.replies.restore(record.answered)

    def adapter_of(self, request: Request) -> AdapterRecord:
        """The generation that serves a request of an earlier router. Raises `AdapterRefused`."""
        adapter = self._kept_by.get(request.request_id)
        if adapter is None:
            return self._registry.acquire(request.adapter)
        if adapter.state is AdapterState.FAILED:
            raise AdapterRefused(409, f"adapter {adapter.key} failed to load: {adapter.reason}")
        if adapter.state is AdapterState.GONE:
            raise AdapterRefused(409, f"adapter {adapter.key} is unloaded")
        return adapter

    # -- orders and answers

    def handle_order(self, order: AdapterOrder, now: float) -> None:
        """Carries out an order. A refused one is answered now, others when they are done. An order
        that comes again, from a sender that has met a new router, is not carried out twice."""
        if self.replies.repeat(order, now, self._scheduler.settings) or self._is_under_way(order):
            return
        self._effects.record_changed = True
        try:
            if not self._scheduler.epoch:
                raise AdapterRefused(503, "the model is still loading")
            match order:
                case LoadAdapter():
                    adapter = self._register(order, now)
                    self._arrivals[adapter.key] = order
                    self._read(adapter, now)
                case ReloadAdapter():
                    adapter = self._registry.register_next(order.name, now)
                    self._arrivals[adapter.key] = order
                    self._read(adapter, now)
                case UnloadAdapter():
                    adapter = self._registry.unregister_adapter(order.name)
                    self._departures[adapter.key] = order
                    self._effects.report("info", f"adapter {adapter.name} unloading")
                case PinAdapter():
                    self._pin(order, now)
                case PlanAdapters():
                    self._plan(order, now)
                case VerifyAdapter():
                    self._verify(order, now)
                case MergeAdapter():
                    self._merge.start(order)
        except AdapterRefused as refusal:
            self.replies.send(order, refusal.status, refusal.reason, now)
        self.has_changed = True

    def _register(self, order: LoadAdapter, now: float) -> AdapterRecord:
        """A new adapter or, if the order allows it, the next generation of one that is served.
        Raises `AdapterRefused`."""
        pinned = order.pinned or self._config.no_lora_swap
        if not (order.replaces and self._registry.is_served(order.name)):
            return self._registry.register_adapter(order.name, order.path, now, pinned=pinned)
        adapter = self._registry.register_next(order.name, now, order.path)
        adapter.pinned |= pinned
        return adapter

    def _is_under_way(self, order: AdapterOrder) -> bool:
        waiting = (*self._arrivals.values(), *self._departures.values(), self._merge.order)
        known = {each.order for each in waiting if each is not None}
        return order.order in known or order.order in self._plans or order.order in self._trials

    def handle_answer(self, answer: WorkerAnswer, now: float) -> None:
        """Handles a worker's answer about an adapter."""
        match answer:
            case AdapterRead():
                self._note_read(answer, now)
            case AdapterPlaced():
                self._note_placed(answer, now)
            case AdapterMeasured():
                self._note_measured(answer, now)
            case AdapterChecked():
                self._end_trial(answer, now)
            case WeightsMerged():
                self.has_changed |= self._merge.note_answer(answer, now)

    # -- reading

    def read_all(self, workers: Sequence[WorkerReady], now: float) -> None:
        """Makes new workers read every adapter, except those that they keep: a worker that meets a
        new router has read them before. Plans and merges under way in the old workers are
        refused."""
        reason = "the workers restarted"
        for plan in self._plans.values():
            self.replies.send(plan.order, 503, reason, now)
        self._plans.clear()
        self._merge.forget_workers(reason, now)
        self._unread = {adapter.key for adapter in self._registry}
        self._num_to_read = len(self._unread)
        self._show_reading()
        held = [{info.key: info for info in worker.adapters} for worker in workers]
        self._drop_unknown(key for infos in held for key in infos)
        # A worker reads one after the other: first those that requests wait for.
        for adapter in sorted(self._registry, key=lambda adapter: not adapter.waiting):
            if self._config.no_lora_swap:
                adapter.pinned = True
            if adapter.state is AdapterState.FETCHING:
                continue
            if all(adapter.key in infos for infos in held):
                self._last_reading += 1
                adapter.begin_reading(self._last_reading, now)
                for rank, infos in enumerate(held):
                    answer = AdapterRead(rank, adapter.reading, infos[adapter.key])
                    self._note_read(answer, now)
            else:
                self._read(adapter, now)
        self._merge.adopt_copies([worker.merged for worker in workers])

    def _drop_unknown(self, keys: Iterable[str]) -> None:
        """Makes the workers drop adapters that were unloaded when the earlier router died."""
        known = {adapter.key for adapter in self._registry}
        for key in sorted({*keys} - known):
            self._effects.send_workers(DropAdapter(key))

    def _show_reading(self) -> None:
        self._effects.pending.append(ShowReading(len(self._unread), self._num_to_read))

    def _read(self, adapter: AdapterRecord, now: float) -> None:
        """Makes every worker read an adapter; one from the hub is first fetched whole."""
        if is_hub_id(adapter.path) and adapter.directory == adapter.path:
            adapter.change_state(AdapterState.FETCHING, now)
            self._effects.pending.append(FetchAdapter(adapter.key, adapter.path))
            return
        self._last_reading += 1
        adapter.begin_reading(self._last_reading, now)
        self._effects.send_workers(ReadAdapter(adapter.reading, adapter.key, adapter.directory))

    def end_fetch(self, fetched: AdapterFetched, now: float) -> None:
        """Reads an adapter that was fetched from the hub, or marks it FAILED."""
        self._effects.write_line(
            Fetched(at=now, key=fetched.key, directory=fetched.directory, error=fetched.error)
        )
        adapter = self._registry.find(fetched.key)
        if adapter is None:
            return
        if fetched.error:
            adapter.change_state(AdapterState.FAILED, now, fetched.error)
            self._end_reading(adapter, now)
        else:
            adapter.directory = fetched.directory
            self._read(adapter, now)
        self.has_changed = True

    def _note_read(self, answer: AdapterRead, now: float) -> None:
        """Records that a worker has read an adapter, or refused it."""
        adapter = self._registry.find(answer.info.key)
        if adapter is None or answer.order != adapter.reading:
            return  # from a worker that has died, or has dropped this adapter
        if not adapter.note_read(answer.rank, answer.info, len(self._effects.workers), now):
            return
        if adapter.state is AdapterState.HOST:
            self._residency.settle(adapter, self._scheduler.kv_pages_at_worst(), now)
        self._end_reading(adapter, now)

    def _end_reading(self, adapter: AdapterRecord, now: float) -> None:
        """Answers the order of an adapter that is on the host of every rank, or FAILED."""
        has_failed = adapter.state is AdapterState.FAILED
        warning = adapter.info.warning if adapter.info else ""
        order = self._arrivals.pop(adapter.key, None)
        if order and self._registry.is_next(adapter):
            self._end_reload(adapter, order, now)
        elif order:
            self._end_load(adapter, order, now)
        if has_failed:
            self._drop(adapter)
            self._effects.report("error", f"adapter {adapter.name} failed: {adapter.reason}")
        elif warning:
            self._effects.report("warning", f"adapter {adapter.name}: {warning}")
        self.settled.append(adapter)
        self.has_changed = self._effects.record_is_old = True
        if adapter.key in self._unread:
            self._unread.discard(adapter.key)
            self._show_reading()
            self.has_just_read_all = not self._unread
            self._effects.record_changed |= not self._unread

    def _drop(self, adapter: AdapterRecord) -> None:
        """Makes the workers drop an adapter that failed. If it failed after they had read it, for
        lack of pages or because ranks differ, it would stay in their memory, since its next load
        has another key."""
        self._effects.send_workers(DropAdapter(adapter.key))

    def _end_load(
        self, adapter: AdapterRecord, order: LoadAdapter | ReloadAdapter, now: float
    ) -> None:
        """Answers an order to load. An adapter that failed leaves no name, unless the pipeline was
        started with it: then its row shows why."""
        if adapter.state is AdapterState.FAILED:
            if adapter.name not in self._config.adapters():
                self._registry.forget_failed(adapter)
            self.replies.send(order, 400, adapter.reason, now)
            return
        warning = adapter.info.warning if adapter.info else ""
        suffix = f"; {warning}" if warning else ""
        self.replies.send(order, 200, f"adapter {adapter.name} loaded{suffix}", now)

    def _end_reload(
        self, new: AdapterRecord, order: LoadAdapter | ReloadAdapter, now: float
    ) -> None:
        """Makes the new generation current between two steps, or drops it."""
        if new.state is AdapterState.FAILED:
            self._registry.discard_next(new)
            text = f"{new.reason}; generation {new.generation - 1} is still served"
            self.replies.send(order, 400, text, now)
        else:
            self._registry.promote_next(new)
            text = f"adapter {new.name} reloaded as generation {new.generation}"
            self.replies.send(order, 200, text, now)

    # -- placing

    def _note_placed(self, answer: AdapterPlaced, now: float) -> None:
        """Records that a worker has copied an adapter into its pages, or could not."""
        adapter = self._registry.find(answer.key)
        if adapter is None or answer.epoch != self._scheduler.epoch:
            return
        if answer.error:
            self._residency.fail_placement(adapter, answer.error, now)
            self._drop(adapter)
            text = f"adapter {adapter.name} was not placed: {answer.error}"
            self._effects.report("error", text)
            self.settled.append(adapter)
        elif adapter.note_placed(answer.rank, len(self._effects.workers), now):
            assert adapter.info is not None
            self._effects.report(
                "info",
                f"adapter {adapter.name} on device: rank {adapter.info.rank}, "
                f"{len(adapter.pages)} pages",
            )
        self.has_changed = True

    def _pin(self, order: PinAdapter, now: float) -> None:
        adapter = self._registry.current(order.name)
        if order.pinned and adapter.info:
            reason = self._residency.objection(adapter.info, pinned=True, but=adapter)
            if reason:
                raise AdapterRefused(409, reason)
        adapter.pinned = order.pinned
        if adapter.pinned and adapter.state is AdapterState.HOST:
            kv_pages = self._scheduler.kv_pages_at_worst()
            self._residency.place_or_wait(adapter, kv_pages, now, unwanted=True)
        self.settled.append(adapter)
        state = "pinned: never evicted" if order.pinned else "unpinned"
        self.replies.send(order, 200, f"adapter {order.name} {state}", now)

    def sweep(self, now: float) -> None:
        """Drops unloaded adapters that no request uses any more, and answers their orders."""
        gone = self._residency.sweep(now)
        for adapter in gone:
            order = self._departures.pop(adapter.key, None)
            what = adapter.name if order else f"{adapter.name}: generation {adapter.generation}"
            self._effects.report("info", f"adapter {what} unloaded")
            self._merge.give_up(adapter)
            if order:
                answer = f"adapter {adapter.name} unloaded"
                if adapter.info is not None and not adapter.info.reason:
                    answer += "; its pages are free"
                self.replies.send(order, 200, answer, now)
        self.has_changed |= bool(gone)
        self._effects.record_changed |= bool(gone)

    def follow_policy(self, policy: Policy, now: float) -> None:
        """Merges the adapter that the scheduler's policy wants merged."""
        self._merge.follow_policy(policy, now)

    # -- plans

    def _plan(self, order: PlanAdapters, now: float) -> None:
        if not order.paths:
            raise AdapterRefused(400, "no path given")
        plan = self._plans[order.order] = PlanUnderWay(order)
        for number, path in enumerate(order.paths):
            if is_hub_id(path):
                reason = f"{path} is a hub id: its size is unknown until it is fetched"
                plan.infos[number] = AdapterInfo("", path, 0, (), 0, 0, "", reason)
            else:
                ticket = f"{order.order}/{number}"
                self._effects.send(self._effects.workers[0], MeasureAdapter(ticket, path))
        self._finish_plan(plan, now)

    def _note_measured(self, answer: AdapterMeasured, now: float) -> None:
        order_id, _, number = answer.order.rpartition("/")
        if plan := self._plans.get(order_id):
            plan.infos[int(number)] = answer.info
            self._finish_plan(plan, now)

    def _finish_plan(self, plan: PlanUnderWay, now: float) -> None:
        """Answers a plan once all its paths are measured."""
        if len(plan.infos) < len(plan.order.paths):
            return
        self._plans.pop(plan.order.order)
        infos = [plan.infos[number] for number in sorted(plan.infos)]
        plans = self._residency.plan(infos, self._scheduler.kv_pages_at_worst())
        good = [plan for plan in plans if not plan.reason]
        pages, tokens = sum(p.pages for p in good), sum(p.kv_tokens for p in good)
        text = f"{len(good)} of {len(plans)} can be loaded: {pages} pages, {tokens} tokens of KV"
        self.replies.send(plan.order, 200, text, now, plans=plans)

    # -- verifying

    def _verify(self, order: VerifyAdapter, now: float) -> None:
        adapter = self._registry.acquire(order.name)
        if self._config.no_lora or self._config.no_lora_compute:
            raise AdapterRefused(409, "adapters are off: an ablation flag is set")
        if adapter.info is None:
            raise AdapterRefused(409, f"adapter {order.name} is {adapter.state.value}")
        if not self._scheduler.can_ever_fit(TRIAL_PAGES * self._residency.pool.page_size, adapter):
            raise AdapterRefused(
                409, f"a verification takes {TRIAL_PAGES} pages beside the adapter"
            )
        self._trials[order.order] = TrialUnderWay(order, adapter, now)
        self._residency.begin_trial(order.order, adapter, TRIAL_PAGES)

    def _end_trial(self, answer: AdapterChecked, now: float) -> None:
        """Answers an order to verify with rank 0's verdict."""
        if answer.epoch != self._scheduler.epoch or answer.order not in self._trials:
            return
        trial = self._trials.pop(answer.order)
        self._residency.end_trial(answer.order)
        if answer.error:
            text = f"could not be verified: {answer.error}"
            self.replies.send(trial.order, 500, text, now)
            return
        adapter = trial.adapter
        assert adapter.info is not None
        verification = Verification(
            adapter.key,
            adapter.info.digest,
            answer.dtype,
            answer.comparisons,
            answer.is_right,
            now - trial.started_at,
        )
        verdict, level = verification.verdict, "info" if answer.is_right else "error"
        self._effects.report(level, f"adapter {adapter.key} verified: {verdict}")
        text = f"adapter {adapter.key} {verdict}"
        self.replies.send(trial.order, 200, text, now, verification=verification)
        self.has_changed = True

    def drop_trials(self, now: float) -> None:
        """Refuses the verifications under way, after a reset of the workers."""
        for trial in self._trials.values():
            text = "the workers were reset; verify again"
            self.replies.send(trial.order, 503, text, now)
        self._trials.clear()
