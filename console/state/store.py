"""`Store`: takes every message of the ring, keeps bounded books, makes a `Board` of them.

Knows no socket and no widget, and no clock either: whoever calls says what time it is.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Generic, TypeVar

import msgspec

from ...pipeline.messages import (
    LATENCY_BUCKETS_MS,
    AdapterReply,
    AdapterTable,
    BatchView,
    Event,
    Heartbeat,
    LogLine,
    LogLines,
    Moment,
    PoolMap,
    ProcessState,
    ProcessTable,
    ProcessView,
    Progress,
    RequestText,
    RequestView,
    RouterStats,
    ServerStats,
    Snapshot,
    SocketStats,
    SpanEnds,
    Step,
    SyncPoint,
    Telemetry,
    WorkerStats,
)
from .adapter_colors import AdapterColors
from .board import (
    PARTS,
    SUPERVISOR,
    AdapterRow,
    AdapterVerification,
    Board,
    HopRow,
    ProcessRow,
    RequestRow,
    part_us,
)
from .progress_bars import goes_with
from .time_series import Buckets, Counter, Series

STEPS = 1024
SYNC_POINTS = 512
EVENTS = 500
LOG_LINES = 5_000
HOUR_BUCKET_S = 30.0
HOUR_BUCKETS = 120
HISTORY_S = 3600.0

GONE = (ProcessState.PENDING, ProcessState.BACKOFF, ProcessState.STOPPED)
"""What such a process was busy with is over. One that is given up shows where that was."""
LOADS = ("decode", "prefill", "running", "waiting")

T = TypeVar("T")


class Recent(Generic[T]):
    """The last so many of something, handed out as a tuple that is made once a change."""

    def __init__(self, most: int) -> None:
        self._items: deque[T] = deque(maxlen=most)
        self._tuple: tuple[T, ...] = ()
        self._changed = False

    def add(self, item: T) -> None:
        self._items.append(item)
        self._changed = True

    def extend(self, items: tuple[T, ...]) -> None:
        self._items.extend(items)
        self._changed = True

    def replace(self, items: tuple[T, ...]) -> None:
        self._items.clear()
        self.extend(items)

    @property
    def all(self) -> tuple[T, ...]:
        if self._changed:
            self._tuple, self._changed = tuple(self._items), False
        return self._tuple


class Pulse:
    """One process as its beats tell of it: cost and traffic over time."""

    def __init__(self) -> None:
        self.beat: Heartbeat | None = None
        self.heard_at = 0.0
        self._cpu = Counter()
        self._hops: dict[str, tuple[Counter, Counter]] = {}

    def take(self, beat: Heartbeat, heard_at: float) -> None:
        if self.beat and beat.incarnation != self.beat.incarnation:
            self._cpu, self._hops = Counter(), {}
        self.beat, self.heard_at = beat, heard_at
        self._cpu.add(beat.at, beat.cpu_seconds)
        for hop in beat.hops:
            frames, num_bytes = self._hops.setdefault(hop.peer, (Counter(), Counter()))
            frames.add(beat.at, hop.frames)
            num_bytes.add(beat.at, hop.num_bytes)

    def row(self, name: str, view: ProcessView | None, now: float) -> ProcessRow:
        beat = self.beat
        state = view.state if view else beat.state if beat else ProcessState.PENDING
        reason = (view.reason if view else "") or (beat.reason if beat else "")
        if state in (*GONE, ProcessState.FAILED, ProcessState.DONE):
            beat = None  # of what it was
        return ProcessRow(
            name=name,
            state=state,
            reason=reason,
            pid=view.pid if view else beat.pid if beat else 0,
            restarts=view.restarts if view else 0,
            since=view.since if view else None,
            started_at=view.started_at if view else None,
            falls=view.falls if view else 0,
            fell_at=view.fell_at if view else None,
            exit_code=view.exit_code if view else None,
            retry_at=view.retry_at if view else None,
            held=view is not None and view.held,
            age_s=now - self.heard_at if beat else None,
            cpu_fraction=self._cpu.rate if beat else 0.0,
            rss_bytes=beat.rss_bytes if beat else 0,
            loop_lag_ms=beat.loop_lag_ms if beat else 0.0,
            protocol=beat.protocol if beat else None,
            hops=tuple(self._hop(hop) for hop in beat.hops) if beat else (),
        )

    def _hop(self, hop: SocketStats) -> HopRow:
        frames, num_bytes = self._hops[hop.peer]
        return HopRow(hop.peer, frames.rate, num_bytes.rate, hop.frames, hop.refused)


class Store:
    """The books. `take` what comes, ask for a `board` when there is something to draw."""

    def __init__(self, run: str, adapter_colors: AdapterColors | None = None) -> None:
        self._run = run
        self._adapter_colors = adapter_colors or AdapterColors()
        self.moves = 0
        """Counts what moves the picture: steps, rows, logs, events, states; not what only says
        that all is as it was."""
        self.local_url = ""
        """Where the server is reached from here, if not at the address that it gives."""
        self.supervisor: tuple[int, float] | None = None
        """The supervisor's incarnation and when it was last heard."""
        self.taken = self.missed_steps = self.missed_lines = 0
        """Messages that came; steps and log lines that did not, as gaps in their numbers show."""
        self._step_number = 0
        self._messages = Counter()
        self.disk_free_bytes: int | None = None
        """Set by whoever can look."""
        self.is_past = False
        """Set by whoever plays what was."""
        self._fresh: list[Event] = []
        self._heard_at: float | None = None
        self._version = ""
        self._started_at: float | None = None
        self._pulses: dict[str, Pulse] = {}
        self._table: ProcessTable | None = None
        self._server: ServerStats | None = None
        self._router: RouterStats | None = None
        self._workers: dict[int, WorkerStats] = {}
        self._requests: tuple[RequestView, ...] = ()
        self._request_tokens: dict[str, Counter] = {}
        self._adapters: AdapterTable | None = None
        self._adapter_tokens: dict[str, Counter] = {}
        self._adapter_series: dict[str, Series] = {}
        self._pool: PoolMap | None = None
        self._orders: dict[str, str] = {}
        self._opened: RequestText | None = None
        self._spans: SpanEnds | None = None
        self._verdicts: dict[str, AdapterVerification] = {}
        self._rates = {name: Counter() for name in ("decode", "prefill", "steps", "requests")}
        plotted = (*LOADS, *PARTS, "read_rate", "tax")
        self._series = {name: Series() for name in plotted}
        self._hour = {name: Series(HOUR_BUCKET_S, HOUR_BUCKETS) for name in plotted}
        self.shows_hour = False
        """Whether boards carry the last hour in place of the last minutes."""
        self._ttft = Buckets(LATENCY_BUCKETS_MS)
        self._inter_token = Buckets(LATENCY_BUCKETS_MS)
        self._steps: Recent[Step] = Recent(STEPS)
        self._sync_points: Recent[SyncPoint] = Recent(SYNC_POINTS)
        self._events: Recent[Event] = Recent(EVENTS)
        self._logs: Recent[LogLine] = Recent(LOG_LINES)
        self._log_number = -1
        self._progress: dict[tuple[str, str], Progress] = {}

    # -- what comes in

    def take(self, message: Telemetry, now: float) -> None:
        """Enters one message, heard at `now`."""
        self._heard_at = now
        self.taken += 1
        match message:
            case Step():
                self._take_step(message)
            case BatchView():
                self._take_batch(message)
            case Heartbeat():
                self._take_beat(message, now)
                return
            case RouterStats():
                self._take_router(message)
                return
            case ServerStats():
                self._take_server(message)
                return
            case WorkerStats():
                self._workers[message.rank] = message
                return
            case AdapterTable():
                known = self._adapters.adapters if self._adapters else None
                self._take_adapters(message)
                if message.adapters == known:
                    return
            case ProcessTable():
                if self._table and message.processes == self._table.processes:
                    self._table = message
                    return
                self._take_table(message)
            case LogLines():
                self._take_logs(message.lines)
            case Progress():
                self._take_progress(message)
            case PoolMap():
                if self._pool and _is_same_pool(message, self._pool):
                    return
                self._pool = message
            case SyncPoint():
                self._sync_points.add(message)
            case Event():
                self._events.add(message)
                self._fresh.append(message)
        self.moves += 1

    def take_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Enters what the supervisor knows; its ages are reckoned on its own clock, so that a
        console on another machine is not misled."""
        self._heard_at = now
        self._version, self._started_at = snapshot.version, snapshot.started_at
        self._progress = {(bar.source, bar.stage): bar for bar in snapshot.progress}
        self._take_table(snapshot.processes)
        for beat in snapshot.beats:
            heard_at = now - max(0.0, snapshot.at - beat.at)
            if heard_at >= self._pulse(beat.name).heard_at:
                self._take_beat(beat, heard_at)
        if before := snapshot.server_before:
            self._ttft.add(before.at, before.ttft)
            self._inter_token.add(before.at, before.inter_token)
        self._merge_steps(snapshot.steps)
        state = (snapshot.server, snapshot.router, *snapshot.workers, snapshot.adapters)
        for stats in (*state, snapshot.pool):
            if stats is not None:
                self.take(stats, now)
        if snapshot.batch is not None:
            self._take_batch(snapshot.batch)
        self._events.replace(snapshot.events)
        self._merge_logs(snapshot.logs)
        if snapshot.moments:
            self._take_moments(snapshot.moments)
        self.moves += 1

    # -- orders about adapters, given by this console

    def take_order(self, name: str, doing: str) -> None:
        """An adapter is being done something to, until `doing` is ""."""
        if doing:
            self._orders[name] = doing
        else:
            self._orders.pop(name, None)
        self.moves += 1

    def take_reply(self, reply: AdapterReply, is_gone: bool = False) -> None:
        """Who ordered must not see the adapter as it was before: the next table may be two
        seconds away. With `is_gone` there is none of that name any more."""
        if reply.verification is not None:
            self._verdicts[reply.name] = AdapterVerification(reply.at, reply.verification)
        table = self._adapters
        if table is not None and reply.at >= table.at and (reply.adapters or is_gone):
            names = [view.name for view in table.adapters]
            place = names.index(reply.name) if reply.name in names else len(names)
            others = [view for view in table.adapters if view.name != reply.name]
            others[place:place] = reply.adapters
            self._take_adapters(msgspec.structs.replace(table, adapters=tuple(others)))
        self.moves += 1

    def take_text(self, news: RequestText) -> None:
        """What a request says from where we had read; of another one than the last, all of it.
        Answers that crossed on the way are passed over."""
        known = self._opened
        if known is None or known.request_id != news.request_id:
            if news.offset == 0:
                self._opened = news
        elif news.offset == len(known.text):
            self._opened = msgspec.structs.replace(
                known,
                prompt=known.prompt or news.prompt,
                text=known.text + news.text,
                ended=news.ended,
            )
        self.moves += 1

    def take_spans(self, ends: SpanEnds) -> None:
        self._spans = ends
        self.moves += 1

    def link_age_s(self, now: float) -> float | None:
        """Since anything was heard of anyone; None before the first word."""
        return None if self._heard_at is None else now - self._heard_at

    @property
    def message_rate(self) -> float:
        """Messages a second, over the last seconds."""
        return self._messages.rate

    def incarnation(self, name: str) -> int | None:
        """Which life of a process was heard last."""
        pulse = self._pulses.get(name)
        return pulse.beat.incarnation if pulse and pulse.beat else None

    def drain_events(self) -> list[Event]:
        """Events since the last call, those of snapshots excepted: they are history."""
        fresh, self._fresh = self._fresh, []
        return fresh

    # -- what goes out

    def board(self, now: float) -> Board:
        """The machine as the books have it."""
        self._messages.add(now, self.taken)
        ready = self.is_alive("router", now)
        rates = self._rates
        series = self._hour if self.shows_hour else self._series
        return Board(
            now=now,
            run=self._run,
            link_age_s=self.link_age_s(now),
            version=self._version,
            started_at=self._started_at,
            table=self._table,
            processes=self._process_rows(now),
            server=self._server,
            router=self._router,
            workers=tuple(self._workers[rank] for rank in sorted(self._workers)),
            requests=tuple(
                RequestRow(view, now - view.arrived_at, self._request_tokens[view.request_id].rate)
                for view in self._requests
            ),
            adapters=self._adapter_rows(),
            base_model=self._adapters.base_model if self._adapters else "",
            decode_rate=rates["decode"].rate if ready else 0.0,
            prefill_rate=rates["prefill"].rate if ready else 0.0,
            request_rate=rates["requests"].rate if ready else 0.0,
            step_rate=rates["steps"].rate if ready else 0.0,
            decode=series["decode"].track,
            prefill=series["prefill"].track,
            running=series["running"].track,
            waiting=series["waiting"].track,
            steps=self._steps.all,
            parts={part: series[part].track for part in PARTS},
            read_rate=series["read_rate"].track,
            tax=series["tax"].track,
            sync_points=self._sync_points.all,
            ttft=self._ttft.counts,
            inter_token=self._inter_token.counts,
            progress=tuple(self._progress.values()),
            events=self._events.all,
            logs=self._logs.all,
            adapter_colors=dict(self._adapter_colors.by_name),
            pool=self._pool,
            orders=dict(self._orders),
            opened=self._opened,
            spans=self._spans,
            verdicts=dict(self._verdicts),
            disk_free_bytes=self.disk_free_bytes,
            is_past=self.is_past,
        )

    # -- one kind of message each

    def _pulse(self, name: str) -> Pulse:
        return self._pulses.setdefault(name, Pulse())

    def is_alive(self, name: str, now: float) -> bool:
        """Was it heard in the last seconds?"""
        pulse = self._pulses.get(name)
        return pulse is not None and pulse.beat is not None and now - pulse.heard_at < 3.0

    def _take_beat(self, beat: Heartbeat, heard_at: float) -> None:
        pulse = self._pulse(beat.name)
        if pulse.beat is None or (pulse.beat.state, pulse.beat.pid) != (beat.state, beat.pid):
            self.moves += 1
        if pulse.beat and pulse.beat.incarnation != beat.incarnation:
            self._forget(beat.name)
        pulse.take(beat, heard_at)
        if beat.name == SUPERVISOR:
            if self.supervisor and self.supervisor[0] != beat.incarnation:
                self._logs.replace(())  # another supervisor counts its lines anew
                self._log_number = -1
            self.supervisor = (beat.incarnation, heard_at)

    def _forget(self, name: str) -> None:
        """A process was born again: what it had in hand is no more."""
        if name == "router":  # it says itself what it took over
            self._requests, self._request_tokens, self._pool = (), {}, None
        self._drop_bars(name)

    def _drop_bars(self, name: str) -> None:
        """They were of a life that is over."""
        self._progress = {
            key: bar for key, bar in self._progress.items() if not goes_with(bar, name)
        }

    def _take_table(self, table: ProcessTable) -> None:
        self._table = table
        for view in table.processes:
            if view.state in GONE:
                self._drop_bars(view.name)

    def _take_router(self, stats: RouterStats) -> None:
        before, self._router = self._router, stats
        self._rates["decode"].add(stats.at, stats.decode_tokens)
        self._rates["prefill"].add(stats.at, stats.prefill_tokens)
        self._rates["steps"].add(stats.at, stats.steps)
        self._plot(stats.at, running=stats.running, waiting=stats.waiting)
        if before is None or stats.at <= before.at or stats.steps < before.steps:
            return
        elapsed = stats.at - before.at
        self._plot(
            stats.at,
            decode=(stats.decode_tokens - before.decode_tokens) / elapsed,
            prefill=(stats.prefill_tokens - before.prefill_tokens) / elapsed,
        )

    def _plot(self, at: float, **values: float) -> None:
        for name, value in values.items():
            self._series[name].add(at, value)
            self._hour[name].add(at, value)

    def _take_moments(self, moments: tuple[Moment, ...]) -> None:
        """Seconds that this console has not seen itself; each is two buckets wide."""
        fields = {
            "decode_tokens_s": "decode",
            "prefill_tokens_s": "prefill",
            "running": "running",
            "waiting": "waiting",
            "read_bytes_s": "read_rate",
            "lora_overhead": "tax",
            **{f"{part}_ms": part for part in PARTS},
        }
        for field, name in fields.items():
            known = [(moment.at, getattr(moment, field)) for moment in moments]
            samples = [
                (at - before, value)
                for at, value in known
                if value is not None
                for before in (0.75, 0.25)
            ]
            self._series[name].fill(samples)
            self._hour[name].fill(samples)

    def _take_server(self, stats: ServerStats) -> None:
        if self.local_url:
            stats = msgspec.structs.replace(stats, url=self.local_url)
        self._server = stats
        self._rates["requests"].add(stats.at, stats.requests)
        self._ttft.add(stats.at, stats.ttft)
        self._inter_token.add(stats.at, stats.inter_token)

    def _take_adapters(self, table: AdapterTable) -> None:
        self._adapters = table
        for view in (table.base, *table.adapters):
            name = "" if view is table.base else view.name
            # The table comes every two seconds: a shorter window would see one sample.
            counter = self._adapter_tokens.setdefault(name, Counter(window_s=5.0))
            counter.add(table.at, view.output_tokens)
            series = self._adapter_series.setdefault(name, Series(bucket_s=2.0, length=600))
            series.add(table.at, counter.rate)
        self._adapter_colors.give([view.name for view in table.adapters])

    def _take_batch(self, batch: BatchView) -> None:
        self._requests = batch.requests
        before, self._request_tokens = self._request_tokens, {}
        for view in batch.requests:
            counter = before.get(view.request_id) or Counter(window_s=2.0)
            counter.add(batch.at, view.num_output)
            self._request_tokens[view.request_id] = counter

    def _take_step(self, step: Step) -> None:
        if step.rank != 0:  # the ranks work in lockstep; the first speaks for all
            return
        if 0 < self._step_number < step.step:  # a router that is new counts from the start
            self.missed_steps += step.step - self._step_number - 1
        self._step_number = step.step
        self._steps.add(step)
        self._plot(step.at, **{part: part_us(step, part) / 1e3 for part in PARTS})
        if (rate := step.read_bytes_s) is not None:
            self._plot(step.at, read_rate=rate)
        if (tax := step.lora_overhead) is not None:
            self._plot(step.at, tax=tax)

    def _merge_steps(self, steps: tuple[Step, ...]) -> None:
        """A snapshot's steps go before and between those that were heard meanwhile; moments plot
        them."""
        by_time = {step.at: step for step in (*steps, *self._steps.all)}
        self._steps.replace(tuple(by_time[at] for at in sorted(by_time)))
        if steps and not self._step_number:
            self._step_number = steps[-1].step

    def _take_logs(self, lines: tuple[LogLine, ...]) -> None:
        fresh = tuple(line for line in lines if line.number > self._log_number)
        if fresh:
            if self._log_number >= 0:
                self.missed_lines += fresh[0].number - self._log_number - 1
            self._log_number = fresh[-1].number
            self._logs.extend(tuple(self._shared(line) for line in fresh))

    def _shared(self, line: LogLine) -> LogLine:
        """The same few names and levels in all lines: five thousand of each are half a megabyte."""
        source, level = sys.intern(line.source), sys.intern(line.level)
        return LogLine(line.number, line.at, source, level, line.text)

    def _merge_logs(self, lines: tuple[LogLine, ...]) -> None:
        """A snapshot's lines go before and between those that were heard meanwhile."""
        numbered = {line.number: line for line in (*lines, *self._logs.all)}
        if numbered:
            self._logs.replace(tuple(numbered[number] for number in sorted(numbered)))
            self._log_number = max(numbered)

    def _take_progress(self, bar: Progress) -> None:
        self._progress[bar.source, bar.stage] = bar

    def _adapter_rows(self) -> tuple[AdapterRow, ...]:
        """The base first, then as the router lists them."""
        if self._adapters is None:
            return ()
        views = [
            ("", self._adapters.base),
            *((view.name, view) for view in self._adapters.adapters),
        ]
        return tuple(
            AdapterRow(
                view,
                name=name or self._adapters.base_model,
                is_base=not name,
                tokens_s=self._adapter_tokens[name].rate,
                speed=self._adapter_series[name].track,
                color=self._adapter_colors.by_name.get(name, "base"),
            )
            for name, view in views
        )

    def _process_rows(self, now: float) -> tuple[ProcessRow, ...]:
        views = {view.name: view for view in self._table.processes} if self._table else {}
        names = dict.fromkeys((SUPERVISOR, *views, *self._pulses))
        if not views and not self._pulses:
            return ()
        return tuple(self._pulse(name).row(name, views.get(name), now) for name in names)


def _is_same_pool(new: PoolMap, old: PoolMap) -> bool:
    return new.pages == old.pages and new.owners == old.owners
