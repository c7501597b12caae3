"""`Scheduler`: from all live requests, the next `Batch`; from its tokens, what was accepted.

Pure: no socket, no tensor, no clock but the one it is handed. The authority on every sequence;
the workers hold only what a batch told them and may be rebuilt from here.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..messages import (
    NO_TOKEN,
    AdapterState,
    Admission,
    Batch,
    BatchRow,
    BatchView,
    PageOwner,
    PoolMap,
    Request,
    SchedulerSettings,
    StreamToken,
    Tokens,
)
from ..runtime.spans import no_span
from .adapter_registry import Adapter, AdapterRegistry
from .page_allocator import BlockPool, OutOfPages
from .pets import LatencyTable
from .policy_factory import make_policy
from .residency import Residency
from .sequence import Sequence, SequenceState
from .step_plan import Decision, Plan
from .waiting_queue import WaitingQueue
from .worst_case import Demand

CHUNK_TOKENS = 192
"""A step of an 8B model with so many prompt tokens takes less than twice what its decode rows
alone take, though the prompt be long (kernels/NOTES.md), so it never stalls running streams."""
MOST_OWNERS = (1 << 16) - 1
MOST_PASSED = 256
"""So many that wait for their adapters are passed in a step; then whoever is left stands behind."""
PATIENCE_SECONDS = 2.0
"""So long a request whose adapter finds no room lets younger ones pass; then they wait behind it,
and what they hold runs dry."""


class Overlong(Exception):
    """The request can never run here, however long it waits."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the workers can hold and how much of it a step may take."""

    num_pages: int = 0
    page_size: int = 16
    max_model_len: int = 0
    max_running: int = 0
    max_prefill_tokens: int = 0
    chunk_tokens: int = CHUNK_TOKENS
    """Prompt tokens in a step in which others decode."""
    eos_token_ids: frozenset[int] = frozenset()


class Scheduler:
    """Continuous batching over one page pool.

    Every step computes one token of each decoding sequence and, within `limits.max_prefill_tokens`,
    pieces of prompts. `next_batch` may be called again before the tokens of the last batch are
    back: a sampled token is planned for as soon as it has been asked for, and what was computed
    past a stop is thrown away in `accept`.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        *,
        policy: str = "fcfs",
        settings: SchedulerSettings | None = None,
        table: LatencyTable | None = None,
        prefetch: bool = True,
        span: Callable[..., AbstractContextManager[object]] = no_span,
    ) -> None:
        """`settings` name a policy and its numbers; `policy` alone takes the usual ones. `table` is
        what `pets` reckons with. `prefetch`: adapters are loaded when a request for them arrives;
        else when it could be admitted. `span` opens a named time span."""
        self.registry = registry
        self._prefetch, self._span = prefetch, span
        self.settings = settings or SchedulerSettings(policy=policy)
        self._table = table or LatencyTable()
        self.policy = make_policy(self.settings, self._table)
        self.limits = Limits()
        self.pool = BlockPool(0, self.limits.page_size)
        self.residency = Residency(registry)
        self.epoch = 0
        self.step = 0
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.ended: list[Sequence] = []
        """Whose last token came in the last `accept`."""
        self.broken: list[Sequence] = []
        """Sequences without a usable logit in the last `accept`; for the caller to end."""
        self.refused: list[tuple[Sequence, str]] = []
        """Whom the policy has ended, and why; for the caller to tell and to clear."""
        self.decisions: list[Decision] | None = None
        """Filled by `next_batch` where it is a list; for the caller to read and to clear."""
        self._by_request: dict[str, Sequence] = {}
        self._by_number: dict[int, Sequence] = {}
        self._next_number = 0
        self._release: list[int] = []
        self._pass = 0
        """Counts passes over the queue."""
        self._behind = ""
        """Why those wait whom the last pass did not come to."""
        self._may_differ = True
        """Whether a pass over the queue may find what the last one did not."""
        self._steps_since_admission = 0

    # -- the policy

    def set_policy(self, settings: SchedulerSettings) -> None:
        """Decides by these settings from the next step on. A policy that stays keeps what it has
        learnt; a new one is told of all who wait."""
        if settings.policy == self.settings.policy:
            self.policy.configure(settings)
        else:
            self.policy = make_policy(settings, self._table)
            self.policy.max_running = self.limits.max_running
            empty = WaitingQueue()
            for sequence in self.waiting:
                self.policy.on_arrival(sequence, empty)
                empty.add(sequence)
        self.settings = settings
        self.reconsider()

    def use_table(self, table: LatencyTable) -> None:
        """What `pets` reckons with from now on."""
        self._table = table
        self.policy = make_policy(self.settings, table)

    def reconsider(self) -> None:
        """Something outside has changed (an adapter, the settings): the next step looks through the
        queue again."""
        self._may_differ = True

    # -- the workers' limits

    def reset(self, epoch: int, limits: Limits) -> None:
        """New workers with an empty pool: whoever ran waits again, with all its tokens."""
        for sequence in list(self.running):
            self._requeue(sequence, "restarted with its worker")
        for sequence in self.waiting:
            sequence.in_flight = 0  # nobody will answer what the old workers were asked
        self.epoch = epoch
        self.limits = limits
        self.policy.max_running = limits.max_running
        self.pool = BlockPool(limits.num_pages, limits.page_size)
        self._release.clear()
        self.residency.reset(epoch, self.pool)
        self.reconsider()

    # -- requests

    def __len__(self) -> int:
        return len(self._by_request)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_request

    def sequences(self) -> Iterator[Sequence]:
        """All live sequences, in no particular order."""
        return iter(self._by_request.values())

    def is_live(self, number: int) -> bool:
        """Whether a sequence of this number has not ended."""
        return number in self._by_number

    def check_length(self, request: Request) -> None:
        """Raises `Overlong` where no state of the pool could ever hold the request, and
        `AdapterRefused` where nobody may use its adapter."""
        total = len(request.prompt_ids) + request.params.max_tokens
        longest = self.limits.max_model_len
        if total > longest:
            raise Overlong(
                f"prompt of {len(request.prompt_ids)} tokens + max_tokens "
                f"{request.params.max_tokens} = {total} exceeds {longest}, "
                "the longest that the model and its pool hold"
            )
        adapter = self.registry.acquire(request.adapter)
        if not self.can_ever_fit(total, adapter):
            own = adapter.info.pages if adapter.info else 0
            beside = f" beside {own} pages of its adapter and those pinned" if own else ""
            raise Overlong(
                f"prompt + max_tokens = {total} tokens exceed the pool of "
                f"{self.pool.total * self.pool.page_size}{beside}; see --max-total-tokens"
            )

    def can_ever_fit(self, num_tokens: int, adapter: Adapter) -> bool:
        """Whether a sequence would fit if it ran alone, beside its adapter and pinned ones."""
        own = adapter.info.pages if adapter.info else 0
        pinned = self.residency.pinned_pages(but=adapter)
        return self.pool.pages_for(num_tokens) + own + pinned <= self.pool.total

    def add(self, request: Request) -> Sequence:
        """A new sequence, WAITING. The caller has checked its length. Raises `AdapterRefused`."""
        adapter = self.registry.acquire(request.adapter)
        sequence = Sequence(request, self._next_number, adapter)
        self._next_number += 1
        self._by_request[request.request_id] = sequence
        self._by_number[sequence.number] = sequence
        self._queue(sequence, "queued")
        self.registry.touch(adapter)
        adapter.tally.requests += 1
        adapter.tally.prompt_tokens += sequence.num_prompt
        if self._prefetch and adapter.state is AdapterState.HOST:
            need = self._worst_case().with_candidate(*_size(sequence))
            self.residency.wait(adapter, need, unwanted=True)
        return sequence

    def finish(self, request_id: str) -> Sequence | None:
        """Ends a request in whatever state; its pages are free at once. None: unknown (already
        finished). A step in flight still writes to those pages, but steps run in order, so
        whoever gets them next writes after it."""
        sequence = self._by_request.pop(request_id, None)
        if sequence is None:
            return None
        del self._by_number[sequence.number]
        if sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
            self._release.append(sequence.number)
            self.pool.release(sequence.pages)
            sequence.pages = []
            sequence.adapter.running -= 1
        else:
            self.waiting.remove(sequence)
            sequence.adapter.waiting -= 1
        was_waiting = sequence.state is SequenceState.WAITING
        sequence.state = SequenceState.FINISHED
        if was_waiting:
            self.policy.on_leave(sequence, self.waiting)
        self.reconsider()
        return sequence

    # -- steps

    def next_batch(self, now: float = 0.0) -> Batch | None:
        """The next step, or None where nothing can be computed now. What `residency` orders goes
        before it, and whom the policy gives up is in `refused`."""
        for sequence, reason in self.policy.overdue(self.waiting, now):
            self.finish(sequence.request.request_id)
            self.refused.append((sequence, reason))
        plan = Plan()
        num_decoding = self._schedule_decodes(plan)
        budget = plan.budget = self._prompt_budget(num_decoding)
        for sequence in plan.others:
            if sequence.state is SequenceState.RUNNING:  # not preempted for one before it
                self._schedule(sequence, plan)
        if self.waiting:
            with self._span("gen_new_batch_{}", len(self.waiting)):
                self._admit(plan, now)
        if self.residency.trials:
            self.residency.start_trials(self.kv_pages_at_worst())
        if not plan.rows:
            return None
        batch = Batch(
            self.epoch,
            self.step,
            tuple(self._release),
            tuple(plan.admissions),
            tuple(plan.rows.values()),
        )
        self._release.clear()
        self.step += 1
        self._steps_since_admission = 0 if plan.admissions else self._steps_since_admission + 1
        self.prefill_tokens += budget - plan.budget
        return batch

    def _schedule_decodes(self, plan: Plan) -> int:
        """Rows of those that decode into a page they have, which is nearly all of nearly every
        step; the rest are left in `plan.others`. How many decode."""
        rows, sampling, others = plan.rows, plan.sampling, plan.others
        page_size = self.limits.page_size
        num_decoding = 0
        for sequence in self.running:
            done = sequence.num_scheduled
            if done < sequence.num_prompt:
                others.append(sequence)
                continue
            num_decoding += 1
            length = len(sequence.token_ids) + sequence.in_flight
            if length >= sequence.max_length and length - done <= 1:
                continue  # its last token is on its way
            if length - done == 1 and done < len(sequence.pages) * page_size:
                sequence.num_scheduled = length
                sequence.in_flight += 1
                number = sequence.number
                sampling.add(number)
                rows[number] = sequence.decode_row
            else:
                others.append(sequence)
        self.decode_tokens += len(rows)
        return num_decoding

    def _prompt_budget(self, decoding: int) -> int:
        """Prompt tokens that the next step may compute: few while others decode, or twice as many
        as decode, whose step takes its time anyway."""
        most = self.limits.max_prefill_tokens
        return min(most, max(self.limits.chunk_tokens, 2 * decoding)) if decoding else most

    def _schedule(self, sequence: Sequence, plan: Plan) -> None:
        """Gives a running sequence its row of this step, if it has something to compute."""
        pending = sequence.pending
        if sequence.remaining <= 0 and pending <= 1:
            return  # its last token is on its way
        decoding = pending == 1 and sequence.num_scheduled >= sequence.num_prompt
        num_tokens = 1 if decoding else min(pending, plan.budget)
        if num_tokens <= 0:
            return
        end = sequence.num_scheduled + num_tokens
        wanted = self.pool.pages_for(end) - len(sequence.pages)
        pages = self._allocate(sequence, wanted, plan) if wanted > 0 else ()
        if pages is None:
            return  # it gave way itself
        sequence.pages.extend(pages)
        sequence.num_scheduled = end
        if end == sequence.length:
            sequence.in_flight += 1
            plan.sampling.add(sequence.number)
        plan.rows[sequence.number] = BatchRow(sequence.number, num_tokens, pages)
        if decoding:
            self.decode_tokens += 1
        else:
            plan.budget -= num_tokens

    def _allocate(self, sequence: Sequence, count: int, plan: Plan) -> tuple[int, ...] | None:
        """Pages for a running sequence; where there are none, an idle adapter gives its own, then
        the youngest sequence. None where the sequence itself was the youngest."""
        while True:
            try:
                return self.pool.allocate(count)
            except OutOfPages:
                if (idle := next(self.registry.idle(), None)) is not None:
                    self.residency.evict(idle)
                    continue
                youngest = max(self.running, key=lambda s: s.request.arrived_at)
                self._preempt(youngest, plan)
                if youngest is sequence:
                    return None

    def _preempt(self, sequence: Sequence, plan: Plan) -> None:
        """By recompute: pages back, tokens kept, in the queue again by its age."""
        self.preemptions += 1
        self._release.append(sequence.number)
        self.pool.release(sequence.pages)
        plan.rows.pop(sequence.number, None)
        if sequence.number in plan.sampling:  # planned, but now nobody will sample it
            plan.sampling.discard(sequence.number)
            sequence.in_flight -= 1
        self._requeue(sequence, "preempted: no free pages")

    def _admit(self, plan: Plan, now: float) -> None:
        """Starts waiting sequences in the policy's order until one does not fit.

        The worst case over the whole life of all running sequences must fit beside the adapters,
        so that preemption stays the exception: it is needed only because a sequence that is still
        in its prompt does not advance in step with the others, which the formula assumes.

        A pass ends with the first that does not fit; whoever stands behind it is not touched. Where
        the batch was full and nothing has changed since, there is none.
        """
        if self.running and not self._may_differ:
            return
        patience = self.settings.max_wait_tokens
        if self.running and self._steps_since_admission < patience:
            return
        self._may_differ = False
        self._pass += 1
        self._behind = ""
        if len(self.running) >= self.limits.max_running:
            self._say_full(plan)
            return
        demand = self._worst_case()
        shortages: list[tuple[int, int]] = []
        is_first = True
        passed = 0
        cap = self.settings.max_per_adapter
        for sequence in self.policy.order(self.waiting, self.running):
            sequence.examined = self._pass
            adapter, need = sequence.adapter, 0
            if sequence.in_flight:
                sequence.reason = "its last step is still out"
            elif plan.budget <= 0:
                sequence.reason = self._behind = "prompt tokens of this step are spent"
                self._may_differ = True
            elif cap and adapter.running >= cap and adapter.name:
                sequence.reason = f"adapter {adapter.name} runs {cap}, --max-per-adapter"
                passed += 1
            else:
                need = demand.with_candidate(*_size(sequence))
                # The first that lacks its adapter may take the pages of one that others wait for;
                # if all might, a thousand waiting requests would take them from each other.
                wait = self.residency.wait(
                    adapter, need, unwanted=not is_first, shortages=shortages
                )
                is_first = is_first and adapter.state is AdapterState.GPU
                if wait:
                    # Others pass it, for a while: they do not need what it waits for.
                    sequence.reason = wait
                    self._may_differ = True
                    passed += 1
                    is_old = now - sequence.request.arrived_at > PATIENCE_SECONDS
                    if is_old and adapter.state is AdapterState.HOST and self._can_fit(sequence):
                        self._behind = f"behind an older request: {wait}"
                else:
                    soon = self.pool.pages_for(min(sequence.length, plan.budget))
                    idle = (a for a in self.registry.idle() if a is not adapter)
                    tokens = need * self.pool.page_size
                    with self._span("can add new req, need_max_token_num_{}", tokens):
                        has_room = self.residency.make_room(soon, need, idle)
                    if has_room:
                        demand.add(*_size(sequence))
                        self._note(sequence, plan, need, is_admitted=True)
                        with self._span("_merge_batch"):
                            self._start(sequence, plan, now)
                        if len(self.running) >= self.limits.max_running:
                            break
                        continue
                    room = self.pool.total - self.pool.adapters
                    sequence.reason = f"no KV pages: {need} at worst, {room} in all"
                    self._behind = "behind another: no KV pages" if self._can_fit(sequence) else ""
                    self._may_differ = True  # with every token of the others it needs less
            self._note(sequence, plan, need, is_admitted=False)
            if passed >= MOST_PASSED:
                self._behind = f"behind {passed} that wait for their adapters"
            if self._behind:
                break
        if self.waiting and len(self.running) >= self.limits.max_running:
            self._say_full(plan)

    def _say_full(self, plan: Plan) -> None:
        """The reason for all who wait: a full batch is not held against the policy's order."""
        oldest = self.waiting.oldest
        oldest.reason = f"batch is full: {self.limits.max_running} requests run"
        oldest.examined = self._pass
        self._behind = "behind another: batch is full"
        self._note(oldest, plan, 0, is_admitted=False)

    def _note(self, sequence: Sequence, plan: Plan, need: int, *, is_admitted: bool) -> None:
        """Writes a decision down, where somebody wants to read it and it is not the last one."""
        if self.decisions is None or (not is_admitted and sequence.noted == sequence.reason):
            return
        sequence.noted = sequence.reason
        adapter = sequence.adapter
        own = 0 if adapter.info is None or adapter.pages else adapter.info.pages
        self.decisions.append(
            Decision(
                request=sequence.request.request_id,
                is_admitted=is_admitted,
                held=sequence.length,
                remaining=sequence.remaining,
                need=need,
                free=self.pool.free,
                kv=self.pool.kv,
                adapters=self.pool.adapters,
                adapter_pages=own,
                total=self.pool.total,
                budget=plan.budget,
                running=len(self.running),
                reason="" if is_admitted else sequence.reason,
            )
        )

    def reason_of(self, sequence: Sequence) -> str:
        """Why it waits."""
        if sequence.examined == self._pass:
            return sequence.reason
        return self._behind or self.policy.held_back

    def _can_fit(self, sequence: Sequence) -> bool:
        """It could once it came; adapters pinned since may keep it out, then it blocks nobody."""
        return self.can_ever_fit(sum(_size(sequence)), sequence.adapter)

    def _worst_case(self) -> Demand:
        """What all running sequences may come to need, and verifications hold."""
        entries = []
        for sequence in self.running:
            length = len(sequence.token_ids) + sequence.in_flight
            entries.append((length, sequence.max_length - length))
        demand = Demand(self.pool.page_size, entries)
        if held := self.residency.trial_pages:
            demand.add(held * self.pool.page_size, 0)
        return demand

    def kv_pages_at_worst(self) -> int:
        """Pages that all running sequences and verifications may come to need."""
        return self._worst_case().pages

    # -- sequences that start and stop

    def _start(self, sequence: Sequence, plan: Plan, now: float) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.state = SequenceState.RUNNING
        adapter = sequence.adapter
        if sequence.admitted_at is None:
            sequence.admitted_at = now
            if adapter.since > sequence.request.arrived_at:
                sequence.adapter_at = min(adapter.since, now)
            else:
                adapter.tally.hits += 1
        params = sequence.request.params
        eos = frozenset() if params.ignore_eos else self.limits.eos_token_ids
        sequence.stops = eos.union(params.stop_token_ids)
        adapter.waiting -= 1
        adapter.running += 1
        plan.admissions.append(
            Admission(
                sequence.number,
                tuple(sequence.token_ids),
                sequence.num_prompt,
                params,
                None if adapter is self.registry.base else adapter.key,
            )
        )
        self.policy.on_leave(sequence, self.waiting)
        self.reconsider()  # of what the policy did not offer now, it may offer some after that
        self._schedule(sequence, plan)

    def _requeue(self, sequence: Sequence, reason: str) -> None:
        """A running sequence waits again, with everything said so far; its pages are gone."""
        self.running.remove(sequence)
        sequence.adapter.running -= 1
        sequence.restart()
        self._queue(sequence, reason)

    def _queue(self, sequence: Sequence, reason: str) -> None:
        sequence.reason, sequence.examined = reason, self._pass
        self.policy.on_arrival(sequence, self.waiting)
        self.waiting.add(sequence)
        sequence.adapter.waiting += 1
        self.reconsider()

    # -- tokens

    def accept(self, tokens: Tokens, now: float) -> list[StreamToken]:
        """Books a step's sampled tokens; ends what is complete.

        A token of a sequence that has ended meanwhile was sampled past its stop: discarded. One
        for which nothing could be chosen is in `broken`.
        """
        accepted: list[StreamToken] = []
        served: list[Sequence] = []
        self.ended.clear()
        self.broken.clear()
        for sampled in tokens.tokens:
            sequence = self._by_number.get(sampled.sequence)
            if sequence is None:
                continue
            if sampled.token_id == NO_TOKEN:
                sequence.adapter.tally.broken += 1
                self.broken.append(sequence)
                served.append(sequence)  # it was computed, and a replay counts it too
                continue
            token_id, token_ids = sampled.token_id, sequence.token_ids
            sequence.in_flight -= 1
            token_ids.append(token_id)
            if sequence.first_token_at is None:
                sequence.first_token_at = now
            sequence.adapter.tally.output_tokens += 1
            served.append(sequence)
            length, finish_reason = len(token_ids), None
            if token_id in sequence.stops:
                finish_reason = "stop"
            elif length >= sequence.max_length:
                finish_reason = "length"
            request_id = sequence.request.request_id
            index = length - sequence.num_prompt - 1
            accepted.append(
                StreamToken(request_id, index, token_id, sampled.logprobs, finish_reason)
            )
            if finish_reason:
                with self._span("_filter_runing_batch ..."):
                    self.finish(request_id)
                self.ended.append(sequence)
            elif sequence.state is SequenceState.WAITING:
                self.reconsider()  # preempted with a step out, which is back now
        if self.policy.counts_tokens:
            self.policy.on_tokens(served)
        return accepted

    # -- what others look at

    def view(self, now: float) -> BatchView:
        """Running first, then waiting by arrival."""
        running = (s.view("") for s in self.running)
        return BatchView(now, (*running, *(s.view(self.reason_of(s)) for s in self.waiting)))

    def pool_map(self, now: float) -> PoolMap:
        """Who has each page."""
        owners: list[PageOwner] = []
        pages = array("H", bytes(2 * self.pool.total))
        for adapter in self.registry:
            if adapter.pages:
                owners.append(PageOwner("adapter", adapter.key, adapter.name))
                _mark(pages, adapter.pages, len(owners))
        for trial in self.residency.trials.values():
            if trial.pages:
                owners.append(PageOwner("check", trial.adapter.key, trial.adapter.name))
                _mark(pages, trial.pages, len(owners))
        for sequence in self.running:
            request = sequence.request
            owners.append(PageOwner("kv", request.request_id, request.adapter))
            _mark(pages, sequence.pages, len(owners))
        if sys.byteorder == "big":
            pages.byteswap()
        return PoolMap(now, self.pool.page_size, tuple(owners), pages.tobytes())

    def check(self) -> None:
        """Asserts the pool's law against the sequences, when idle and in tests."""
        self.pool.check()
        held = sum(len(sequence.pages) for sequence in self.running) + self.residency.trial_pages
        assert self.pool.kv == held, f"pool says {self.pool.kv} KV pages, sequences hold {held}"
        assert all(not sequence.pages for sequence in self.waiting)
        placed = sum(len(adapter.pages) for adapter in self.registry)
        assert self.pool.adapters == placed, (
            f"pool says {self.pool.adapters} adapter pages, adapters hold {placed}"
        )


def _mark(owner_of: array[int], pages: Iterable[int], owner: int) -> None:
    owner = min(owner, MOST_OWNERS)
    for page in pages:
        owner_of[page] = owner


def _size(sequence: Sequence) -> tuple[int, int]:
    """(tokens held, tokens to come) for `Demand`."""
    return sequence.length, sequence.remaining
