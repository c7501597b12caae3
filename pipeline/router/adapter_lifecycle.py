"""`AdapterDesk`: the router's part for adapters. Operators' orders come in, workers are told, and
each order is answered once: at once where it is refused, else when it is done.

Decides nothing about pages (`Residency` does) and knows no request but those an adapter takes down.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..messages import (
    AdapterChecked,
    AdapterInfo,
    AdapterMeasured,
    AdapterOrder,
    AdapterPlaced,
    AdapterPlan,
    AdapterRead,
    AdapterReply,
    AdapterState,
    ChatWarning,
    DropAdapter,
    LoadAdapter,
    MeasureAdapter,
    MergeAdapter,
    MergeWeights,
    PinAdapter,
    PlanAdapters,
    ReadAdapter,
    ReloadAdapter,
    UnloadAdapter,
    UseMerged,
    Verification,
    VerifyAdapter,
    WeightsMerged,
)
from ..run_directory import is_hub_id
from ..runtime.progress import ProgressBar
from ..schedule.adapter_registry import Adapter, AdapterRefused

if TYPE_CHECKING:
    from ..schedule.policies import Policy
    from .router import Router

TRIAL_PAGES = 16
"""Scratch of a verification: six sequences of 40 tokens."""


class AdapterDesk:
    """See the module."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._registry = router.registry
        self._residency = router.scheduler.residency
        self._arrivals: dict[str, LoadAdapter | ReloadAdapter] = {}
        """Orders to be answered when their adapter has been read, by its key."""
        self._departures: dict[str, UnloadAdapter] = {}
        """Orders to be answered when their adapter is gone, by its key."""
        self._plans: dict[str, PlanInMaking] = {}
        self._trials: dict[str, tuple[VerifyAdapter, Adapter, float]] = {}
        self._merge: MergeInMaking | None = None
        self._target: Adapter | None = None
        """Whom the scheduler's policy wanted merged last, and was tried."""
        self._followed: Adapter | None = None
        """Whom it had merged."""
        self._fetches: set[asyncio.Task[None]] = set()
        self._reading: set[str] = set()
        """Adapters that workers which came (again) have not read yet."""
        self._num_readings = 0
        self._bar: ProgressBar

    @property
    def num_unread(self) -> int:
        """Adapters that a start still waits for."""
        return len(self._reading)

    def close(self) -> None:
        for fetch in self._fetches:
            fetch.cancel()
        if self._reading:  # it shall not end later, with nobody to tell
            self._bar.disable = True

    # -- orders

    def order(self, order: AdapterOrder) -> None:
        """Answered now where it is refused, else when it is done."""
        try:
            if not self._router.scheduler.epoch:
                raise AdapterRefused(503, "the model is still loading")
            match order:
                case LoadAdapter():
                    adapter = self._registry.add(order.name, order.path, pinned=order.pinned)
                    adapter.pinned |= self._router.config.no_lora_swap
                    self._arrivals[adapter.key] = order
                    self._read(adapter)
                case ReloadAdapter():
                    adapter = self._registry.renew(order.name)
                    self._arrivals[adapter.key] = order
                    self._read(adapter)
                case UnloadAdapter():
                    adapter = self._registry.remove(order.name)
                    self._departures[adapter.key] = order
                    self._router.event("info", f"adapter {adapter.name} is unloading")
                case PinAdapter():
                    self._pin(order)
                case PlanAdapters():
                    self._plan(order)
                case VerifyAdapter():
                    self._verify(order)
                case MergeAdapter():
                    self._start_merge(order)
        except AdapterRefused as refusal:
            self._reply(order, refusal.status, refusal.reason)
        self._router.adapters_changed()

    def _reply(
        self,
        order: AdapterOrder,
        status: int,
        text: str,
        *,
        plans: tuple[AdapterPlan, ...] = (),
        verification: Verification | None = None,
    ) -> None:
        name = "" if isinstance(order, PlanAdapters) else order.name
        self._router.send(
            order.reply_to,
            AdapterReply(
                order=order.order,
                status=status,
                text=text,
                at=time.time(),
                name=name,
                adapters=self._registry.views_of(name),
                plans=plans,
                verification=verification,
            ),
        )

    # -- reading

    def workers_came(self) -> None:
        """Workers with empty hands: they read every adapter again."""
        self._drop_unfinished("the workers restarted")
        if self._reading:  # they came again before they had read all
            self._bar.disable = True
        self._reading = {adapter.key for adapter in self._registry}
        self._bar = ProgressBar(
            publish=self._router.beacon.publish,
            source=self._router.name,
            stage="adapters",
            total=len(self._reading),
            unit="adapter",
        )
        for adapter in self._registry:
            adapter.merged = False
            if self._router.config.no_lora_swap:
                adapter.pinned = True
            if adapter.state is not AdapterState.FETCHING:
                self._read(adapter)
        if not self._reading:
            self._bar.close()

    def workers_reset(self) -> None:
        """Workers with empty pages."""
        for order, (verify, _, _) in list(self._trials.items()):
            del self._trials[order]
            self._reply(verify, 503, "the workers were reset meanwhile; please verify again")

    def _drop_unfinished(self, reason: str) -> None:
        """What was asked of workers that are gone."""
        for plan in self._plans.values():
            self._reply(plan.order, 503, reason)
        self._plans.clear()
        if self._merge:
            self._reply_merge(self._merge, 503, reason)
            self._merge = None
        self._target = self._followed = None

    def _read(self, adapter: Adapter) -> None:
        """On every worker; a hub's adapter is fetched first, whole, by a process of its own."""
        if is_hub_id(adapter.path) and adapter.directory == adapter.path:
            adapter.become(AdapterState.FETCHING)
            self._start_fetch(adapter)
            return
        self._num_readings += 1
        adapter.begin_reading(self._router.incarnation + self._num_readings)
        self._router.tell_workers(ReadAdapter(adapter.reading, adapter.key, adapter.directory))

    def _start_fetch(self, adapter: Adapter) -> None:
        fetch = asyncio.create_task(self._fetch(adapter))
        self._fetches.add(fetch)
        fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, adapter: Adapter) -> None:
        """The hub's library takes half a second to import and blocks: not in the router."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "loraconsole.pipeline.fetch.adapter",
            adapter.path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complaint = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        error = ""
        if process.returncode:
            words = complaint.decode(errors="replace").strip() or f"exit {process.returncode}"
            error = words.splitlines()[-1]
        self.fetched(adapter, said.decode().strip(), error)

    def fetched(self, adapter: Adapter, directory: str, error: str) -> None:
        """A hub's adapter lies in this directory, or could not be had."""
        self._router.events.fetched(adapter.key, directory, error)
        if error:
            self._failed(adapter, error)
        else:
            adapter.directory = directory
            self._read(adapter)
        self._router.adapters_changed()

    def read(self, answer: AdapterRead) -> None:
        """A worker has read one, or refused it."""
        adapter = self._registry.find(answer.info.key)
        if adapter is None or answer.order != adapter.reading:
            return  # of a worker that is gone, or that was told to forget what it read
        if not adapter.read(answer.rank, answer.info, self._router.num_workers):
            return
        if adapter.state is AdapterState.HOST:
            self._residency.settle(adapter, self._router.scheduler.kv_pages_at_worst())
        self._arrived(adapter)

    def _failed(self, adapter: Adapter, reason: str) -> None:
        adapter.become(AdapterState.FAILED, reason)
        self._arrived(adapter)

    def _arrived(self, adapter: Adapter) -> None:
        """It is on the host of every rank, or FAILED."""
        failed = adapter.state is AdapterState.FAILED
        order = self._arrivals.pop(adapter.key, None)
        if isinstance(order, ReloadAdapter):
            self._reloaded(adapter, order)
        elif order:
            warning = f"; {adapter.info.warning}" if adapter.info and adapter.info.warning else ""
            text = adapter.reason if failed else f"adapter {adapter.name} is loaded{warning}"
            self._reply(order, 400 if failed else 200, text)
        if failed:
            self._forget(adapter)
            self._router.event("error", f"adapter {adapter.name} failed: {adapter.reason}")
        elif adapter.info and adapter.info.warning:
            self._router.event("warning", f"adapter {adapter.name}: {adapter.info.warning}")
        self._router.refuse_hopeless(adapter)
        if adapter.key in self._reading:
            self._reading.discard(adapter.key)
            self._bar.update()
            if not self._reading:
                self._bar.close()
                self._router.say_ready()
        self._router.adapters_changed()

    def _forget(self, adapter: Adapter) -> None:
        """One that failed after workers had read it, for want of pages or because ranks differ,
        would stay in their memory: its next load has another key."""
        self._router.tell_workers(DropAdapter(adapter.key))

    def _reloaded(self, new: Adapter, order: ReloadAdapter) -> None:
        """The new generation takes over between two steps, or is forgotten."""
        if new.state is AdapterState.FAILED:
            self._registry.give_up(new)
            self._reply(order, 400, f"{new.reason}; generation {new.generation - 1} serves on")
        else:
            self._registry.succeed(new)
            self._reply(order, 200, f"adapter {new.name} is generation {new.generation} now")

    # -- placing

    def placed(self, answer: AdapterPlaced) -> None:
        """A worker has copied one into its pages, or could not."""
        adapter = self._registry.find(answer.key)
        if adapter is None or answer.epoch != self._router.scheduler.epoch:
            return
        if answer.error:
            self._residency.unplaced(adapter, answer.error)
            self._forget(adapter)
            self._router.event("error", f"adapter {adapter.name} was not placed: {answer.error}")
            self._router.refuse_hopeless(adapter)
        elif adapter.placed(answer.rank, self._router.num_workers):
            assert adapter.info is not None
            self._router.event(
                "info",
                f"adapter {adapter.name} is on the device: rank {adapter.info.rank}, "
                f"{len(adapter.pages)} pages",
            )
        self._router.adapters_changed()

    def warn_of_chats(self, warning: ChatWarning) -> None:
        """The server has read an adapter's chat files."""
        adapter = self._registry.find(f"{warning.name}@{warning.generation}")
        if adapter is not None:
            adapter.chat_warning = warning.text
            self._router.adapters_changed()

    def sweep(self) -> None:
        """Adapters that were unloaded and that nobody has any more go; who had ordered their end
        hears of it."""
        gone = self._residency.sweep()
        for adapter in gone:
            self._router.event(
                "info", f"adapter {adapter.name} is gone, generation {adapter.generation}"
            )
            self._give_up_merged(adapter)
            if ordered := self._departures.pop(adapter.key, None):
                word = f"adapter {adapter.name} is unloaded"
                if adapter.info is not None and not adapter.info.reason:
                    word += "; its pages are free"
                self._reply(ordered, 200, word)
        if gone:
            self._router.adapters_changed()

    def tell_workers(self) -> None:
        """What was decided about adapters, before the batch that relies on it."""
        if self._residency.orders:
            self._router.adapters_changed()
        for order in self._residency.orders:
            self._router.tell_workers(order)
        self._residency.orders.clear()

    def _pin(self, order: PinAdapter) -> None:
        adapter = self._registry.get(order.name)
        if order.pinned and adapter.info:
            reason = self._residency.objection(adapter.info, pinned=True, but=adapter)
            if reason:
                raise AdapterRefused(409, reason)
        adapter.pinned = order.pinned
        if adapter.pinned and adapter.state is AdapterState.HOST:
            kv_pages = self._router.scheduler.kv_pages_at_worst()
            self._residency.wait(adapter, kv_pages, unwanted=True)
        self._router.refuse_hopeless(adapter)
        word = "pinned: it stays in its pages" if order.pinned else "no longer pinned"
        self._reply(order, 200, f"adapter {order.name} is {word}")

    # -- plans

    def _plan(self, order: PlanAdapters) -> None:
        if not order.paths:
            raise AdapterRefused(400, "no path to plan for")
        plan = self._plans[order.order] = PlanInMaking(order)
        for number, path in enumerate(order.paths):
            if is_hub_id(path):
                word = f"{path} is a hub id: what it holds is known once it is fetched"
                plan.infos[number] = AdapterInfo("", path, 0, (), 0, 0, "", word)
            else:
                ticket = f"{order.order}/{number}"
                self._router.send(self._router.first_worker, MeasureAdapter(ticket, path))
        self._finish_plan(plan)

    def measured(self, answer: AdapterMeasured) -> None:
        ticket, _, number = answer.order.rpartition("/")
        if plan := self._plans.get(ticket):
            plan.infos[int(number)] = answer.info
            self._finish_plan(plan)

    def _finish_plan(self, plan: PlanInMaking) -> None:
        if len(plan.infos) < len(plan.order.paths):
            return
        self._plans.pop(plan.order.order)
        infos = [plan.infos[number] for number in sorted(plan.infos)]
        plans = self._residency.plan(infos, self._router.scheduler.kv_pages_at_worst())
        good = [plan for plan in plans if not plan.reason]
        pages, tokens = sum(p.pages for p in good), sum(p.kv_tokens for p in good)
        text = f"{len(good)} of {len(plans)} can be loaded: {pages} pages, {tokens} tokens of KV"
        self._reply(plan.order, 200, text, plans=plans)

    # -- verifying

    def _verify(self, order: VerifyAdapter) -> None:
        adapter = self._registry.acquire(order.name)
        scheduler = self._router.scheduler
        if self._router.config.no_lora or self._router.config.no_lora_compute:
            raise AdapterRefused(409, "an ablation flag keeps adapters from being computed")
        if adapter.info is None:
            raise AdapterRefused(409, f"adapter {order.name} is {adapter.state.value}")
        if not scheduler.can_ever_fit(TRIAL_PAGES * scheduler.pool.page_size, adapter):
            raise AdapterRefused(
                409, f"a verification takes {TRIAL_PAGES} pages beside the adapter"
            )
        self._trials[order.order] = (order, adapter, time.monotonic())
        self._residency.begin_trial(order.order, adapter, TRIAL_PAGES)

    def checked(self, answer: AdapterChecked) -> None:
        if answer.epoch != self._router.scheduler.epoch or answer.order not in self._trials:
            return
        order, adapter, started = self._trials.pop(answer.order)
        self._residency.end_trial(answer.order)
        if answer.error:
            self._reply(order, 500, f"could not be verified: {answer.error}")
            return
        assert adapter.info is not None
        verification = Verification(
            adapter.key,
            adapter.info.digest,
            answer.dtype,
            answer.comparisons,
            answer.is_right,
            time.monotonic() - started,
        )
        words, level = verification.words, "info" if answer.is_right else "error"
        self._router.event(level, f"verified {adapter.key}: it {words}")
        self._reply(order, 200, f"adapter {adapter.key} {words}", verification=verification)
        self._router.adapters_changed()

    # -- merging

    def follow(self, policy: Policy) -> None:
        """Has the workers keep merged whom the scheduler's policy wants merged. Where it wants
        nobody for now, what is merged stays: it is in nobody's way. Where it never does, the copy
        that was made for one before it is given up. Who could not be merged is not tried again
        before another was wanted."""
        if self._merge:
            return
        target, config = policy.merge_target, self._router.config
        if not policy.merges:
            if self._followed is not None and self._followed.merged:
                self._begin_merge(None, None)
            self._followed = self._target = None
        elif target is self._target:
            return
        elif target is None or target.merged or config.no_lora or config.no_lora_compute:
            self._target = target
        elif target.info is not None:
            self._target = target
            self._begin_merge(None, target)

    def _start_merge(self, order: MergeAdapter) -> None:
        if self._merge:
            raise AdapterRefused(409, f"{self._merge.name or 'an unmerge'} is under way")
        adapter = self._registry.acquire(order.name) if order.name else None
        if adapter is not None and adapter.info is None:
            raise AdapterRefused(409, f"adapter {order.name} is {adapter.state.value}")
        if self._router.config.no_lora or self._router.config.no_lora_compute:
            raise AdapterRefused(409, "an ablation flag keeps adapters from being computed")
        self._begin_merge(order, adapter)

    def _begin_merge(self, order: MergeAdapter | None, adapter: Adapter | None) -> None:
        self._merge = MergeInMaking(order, adapter)
        if adapter is not None:
            adapter.held += 1  # its host copy is read until all ranks have answered
        self._router.tell_workers(MergeWeights(adapter.key if adapter else ""))

    def merged(self, answer: WeightsMerged) -> None:
        merge = self._merge
        if merge is None or answer.key != (merge.adapter.key if merge.adapter else ""):
            return
        merge.errors[answer.rank] = answer.error
        if len(merge.errors) < self._router.num_workers:
            return
        self._merge = None
        if merge.adapter is not None:
            merge.adapter.held -= 1
        errors = [error for error in merge.errors.values() if error]
        for adapter in self._registry:
            adapter.merged = adapter is merge.adapter and not errors
        if errors:
            self._router.tell_workers(MergeWeights(""))  # on the ranks that could
            self._reply_merge(merge, 507, f"not merged: {errors[0]}")
            if merge.order is None:
                text = f"{merge.name} was not merged, its steps add it: {errors[0]}"
                self._router.event("warning", text)
        elif merge.adapter is None:
            self._reply_merge(merge, 200, "the merged copy of the weights is given up")
        else:
            self._followed = merge.adapter if merge.order is None else None
            self._router.tell_workers(UseMerged(merge.adapter.key))
            self._router.event("info", f"adapter {merge.adapter.name} is merged")
            word = "is merged: steps of it alone use that copy of the weights"
            self._reply_merge(merge, 200, f"adapter {merge.adapter.name} {word}")
        self._router.adapters_changed()

    def _reply_merge(self, merge: MergeInMaking, status: int, text: str) -> None:
        """To whoever ordered it; the scheduler's policy wants no answer."""
        if merge.order is not None:
            self._reply(merge.order, status, text)

    def _give_up_merged(self, adapter: Adapter) -> None:
        if adapter.merged:
            self._router.tell_workers(MergeWeights(""))


@dataclass
class PlanInMaking:
    """Directories that a worker is measuring."""

    order: PlanAdapters
    infos: dict[int, AdapterInfo] = field(default_factory=dict)


@dataclass
class MergeInMaking:
    """What the ranks said of it so far; no `adapter`: they give up their copy."""

    order: MergeAdapter | None
    """None: the scheduler's policy wants it."""
    adapter: Adapter | None
    errors: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.adapter.name if self.adapter else ""
