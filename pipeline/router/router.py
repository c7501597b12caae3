"""Process `router`: the authority. Inbox → Scheduler → Batch → workers → detokenizer.

Holds every live request with all its tokens, so workers and detokenizer may die and be told
again. It knows no text and no tensor. By hand:
`python -m loraconsole.pipeline.router.router --run DIR`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from ..config import Config
from ..errors import OperatorError
from ..messages import (
    Abort,
    AdapterChecked,
    AdapterMeasured,
    AdapterOrder,
    AdapterPlaced,
    AdapterRead,
    AdapterReply,
    AdapterState,
    AdapterTable,
    AdapterView,
    AnswerHeard,
    Batch,
    ChatWarning,
    CloseStream,
    Drain,
    Introduce,
    Message,
    OpenStream,
    ProcessState,
    Ready,
    Refused,
    Request,
    Reset,
    Resume,
    RouterStats,
    SetScheduler,
    StopFound,
    StreamToken,
    StreamTokens,
    Tokens,
    ToRouter,
    WeightsMerged,
    WorkerReady,
)
from ..runtime.process import Process, run_process
from ..runtime.sockets import InboxFull
from ..runtime.wording import counted
from ..schedule.adapter_registry import UNUSABLE, Adapter, AdapterRefused, AdapterRegistry
from ..schedule.pets import LatencyTable
from ..schedule.policy_factory import changed_settings
from ..schedule.scheduler import CHUNK_TOKENS, Limits, Overlong, Scheduler
from ..schedule.sequence import Sequence
from .adapter_lifecycle import AdapterDesk
from .event_log import EventLog

STEPS_IN_FLIGHT = 2
"""Step n+1 is posted before step n's tokens are back, so the workers never wait for us."""
PREFILL_SPANS = ("_prefill_batch", "model_rpcs.prefill_batch")
DECODE_SPANS = ("_decode_batch", "model_rpcs.decode_batch")
VIEW_SECONDS = 0.1
TABLE_SECONDS = 2.0
MAP_SECONDS = 1.0

MAX_RUNNING = {"cpu": 64, "cuda": 256}
MAX_PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""On a CPU a step of 256 prompt tokens already takes the better part of a second, during which
every running stream stands still."""


class Router(Process):
    """See the module."""

    accepts = ToRouter

    def __init__(self, config: Config, rank: int = 0) -> None:
        super().__init__(config, "router")
        self.registry = AdapterRegistry(config.adapters(), config.model)
        self._table_of_latencies = read_table(config.profile_table)
        self.scheduler = Scheduler(
            self.registry,
            settings=config.scheduling(),
            table=self._table_of_latencies,
            prefetch=not config.no_prefetch,
            span=self.spans.span,
        )
        self.events = EventLog(self.clock)
        self._coming = contextlib.ExitStack()
        """Holds the span of waiting for the model."""
        self._workers = tuple(f"worker-{rank}" for rank in range(config.tp))
        self._worker_ready: dict[int, WorkerReady] = {}
        self._workers_restarted = False
        self._peers: dict[str, int] = {}  # name -> incarnation, of server and detokenizer
        self._answers: dict[tuple[int, int], asyncio.Future[Tokens]] = {}  # (step, rank)
        self._steps: set[asyncio.Task[None]] = set()
        self._unheard: dict[str, tuple[Sequence, str | None]] = {}
        """Those that have ended, and why, until the server has all their text: a detokenizer that
        dies first is told them again."""
        self._wake = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._draining = False
        self._changed = True  # the view differs from the one last published
        self._table_changed = True
        self._aborts = 0
        self._admitted_at = 0
        self._schedule_us = 0
        self._resets = 0
        self.desk = AdapterDesk(self)

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self._coming.enter_context(self.spans.span("wait_to_model_ready"))
        if self.config.event_log:
            table = self._table_of_latencies
            self.events.open(self.run / "events", self.incarnation, self.config, table)
            self.scheduler.decisions = []
            self.log.info("decisions are written to %s", self.events.path)
        self.set_state(ProcessState.STARTING, "waiting for the workers")
        for name in (*self._workers, "detokenizer", "server"):
            self.outbox(name).send(Introduce())

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive_forever())
            tasks.create_task(self._post_forever())
            tasks.create_task(self._publish_forever())

    async def shutdown(self) -> None:
        self._coming.close()
        with self.spans.span("clean_up"):
            for sequence in list(self.scheduler.sequences()):
                self._refuse(sequence.request.request_id, 503, "the router is stopping")
            for step in self._steps:
                step.cancel()
            self.desk.close()
            self.events.close()

    async def _receive_forever(self) -> None:
        while True:
            message = await self.receive()
            with self.spans.span("loop_for_netio_req recv_req", kind=type(message).__name__):
                self._handle(message)

    def _handle(self, message: Message) -> None:
        self.events.got(message)
        match message:
            case Tokens():
                self._take_answer(message)
            case Request():
                self._add_request(message)
            case Abort():
                with self.spans.span("abort_req"):
                    self._abort(message.request_id, message.reason)
            case StopFound():
                if sequence := self._finish(message.request_id):
                    self._unheard[message.request_id] = (sequence, None)  # it will be found again
            case AnswerHeard():
                self._unheard.pop(message.request_id, None)
            case WorkerReady():
                self._worker_is_ready(message)
            case ChatWarning():
                self.desk.warn_of_chats(message)
            case AdapterRead():
                self.desk.read(message)
            case AdapterPlaced():
                self.desk.placed(message)
            case AdapterMeasured():
                self.desk.measured(message)
            case AdapterChecked():
                self.desk.checked(message)
            case WeightsMerged():
                self.desk.merged(message)
            case Ready():
                self._peer_is_ready(message)
            case Drain():
                self._draining = True
                self.set_state(ProcessState.DRAINING, "admitting nothing new")
            case Resume():
                self._draining = False
                self.say_ready()
            case SetScheduler():
                self._set_scheduler(message)
            case _:
                assert isinstance(message, AdapterOrder), message
                self.desk.order(message)

    # -- requests

    def _add_request(self, request: Request) -> None:
        """Queues a request, or refuses it with the reason; never neither."""
        prompt_len, req_id = len(request.prompt_ids), request.request_id
        with self.spans.span("add_req(prompt_len_{}_req_id_{})", prompt_len, req_id):
            try:
                status, reason = self._objection(request)
                if not reason:
                    self.scheduler.check_length(request)
            except AdapterRefused as refusal:
                status, reason = refusal.status, refusal.reason
            except Overlong as error:
                status, reason = 400, str(error)
            if reason:
                self._tell_server_refused(request.request_id, status, reason)
                return
            self.scheduler.add(request)
            self._open_stream(request)
            self._changed = True
            self._wake.set()

    def _objection(self, request: Request) -> tuple[int, str]:
        """Status and reason to refuse a request whatever its adapter, or (0, "")."""
        if self._draining:
            return 503, "the pipeline is draining; it admits nothing new"
        if not self.scheduler.epoch:
            return 503, "the model is still loading"
        if request.request_id in self.scheduler:
            return 409, f"request id {request.request_id!r} is already running"
        if not request.prompt_ids:
            return 400, "the prompt is empty"
        if len(self.scheduler.waiting) >= self.config.max_waiting:
            return 429, f"{self.config.max_waiting} requests are waiting already"
        return 0, ""

    def _abort(self, request_id: str, reason: str) -> None:
        self._unheard.pop(request_id, None)
        with self.spans.span("abort(request_id_{})", request_id):
            if self._finish(request_id):
                self._aborts += 1
                self.send("detokenizer", CloseStream(request_id))
                if reason != "client gone":
                    self._tell_server_refused(request_id, 499, reason)

    def _finish(self, request_id: str) -> Sequence | None:
        sequence = self.scheduler.finish(request_id)
        if sequence:
            self._changed = True
            self._wake.set()
        return sequence

    def _refuse(self, request_id: str, status: int, reason: str) -> None:
        """Ends a live request without its full answer; its client hears why."""
        self._finish(request_id)
        self._unheard.pop(request_id, None)
        self.send("detokenizer", CloseStream(request_id))
        self._tell_server_refused(request_id, status, reason)

    def _tell_server_refused(self, request_id: str, status: int, reason: str) -> None:
        self.log.info("refused %s: %d %s", request_id, status, reason)
        self.send("server", Refused(request_id, status, reason))

    def send(self, name: str, message: Message) -> None:
        """To a peer that may be down: where even its queue is full, the loss is said."""
        try:
            self.outbox(name).send(message)
        except InboxFull as error:
            self.event("error", f"{error}; lost a {type(message).__name__}")

    # -- peers that come, and come again

    def _worker_is_ready(self, ready: WorkerReady) -> None:
        known = self._worker_ready.get(ready.rank)
        if known and known.incarnation != ready.incarnation:
            self._worker_ready.clear()  # all ranks restart together; wait for each
            self._workers_restarted = True
        self._worker_ready[ready.rank] = ready
        if len(self._worker_ready) < len(self._workers):
            return
        self._reset_workers()
        self.desk.workers_came()
        if self._workers_restarted:
            self._workers_restarted = False
            live = counted(len(self.scheduler), "request", "continue")
            self.event("warning", f"workers are back; {live} by recompute")
        self.say_ready()

    def _reset_workers(self) -> None:
        """A new epoch: empty pools there, everybody waiting here, and no step under way."""
        for step in self._steps:
            step.cancel()
        self._steps.clear()
        self._answers.clear()
        first = self._worker_ready[0]
        config = self.config
        self._resets += 1
        epoch = self.incarnation + self._resets  # unlike those of a router before this one
        self.scheduler.reset(
            epoch,
            Limits(
                num_pages=min(ready.num_pages for ready in self._worker_ready.values()),
                page_size=first.page_size,
                max_model_len=first.max_model_len,
                max_running=config.max_running or MAX_RUNNING[first.device],
                max_prefill_tokens=config.max_prefill_tokens or MAX_PREFILL_TOKENS[first.device],
                chunk_tokens=config.chunk_tokens or CHUNK_TOKENS,
                eos_token_ids=frozenset(first.eos_token_ids),
            ),
        )
        self.desk.workers_reset()
        self.tell_workers(Reset(epoch))
        self.adapters_changed()

    # -- adapters: what the desk asks of us

    @property
    def num_workers(self) -> int:
        return len(self._workers)

    @property
    def first_worker(self) -> str:
        return self._workers[0]

    def tell_workers(self, message: Message) -> None:
        for name in self._workers:
            self.send(name, message)

    def adapters_changed(self) -> None:
        """They look different, and requests may run that could not."""
        self._table_changed = self._changed = True
        self.scheduler.reconsider()
        self._wake.set()

    def refuse_hopeless(self, adapter: Adapter) -> None:
        """Requests that came before it was read or pinned, and that can no longer be served."""
        for sequence in list(self.scheduler.sequences()):
            if sequence.adapter is not adapter and not adapter.pinned:
                continue
            request_id, total = sequence.request.request_id, sequence.length + sequence.remaining
            if sequence.adapter.state is AdapterState.FAILED:
                word = f"adapter {adapter.name} failed to load: {adapter.reason}"
                self._refuse(request_id, 409, word)
            elif not self.scheduler.can_ever_fit(total, sequence.adapter):
                whose = "its adapter and those pinned"
                self._refuse(request_id, 400, f"{total} tokens have no room beside {whose}")

    # -- the policy

    def _set_scheduler(self, order: SetScheduler) -> None:
        """Changes what it names of the settings, and answers."""
        try:
            settings = changed_settings(self.scheduler.settings, order, self.config.model)
        except ValueError as error:
            status, text = 400, str(error)
        else:
            self.scheduler.set_policy(settings)
            status, text = 200, f"the scheduler's policy is {settings.policy}"
            self.event("info", text)
            self._changed = True
            self._wake.set()
            self.publish_stats()  # who asks next must see it
        reply = AdapterReply(
            order=order.order,
            status=status,
            text=text,
            at=self.clock(),
            name="",
            scheduling=self.scheduler.settings,
        )
        self.send(order.reply_to, reply)

    def _tell_given_up(self) -> None:
        """Clients of requests that the policy has ended hear why."""
        for sequence, reason in self.scheduler.refused:
            self._aborts += 1
            self._refuse(sequence.request.request_id, 503, reason)
            self._changed = True
        self.scheduler.refused.clear()

    # -- server and detokenizer

    def _peer_is_ready(self, ready: Ready) -> None:
        """A server or detokenizer with nothing in memory. A server's clients are gone; a
        detokenizer is told every stream again from its first token."""
        restarted = self._peers.get(ready.name) not in (None, ready.incarnation)
        self._peers[ready.name] = ready.incarnation
        if restarted and ready.name == "server":
            self._unheard.clear()
            orphans = [s.request.request_id for s in self.scheduler.sequences()]
            for request_id in orphans:
                self._abort(request_id, "client gone")
            if orphans:
                lost = counted(len(orphans), "request")
                self.event("warning", f"server restarted; {lost} lost clients")
        if restarted and ready.name == "detokenizer":
            untold: list[tuple[Sequence, str | None]] = [
                (sequence, None) for sequence in self.scheduler.sequences()
            ]
            untold += self._unheard.values()
            for sequence, finish_reason in untold:
                self._replay(sequence, finish_reason)
            if untold:
                self.event("warning", f"detokenizer restarted; {len(untold)} replayed")
        self.say_ready()

    def _replay(self, sequence: Sequence, finish_reason: str | None) -> None:
        request = sequence.request
        self._open_stream(request)
        outputs = sequence.token_ids[sequence.num_prompt :]
        tokens = [StreamToken(request.request_id, i, t) for i, t in enumerate(outputs)]
        if finish_reason:
            tokens[-1] = msgspec.structs.replace(tokens[-1], finish_reason=finish_reason)
        self.send("detokenizer", StreamTokens(tuple(tokens)))

    def _open_stream(self, request: Request) -> None:
        self.send(
            "detokenizer",
            OpenStream(
                request_id=request.request_id,
                stop=request.params.stop,
                logprobs=request.params.logprobs is not None,
                skip_special_tokens=request.params.skip_special_tokens,
                include_stop_str_in_output=request.params.include_stop_str_in_output,
            ),
        )

    def say_ready(self) -> None:
        if self._draining:
            return
        missing = [
            *(f"worker-{r}" for r in range(len(self._workers)) if r not in self._worker_ready),
            *(name for name in ("detokenizer", "server") if name not in self._peers),
        ]
        if unread := self.desk.num_unread:
            missing.append(counted(unread, "adapter"))
        if missing:
            self.set_state(ProcessState.STARTING, f"waiting for {', '.join(missing)}")
        else:
            self._coming.close()
            self.set_state(ProcessState.READY)

    # -- steps

    async def _post_forever(self) -> None:
        """Keeps the workers' inboxes one step ahead of them."""
        while True:
            self._wake.clear()
            self.desk.tell_workers()  # at once, though the next step may have to wait
            while len(self._steps) < STEPS_IN_FLIGHT and self.scheduler.epoch:
                with self._branch():
                    if not self._post_step():
                        break
            await self._wake.wait()

    def _branch(self) -> AbstractContextManager[object]:
        """S-LoRA's three branches of a step. It looks at its queue in every tenth step, we in each
        that `--max-wait-tokens` lets through: `mwt` is that, at least 1, and `wt` counts the steps
        since somebody was admitted."""
        scheduler = self.scheduler
        if not scheduler.running:
            return self.spans.span("running_batch is null")
        name = "large_wt_{},mwt_{}" if scheduler.waiting else "small_wt_{},mwt_{}"
        patience = max(1, scheduler.settings.max_wait_tokens)
        return self.spans.span(name, scheduler.step - self._admitted_at, patience)

    def _post_step(self) -> bool:
        """Plans a step and starts it; False where nothing can be computed now."""
        started = time.perf_counter_ns()
        prompts = self.scheduler.prefill_tokens
        with self.spans.span("next_batch{}", self.scheduler.step):
            batch = self._decide(self.clock())
        self._schedule_us += (time.perf_counter_ns() - started) // 1000
        if batch is None:
            return False
        if batch.admit:
            self._admitted_at = batch.step
        outcome = "new_mini_batch_not_null" if batch.admit else "new_mini_batch_is_null"
        with self.spans.span(outcome, step=batch.step):
            self._changed = True
            decodes = self.scheduler.prefill_tokens == prompts
            self._steps.add(asyncio.create_task(self._run_step(batch, decodes)))
        return True

    def _decide(self, now: float) -> Batch | None:
        """The next step, if there is one, and all that was decided with it."""
        self.desk.sweep()
        batch = self.scheduler.next_batch(now)
        self.events.decided(now, self.scheduler, batch)
        self._tell_given_up()
        self.desk.follow(self.scheduler.policy)
        self.desk.tell_workers()
        return batch

    async def _run_step(self, batch: Batch, decodes: bool) -> None:
        """One step: the same bytes to every rank, and rank 0's tokens when all have answered."""
        whole, calls = DECODE_SPANS if decodes else PREFILL_SPANS
        with self.spans.span(whole, step=batch.step):
            with self.spans.span("_init_batch"):
                answers = self._tell_step(batch)
            with self.spans.span(calls, step=batch.step):
                results = await asyncio.gather(*answers)
            task = asyncio.current_task()
            assert task is not None
            self._steps.discard(task)
            self._changed = True
            self._wake.set()
            if errors := [result.error for result in results if result.error]:
                self._step_failed(batch, errors[0])
            else:
                self._accept(results[0])
                if len(results) > 1:
                    self._check_ranks(batch, results)

    def _tell_step(self, batch: Batch) -> list[asyncio.Future[Tokens]]:
        """To every rank; what each will answer."""
        loop = asyncio.get_running_loop()
        answers = []
        frame = self._encoder.encode(batch)
        for rank, name in enumerate(self._workers):
            answer: asyncio.Future[Tokens] = loop.create_future()
            self._answers[batch.step, rank] = answer
            answers.append(answer)
            self.outbox(name).send_frame(frame)
        return answers

    def _take_answer(self, tokens: Tokens) -> None:
        """A rank's word on a step. Where one failed, the others may wait for it for ever."""
        if tokens.epoch != self.scheduler.epoch:
            return
        for rank in range(len(self._workers)) if tokens.error else (tokens.rank,):
            answer = self._answers.pop((tokens.step, rank), None)
            if answer and not answer.done():
                answer.set_result(tokens)

    def _accept(self, tokens: Tokens) -> None:
        with self.spans.span("_add_token_id_to_req"):
            accepted = self.scheduler.accept(tokens, self.clock())
        self.events.answered(tokens.step, accepted)
        for sequence in list(self.scheduler.broken):
            self._end_broken(sequence)
        if not accepted:
            return
        if self.scheduler.ended:
            with self.spans.span("_handle_finish_req"):
                self._handle_ended({token.request_id: token.finish_reason for token in accepted})
        with self.spans.span("_send_to_detokenization_proc", tokens=len(accepted)):
            try:
                self.outbox("detokenizer").send(StreamTokens(tuple(accepted)))
            except InboxFull as error:
                for token in accepted:
                    self.events.got(Abort(token.request_id, str(error)))
                    self._refuse(token.request_id, 503, str(error))

    def _end_broken(self, sequence: Sequence) -> None:
        """Nothing can be chosen from its logits: the request ends with the reason, its neighbours
        go on, and the adapter's row keeps the count."""
        name, request_id = sequence.adapter.name, sequence.request.request_id
        whose = f"adapter {name}" if name else "the base model"
        word = f"the logits of {whose} are {UNUSABLE}: no token can be chosen"
        hint = f"; adapters verify {name} compares it with its merged weights" if name else ""
        self.event("error", f"{word}: request {request_id} ends{hint}")
        self.events.got(Abort(request_id, word))
        self._refuse(request_id, 500, word)
        self.adapters_changed()

    def _handle_ended(self, reasons: dict[str, str | None]) -> None:
        """They are kept until the server has their text. Workers are told with the next step."""
        scheduler = self.scheduler
        with self.spans.span("_filter_batch" if scheduler.running else "_remove_batch"):
            for sequence in scheduler.ended:
                request_id = sequence.request.request_id
                self._unheard[request_id] = (sequence, reasons[request_id])

    def _step_failed(self, batch: Batch, error: str) -> None:
        """A step raised in a worker: those in it are answered with the error, the rest go on."""
        self.events.step_failed(batch.step, error)
        numbers = {row.sequence for row in batch.rows}
        failed = [s for s in self.scheduler.sequences() if s.number in numbers]
        ends = counted(len(failed), "request", "end")
        self.event("error", f"step {batch.step} failed: {error}; {ends}")
        for sequence in failed:
            self._refuse(sequence.request.request_id, 500, f"the step failed: {error}")
        self._reset_workers()

    def _check_ranks(self, batch: Batch, results: list[Tokens]) -> None:
        """All ranks choose from the same logits. One that chose otherwise goes on from a token that
        nobody was told, so all are told everything anew."""
        first, *others = (
            [(token.sequence, token.token_id) for token in result.tokens] for result in results
        )
        odd = [rank for rank, tokens in enumerate(others, start=1) if tokens != first]
        if odd:
            ranks = ", ".join(f"rank {rank}" for rank in odd)
            self.event(
                "error",
                f"{ranks} chose other tokens than rank 0 in step {batch.step}; rank 0's count, and "
                f"{counted(len(self.scheduler), 'request', 'continue')} by recompute",
            )
            self.events.ranks_differed()
            self._reset_workers()

    # -- telemetry

    async def _publish_forever(self) -> None:
        """The live batch whenever it changed, ten times a second at most; every two seconds
        anyhow, for those who came late. The map of the pool after changes, once a second."""
        published_at = mapped_at = 0.0
        moved = True  # pages changed hands since the last map
        while True:
            now = self.clock()
            late = now - published_at >= TABLE_SECONDS
            moved |= self._changed
            if self._changed or late:
                self._changed = False
                self.beacon.publish(self.scheduler.view(now))
            if moved and now - mapped_at >= MAP_SECONDS and self.scheduler.epoch:
                moved, mapped_at = False, now
                self.beacon.publish(self.scheduler.pool_map(now))
            if self._table_changed or late:
                self._table_changed = False
                published_at = now
                self.beacon.publish(self._table())
            if not self._steps and not self.scheduler.running:
                self.scheduler.check()
            self.events.flush()
            if self.scheduler.policy.overdue(self.scheduler.waiting, now):
                self._wake.set()  # nothing else may happen for a while
            await asyncio.sleep(VIEW_SECONDS)

    def _table(self) -> AdapterTable:
        registry, counters = self.registry, self.scheduler.policy.counters

        def counted(view: AdapterView) -> AdapterView:
            service = counters.get(view.name)
            return view if service is None else msgspec.structs.replace(view, service=service)

        views = tuple(map(counted, registry.views())) if counters else registry.views()
        base = counted(registry.base.view())
        return AdapterTable(self.clock(), self.config.model, views, base)

    def publish_stats(self) -> None:
        scheduler = self.scheduler
        self.beacon.publish(
            RouterStats(
                at=self.clock(),
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
                aborts=self._aborts,
                schedule_us=self._schedule_us,
                scheduling=scheduler.settings,
            )
        )


def read_table(path: str) -> LatencyTable:
    """Of `--profile-table`; "" is the linear estimate. Raises `OperatorError`."""
    if not path:
        return LatencyTable()
    try:
        return LatencyTable.decode(Path(path).read_bytes())
    except OSError as error:
        raise OperatorError(
            f"cannot read {path}: {error.strerror}", "see --profile-table"
        ) from error
    except ValueError as error:
        raise OperatorError(
            f"{path} is no table of latencies: {error}", "see --profile-table"
        ) from error


if __name__ == "__main__":
    run_process(Router, __doc__)
