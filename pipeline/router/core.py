"""`RouterCore`: the authority on every request, as pure decisions. Messages and a time go in;
effects come out.

It opens no socket and reads no clock and no file, so tests call it directly and `replay` feeds it a
log. It holds every live request with all its tokens, so that workers and detokenizer may die and
get everything again. It knows no text and no tensor. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from ..config import Config
from ..messages import (
    CONTEXT_LENGTH_EXCEEDED,
    Abort,
    AdapterOrder,
    AdapterState,
    AdapterTable,
    AdapterView,
    AnswerHeard,
    Batch,
    ChatWarning,
    Drain,
    Message,
    ProcessState,
    Ready,
    Refused,
    Request,
    RequestsAnswered,
    Reset,
    Resume,
    ResumeRequest,
    RouterStats,
    SetScheduler,
    StopFound,
    StreamToken,
    StreamTokens,
    Tokens,
    WorkerReady,
)
from ..runtime.spans import no_span
from ..runtime.wording import counted
from ..schedule.adapter_registry import UNUSABLE, AdapterRecord, AdapterRefused, AdapterRegistry
from ..schedule.kept_kv import KeptKv
from ..schedule.pets import LatencyTable
from ..schedule.policy_factory import changed_settings
from ..schedule.scheduler import Overlong, Scheduler, SchedulerLimits
from ..schedule.sequence import Sequence
from .adapter_lifecycle import AdapterLifecycle, WorkerAnswer
from .detokenizer_streams import DetokenizerStreams
from .effects import (
    AdapterFetched,
    DropSteps,
    Effects,
    EnterState,
    ShowStats,
    StepAnswered,
)
from .event_lines import Answered, Decided, Got, RanksDiffered, StepFailed, line_of_message
from .held_messages import HeldMessages
from .record import RouterRecord

STEPS_IN_FLIGHT = 2
"""Step n+1 is sent before step n's tokens are back, so the workers never wait for the router."""
VIEW_SECONDS = 0.1
"""Between two looks at requests that the policy gives up with time, and between two views."""
CLIENT_GONE = "client gone"
"""Reason of an `Abort` without an answer, since no client would read it."""


@dataclass
class StepInFlight:
    """A step sent to the workers, and the ranks' answers so far."""

    batch: Batch
    answers: dict[int, Tokens] = field(default_factory=dict)


class RouterCore:
    """All live requests, adapters and steps. After each call the process carries out `effects`.

    `plan_step` plans a step, which the process sends to the workers; `handle_message` collects the
    ranks' answers; after the effect `StepAnswered`, `finish_step` accepts its tokens.
    """

    def __init__(
        self,
        config: Config,
        incarnation: int,
        now: float,
        table: LatencyTable | None = None,
        span: Callable[..., AbstractContextManager[object]] = no_span,
        record: RouterRecord | None = None,
    ) -> None:
        """`incarnation` differs from that of every earlier router; `table` has the latencies of
        `--profile-table`; `record` is that of an earlier router of this pipeline, whose work goes
        on. Raises `OperatorError` on settings that cannot be used."""
        self.config = config
        self.registry = AdapterRegistry(
            config.adapters(), config.model_names, now=now, evict=config.evict
        )
        self.scheduler = Scheduler(
            self.registry,
            settings=record.scheduling if record else config.scheduling(),
            table=table,
            prefetch=not config.no_prefetch,
            span=span,
        )
        self.effects = Effects(tuple(f"worker-{rank}" for rank in range(config.tp)))
        self.lifecycle = AdapterLifecycle(config, self.scheduler, self.effects, incarnation)
        self.steps: dict[int, StepInFlight] = {}
        """Steps under way, by number."""
        self.aborts = 0
        self.is_draining = record.is_draining if record else False
        self._born, self._record = now, record
        self._incarnation = incarnation
        self._span = span
        self._workers: dict[int, WorkerReady] = {}  # by rank
        self._workers_restarted = False
        self._peers: dict[str, int] = {}  # name -> incarnation, of server and detokenizer
        self._streams = DetokenizerStreams(self.effects)
        self._held: HeldMessages | None = HeldMessages(continues=record is not None)
        """Messages that wait until the other processes are there; None once they are."""
        self._resets = 0
        self._num_kept = 0
        """Requests of an earlier router whose KV the workers have kept."""
        if record is not None:
            self.lifecycle.restore(record, now)
            self.scheduler.policy.restore_counters(record.counters)

    def record(self) -> RouterRecord | None:
        """What the next router must know; None while this one does not know it all."""
        if self._held is not None:
            return None
        merged, merge = self.lifecycle.merges()
        return RouterRecord(
            adapters=self.lifecycle.entries(),
            scheduling=self.scheduler.settings,
            counters=self.scheduler.policy.kept_counters(),
            is_draining=self.is_draining,
            merged=merged,
            merge=merge,
            answered=self.lifecycle.replies.answered,
        )

    @property
    def num_workers(self) -> int:
        return len(self.effects.workers)

    def record_lines(self) -> None:
        """Records every input and decision in `effects.lines` from now on."""
        self.effects.lines = []
        self.scheduler.decisions = []

    # -- messages

    def handle_message(self, message: Message | AdapterFetched, now: float) -> None:
        """Handles a message of the router's inbox, or the answer to a `FetchAdapter`."""
        if self.effects.lines is not None and (line := line_of_message(message, now)):
            self.effects.lines.append(line)
        if self._held is not None and self._held.hold(message):
            return
        self._handle(message, now)

    def _handle(self, message: Message | AdapterFetched, now: float) -> None:
        match message:
            case Tokens():
                self._add_answer(message)
            case Request():
                self._add_request(message, now)
            case ResumeRequest():
                self._resume_request(message, now)
            case Abort():
                with self._span("abort_req"):
                    self._abort(message.request_id, message.reason)
            case StopFound():
                if sequence := self._finish(message.request_id):
                    self._streams.keep_ended(sequence, None)
                    self._send_times([sequence], now)
            case AnswerHeard():
                self._answer_is_heard(message.request_id, now)
            case WorkerReady():
                self._worker_is_ready(message, now)
            case Ready():
                self._peer_is_ready(message, now)
            case Drain():
                self.is_draining = self.effects.record_changed = True
                self._say_ready()
            case Resume():
                self.is_draining, self.effects.record_changed = False, True
                self._say_ready()
            case SetScheduler():
                self._set_scheduler(message, now)
            case ChatWarning():
                self._note_chat_warning(message)
            case AdapterFetched():
                self.lifecycle.end_fetch(message, now)
                self._follow_adapters()
            case _:
                self._handle_adapter_message(message, now)

    def _handle_adapter_message(self, message: Message, now: float) -> None:
        if isinstance(message, WorkerAnswer):
            self.lifecycle.handle_answer(message, now)
        else:
            assert isinstance(message, AdapterOrder), message
            self.lifecycle.handle_order(message, now)
        self._follow_adapters()

    # -- requests

    def _add_request(self, request: Request, now: float) -> None:
        """Queues a request, or refuses it with the reason."""
        prompt_len, req_id = len(request.prompt_ids), request.request_id
        with self._span("add_req(prompt_len_{}_req_id_{})", prompt_len, req_id):
            if refused := self._objection(request):
                self.effects.send("server", refused)
                return
            self.scheduler.add_request(request, now)
            self._streams.open_stream(request)
            self._batch_may_grow()

    def _objection(self, request: Request) -> Refused | None:
        """The refusal of a request on arrival; None if it is accepted."""
        request_id, most = request.request_id, self.config.max_waiting
        if self.is_draining:
            return Refused(request_id, 503, "the pipeline is draining; new requests are refused")
        if not self.scheduler.epoch:
            return Refused(request_id, 503, "the model is still loading")
        if request_id in self.scheduler:
            return Refused(request_id, 409, f"request id {request_id!r} is already running")
        if not request.prompt_ids:
            return Refused(request_id, 400, "the prompt is empty")
        if len(self.scheduler.waiting) >= most:
            return Refused(request_id, 429, f"the queue is full: {most} requests waiting")
        try:
            self.scheduler.check_length(request)
        except AdapterRefused as refusal:
            return Refused(request_id, refusal.status, refusal.reason)
        except Overlong as error:
            return Refused(request_id, 400, str(error), CONTEXT_LENGTH_EXCEEDED)
        return None

    def _resume_request(self, resumed: ResumeRequest, now: float) -> None:
        """Goes on with a request that an earlier router accepted, unless it is held here."""
        request = resumed.request
        request_id, adapter = request.request_id, self.registry.base
        if request_id in self.scheduler or self._streams.is_kept(request_id):
            return
        try:
            adapter = self._adapter_of_resumed(request)
            self.scheduler.check_length(request, adapter)
        except AdapterRefused as refusal:
            self._send_refusal(request_id, refusal.status, refusal.reason)
            return
        except Overlong as error:
            refused = Refused(request_id, 400, str(error), CONTEXT_LENGTH_EXCEEDED)
            self.effects.send("server", refused)
            return
        sequence = self.scheduler.new_sequence(request, adapter)
        sequence.continue_after(resumed, now)
        if not sequence.is_complete:
            self._num_kept += self.scheduler.claim_kv(sequence)
            self.scheduler.add_sequence(sequence, now)
            self._streams.send_again(sequence)
            self._batch_may_grow()
        else:  # only the end of its answer was lost
            self._streams.keep_ended(sequence, "length")
            self._streams.send_again(sequence, "length")

    def _adapter_of_resumed(self, request: Request) -> AdapterRecord:
        """The generation that has served a request so far. Raises `AdapterRefused`."""
        if self._record is None and request.adapter is not None and request.arrived_at < self._born:
            raise AdapterRefused(
                503,
                f"the router restarted without its record, so the generation of adapter "
                f"{request.adapter!r} that has answered so far is unknown; send the request again",
            )
        return self.lifecycle.adapter_of(request)

    def _release_held(self, now: float) -> None:
        """Handles the messages that waited, once all processes that they need are there."""
        held = self._held
        if held is None or self._missing_workers():
            return
        if self._record is not None and self._missing_peers():
            return
        self._held = None
        self.effects.record_changed = True
        for message in held.in_order():
            self._handle(message, now)
        self.scheduler.release_unclaimed()
        if number := held.num_requests:
            continued = counted(number, "request", "continue")
            kept = f", {self._num_kept} with kept KV" if self._num_kept else ""
            self.effects.report("warning", f"router restarted; {continued}{kept}")
        self._batch_may_grow()

    def _batch_may_grow(self) -> None:
        self.effects.batch_changed = self.effects.step_wanted = True

    def _abort(self, request_id: str, reason: str) -> None:
        self._streams.forget_ended(request_id)
        with self._span("abort(request_id_{})", request_id):
            if self._finish(request_id):
                self.aborts += 1
                self._streams.close_stream(request_id)
                if reason != CLIENT_GONE:
                    self._send_refusal(request_id, 499, reason)

    def _finish(self, request_id: str) -> Sequence | None:
        sequence = self.scheduler.finish(request_id)
        if sequence:
            self._batch_may_grow()
        return sequence

    def _answer_is_heard(self, request_id: str, now: float) -> None:
        """Ends a request of which the server has the whole answer: a stop string ended it."""
        if sequence := self._finish(request_id):
            self.effects.write_line(Got(at=now, message=StopFound(request_id)))
            self._send_times([sequence], now)
        self._streams.forget_ended(request_id)

    def _refuse(self, request_id: str, status: int, reason: str, code: str = "") -> None:
        """Ends a live request without its full answer; its client gets the reason."""
        self._finish(request_id)
        self._streams.forget_ended(request_id)
        self._streams.close_stream(request_id)
        self._send_refusal(request_id, status, reason, code)

    def _send_refusal(self, request_id: str, status: int, reason: str, code: str = "") -> None:
        self.effects.send("server", Refused(request_id, status, reason, code))

    def _refuse_hopeless(self, adapter: AdapterRecord) -> None:
        """Refuses requests that can never be served now that `adapter` was read, was pinned or has
        failed."""
        for sequence in list(self.scheduler.sequences()):
            if sequence.adapter is not adapter and not adapter.pinned:
                continue
            request_id, total = sequence.request.request_id, sum(sequence.size)
            if sequence.adapter.state is AdapterState.FAILED:
                reason = f"adapter {adapter.name} failed to load: {adapter.reason}"
                self._refuse(request_id, 409, reason)
            elif not self.scheduler.can_ever_fit(total, sequence.adapter):
                reason = f"no room for {total} tokens beside its adapter and those pinned"
                self._refuse(request_id, 400, reason, CONTEXT_LENGTH_EXCEEDED)

    # -- workers

    def _worker_is_ready(self, ready: WorkerReady, now: float) -> None:
        known = self._workers.get(ready.rank)
        if known and known.incarnation == ready.incarnation:
            return  # the answer to our first message: it has got all others after that
        if known:
            self._workers.clear()  # all ranks restart together; wait for each
            self._workers_restarted = True
        self._workers[ready.rank] = ready
        if len(self._workers) < self.num_workers:
            return
        ready_ranks = [self._workers[rank] for rank in range(self.num_workers)]
        keeps_kv = self._workers_restarted and all(each.has_kept_kv for each in ready_ranks)
        self.reset_workers(now, keeps_kv=keeps_kv)
        self.lifecycle.read_all(ready_ranks, now)
        self._follow_adapters()
        if self._workers_restarted:
            self._workers_restarted = False
            number, how = len(self.scheduler), "with kept KV" if keeps_kv else "by recompute"
            live = f"; {counted(number, 'request', 'continue')} {how}" if number else ""
            self.effects.report("warning", f"workers are back{live}")
        self._release_held(now)
        self._say_ready()

    def reset_workers(self, now: float, *, keeps_kv: bool = False) -> None:
        """Begins a new epoch: the workers' pools are empty or, with `keeps_kv`, hold what the steps
        answered so far have computed; before an earlier router's requests are here, what they keep
        for those. All requests wait, no step is under way."""
        unanswered = [step.batch for step in self.steps.values()] if keeps_kv else None
        kept = None
        self.steps.clear()
        self.effects.pending.append(DropSteps())
        self._resets += 1
        epoch = self._incarnation + self._resets  # differs from those of earlier routers
        workers = [self._workers[rank] for rank in sorted(self._workers)]
        limits = SchedulerLimits.of_workers(workers)
        if self._record is not None and self._held is not None:
            kept = KeptKv.of_workers(workers, limits.num_pages)
        self.scheduler.reset(epoch, limits, now, unanswered, kept)
        self.lifecycle.drop_trials(now)
        self.effects.send_workers(Reset(epoch))
        self._adapters_changed()

    # -- adapters

    def _follow_adapters(self) -> None:
        """Applies changes of adapters to requests and to the router's own state."""
        for adapter in self.lifecycle.settled:
            self._refuse_hopeless(adapter)
        self.lifecycle.settled.clear()
        if self.lifecycle.has_just_read_all:
            self.lifecycle.has_just_read_all = False
            self._say_ready()
        if self.lifecycle.has_changed:
            self.lifecycle.has_changed = False
            self._adapters_changed()

    def _adapters_changed(self) -> None:
        """Marks that the table of adapters has changed, and that other requests may run now."""
        self.effects.adapters_changed = True
        self.scheduler.reconsider()
        self._batch_may_grow()

    def _note_chat_warning(self, warning: ChatWarning) -> None:
        """Stores the server's warning about an adapter's chat files."""
        adapter = self.registry.find(f"{warning.name}@{warning.generation}")
        if adapter is not None:
            adapter.chat_warning = warning.text
            self.effects.adapters_changed = True

    def send_adapter_orders(self) -> None:
        """Sends the workers the orders about adapters, before the batch that relies on them."""
        orders = self.scheduler.residency.orders
        if orders:
            self._adapters_changed()
            self._report_evictions()
        for order in orders:
            self.effects.send_workers(order)
        orders.clear()

    def _report_evictions(self) -> None:
        evicted = self.scheduler.residency.evicted
        for adapter, pages in evicted:
            freed = counted(pages, "page")
            self.effects.report("info", f"adapter {adapter.name} {adapter.reason}: {freed}")
        evicted.clear()

    # -- the policy

    def _set_scheduler(self, order: SetScheduler, now: float) -> None:
        """Changes the settings that an order names, and answers it."""
        if self.lifecycle.replies.repeat(order, now, self.scheduler.settings):
            return
        try:
            settings = changed_settings(self.scheduler.settings, order, self.config.model_names)
        except ValueError as error:
            status, text = 400, str(error)
        else:
            self.scheduler.set_policy(settings)
            status, text = 200, f"scheduler policy set to {settings.policy}"
            self.effects.report("info", text)
            self._batch_may_grow()
            self.effects.pending.append(ShowStats())  # so that the next reader sees the change
        settings = self.scheduler.settings
        self.lifecycle.replies.send_scheduling(order, status, text, now, settings)

    def _refuse_given_up(self) -> None:
        """Refuses the requests that the policy has ended, with its reasons."""
        for sequence, reason in self.scheduler.refused:
            self.aborts += 1
            self._refuse(sequence.request.request_id, 503, reason)
            self.effects.batch_changed = True
        self.scheduler.refused.clear()

    # -- server and detokenizer

    def _peer_is_ready(self, ready: Ready, now: float) -> None:
        """A server or detokenizer has started. A new one of either gets every stream again from its
        first token; a new server ends those that it does not want."""
        restarted = self._peers.get(ready.name) not in (None, ready.incarnation)
        self._peers[ready.name] = ready.incarnation
        if restarted:
            self._send_streams_again(ready.name)
        self._release_held(now)
        self._say_ready()

    def _send_streams_again(self, restarted: str) -> None:
        if count := self._streams.send_all_again(self.scheduler.sequences()):
            streams = counted(count, "stream")
            self.effects.report("warning", f"{restarted} restarted; {streams} sent again")

    def _say_ready(self) -> None:
        """Enters READY, or STARTING with the missing parts as its reason; DRAINING stays."""
        missing = [*self._missing_workers(), *self._missing_peers()]
        if unread := self.lifecycle.num_unread:
            missing.append(counted(unread, "adapter"))
        is_held = self._record is not None and self._held is not None
        if missing and (is_held or not self.is_draining):
            state = EnterState(ProcessState.STARTING, f"waiting for {', '.join(missing)}")
        elif self.is_draining:
            state = EnterState(ProcessState.DRAINING, "new requests are refused")
        else:
            state = EnterState(ProcessState.READY, "")
        self.effects.pending.append(state)

    def _missing_workers(self) -> list[str]:
        workers = enumerate(self.effects.workers)
        return [name for rank, name in workers if rank not in self._workers]

    def _missing_peers(self) -> list[str]:
        return [name for name in ("detokenizer", "server") if name not in self._peers]

    # -- steps

    def plan_step(self, now: float) -> Batch | None:
        """Plans the next step, which then counts as under way; None if nothing can be computed now.
        The caller sends its batch to every worker after the effects."""
        if self._held is not None:
            return None  # an adapter without requests may still get some
        self.lifecycle.sweep(now)
        self._follow_adapters()
        batch = self.scheduler.next_batch(now)
        if self.effects.lines is not None:
            self.effects.lines.append(Decided.of(now, self.scheduler, batch))
        if self.scheduler.refused:
            self._refuse_given_up()
        self.lifecycle.follow_policy(self.scheduler.policy, now)
        self.send_adapter_orders()
        if batch is not None:
            self.effects.batch_changed = True
            self.steps[batch.step] = StepInFlight(batch)
        return batch

    def _add_answer(self, tokens: Tokens) -> None:
        """Stores one rank's answer to a step. An error counts as the answer of the others too,
        which may never come."""
        if tokens.epoch != self.scheduler.epoch:
            return
        step = self.steps.get(tokens.step)
        if step is None or len(step.answers) == self.num_workers:
            return
        for rank in range(self.num_workers) if tokens.error else (tokens.rank,):
            step.answers.setdefault(rank, tokens)
        if len(step.answers) == self.num_workers:
            self.effects.pending.append(StepAnswered(tokens.step))

    def finish_step(self, step: int, now: float) -> StreamTokens | None:
        """Accepts the tokens of a step that all ranks have answered. Returns the tokens for the
        detokenizer, to be sent after the effects; None if there are none."""
        done = self.steps.pop(step)
        self._batch_may_grow()
        results = [done.answers[rank] for rank in range(self.num_workers)]
        if errors := [result.error for result in results if result.error]:
            self.fail_step(done.batch, errors[0], now)
            return None
        for scored in self.scheduler.accept_scores(results[0]):
            self.effects.send("detokenizer", scored)
        accepted = self.accept_tokens(results[0], now)
        if len(results) > 1:
            self._check_ranks(step, results, now)
        return StreamTokens(tuple(accepted)) if accepted else None

    def accept_tokens(self, tokens: Tokens, now: float) -> list[StreamToken]:
        """Accepts rank 0's tokens."""
        with self._span("_add_token_id_to_req"):
            accepted = self.scheduler.accept_tokens(tokens, now)
        if self.effects.lines is not None:
            stopped = tuple(t.request_id for t in accepted if t.finish_reason == "stop")
            self.effects.lines.append(Answered(at=now, step=tokens.step, stopped=stopped))
        for sequence in list(self.scheduler.broken):
            self._end_broken(sequence, now)
        for sequence, reason in list(self.scheduler.stuck):
            self._end_stuck(sequence, reason, now)
        if self.scheduler.ended:
            with self._span("_handle_finish_req"):
                self._keep_ended({token.request_id: token.finish_reason for token in accepted})
                self._send_times(self.scheduler.ended, now)
        return accepted

    def refuse_undelivered(self, tokens: StreamTokens, reason: str, now: float) -> None:
        """Refuses the requests of `tokens`, which the detokenizer could not be sent."""
        for token in tokens.tokens:
            self.refuse_unopened(token.request_id, reason, now)

    def refuse_unopened(self, request_id: str, reason: str, now: float) -> None:
        """Refuses a request whose stream the detokenizer could not be sent."""
        self.effects.write_line(Got(at=now, message=Abort(request_id, reason)))
        self._refuse(request_id, 503, reason)

    def _end_broken(self, sequence: Sequence, now: float) -> None:
        """Ends a request whose logits allow no token. Other requests continue, and the adapter's
        row keeps the count."""
        name, request_id = sequence.adapter.name, sequence.request.request_id
        model = f"adapter {name}" if name else "the base model"
        reason = f"the logits of {model} are {UNUSABLE}: no token can be chosen"
        hint = f"; adapters verify {name} compares it with its merged weights" if name else ""
        self.effects.report("error", f"{reason}: request {request_id} ends{hint}")
        self.effects.write_line(Got(at=now, message=Abort(request_id, reason)))
        self._refuse(request_id, 500, reason)
        self._adapters_changed()

    def _end_stuck(self, sequence: Sequence, reason: str, now: float) -> None:
        """Ends a request whose own settings allow no further token."""
        request_id = sequence.request.request_id
        self.effects.write_line(Got(at=now, message=Abort(request_id, reason)))
        self._refuse(request_id, 400, reason)

    def _keep_ended(self, reasons: dict[str, str | None]) -> None:
        """Keeps ended requests until the server has their text. The workers drop them with the next
        step."""
        scheduler = self.scheduler
        with self._span("_filter_batch" if scheduler.running else "_remove_batch"):
            for sequence in scheduler.ended:
                self._streams.keep_ended(sequence, reasons[sequence.request.request_id])

    def _send_times(self, answered: list[Sequence], now: float) -> None:
        """Tells the server how long these sequences took, for its metrics."""
        known = tuple(times for sequence in answered if (times := sequence.times(now)))
        if known:
            self.effects.send("server", RequestsAnswered(known))

    def fail_step(self, batch: Batch, error: str, now: float) -> None:
        """Refuses the requests of a step that raised in a worker; all others continue."""
        self.effects.write_line(StepFailed(at=now, step=batch.step, error=error))
        numbers = {row.sequence for row in batch.rows}
        failed = [s for s in self.scheduler.sequences() if s.number in numbers]
        ends = counted(len(failed), "request", "end")
        self.effects.report("error", f"step {batch.step} failed: {error}; {ends}")
        for sequence in failed:
            self._refuse(sequence.request.request_id, 500, f"the step failed: {error}")
        self.reset_workers(now)

    def _check_ranks(self, step: int, results: list[Tokens], now: float) -> None:
        """Resets all workers if ranks chose different tokens, though all choose from the same
        logits: such a rank would continue from a token that no client got."""
        first, *others = (
            [(token.sequence, token.token_id) for token in result.tokens] for result in results
        )
        odd = [rank for rank, tokens in enumerate(others, start=1) if tokens != first]
        if odd:
            ranks = ", ".join(f"rank {rank}" for rank in odd)
            self.effects.report(
                "error",
                f"{ranks} chose other tokens than rank 0 in step {step}; rank 0's are used, and "
                f"{counted(len(self.scheduler), 'request', 'continue')} by recompute",
            )
            self.effects.write_line(RanksDiffered(at=now))
            self.reset_workers(now)

    # -- views

    def adapter_table(self, now: float) -> AdapterTable:
        registry, counters = self.registry, self.scheduler.policy.counters

        def with_service(view: AdapterView) -> AdapterView:
            service = counters.get(view.name)
            return view if service is None else msgspec.structs.replace(view, service=service)

        views = tuple(map(with_service, registry.views(now))) if counters else registry.views(now)
        base = with_service(registry.base.view(now))
        return AdapterTable(now, self.config.model_name, views, base)

    def stats(self, now: float, schedule_us: int) -> RouterStats:
        """`schedule_us` is the time in `plan_step` so far, measured by the process."""
        scheduler = self.scheduler
        return RouterStats(
            at=now,
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            pages_total=scheduler.pool.total,
            pages_kv=scheduler.pool.kv,
            pages_adapters=scheduler.pool.adapters,
            page_size=scheduler.pool.page_size,
            steps=scheduler.step,
            prefill_tokens=scheduler.prefill_tokens,
            decode_tokens=scheduler.decode_tokens,
            preemptions=scheduler.preemptions,
            aborts=self.aborts,
            schedule_us=schedule_us,
            scheduling=scheduler.settings,
            max_adapters=scheduler.residency.max_adapters(scheduler.limits.max_running),
        )
