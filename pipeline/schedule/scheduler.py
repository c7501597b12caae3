"""`Scheduler`: from all live requests, the next `Batch`; from its tokens, what was accepted.

Pure: no socket, no tensor, no clock but the one it is handed. The authority on every sequence;
the workers hold only what a batch told them and may be rebuilt from here.
"""

from __future__ import annotations

import bisect
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..messages import (
    AdapterState,
    Admission,
    Batch,
    BatchRow,
    BatchView,
    PageOwner,
    PoolMap,
    Request,
    StreamToken,
    Tokens,
)
from ..spans import no_span
from .adapters import Adapter, AdapterRegistry
from .block_pool import BlockPool, OutOfPages
from .policies import POLICIES, Policy
from .residency import Residency
from .sequence import Sequence, SequenceState

CHUNK_TOKENS = 256
"""A step of an 8B model with so many prompt tokens takes less than twice what its decode rows
alone take (kernels/NOTES.md), so a long prompt never stalls running streams."""
MOST_OWNERS = (1 << 16) - 1
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
        policy: str,
        prefetch: bool = True,
        span: Callable[..., AbstractContextManager[object]] = no_span,
    ) -> None:
        """`prefetch`: adapters are loaded when a request for them arrives; else when it could be
        admitted. `span` opens a named time span."""
        self.registry = registry
        self._prefetch, self._span = prefetch, span
        self.policy: Policy = POLICIES[policy]()
        self.limits = Limits()
        self.pool = BlockPool(0, self.limits.page_size)
        self.residency = Residency(registry)
        self.epoch = 0
        self.step = 0
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.ended: list[Sequence] = []
        """Whose last token came in the last `accept`."""
        self._by_request: dict[str, Sequence] = {}
        self._by_number: dict[int, Sequence] = {}
        self._next_number = 0
        self._release: list[int] = []

    # -- the workers' limits

    def reset(self, epoch: int, limits: Limits) -> None:
        """New workers with an empty pool: whoever ran waits again, with all its tokens."""
        for sequence in list(self.running):
            self._requeue(sequence, "restarted with its worker")
        for sequence in self.waiting:
            sequence.in_flight = 0  # nobody will answer what the old workers were asked
        self.epoch = epoch
        self.limits = limits
        self.pool = BlockPool(limits.num_pages, limits.page_size)
        self._release.clear()
        self.residency.reset(epoch, self.pool)

    # -- requests

    def __len__(self) -> int:
        return len(self._by_request)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_request

    def sequences(self) -> Iterator[Sequence]:
        """All live sequences, in no particular order."""
        return iter(self._by_request.values())

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
        if self._prefetch:
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
        sequence.state = SequenceState.FINISHED
        return sequence

    # -- steps

    def next_batch(self, now: float = 0.0) -> Batch | None:
        """The next step, or None where nothing can be computed now. What `residency` orders goes
        before it."""
        budget = self._prompt_budget()
        plan = Plan(budget)
        for sequence in list(self.running):
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
        self.prefill_tokens += budget - plan.budget
        return batch

    def _prompt_budget(self) -> int:
        """Prompt tokens that the next step may compute: few while others decode, or twice as many
        as decode, whose step takes its time anyway."""
        decoding = sum(s.num_scheduled >= s.num_prompt for s in self.running)
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
        """
        demand = self._worst_case()
        blocked = ""
        shortages: list[tuple[int, int]] = []
        is_first = True
        for sequence in list(self.policy.order(self.waiting)):
            if blocked:
                sequence.reason = blocked
            elif sequence.in_flight:
                sequence.reason = "its last step is still out"
            elif len(self.running) >= self.limits.max_running:
                sequence.reason = f"batch is full: {self.limits.max_running} requests run"
                blocked = "behind another: batch is full"
            elif plan.budget <= 0:
                sequence.reason = blocked = "prompt tokens of this step are spent"
            else:
                need = demand.with_candidate(*_size(sequence))
                adapter = sequence.adapter
                # The first that lacks its adapter may take the pages of one that others wait for;
                # if all might, a thousand waiting requests would take them from each other.
                wait = self.residency.wait(
                    adapter, need, unwanted=not is_first, shortages=shortages
                )
                is_first = is_first and adapter.state is AdapterState.GPU
                if wait:
                    # Others pass it, for a while: they do not need what it waits for.
                    sequence.reason = wait
                    is_old = now - sequence.request.arrived_at > PATIENCE_SECONDS
                    if is_old and adapter.state is AdapterState.HOST and self._can_fit(sequence):
                        blocked = f"behind an older request: {wait}"
                    continue
                soon = self.pool.pages_for(min(sequence.length, plan.budget))
                idle = (a for a in self.registry.idle() if a is not adapter)
                tokens = need * self.pool.page_size
                with self._span("can add new req, need_max_token_num_{}", tokens):
                    has_room = self.residency.make_room(soon, need, idle)
                if not has_room:
                    room = self.pool.total - self.pool.adapters
                    sequence.reason = f"no KV pages: {need} at worst, {room} in all"
                    blocked = "behind another: no KV pages" if self._can_fit(sequence) else ""
                    continue
                demand.add(*_size(sequence))
                with self._span("_merge_batch"):
                    self._start(sequence, plan)

    def _can_fit(self, sequence: Sequence) -> bool:
        """It could once it came; adapters pinned since may keep it out, then it blocks nobody."""
        return self.can_ever_fit(sum(_size(sequence)), sequence.adapter)

    def _worst_case(self) -> Demand:
        """What all running sequences may come to need, and verifications hold."""
        demand = Demand(self.pool.page_size)
        for sequence in self.running:
            demand.add(*_size(sequence))
        if held := self.residency.trial_pages:
            demand.add(held * self.pool.page_size, 0)
        return demand

    def kv_pages_at_worst(self) -> int:
        """Pages that all running sequences and verifications may come to need."""
        return self._worst_case().with_candidate(0, 0)

    # -- sequences that start and stop

    def _start(self, sequence: Sequence, plan: Plan) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.state = SequenceState.RUNNING
        adapter = sequence.adapter
        adapter.waiting -= 1
        adapter.running += 1
        plan.admissions.append(
            Admission(
                sequence.number,
                tuple(sequence.token_ids),
                sequence.num_prompt,
                sequence.request.params,
                None if adapter is self.registry.base else adapter.key,
            )
        )
        self._schedule(sequence, plan)

    def _requeue(self, sequence: Sequence, reason: str) -> None:
        """A running sequence waits again, with everything said so far; its pages are gone."""
        self.running.remove(sequence)
        sequence.adapter.running -= 1
        sequence.restart()
        self._queue(sequence, reason)

    def _queue(self, sequence: Sequence, reason: str) -> None:
        sequence.reason = reason
        bisect.insort(self.waiting, sequence, key=lambda s: s.request.arrived_at)
        sequence.adapter.waiting += 1

    # -- tokens

    def accept(self, tokens: Tokens, now: float) -> list[StreamToken]:
        """Books a step's sampled tokens; ends what is complete.

        A token of a sequence that has ended meanwhile was sampled past its stop: discarded.
        """
        accepted: list[StreamToken] = []
        self.ended.clear()
        for sampled in tokens.tokens:
            sequence = self._by_number.get(sampled.sequence)
            if sequence is None:
                continue
            sequence.in_flight -= 1
            sequence.token_ids.append(sampled.token_id)
            if sequence.first_token_at is None:
                sequence.first_token_at = now
            sequence.adapter.tally.output_tokens += 1
            finish_reason = self._finish_reason(sequence, sampled.token_id)
            accepted.append(
                StreamToken(
                    sequence.request.request_id,
                    sequence.num_output - 1,
                    sampled.token_id,
                    sampled.logprobs,
                    finish_reason,
                )
            )
            if finish_reason:
                with self._span("_filter_runing_batch ..."):
                    self.finish(sequence.request.request_id)
                self.ended.append(sequence)
        return accepted

    def _finish_reason(self, sequence: Sequence, token_id: int) -> str | None:
        params = sequence.request.params
        if token_id in params.stop_token_ids:
            return "stop"
        if token_id in self.limits.eos_token_ids and not params.ignore_eos:
            return "stop"
        if sequence.num_output >= params.max_tokens:
            return "length"
        return None

    # -- what others look at

    def view(self, now: float) -> BatchView:
        """Running first, then waiting by arrival."""
        return BatchView(now, tuple(s.view() for s in (*self.running, *self.waiting)))

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


class Plan:
    """One step in the making."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Prompt tokens that may still be computed in this step."""
        self.rows: dict[int, BatchRow] = {}
        self.admissions: list[Admission] = []
        self.sampling: set[int] = set()
        """Sequences whose row samples a token."""


class Demand:
    """Worst-case page demand of sequences that advance together (S-LoRA's admission test).

    With h_i tokens held and l_i still to come, sorted by l descending, demand peaks at the
    moments a sequence ends: need = max_k ( k * l_k + sum_{i<=k} h_i ) tokens, here in pages of P
    tokens, each sequence wasting at most P-1 tokens of its last page:
    pages = max_k ceil( (k * (l_k + P - 1) + sum_{i<=k} h_i) / P ).
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._entries: list[tuple[int, int]] = []  # (-l, h), so ascending is l descending

    def add(self, held: int, remaining: int) -> None:
        bisect.insort(self._entries, (-remaining, held))

    def with_candidate(self, held: int, remaining: int) -> int:
        """Pages needed at worst if this one joined."""
        candidate = (-remaining, held)
        at = bisect.bisect(self._entries, candidate)
        slack = self._page_size - 1
        peak = total_held = 0
        entries = (*self._entries[:at], candidate, *self._entries[at:])
        for count, (negative_remaining, tokens) in enumerate(entries, start=1):
            total_held += tokens
            peak = max(peak, total_held + count * (slack - negative_remaining))
        return -(-peak // self._page_size)
