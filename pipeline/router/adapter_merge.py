"""`AdapterMerge`: the workers' copy of the weights with one adapter merged into it, by operators'
orders or the scheduler's policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ..config import Config
from ..messages import (
    UNREAD,
    AdapterState,
    MergeAdapter,
    MergeWeights,
    UseMerged,
    WeightsMerged,
)
from ..schedule.adapter_registry import AdapterRecord, AdapterRefused, AdapterRegistry
from ..schedule.policies import Policy
from .effects import Effects
from .order_replies import OrderReplies

UNUSABLE_STATES = UNREAD | {AdapterState.FAILED, AdapterState.GONE}


@dataclass
class MergeUnderWay:
    """A merge, and the ranks' answers so far. Without `adapter` the ranks free their copy."""

    order: MergeAdapter | None
    """None: by the scheduler's policy, or again what an order has merged."""
    adapter: AdapterRecord | None
    by_policy: bool = False
    errors: dict[int, str] = field(default_factory=dict)
    """By rank; "" if it succeeded."""

    @property
    def name(self) -> str:
        return self.adapter.name if self.adapter else ""


class AdapterMerge:
    """At most one merge at a time. Once all ranks have made the merged copy, they start to use it
    between the same two steps."""

    def __init__(
        self,
        config: Config,
        registry: AdapterRegistry,
        effects: Effects,
        replies: OrderReplies,
    ) -> None:
        self._can_merge = not (config.no_lora or config.no_lora_compute)
        self._registry, self._effects, self._replies = registry, effects, replies
        self._under_way: MergeUnderWay | None = None
        self._kept: AdapterRecord | None = None
        """The adapter that is merged by an order, and merged again in new workers."""
        self._unanswered: MergeAdapter | None = None
        """An order of an earlier router, carried out as soon as its adapter is read."""
        self._target: AdapterRecord | None = None
        """The adapter that the policy last wanted merged; its merge has been tried."""
        self._followed: AdapterRecord | None = None
        """The adapter that is merged because the policy wanted it."""

    @property
    def kept_key(self) -> str:
        """Key of the adapter that is merged by an order; "" without one."""
        return self._kept.key if self._kept else ""

    @property
    def order(self) -> MergeAdapter | None:
        """The order that is not answered yet."""
        return self._under_way.order if self._under_way else self._unanswered

    def restore(self, merged: str, order: MergeAdapter | None) -> None:
        """Goes on with what an earlier router has merged, and was ordered to merge."""
        self._kept, self._unanswered = self._registry.find(merged), order

    def adopt_copies(self, keys: Collection[str]) -> None:
        """Uses the merged copy that workers have kept, if all ranks have the same and it is still
        wanted; frees it otherwise. `keys` are those of the ranks."""
        if not any(keys):
            return
        adapter = self._registry.find(min(keys)) if len(set(keys)) == 1 else None
        wanted = self._kept is None or self._kept is adapter
        if adapter is None or not wanted or adapter.state in UNUSABLE_STATES:
            self._effects.send_workers(MergeWeights(""))
            return
        adapter.merged = True
        self._followed = None if self._kept else adapter
        self._effects.send_workers(UseMerged(adapter.key))

    def start(self, order: MergeAdapter) -> None:
        """Starts a merge, which is answered when done. Raises `AdapterRefused`."""
        if self._under_way:
            raise AdapterRefused(409, f"{self._under_way.name or 'an unmerge'} is in progress")
        adapter = self._registry.acquire(order.name) if order.name else None
        if adapter is not None and adapter.info is None:
            raise AdapterRefused(409, f"adapter {order.name} is {adapter.state.value}")
        if not self._can_merge:
            raise AdapterRefused(409, "adapters are off: an ablation flag is set")
        self._begin(MergeUnderWay(order, adapter))

    def follow_policy(self, policy: Policy, now: float) -> None:
        """Makes the workers merge the adapter that the scheduler's policy wants merged.

        While the policy wants none, the merged copy stays, since it slows no step. If the policy
        never merges, a copy made for an earlier policy is freed. A failed merge is tried again only
        after the policy has wanted another adapter.
        """
        if self._under_way or self._begin_again(now):
            return
        target = policy.merge_target
        if not policy.merges:
            if self._followed is not None and self._followed.merged:
                self._begin(MergeUnderWay(None, None, by_policy=True))
            self._followed = self._target = None
        elif target is self._target:
            return
        elif target is None or target.merged or not self._can_merge:
            self._target = target
        elif target.info is not None:
            self._target = target
            self._begin(MergeUnderWay(None, target, by_policy=True))

    def _begin_again(self, now: float) -> bool:
        """Starts what an earlier router was ordered to merge, or merges again what new workers do
        not have; False if there is nothing to start now."""
        kept = self._kept
        if self._unanswered is not None:
            self._start_unanswered(self._unanswered, now)
        elif kept is not None and not kept.merged and kept.state not in UNUSABLE_STATES:
            self._begin(MergeUnderWay(None, kept))
        return self._under_way is not None

    def _start_unanswered(self, order: MergeAdapter, now: float) -> None:
        try:
            if order.name and self._registry.current(order.name).state in UNREAD:
                return  # it is tried again with the next step
            self._unanswered = None
            self.start(order)
        except AdapterRefused as refusal:
            self._unanswered = None
            self._replies.send(order, refusal.status, refusal.reason, now)

    def note_answer(self, answer: WeightsMerged, now: float) -> bool:
        """Stores a rank's answer to `MergeWeights`. True if it was the last one."""
        merge = self._under_way
        if merge is None or answer.key != (merge.adapter.key if merge.adapter else ""):
            return False
        merge.errors[answer.rank] = answer.error
        if len(merge.errors) < len(self._effects.workers):
            return False
        self._under_way = None
        if merge.adapter is not None:
            merge.adapter.held -= 1
        errors = [error for error in merge.errors.values() if error]
        for adapter in self._registry:
            adapter.merged = adapter is merge.adapter and not errors
        if errors:
            self._report_failure(merge, errors[0], now)
        elif merge.adapter is None:
            self._kept = None
            self._reply(merge, 200, "merged weights released", now)
        else:
            self._followed = merge.adapter if merge.by_policy else None
            self._kept = None if merge.by_policy else merge.adapter
            self._effects.record_changed = True
            self._effects.send_workers(UseMerged(merge.adapter.key))
            self._effects.report("info", f"adapter {merge.adapter.name} is merged")
            text = f"adapter {merge.adapter.name} is merged: steps of it alone use the merged copy"
            self._reply(merge, 200, text, now)
        return True

    def give_up(self, adapter: AdapterRecord) -> None:
        """Frees the merged copy of an unloaded adapter."""
        if adapter is self._kept:
            self._kept = None
        if adapter.merged:
            self._effects.send_workers(MergeWeights(""))

    def forget_workers(self, reason: str, now: float) -> None:
        """Starts over with new workers, which have no merged copy; a merge under way is refused
        with the reason."""
        if self._under_way:
            self._reply(self._under_way, 503, reason, now)
            if adapter := self._under_way.adapter:
                adapter.held -= 1
            self._under_way = None
        self._target = self._followed = None
        for record in self._registry:
            record.merged = False

    def _begin(self, merge: MergeUnderWay) -> None:
        self._under_way, adapter = merge, merge.adapter
        if adapter is not None:
            adapter.held += 1  # its host copy is read until all ranks have answered
        self._effects.send_workers(MergeWeights(adapter.key if adapter else ""))

    def _report_failure(self, merge: MergeUnderWay, error: str, now: float) -> None:
        self._effects.send_workers(MergeWeights(""))  # for the ranks that succeeded
        self._kept, self._effects.record_changed = None, True
        self._reply(merge, 507, f"not merged: {error}", now)
        if merge.order is None:
            text = f"{merge.name} was not merged, its steps compute it unmerged: {error}"
            self._effects.report("warning", text)

    def _reply(self, merge: MergeUnderWay, status: int, text: str, now: float) -> None:
        """Answers the operator's order; a policy gets no answer."""
        if merge.order is not None:
            self._replies.send(merge.order, status, text, now)
