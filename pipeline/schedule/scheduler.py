"""`Scheduler`: makes the next `Batch` from all live requests, and accepts its tokens.

Pure: no socket, no tensor, no clock; callers pass times in unix seconds. It is the authority on
every sequence: the workers know only the batches, and their state can be rebuilt from here.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as ListLike
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..messages import (
    END_OF_ANSWER,
    NO_TOKEN,
    AdapterState,
    Admission,
    Batch,
    BatchRow,
    BatchView,
    PageOwner,
    PoolMap,
    PromptScored,
    Request,
    SchedulerSettings,
    StepLimit,
    StreamToken,
    Tokens,
    WorkerReady,
)
from ..runtime.spans import no_span
from ..runtime.wording import counted
from .adapter_registry import AdapterRecord, AdapterRegistry
from .admission import AdmissionPass, Decision, QueueState
from .kept_kv import KeptKv
from .page_allocator import OutOfPages, PageAllocator
from .pets import LatencyTable
from .policy_factory import make_policy
from .residency import KV_OF_REQUESTS, Residency
from .sequence import Sequence, SequenceState
from .step_charge import StepCharge
from .step_draft import StepDraft
from .tally import Tally
from .waiting_queue import WaitingQueue
from .worst_case import Demand

MOST_OWNERS = (1 << 16) - 1
"""Owners that the 16-bit numbers of a `PoolMap` can name; later ones share the last number."""


class Overlong(Exception):
    """The request is too long for the model or for the pool: it can never run here."""


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """The capacity of the workers, and the most that a step may take."""

    num_pages: int = 0
    page_size: int = 16
    max_model_len: int = 0
    max_running: int = 0
    max_prefill_tokens: int = 0
    chunk_tokens: int = 0
    """Prompt tokens in a step in which others decode."""
    eos_token_ids: frozenset[int] = frozenset()

    @classmethod
    def of_workers(cls, workers: ListLike[WorkerReady]) -> SchedulerLimits:
        """The limits that all ranks can hold. They share a model and settings, so only the number
        of pages differs."""
        first = workers[0]
        return cls(
            num_pages=min(worker.num_pages for worker in workers),
            page_size=first.page_size,
            max_model_len=first.max_model_len,
            max_running=first.max_running,
            max_prefill_tokens=first.max_prefill_tokens,
            chunk_tokens=first.chunk_tokens,
            eos_token_ids=frozenset(first.eos_token_ids),
        )


class Scheduler:
    """Continuous batching over one page pool.

    Every step computes one token of each decoding sequence and, within `limits.max_prefill_tokens`,
    pieces of prompts. `next_batch` may be called again before the tokens of the last batch are
    back: planning counts a token as soon as a step samples it, and `accept_tokens` discards tokens
    computed past a stop.
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
        """`settings` are a policy and its parameters; `policy` alone takes default parameters.
        `table` has the latencies for `pets`. `prefetch`: adapters are loaded when a request for
        them arrives, else when it could be admitted. `span` opens a named time span."""
        self.registry = registry
        self._prefetch, self._span = prefetch, span
        self.settings = settings or SchedulerSettings(policy=policy)
        self._table = table or LatencyTable()
        self.policy = make_policy(self.settings, self._table)
        self.limits = SchedulerLimits()
        self.pool = PageAllocator(0, self.limits.page_size)
        self.residency = Residency(registry)
        self.epoch = 0
        self.step = 0
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefill_tokens = 0
        self.decode_tokens = 0
        self.ended: list[Sequence] = []
        """Sequences whose last token came in the last `accept_tokens`."""
        self.broken: list[Sequence] = []
        self.stuck: list[tuple[Sequence, str]] = []
        """Sequences without a usable logit in the last `accept_tokens`; the caller ends them."""
        self.refused: list[tuple[Sequence, str]] = []
        """Sequences that the policy has ended, and why; the caller reports and clears them."""
        self.decisions: list[Decision] | None = None
        """Filled by `next_batch` unless None; the caller reads and clears it."""
        self._by_request: dict[str, Sequence] = {}
        self._by_number: dict[int, Sequence] = {}
        self._next_number = 0
        self._release: list[int] = []
        self._charges: dict[int, StepCharge] = {}
        """Of the steps under way, by number."""
        self._late: dict[int, Tally] = {}
        """Tallies of ended sequences that still have a token in flight, by number."""
        self._queue_state = QueueState()
        self._keeps_pages = False
        """Whether waiting sequences may hold pages, after a restart of workers or router."""
        self._kept = KeptKv()
        """What the workers hold of the requests of an earlier router, until `release_unclaimed`."""
        self._steps_since_admission = 0

    # -- the policy

    def set_policy(self, settings: SchedulerSettings) -> None:
        """Schedules by these settings from the next step on. The same policy keeps its counters; a
        new one gets every waiting sequence as an arrival."""
        if settings.policy == self.settings.policy:
            self.policy.configure(settings)
        else:
            self.policy = make_policy(settings, self._table)
            self.policy.max_running = self.limits.max_running
            empty = WaitingQueue()
            for sequence in self.waiting:
                self.policy.on_arrival(sequence, empty)
                empty.add_sequence(sequence)
        self.settings = settings
        self.reconsider()

    def use_table(self, table: LatencyTable) -> None:
        """Sets other latencies for `pets`."""
        self._table = table
        self.policy = make_policy(self.settings, table)

    def reconsider(self) -> None:
        """Makes the next step examine the queue again, because an adapter, a setting or a sequence
        has changed."""
        self._queue_state.may_differ = True

    # -- the workers' limits

    def reset(
        self,
        epoch: int,
        limits: SchedulerLimits,
        now: float,
        unanswered: ListLike[Batch] | None = None,
        kept: KeptKv | None = None,
    ) -> None:
        """Starts over with new workers: running sequences wait again, with all their tokens. The
        pool is empty, unless the new workers have the KV of the old ones: then `unanswered` are the
        steps that those did not answer, and sequences keep their pages and what is computed.
        `kept` is what workers hold of an earlier router's requests, which `claim_kv` asks for."""
        keeps_kv = unanswered is not None and limits.num_pages == self.pool.total
        for batch in unanswered or ():
            for row in batch.rows:
                if (sequence := self._by_number.get(row.sequence)) is not None:
                    sequence.roll_back(row.num_tokens)
        for sequence in list(self.running):
            keeps_pages = keeps_kv and not sequence.is_pooling
            self._requeue(sequence, "restarted with its worker", keeps_pages=keeps_pages)
        for sequence in self.waiting:
            sequence.in_flight = 0  # the old workers' tokens will not arrive
            if not keeps_kv:
                self._drop_pages(sequence)
        self.epoch = epoch
        self.limits = limits
        self.policy.max_running = limits.max_running
        self._kept = kept or KeptKv()
        held = {page for sequence in self.waiting for page in sequence.pages}
        self.pool = PageAllocator(limits.num_pages, limits.page_size, held.union(self._kept.pages))
        self._keeps_pages = bool(held)
        self._release.clear()
        self._charges.clear()
        self._late.clear()
        self.residency.reset(epoch, self.pool, now)
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
        """Whether the sequence of this number has not ended."""
        return number in self._by_number

    def check_length(self, request: Request, adapter: AdapterRecord | None = None) -> None:
        """Raises `Overlong` if the pool could never hold the request with its `adapter`, by default
        the one that serves new requests; `AdapterRefused` if that is unknown or has failed."""
        total = len(request.prompt_ids) + request.params.max_tokens
        longest = self.limits.max_model_len
        if total > longest:
            raise Overlong(
                f"this model's maximum context length is {longest} tokens, and the prompt is too "
                f"long: its {counted(len(request.prompt_ids), 'token')} and max_tokens "
                f"{request.params.max_tokens} make {total}"
            )
        adapter = adapter or self.registry.acquire(request.adapter)
        if not self.can_ever_fit(total, adapter):
            own = adapter.info.pages if adapter.info else 0
            beside = f" beside {own} pages of its adapter and those pinned" if own else ""
            raise Overlong(
                f"this model's maximum context length is {longest} tokens, but the prompt is too "
                f"long: with max_tokens its {total} tokens exceed the pool of "
                f"{self.pool.total * self.pool.page_size}{beside}; see --max-total-tokens"
            )

    def can_ever_fit(self, num_tokens: int, adapter: AdapterRecord) -> bool:
        """Whether a sequence would fit if it ran alone, beside its adapter and the pinned ones."""
        return self.residency.can_ever_hold(num_tokens, adapter)

    def add_request(self, request: Request, now: float) -> Sequence:
        """A new sequence, WAITING. The caller has checked its length. Raises `AdapterRefused`."""
        sequence = self.new_sequence(request, self.registry.acquire(request.adapter))
        self.add_sequence(sequence, now)
        return sequence

    def new_sequence(self, request: Request, adapter: AdapterRecord) -> Sequence:
        """A sequence that is not queued yet."""
        self._next_number += 1
        return Sequence(request, self._next_number - 1, adapter)

    def add_sequence(self, sequence: Sequence, now: float) -> None:
        """Queues a new sequence. The caller has checked its length, and that it is not complete."""
        request, adapter = sequence.request, sequence.adapter
        self._by_request[request.request_id] = sequence
        self._by_number[sequence.number] = sequence
        self._queue(sequence, "queued")
        self.registry.touch(adapter)
        adapter.tally.requests += 1
        adapter.tally.prompt_tokens += sequence.num_prompt
        if self._prefetch and adapter.state is AdapterState.HOST:
            need = self._worst_case().with_candidate(*sequence.size)
            self.residency.place_or_wait(adapter, need, now, unwanted=True)

    def claim_kv(self, sequence: Sequence) -> bool:
        """Gives a sequence that is not queued yet the pages that hold its KV, if the workers have
        kept any. Its last token is computed again in any case, for its logits, and so is what has
        computed logprobs of its prompt that were not delivered."""
        adapter = sequence.adapter
        key = None if adapter is self.registry.base else adapter.key
        kept = self._kept.claim(sequence.request, key)
        if kept is None:
            return False
        num_tokens = min(kept.computed, sequence.length - 1)
        if sequence.lacks_scores:
            num_tokens = min(num_tokens, sequence.num_scored - 1)
        num_pages = self.pool.pages_for(num_tokens)
        sequence.pages = list(kept.pages[:num_pages])
        sequence.num_scheduled = num_tokens
        adapter.kv_pages += num_pages
        self.pool.release(kept.pages[num_pages:])
        self._keeps_pages = True
        return num_tokens > 0

    def release_unclaimed(self) -> None:
        """Frees the kept pages that no sequence has claimed."""
        self.pool.release(self._kept.release())

    def finish(self, request_id: str) -> Sequence | None:
        """Ends a request in any state and frees its pages at once; None if it is unknown or has
        ended already. A step in flight may still write to those pages, but steps run in order, so
        their next owner writes after it."""
        sequence = self._by_request.pop(request_id, None)
        if sequence is None:
            return None
        del self._by_number[sequence.number]
        if sequence.state is SequenceState.RUNNING:
            self.running.remove(sequence)
            self._release.append(sequence.number)
            self._release_pages(sequence)
            sequence.adapter.running -= 1
        else:
            self.waiting.remove_sequence(sequence)
            sequence.adapter.waiting -= 1
            self._release_pages(sequence)
        if sequence.in_flight:
            self._late[sequence.number] = sequence.tally
        was_waiting = sequence.state is SequenceState.WAITING
        sequence.state = SequenceState.FINISHED
        if was_waiting:
            self.policy.on_leave(sequence, self.waiting)
        self.reconsider()
        return sequence

    # -- steps

    def next_batch(self, now: float) -> Batch | None:
        """The next step, or None if nothing can be computed now. `residency.orders` must reach the
        workers before it; sequences that the policy has ended are in `refused`."""
        for sequence, reason in self.policy.overdue(self.waiting, now):
            self.finish(sequence.request.request_id)
            self.refused.append((sequence, reason))
        plan = StepDraft(now)
        num_decoding = self._schedule_decodes(plan)
        budget = plan.budget = self._prompt_budget(num_decoding)
        for sequence in plan.others:
            if sequence.state is SequenceState.RUNNING:  # not preempted for one before it
                self._schedule(sequence, plan)
        if self.waiting:
            with self._span("gen_new_batch_{}", len(self.waiting)):
                self._admit(plan)
        if self.residency.trials:
            self.residency.start_trials(self.kv_pages_at_worst(), now)
        if not plan.rows:
            return None
        batch = Batch(
            self.epoch,
            self.step,
            tuple(self._release),
            tuple(plan.admissions),
            tuple(plan.rows.values()),
            self._limit(plan, budget),
        )
        self._charges[self.step] = StepCharge.of(plan, batch.rows, batch.release)
        self._release.clear()
        self.step += 1
        self._steps_since_admission = 0 if plan.admissions else self._steps_since_admission + 1
        self.prefill_tokens += budget - plan.budget
        return batch

    def _limit(self, plan: StepDraft, budget: int) -> StepLimit:
        """What keeps waiting requests out of this step, or the rest of a running prompt."""
        if self.waiting:
            limit = self._queue_state.limit
            return StepLimit.POLICY if limit is StepLimit.NOTHING else limit
        if plan.budget <= 0 < budget and any(
            sequence.num_scheduled < sequence.num_prompt for sequence in self.running
        ):
            return StepLimit.PROMPT_TOKENS
        return StepLimit.NOTHING

    def _schedule_decodes(self, plan: StepDraft) -> int:
        """Makes the rows of sequences that decode into a page they have, which are nearly all.
        Others go to `plan.others`. Returns the number of decoding sequences."""
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
                continue  # its last token is in flight
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
        """Prompt tokens that the next step may compute: `max_prefill_tokens`, or while others
        decode, at most `chunk_tokens` or twice their number, whichever is more: a step with many
        rows is long anyway."""
        most = self.limits.max_prefill_tokens
        return min(most, max(self.limits.chunk_tokens, 2 * decoding)) if decoding else most

    def _schedule(self, sequence: Sequence, plan: StepDraft) -> None:
        """Gives a running sequence its row of this step, if it has something to compute."""
        pending = sequence.pending
        if sequence.in_flight and sequence.remaining <= 0 and pending <= 1:
            return  # its last token is in flight
        decoding = pending == 1 and sequence.num_scheduled >= sequence.num_prompt
        num_tokens = 1 if decoding else min(pending, plan.budget)
        if num_tokens <= 0:
            return
        end = sequence.num_scheduled + num_tokens
        wanted = self.pool.pages_for(end) - len(sequence.pages)
        pages = self._allocate(sequence, wanted, plan) if wanted > 0 else ()
        if pages is None:
            return  # it was preempted itself
        sequence.pages.extend(pages)
        sequence.adapter.kv_pages += len(pages)
        sequence.num_scheduled = end
        if end == sequence.length:
            sequence.in_flight += 1
            plan.sampling.add(sequence.number)
        plan.rows[sequence.number] = BatchRow(sequence.number, num_tokens, pages)
        if decoding:
            self.decode_tokens += 1
        else:
            plan.budget -= num_tokens
            plan.prompts.append((sequence, num_tokens))

    def _allocate(self, sequence: Sequence, count: int, plan: StepDraft) -> tuple[int, ...] | None:
        """Pages for a running sequence. If too few are free, an idle adapter is evicted, else the
        youngest sequence is preempted. None if this sequence itself was preempted."""
        while True:
            try:
                return self.pool.allocate(count)
            except OutOfPages:
                if (idle := next(self.registry.idle(), None)) is not None:
                    self.residency.evict(idle, plan.now, KV_OF_REQUESTS)
                    continue
                if self._release_kept():
                    continue
                youngest = max(self.running, key=lambda s: s.request.arrived_at)
                self._preempt(youngest, plan)
                if youngest is sequence:
                    return None

    def _preempt(self, sequence: Sequence, plan: StepDraft) -> None:
        """Preempts by recompute: frees the pages, keeps the tokens, queues it again by its age."""
        self.preemptions += 1
        sequence.preemptions += 1
        self._release.append(sequence.number)
        plan.rows.pop(sequence.number, None)
        plan.prompts = [piece for piece in plan.prompts if piece[0] is not sequence]
        if sequence.number in plan.sampling:  # its planned token is no longer sampled
            plan.sampling.discard(sequence.number)
            sequence.in_flight -= 1
        self._requeue(sequence, "preempted: no free pages")

    def _admit(self, plan: StepDraft) -> None:
        """Runs a pass over the queue, unless nothing has changed since the last one or it is too
        soon after the last admission (`max_wait_tokens`)."""
        state = self._queue_state
        if self.running and not state.may_differ:
            return
        state.limit = StepLimit.NOTHING
        if self.running and self._steps_since_admission < self.settings.max_wait_tokens:
            return
        while self._examine_queue(plan) and not self.running and self._release_kept():
            pass  # nothing else would ever free the pages that the queue waits for

    def _examine_queue(self, plan: StepDraft) -> bool:
        """Runs a pass over the queue. Returns whether a sequence waits for pages."""
        state = self._queue_state
        state.may_differ = False
        state.passes += 1
        state.behind = ""
        admission = AdmissionPass(
            plan=plan,
            queue_state=state,
            waiting=self.waiting,
            running=self.running,
            policy=self.policy,
            settings=self.settings,
            max_running=self.limits.max_running,
            residency=self.residency,
            worst_case=self._worst_case,
            start=self._start,
            decisions=self.decisions,
            span=self._span,
        )
        admission.run()
        return admission.lacks_pages

    def reason_of(self, sequence: Sequence) -> str:
        """Why a sequence waits."""
        if sequence.examined == self._queue_state.passes:
            return sequence.reason
        return self._queue_state.behind or self.policy.held_back

    def _worst_case(self) -> Demand:
        """The worst-case demand of all running sequences and verifications."""
        entries = []
        for sequence in self.running:
            length = len(sequence.token_ids) + sequence.in_flight
            entries.append((length, sequence.max_length - length))
        demand = Demand(self.pool.page_size, entries)
        if held := self.residency.trial_pages:
            demand.add_sequence(held * self.pool.page_size, 0)
        return demand

    def kv_pages_at_worst(self) -> int:
        """Pages that all running sequences and verifications need at worst."""
        return self._worst_case().pages

    # -- sequences that start and stop

    def _start(self, sequence: Sequence, plan: StepDraft) -> None:
        self.waiting.remove_sequence(sequence)
        self.running.append(sequence)
        sequence.state = SequenceState.RUNNING
        adapter = sequence.adapter
        if sequence.admitted_at is None:
            sequence.admitted_at = plan.now
            adapter.tally.queue_waits.add(plan.now, plan.now - sequence.request.arrived_at)
            if adapter.since > sequence.request.arrived_at:
                sequence.adapter_at = min(adapter.since, plan.now)
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
                sequence.num_scheduled,
                sequence.request_id,
                sequence.request.arrived_at,
                sequence.num_scored,
            )
        )
        self.policy.on_leave(sequence, self.waiting)
        self.reconsider()  # the policy may now yield sequences that it did not before
        kept = tuple(sequence.pages)
        self._schedule(sequence, plan)
        if kept and (row := plan.rows.get(sequence.number)):
            row = BatchRow(row.sequence, row.num_tokens, kept + row.new_pages)
            plan.rows[sequence.number] = row

    def _requeue(self, sequence: Sequence, reason: str, *, keeps_pages: bool = False) -> None:
        """Queues a running sequence again: it keeps its tokens, and its pages only if they still
        hold what it has computed."""
        self.running.remove(sequence)
        sequence.adapter.running -= 1
        sequence.state = SequenceState.WAITING
        if not keeps_pages:
            self._drop_pages(sequence)
        self._queue(sequence, reason)

    def _drop_pages(self, sequence: Sequence) -> None:
        """Makes a waiting sequence compute all its tokens again."""
        self._release_pages(sequence)
        sequence.num_scheduled = 0

    def _release_pages(self, sequence: Sequence) -> None:
        if sequence.pages:
            self.pool.release(sequence.pages)
            sequence.adapter.kv_pages -= len(sequence.pages)
            sequence.pages = []

    def _release_kept(self) -> bool:
        """Frees the pages that the youngest waiting sequence has kept over a restart of workers or
        router. Returns whether there was one."""
        if self._keeps_pages:
            for sequence in reversed(self.waiting):
                if sequence.pages:
                    self._drop_pages(sequence)
                    return True
        self._keeps_pages = False
        return False

    def _queue(self, sequence: Sequence, reason: str) -> None:
        sequence.reason, sequence.examined = reason, self._queue_state.passes
        self.policy.on_arrival(sequence, self.waiting)
        self.waiting.add_sequence(sequence)
        sequence.adapter.waiting += 1
        self.reconsider()

    # -- tokens

    def accept_tokens(self, tokens: Tokens, now: float) -> list[StreamToken]:
        """Records a step's sampled tokens and ends complete sequences.

        A token of a sequence that has ended was sampled past its stop and is discarded. Sequences
        for which no token could be chosen are in `broken`, those whose own settings allow none in
        `stuck`, with the reason.
        """
        accepted: list[StreamToken] = []
        self.ended.clear()
        self.broken.clear()
        self.stuck.clear()
        price_us = self._charge_prompts(tokens)
        live, waiting = self._by_number.get, SequenceState.WAITING
        served: list[Sequence] = []  # with those that cannot go on: they were computed
        if self.policy.counts_tokens:
            served = [s for sampled in tokens.tokens if (s := live(sampled.sequence))]
        for sampled in tokens.tokens:
            sequence = live(sampled.sequence)
            if sequence is None:
                if (ended := self._late.get(sampled.sequence)) is not None:
                    ended.device_us += price_us
                continue
            tally, token_id = sequence.tally, sampled.token_id
            tally.device_us += price_us
            if sampled.error:
                self.stuck.append((sequence, sampled.error))
                continue
            if token_id == NO_TOKEN:
                tally.broken += 1
                self.broken.append(sequence)
                continue
            token_ids = sequence.token_ids
            sequence.in_flight -= 1
            if sequence.max_length == sequence.num_prompt:
                accepted.append(sequence.bare_end("length"))
                self._end(sequence)
                continue
            if token_id == END_OF_ANSWER:
                sequence.has_bare_end = True
                accepted.append(sequence.bare_end("stop"))
                self._end(sequence)
                continue
            token_ids.append(token_id)
            if sampled.logprobs:
                sequence.logprobs.append(sampled.logprobs)
            if sequence.first_token_at is None:
                sequence.first_token_at = now
                tally.first_tokens.add(now, now - sequence.request.arrived_at)
            tally.output_tokens += 1
            length, finish_reason = len(token_ids), None
            if token_id in sequence.stops:
                finish_reason = "stop"
            elif length >= sequence.max_length:
                finish_reason = "length"
            request_id = sequence.request_id
            index = length - sequence.num_prompt - 1
            accepted.append(
                StreamToken(request_id, index, token_id, sampled.logprobs, finish_reason)
            )
            if finish_reason:
                self._end(sequence)
            elif sequence.state is waiting:
                self.reconsider()  # it was preempted with a step in flight, which is back now
        if served:
            self.policy.on_tokens(served)
        return accepted

    def _end(self, sequence: Sequence) -> None:
        """Ends a sequence whose last token has come."""
        with self._span("_filter_runing_batch ..."):
            self.finish(sequence.request_id)
        self.ended.append(sequence)

    def accept_scores(self, tokens: Tokens) -> list[PromptScored]:
        """Records the logprobs of prompts that a step has computed. Returns the new ones. To be
        called before the step's tokens are accepted, which end sequences."""
        found = []
        for scored in tokens.prompt_logprobs:
            sequence = self._by_number.get(scored.sequence)
            piece = sequence and sequence.add_scores(scored.piece)
            if sequence and piece:
                found.append(PromptScored(sequence.request_id, piece))
        return found

    def _charge_prompts(self, tokens: Tokens) -> float:
        """Charges the prompts of a step that was answered, for the tokens that sample nothing.
        Returns the price of each sampled token, microseconds."""
        charge = self._charges.pop(tokens.step, None)
        if charge is None:
            return 0.0
        price_us = charge.price_us(tokens.busy_us)
        charge.pay_prompts(price_us)
        for number in charge.released:
            self._late.pop(number, None)
        return price_us

    # -- views

    def view(self, now: float) -> BatchView:
        """All live requests: running first, then waiting by arrival."""
        running = (s.view("") for s in self.running)
        number, place = len(self.waiting), self.policy.place
        waiting = (
            s.view(self.reason_of(s), place(older, number)) for older, s in enumerate(self.waiting)
        )
        return BatchView(now, (*running, *waiting))

    def pool_map(self, now: float) -> PoolMap:
        """The owner of each page."""
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
        for sequence in self._with_pages():
            request = sequence.request
            owners.append(PageOwner("kv", request.request_id, request.adapter))
            _mark(pages, sequence.pages, len(owners))
        if sys.byteorder == "big":
            pages.byteswap()
        return PoolMap(now, self.pool.page_size, tuple(owners), pages.tobytes())

    def _with_pages(self) -> Iterator[Sequence]:
        """All sequences that may hold pages."""
        yield from self.running
        if self._keeps_pages:
            yield from self.waiting

    def check(self) -> None:
        """Asserts the pool's counts against sequences and adapters, when idle and in tests."""
        self.pool.check()
        held = sum(len(sequence.pages) for sequence in self._with_pages())
        unowned = self.residency.trial_pages + len(self._kept.pages)
        held += unowned
        assert self.pool.kv == held, f"pool says {self.pool.kv} KV pages, sequences hold {held}"
        assert self._keeps_pages or all(not sequence.pages for sequence in self.waiting)
        counted = self.registry.base.kv_pages + sum(a.kv_pages for a in self.registry)
        assert counted + unowned == held, (
            f"adapters count {counted} KV pages, sequences hold {held}"
        )
        placed = sum(len(adapter.pages) for adapter in self.registry)
        assert self.pool.adapters == placed, (
            f"pool says {self.pool.adapters} adapter pages, adapters hold {placed}"
        )


def _mark(owner_of: array[int], pages: Iterable[int], owner: int) -> None:
    owner = min(owner, MOST_OWNERS)
    for page in pages:
        owner_of[page] = owner
