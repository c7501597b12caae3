"""`Simulation`: the router's core with other settings, on the requests of a log.

Requests come when they came; each answer has the length that it had. Steps take what `StepTimes`
estimates; loads take what they took. Pure: time is that of the log, and jumps from event to event.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import msgspec

from ..config import Config
from ..messages import (
    Abort,
    AdapterChecked,
    AdapterInfo,
    AdapterPlaced,
    AdapterRead,
    Batch,
    CheckAdapter,
    MeasureAdapter,
    MergeWeights,
    Message,
    PlaceAdapter,
    ReadAdapter,
    SampledToken,
    SetScheduler,
    Tokens,
    WeightsMerged,
    WorkerReady,
)
from ..runtime.percentile import percentile
from .core import STEPS_IN_FLIGHT, VIEW_SECONDS, RouterCore
from .effects import AdapterFetched, DropSteps, Effect, FetchAdapter, Send
from .event_lines import STOP_TOKEN, Asked, Decided, Got
from .observation import Observation
from .request_times import STOP, RequestTime, RequestTimes
from .step_times import ShapeReader, StepSample, StepTimes

MOST_AFTER_S = 24 * 3600.0
"""A simulation ends this long after the last event of the log, whatever still waits."""
SCHEDULING = {
    "scheduler": "policy",
    "fair_weight": "weights",
    "batch_num_adapters": "batch_num_adapters",
    "slo_seconds": "slo_seconds",
    "max_wait_tokens": "max_wait_tokens",
    "max_per_adapter": "max_per_adapter",
}
"""Settings that orders change too: the field of `SetScheduler` of each."""


class Simulation:
    """One run of a log with a changed config."""

    def __init__(
        self,
        seen: Observation,
        times: StepTimes,
        config: Config,
        changed: frozenset[str],
        watch: Callable[[Simulation, float], None] = lambda simulation, now: None,
    ) -> None:
        """`changed` names the settings of `config` that differ from the log's: orders of the log do
        not change them back. `watch` is called before each event, with its time."""
        self._seen, self._step_times, self._config, self._changed = seen, times, config, changed
        self._watch = watch
        start = seen.start
        record = start.record
        if record is not None and changed.intersection(SCHEDULING):
            record = msgspec.structs.replace(record, scheduling=config.scheduling(), counters={})
        self.core = RouterCore(config, start.incarnation, start.at, start.table, record=record)
        self.core.record_lines()
        self.times = RequestTimes()
        self.now = start.at
        self.shown: list[Effect] = []
        """Effects of the last event, for a recorder."""
        self.answered: StepSample | None = None
        """The step that the last event ended, for a recorder."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._shapes = ShapeReader()
        self._left: dict[int, int] = {}
        self._busy_until = start.at
        self._is_awake = False
        self._lengths = dict(answer_lengths(seen.player.times))
        for line in seen.outside:
            self._at(line.at, lambda line=line: self._hear(line))  # type: ignore[misc]

    def run(self) -> None:
        """Runs until nothing is left to do."""
        last = self._seen.ended_at + MOST_AFTER_S
        while self._events and self._events[0][0] <= last:
            at, _, act = heapq.heappop(self._events)
            self._watch(self, at)
            self.now, self.answered, self.shown = at, None, []
            act()
            self._carry_out()
            self._plan()

    # -- events

    def _at(self, at: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, act))

    def _hear(self, line: Asked | Got) -> None:
        if isinstance(line, Asked):
            self.times.note_asked(line)
            self.core.handle_message(line.to_message(), self.now)
            return
        message = self._changed_message(line.message)
        if message is None:
            return
        self._handle(message)
        if isinstance(message, Abort):
            self.times.note_effects(self.core.effects.pending, self.now)
            self.times.note_aborted(message.request_id, message.reason, self.now)

    def _handle(self, message: Message | AdapterFetched) -> None:
        self.core.handle_message(message, self.now)
        self.core.effects.step_wanted = True

    def _changed_message(self, message: Message) -> Message | None:
        """The message as it would be with the changed settings; None if nothing is left of it."""
        match message:
            case WorkerReady():
                return self._changed_worker(message)
            case SetScheduler():
                kept = {SCHEDULING[name]: None for name in self._changed if name in SCHEDULING}
                order = msgspec.structs.replace(message, **kept)
                fields = SCHEDULING.values()
                return order if any(getattr(order, f) is not None for f in fields) else None
        return message

    def _changed_worker(self, ready: WorkerReady) -> WorkerReady:
        config, changes = self._config, dict[str, int]()
        for name in ("max_running", "max_prefill_tokens", "chunk_tokens"):
            if name in self._changed:
                changes[name] = getattr(config, name) or getattr(ready, name)
        if "max_total_tokens" in self._changed and config.max_total_tokens:
            pages = max(1, config.max_total_tokens // ready.page_size)
            changes["num_pages"] = pages
            changes["max_model_len"] = min(ready.max_model_len, pages * ready.page_size)
        return msgspec.structs.replace(ready, **changes)

    # -- the workers

    def _carry_out(self) -> None:
        """Answers what the core has sent, after the time that it takes."""
        effects = self.core.effects.take_pending()
        self.shown += effects
        self.times.note_effects(effects, self.now)
        for effect in effects:
            match effect:
                case DropSteps():
                    self._busy_until = self.now
                    self._left.clear()
                    self._shapes = ShapeReader()
                case FetchAdapter(key=key):
                    self._fetch(key)
                case Send(to=to, message=message) if to.startswith("worker-"):
                    self._order(int(to.removeprefix("worker-")), message)
        lines = self.core.effects.lines
        assert lines is not None
        for line in lines:
            if isinstance(line, Decided):
                self.times.note_decided(line)
        lines.clear()

    def _order(self, rank: int, order: Message) -> None:
        seen = self._seen
        match order:
            case ReadAdapter(key=key):
                info = seen.infos.get((rank, key))
                if info is None:
                    reason = "it was not read in the log"
                    info = AdapterInfo(key, order.path, 0, (), 0, 0, "", reason)
                self._answer("read", key, AdapterRead(rank, order.order, info))
            case PlaceAdapter(epoch=epoch, key=key):
                self._answer("place", key, AdapterPlaced(rank, epoch, key))
            case MergeWeights(key=key) if key:
                self._answer("merge", key, WeightsMerged(rank, key))
            case CheckAdapter(epoch=epoch, order=ticket) if not rank:
                known = seen.checked.get(ticket)
                found = AdapterChecked(epoch, ticket, (), "", False, "not in the log")
                if known is not None:
                    found = msgspec.structs.replace(known, epoch=epoch)
                self._answer("check", "", found)
            case MeasureAdapter():
                pass  # plans are not simulated

    def _answer(self, kind: str, key: str, answer: Message) -> None:
        self._at(self.now + self._seen.delay(kind, key), lambda: self._handle(answer))

    def _fetch(self, key: str) -> None:
        known = self._seen.fetched.get(key)
        error = known.error if known else "it was not fetched in the log"
        answer = AdapterFetched(key, known.directory if known else "", error)
        self._at(self.now + self._seen.delay("fetch", key), lambda: self._handle(answer))

    # -- steps

    def _plan(self) -> None:
        """Keeps the workers one step ahead, as the router does."""
        core = self.core
        if core.effects.step_wanted:
            core.effects.step_wanted = False
            core.send_adapter_orders()
            while len(core.steps) < STEPS_IN_FLIGHT and core.scheduler.epoch:
                batch = core.plan_step(self.now)
                self._carry_out()
                if batch is None:
                    break
                self._begin_step(batch)
            self._carry_out()
        if core.scheduler.waiting and not core.steps and not self._is_awake:
            self._is_awake = True
            self._at(self.now + VIEW_SECONDS, self._wake)

    def _wake(self) -> None:
        """What no message wakes: requests that the policy gives up with time."""
        self._is_awake = False
        policy, waiting = self.core.scheduler.policy, self.core.scheduler.waiting
        if policy.overdue(waiting, self.now):
            self.core.effects.step_wanted = True

    def _begin_step(self, batch: Batch) -> None:
        shape = self._shapes.read_batch(batch)
        start = max(self.now, self._busy_until)
        end = start + self._step_times.seconds(shape, start)
        if any(outage.start < end <= outage.end for outage in self._seen.outages):
            return  # it is lost with the workers; the next ones begin from nothing
        self._busy_until = end
        done = StepSample(end, shape, end - start, batch.step)
        self._at(end, lambda: self._end_step(batch, done))

    def _end_step(self, batch: Batch, done: StepSample) -> None:
        """Accepts tokens as the workers would sample them."""
        core = self.core
        posted = core.steps.get(batch.step)
        if posted is None or posted.batch is not batch:
            return  # the workers were reset
        del core.steps[batch.step]
        self.answered = done
        tokens = Tokens(batch.epoch, batch.step, 0, tuple(self._sampled(batch)))
        self.times.note_tokens(core.accept_tokens(tokens, self.now), self.now)
        core.effects.batch_changed = core.effects.step_wanted = True

    def _sampled(self, batch: Batch) -> Iterator[SampledToken]:
        left = self._left
        for number in batch.release:
            left.pop(number, None)
        for admission in batch.admit:
            left[admission.sequence] = len(admission.token_ids) - admission.computed
        live = {sequence.number: sequence for sequence in self.core.scheduler.sequences()}
        for row in batch.rows:
            number = row.sequence
            if number not in left:
                continue
            left[number] -= row.num_tokens
            if left[number] > 0:
                continue
            left[number] = 1
            sequence = live.get(number)
            length = self._lengths.get(sequence.request_id, 0) if sequence else 0
            is_last = sequence is not None and sequence.num_output + 1 >= length > 0
            yield SampledToken(number, STOP_TOKEN if is_last else 0)


def answer_lengths(times: RequestTimes) -> Iterator[tuple[str, int]]:
    """(request, output tokens) of every request. One that has no whole answer in the log gets the
    median of its adapter's answers, or of all, within its own limit."""
    whole: dict[str | None, list[int]] = {}
    for request in times.by_id.values():
        if request.is_answered:
            whole.setdefault(request.adapter, []).append(len(request.tokens))
    every = sorted(length for lengths in whole.values() for length in lengths)
    for request in times.by_id.values():
        if request.is_answered:
            yield request.request_id, len(request.tokens) if request.end == STOP else 0
        else:
            usual = percentile(sorted(whole.get(request.adapter, ())) or every, 0.5)
            yield request.request_id, _within(request, usual)


def _within(request: RequestTime, usual: float | None) -> int:
    """0 is its limit."""
    length = max(len(request.tokens) + 1, int(usual or 0))
    return length if length < request.max_tokens else 0
