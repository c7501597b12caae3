"""Process `router`: sockets, clock, files and heartbeats around the pure `RouterCore`.

Inbox → core → effects: batches to the workers, tokens to the detokenizer, telemetry, the event log.
By hand: `python -m loraconsole.pipeline.router.router --run DIR`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from ..config import Config
from ..errors import OperatorError
from ..messages import (
    Batch,
    Introduce,
    Message,
    OpenStream,
    ProcessState,
    PromptScored,
    Refused,
    RouterMessage,
    StreamTokens,
    ToRouter,
    WorkerReady,
)
from ..runtime.held_memory import HeldMemory
from ..runtime.process import Process, run_process
from ..runtime.sockets import InboxFull
from ..schedule.pets import LatencyTable
from .core import STEPS_IN_FLIGHT, VIEW_SECONDS, RouterCore
from .effects import (
    AdapterFetched,
    Announcement,
    DropSteps,
    Effect,
    EnterState,
    FetchAdapter,
    Send,
    ShowReading,
    ShowStats,
    StepAnswered,
)
from .event_log import EventLog
from .reading_bar import ReadingBar
from .record_file import RecordFile

PREFILL_SPANS = ("_prefill_batch", "model_rpcs.prefill_batch")
DECODE_SPANS = ("_decode_batch", "model_rpcs.decode_batch")
TABLE_SECONDS = 2.0
MAP_SECONDS = 1.0
RECORD_SECONDS = 1.0
"""Least time between two records of what a policy counts."""


class Router(Process):
    """Feeds messages to the `core` and carries out its effects."""

    accepts = ToRouter

    def __init__(self, config: Config, rank: int = 0) -> None:
        super().__init__(config, "router")
        self._latencies = read_latencies(config.profile_table)
        self.records = RecordFile(self.run)
        self._earlier = self.records.read()
        self.core = RouterCore(
            config,
            self.incarnation,
            self.clock(),
            self._latencies,
            self.spans.span,
            self._earlier,
        )
        self._record_error = ""
        """The last one that was reported."""
        self.events = EventLog()
        self._held_memory = HeldMemory(self.run)
        self._start_span = contextlib.ExitStack()
        """Holds the span of the wait for the model."""
        self._answered: dict[int, asyncio.Future[None]] = {}
        """By step under way; done once all ranks have answered."""
        self._steps: dict[int, asyncio.Task[None]] = {}
        self._fetches: set[asyncio.Task[None]] = set()
        self._reading_bar = ReadingBar(self.beacon.publish)
        self._wake = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._admitted_at = 0
        """The last step that admitted a request."""
        self._schedule_us = 0

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self._start_span.enter_context(self.spans.span("wait_to_model_ready"))
        if self.config.event_log:
            self._open_event_log()
        self._report_record_error()
        self.set_state(ProcessState.STARTING, "waiting for the workers")
        for name in (*self.core.effects.workers, "detokenizer", "server"):
            self._send(name, Introduce())

    def _open_event_log(self) -> None:
        directory, now = self.run / "events", self.clock()
        try:
            self.events.open(
                directory, self.incarnation, self.config, self._latencies, now, record=self._earlier
            )
        except OSError as error:  # the router serves without it
            self.event("warning", f"no event log: cannot write to {directory}: {error.strerror}")
        else:
            self.core.record_lines()
            self.log.info("decisions are written to %s", self.events.path)

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive_forever())
            tasks.create_task(self._post_forever())
            tasks.create_task(self._publish_forever())

    async def shutdown(self) -> None:
        self._start_span.close()
        with self.spans.span("clean_up"):
            self._keep_record()  # a router that an operator restarts loses no request either
            for task in (*self._steps.values(), *self._fetches):
                task.cancel()
            self._reading_bar.abandon()
            self.events.close()
            self._held_memory.close()

    async def _receive_forever(self) -> None:
        while True:
            message = await self.receive()
            with self.spans.span("loop_for_netio_req recv_req", kind=type(message).__name__):
                self.handle_message(message)

    def handle_message(self, message: Message | AdapterFetched) -> None:
        if isinstance(message, WorkerReady):
            self._held_memory.hold(message.rank, message.pid, message.pool_fd)
        self.core.handle_message(message, self.clock())
        self._carry_out_effects()

    # -- effects

    def _carry_out_effects(self) -> None:
        """Carries out the core's effects, in order."""
        effects = self.core.effects
        if effects.record_changed:
            self._keep_record()  # before an order is answered
        while pending := effects.take_pending():  # one that fails may cause others
            for effect in pending:
                self._carry_out(effect)
        if effects.lines:
            for line in effects.lines:
                self.events.write_line(line)
            effects.lines.clear()
        if effects.step_wanted:
            effects.step_wanted = False
            self._wake.set()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case StepAnswered(step=step):
                self._answered.pop(step).set_result(None)
            case Send(to=name, message=message):
                self._send(name, message)
            case Announcement(level=level, text=text):
                self.event(level, text)
            case EnterState(state=state, reason=reason):
                if state is ProcessState.READY:
                    self._start_span.close()
                self.set_state(state, reason)
            case ShowReading():
                self._reading_bar.show(effect)
            case FetchAdapter():
                self._start_fetch(effect)
            case DropSteps():
                for task in self._steps.values():
                    task.cancel()
                self._steps.clear()
                self._answered.clear()
            case ShowStats():
                self.publish_stats()

    def _keep_record(self) -> None:
        """Writes the record for the next router, if this one knows all that belongs to it."""
        record = self.core.record()
        if record is not None:
            self.core.effects.record_changed = self.core.effects.record_is_old = False
            self.records.write(record)
            self._report_record_error()

    def _report_record_error(self) -> None:
        if (error := self.records.error) and error != self._record_error:
            lost = "if the router dies, requests of adapters end with an error"
            self.event("warning", f"{error}: {lost}")
        self._record_error = error

    def _send(self, name: str, message: Message) -> None:
        """Sends to a process that may be down. If its queue is full, the loss is reported."""
        if isinstance(message, RouterMessage):
            message = msgspec.structs.replace(message, router=self.incarnation)
        if isinstance(message, Refused):
            text = "refused %s: %d %s"
            self.log.info(text, message.request_id, message.status, message.reason)
        try:
            self.outbox(name).send(message)
        except InboxFull as error:
            self.event("error", f"{error}; lost a {type(message).__name__}")
            # Tokens would wait for a stream for ever, and an answer for its logprobs.
            if isinstance(message, OpenStream | PromptScored):
                self.core.refuse_unopened(message.request_id, str(error), self.clock())

    # -- adapters from the hub

    def _start_fetch(self, wanted: FetchAdapter) -> None:
        fetch = asyncio.create_task(self._fetch(wanted))
        self._fetches.add(fetch)
        fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, wanted: FetchAdapter) -> None:
        """Fetches in a separate process: the hub's library takes half a second to import, and
        blocks."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "loraconsole.pipeline.fetch.adapter",
            wanted.path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        error = ""
        if process.returncode:
            text = errors.decode(errors="replace").strip() or f"exit {process.returncode}"
            error = text.splitlines()[-1]
        self.handle_message(AdapterFetched(wanted.key, output.decode().strip(), error))

    # -- steps

    async def _post_forever(self) -> None:
        """Keeps the workers' inboxes one step ahead of them."""
        core = self.core
        while True:
            self._wake.clear()
            core.send_adapter_orders()  # at once, since the next step may have to wait
            self._carry_out_effects()
            while len(core.steps) < STEPS_IN_FLIGHT and core.scheduler.epoch:
                with self._branch_span():
                    if not self._post_step():
                        break
                # Lets the step's task send its batch. The next plan's orders to place or evict must
                # follow it, since they may reuse pages that this batch still reads.
                await asyncio.sleep(0)
            await self._wake.wait()

    def _branch_span(self) -> AbstractContextManager[object]:
        """S-LoRA's three branches of a step. S-LoRA goes through its queue in every tenth step;
        here `--max-wait-tokens` sets the interval: `mwt` is that, at least 1, and `wt` counts the
        steps since the last admission."""
        scheduler = self.core.scheduler
        if not scheduler.running:
            return self.spans.span("running_batch is null")
        name = "large_wt_{},mwt_{}" if scheduler.waiting else "small_wt_{},mwt_{}"
        patience = max(1, scheduler.settings.max_wait_tokens)
        return self.spans.span(name, scheduler.step - self._admitted_at, patience)

    def _post_step(self) -> bool:
        """Plans a step and starts it; False if nothing can be computed now."""
        started = time.perf_counter_ns()
        scheduler = self.core.scheduler
        prompts = scheduler.prefill_tokens
        with self.spans.span("next_batch{}", scheduler.step):
            batch = self.core.plan_step(self.clock())
        self._schedule_us += (time.perf_counter_ns() - started) // 1000
        self._carry_out_effects()
        if batch is None:
            return False
        if batch.admit:
            self._admitted_at = batch.step
        outcome = "new_mini_batch_not_null" if batch.admit else "new_mini_batch_is_null"
        with self.spans.span(outcome, step=batch.step):
            decodes = scheduler.prefill_tokens == prompts
            self._start_step(batch, decodes)
        return True

    def _start_step(self, batch: Batch, decodes: bool) -> None:
        loop = asyncio.get_running_loop()
        answered = self._answered[batch.step] = loop.create_future()
        self._steps[batch.step] = loop.create_task(self._run_step(batch, answered, decodes))

    async def _run_step(self, batch: Batch, answered: asyncio.Future[None], decodes: bool) -> None:
        """One step: sends the same bytes to every rank, and accepts its tokens once all have
        answered."""
        whole, calls = DECODE_SPANS if decodes else PREFILL_SPANS
        with self.spans.span(whole, step=batch.step):
            with self.spans.span("_init_batch"):
                frame = self._encoder.encode(batch)
                for name in self.core.effects.workers:
                    self.outbox(name).send_frame(frame)
            with self.spans.span(calls, step=batch.step):
                await answered
            del self._steps[batch.step]
            self._finish_step(batch.step)

    def _finish_step(self, step: int) -> None:
        tokens = self.core.finish_step(step, self.clock())
        self._carry_out_effects()
        if tokens is not None:
            with self.spans.span("_send_to_detokenization_proc", tokens=len(tokens.tokens)):
                self._send_tokens(tokens)

    def _send_tokens(self, tokens: StreamTokens) -> None:
        try:
            self.outbox("detokenizer").send(tokens)
        except InboxFull as error:
            self.core.refuse_undelivered(tokens, str(error), self.clock())
            self._carry_out_effects()

    # -- telemetry

    async def _publish_forever(self) -> None:
        """Publishes the live batch and the numbers of requests after changes, at most ten times a
        second, and the batch every two seconds in any case, for consoles that attach; the map of
        the pool after changes, at most once a second."""
        scheduler, effects = self.core.scheduler, self.core.effects
        published_at = mapped_at = recorded_at = 0.0
        moved = True  # pages have changed owners since the last map
        was_idle, counts = True, (0, 0)
        while True:
            now = self.clock()
            is_idle = not self.core.steps and not scheduler.running
            # At rest the table is right at once; at work it is two seconds old at most.
            effects.adapters_changed |= is_idle and not was_idle
            was_idle = is_idle
            if counts != (len(scheduler.running), len(scheduler.waiting)):
                counts = len(scheduler.running), len(scheduler.waiting)
                self.publish_stats()
            late = now - published_at >= TABLE_SECONDS
            moved |= effects.batch_changed
            if effects.batch_changed or late:
                effects.batch_changed = False
                self.beacon.publish(scheduler.view(now))
            if moved and now - mapped_at >= MAP_SECONDS and scheduler.epoch:
                moved, mapped_at = False, now
                self.beacon.publish(scheduler.pool_map(now))
            if effects.adapters_changed or late:
                effects.adapters_changed = False
                published_at = now
                self.beacon.publish(self.core.adapter_table(now))
            if now - recorded_at >= RECORD_SECONDS:
                recorded_at = now
                if effects.record_is_old or scheduler.policy.counts:
                    self._keep_record()
            if is_idle:
                scheduler.check()
            self._flush_event_log()
            if scheduler.policy.overdue(scheduler.waiting, now):
                self._wake.set()  # no message may do so for a while
            await asyncio.sleep(VIEW_SECONDS)

    def _flush_event_log(self) -> None:
        """Writes the lines so far. The router goes on without its log if that fails."""
        self.events.flush()
        if self.events.error and self.core.effects.lines is not None:
            self.core.effects.lines = None
            text = f"the event log has ended: {self.events.error}"
            self.event("warning", f"{text}; a restart of the router begins another")

    def publish_stats(self) -> None:
        self.beacon.publish(self.core.stats(self.clock(), self._schedule_us))


def read_latencies(path: str) -> LatencyTable:
    """The table of `--profile-table`; "" is the linear estimate. Raises `OperatorError`."""
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
            f"{path} is not a table of latencies: {error}", "see --profile-table"
        ) from error


if __name__ == "__main__":
    run_process(Router, __doc__)
