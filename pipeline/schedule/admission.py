"""`AdmissionPass`: one pass over the waiting queue that starts the sequences that fit into a step.
`Decision`: its result for one of them.

Knows neither tokens nor the policy's reasons. The scheduler makes a started sequence's row.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from ..messages import AdapterState, SchedulerSettings, StepLimit
from ..runtime.wording import counted
from .policies import Policy
from .residency import KV_OF_REQUESTS, Residency
from .sequence import Sequence
from .step_draft import StepDraft
from .waiting_queue import WaitingQueue
from .worst_case import Demand

MOST_PASSED = 256
"""Most requests a pass may skip because their adapter is not resident. The rest of the queue is not
examined in that pass."""
PATIENCE_SECONDS = 2.0
"""After waiting this long for its adapter, a request blocks newer ones, so that running requests
finish and free the pages it needs."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One admission decision with its arithmetic, in tokens and pages.

    Admitted if `need` + `adapters` + `adapter_pages` <= `total` after evicting idle adapters, a
    place in the batch is free (`running`), prompt tokens of the step are left (`budget`), and its
    adapter is placed.
    """

    request: str
    is_admitted: bool
    held: int
    remaining: int
    need: int
    """Worst-case pages of all running sequences and this one; 0 if not computed."""
    free: int
    kv: int
    adapters: int
    """Pages of adapters."""
    adapter_pages: int
    """Pages that its own adapter still needs."""
    total: int
    budget: int
    running: int
    reason: str = ""


@dataclass
class QueueState:
    """State that one pass over the queue leaves for the next."""

    passes: int = 0
    """Passes so far, which is the newest pass's number."""
    behind: str = ""
    """Reason of the sequences that the newest pass did not examine; "": the policy's reason."""
    limit: StepLimit = StepLimit.NOTHING
    """What kept the requests that still wait out of the step: the limit that ended the newest pass,
    or that of the first request it passed over. NOTHING if the policy has yielded no other."""
    may_differ: bool = True
    """Whether another pass may have another result than the newest."""


@dataclass
class AdmissionPass:
    """Starts waiting sequences in the policy's order until one does not fit.

    The worst-case demand of all running sequences until they end must fit beside the adapters.
    Preemption is then rare: the formula assumes that all advance in step, which a sequence still in
    its prompt does not.

    A pass ends with the first sequence that does not fit; the rest is not examined. Sequences that
    wait for an adapter are skipped, since others do not need what they wait for.
    """

    plan: StepDraft
    queue_state: QueueState
    waiting: WaitingQueue
    running: list[Sequence]
    policy: Policy
    settings: SchedulerSettings
    max_running: int
    residency: Residency
    worst_case: Callable[[], Demand]
    """The worst-case demand of all running sequences."""
    start: Callable[[Sequence, StepDraft], None]
    """Moves a sequence from the queue to the batch."""
    decisions: list[Decision] | None
    """Decisions are appended here; None: they are not recorded."""
    span: Callable[..., AbstractContextManager[object]]
    lacks_pages: bool = field(default=False, init=False)
    """Whether a sequence waits for pages, its own or its adapter's."""

    def run(self) -> None:
        self._passed_by = 0
        self._all_placed = True
        self._shortages: list[tuple[int, int]] = []
        if self._is_full:
            self._note_full()
            return
        self._demand = self.worst_case()
        state = self.queue_state
        for sequence in self.policy.candidates(self.waiting, self.running):
            sequence.examined = state.passes
            if self._try_sequence(sequence):
                if self._is_full:
                    break
                continue
            if self._passed_by >= MOST_PASSED:
                state.behind = f"behind {self._passed_by} requests that wait for adapters"
            if state.behind:
                break
        if self.waiting and self._is_full:
            self._note_full()

    @property
    def _is_full(self) -> bool:
        return len(self.running) >= self.max_running

    def _try_sequence(self, sequence: Sequence) -> bool:
        """Starts a sequence, or notes why it waits. Returns whether it started."""
        plan, state, adapter = self.plan, self.queue_state, sequence.adapter
        if sequence.in_flight:
            return self._hold_back(sequence, StepLimit.KV_PAGES, "its last step is still running")
        if plan.budget <= 0:
            state.behind = "prompt budget is spent"
            state.may_differ = True
            return self._hold_back(sequence, StepLimit.PROMPT_TOKENS, state.behind)
        cap = self.settings.max_per_adapter
        if cap and adapter.running >= cap and adapter.name:
            self._passed_by += 1
            reason = f"adapter {adapter.name} runs {cap}, --max-per-adapter"
            return self._hold_back(sequence, StepLimit.POLICY, reason)
        need = self._demand.with_candidate(*sequence.size)
        if reason := self._lack_of_adapter(sequence, need):
            return self._hold_back(sequence, StepLimit.ADAPTER, reason, need)
        if reason := self._lack_of_pages(sequence, need):
            return self._hold_back(sequence, StepLimit.KV_PAGES, reason, need)
        self._demand.add_sequence(*sequence.size)
        self._note_decision(sequence, need, is_admitted=True)
        with self.span("_merge_batch"):
            self.start(sequence, plan)
        return True

    def _lack_of_adapter(self, sequence: Sequence, need: int) -> str:
        """Why a sequence waits for its adapter; "" if that is placed. Only the first in a pass that
        lacks its adapter may evict one that others wait for; if all might, a thousand waiting
        requests would evict each other's adapters."""
        adapter, state = sequence.adapter, self.queue_state
        reason = self.residency.place_or_wait(
            adapter,
            need,
            self.plan.now,
            unwanted=not self._all_placed,
            shortages=self._shortages,
        )
        self._all_placed = self._all_placed and adapter.state is AdapterState.GPU
        if reason:
            state.may_differ = True
            self.lacks_pages = self.lacks_pages or adapter.state is AdapterState.HOST
            self._passed_by += 1
            is_old = self.plan.now - sequence.request.arrived_at > PATIENCE_SECONDS
            if is_old and adapter.state is AdapterState.HOST and self._can_ever_fit(sequence):
                state.behind = f"behind {sequence.short_id}: {reason}"
        return reason

    def _lack_of_pages(self, sequence: Sequence, need: int) -> str:
        """Why a sequence waits for KV pages; "" if they are free, if need be after the eviction of
        idle adapters."""
        pool, state = self.residency.pool, self.queue_state
        soon = pool.pages_for(min(sequence.length, self.plan.budget))
        idle = (a for a in self.residency.registry.idle() if a is not sequence.adapter)
        with self.span("can add new req, need_max_token_num_{}", need * pool.page_size):
            if self.residency.make_room(soon, need, idle, self.plan.now, KV_OF_REQUESTS):
                return ""
        self.lacks_pages = True
        state.may_differ = True  # each token of the others lowers the worst case
        if not self._can_ever_fit(sequence):
            state.behind = ""
            own = pool.pages_for(sum(sequence.size))
            return f"needs {own} KV pages, more than pinned adapters leave: unpin one"
        state.behind = f"behind {sequence.short_id}, which waits for KV pages"
        usable = pool.total - pool.adapters
        why = f"needs up to {need}, {usable} usable" if need > usable else f"{soon} needed now"
        return f"waits for KV pages of running requests: {why}"

    def _can_ever_fit(self, sequence: Sequence) -> bool:
        """False if adapters pinned since it arrived leave no room for it; it then blocks no other
        sequence."""
        return self.residency.can_ever_hold(sum(sequence.size), sequence.adapter)

    def _hold_back(self, sequence: Sequence, limit: StepLimit, reason: str, need: int = 0) -> bool:
        """Notes why a sequence waits. Returns False: it has not started."""
        state = self.queue_state
        if state.behind or state.limit is StepLimit.NOTHING:
            state.limit = limit
        sequence.reason = reason
        self._note_decision(sequence, need, is_admitted=False)
        return False

    def _note_full(self) -> None:
        """Sets the reason of all waiting sequences: the batch is full, not the policy's reason."""
        oldest = self.waiting.oldest
        oldest.examined = self.queue_state.passes
        self.queue_state.behind = f"behind {oldest.short_id}: the batch is full"
        reason = f"batch is full: {counted(self.max_running, 'request', 'run')}"
        self._hold_back(oldest, StepLimit.ROWS, reason)

    def _note_decision(self, sequence: Sequence, need: int, *, is_admitted: bool) -> None:
        """Records a decision if decisions are recorded and it differs from the sequence's last."""
        if self.decisions is None or (not is_admitted and sequence.noted == sequence.reason):
            return
        sequence.noted = sequence.reason
        adapter, pool = sequence.adapter, self.residency.pool
        own = 0 if adapter.info is None or adapter.pages else adapter.info.pages
        self.decisions.append(
            Decision(
                request=sequence.request.request_id,
                is_admitted=is_admitted,
                held=sequence.length,
                remaining=sequence.remaining,
                need=need,
                free=pool.free,
                kv=pool.kv,
                adapters=pool.adapters,
                adapter_pages=own,
                total=pool.total,
                budget=self.plan.budget,
                running=len(self.running),
                reason="" if is_admitted else sequence.reason,
            )
        )
