"""`Store`: folds every message of the ring into bounded state and makes a `Board` from it.

Knows no socket, no widget and no clock: callers pass the time.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
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
    PoolMap,
    ProcessState,
    ProcessTable,
    ProcessView,
    RequestText,
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
from ...pipeline.runtime.health import GONE_SECONDS
from ...pipeline.runtime.latest_telemetry import LatestTelemetry
from ...pipeline.runtime.step_statistics import PARTS
from ..text import units
from .adapter_colors import AdapterColors
from .adapter_costs import cost_shares
from .adapter_history import AdapterHistory
from .board import (
    SUPERVISOR,
    AdapterRow,
    AdapterVerification,
    Board,
    HopRow,
    ProcessRow,
    RequestRow,
)
from .playback import PlaybackView
from .plot_history import PlotHistory
from .time_series import PLOTTED, Buckets, Counter, Series

STEPS = 1024
SYNC_POINTS = 512
EVENTS = 500
LOG_LINES = 5_000
UNLOADED_KEPT = 64
"""Adapters that were unloaded of which the rates are kept; with more, all of them are dropped."""
MINUTE_BUCKET_S = 0.5
MINUTE_BUCKETS = 1200
"""Ten minutes, to scroll back in."""
HOUR_BUCKET_S = 30.0
HOUR_BUCKETS = PLOTTED + 2
HISTORY_S = 3600.0

GONE = (ProcessState.PENDING, ProcessState.BACKOFF, ProcessState.STOPPED)
"""Progress bars of a process in one of these states are dropped; a failed process keeps them."""

T = TypeVar("T")


class Recent(Generic[T]):
    """The last `most` items; `all` is a tuple, rebuilt only after a change."""

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
    """CPU, memory and traffic of one process over time, from its heartbeats."""

    def __init__(self) -> None:
        self.beat: Heartbeat | None = None
        self.heard_at = 0.0
        self._cpu = Counter()
        self._hops: dict[str, tuple[Counter, Counter]] = {}

    def fold_heartbeat(self, beat: Heartbeat, heard_at: float) -> None:
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
        if view and beat and view.pid not in (0, beat.pid):
            beat = None  # of the process before this one
        state = view.state if view else beat.state if beat else ProcessState.PENDING
        reason = (view.reason if view else "") or (beat.reason if beat else "")
        if state in (*GONE, ProcessState.FAILED, ProcessState.DONE):
            beat = None  # it is from before the process ended
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
            fall_reason=view.fall_reason if view else "",
            is_recovering=view is not None and view.is_recovering,
            exit_code=view.exit_code if view else None,
            retry_at=view.retry_at if view else None,
            held=view is not None and view.held,
            age_s=now - self.heard_at if beat else None,
            cpu_fraction=self._cpu.rate if beat else 0.0,
            rss_bytes=beat.rss_bytes if beat else 0,
            loop_lag_ms=beat.loop_lag_ms if beat else 0.0,
            protocol=beat.protocol if beat else None,
            hops=tuple(self._hop(hop) for hop in beat.hops) if beat else (),
            is_recording=beat is not None and beat.is_recording,
        )

    def _hop(self, hop: SocketStats) -> HopRow:
        frames, num_bytes = self._hops[hop.peer]
        return HopRow(hop.peer, frames.rate, num_bytes.rate, hop.frames, hop.refused)


class Store:
    """`fold_message` takes each message as it arrives; `board` returns the snapshot to draw."""

    def __init__(self, run: str, adapter_colors: AdapterColors | None = None) -> None:
        self._run = run
        self._adapter_colors = adapter_colors or AdapterColors()
        self.moves = 0
        """Number of messages that change the display: steps, rows, logs, events, states; repeated
        values do not count."""
        self.local_url = ""
        """The server's address as seen from this machine, if it differs from the one it reports."""
        self.supervisor: tuple[int, float] | None = None
        """The supervisor's incarnation and the time of its last heartbeat."""
        self.taken = self.missed_steps = self.missed_lines = 0
        """Messages received; steps and log lines lost, counted by gaps in their numbers."""
        self._step_number = 0
        self._messages = Counter()
        self.disk_free_bytes: int | None = None
        """Free space on the run directory's disk; set by the app if that is on this machine."""
        self.playback: Callable[[], PlaybackView] | None = None
        """Where the recording stands that is played; set by its player."""
        self._fresh: list[Event] = []
        self._heard_at: float | None = None
        self._is_start_given = False
        self._version = ""
        self._started_at: float | None = None
        self._pulses: dict[str, Pulse] = {}
        self._latest = LatestTelemetry()
        self._request_tokens: dict[str, Counter] = {}
        self._adapter_tokens: dict[str, Counter] = {}
        self._adapter_series: dict[str, Series] = {}
        self._adapter_total = Series(bucket_s=2.0, length=600)
        self._adapters: tuple[tuple[AdapterRow, ...], tuple[AdapterRow, ...]] | None = ((), ())
        """In the router's order and the costliest first; made once a table, in the first frame
        after it, as there may be a thousand. None: not made yet."""
        self._adapter_history = AdapterHistory()
        self._orders: dict[str, str] = {}
        self._opened: RequestText | None = None
        self._spans: SpanEnds | None = None
        self._verifications: dict[str, AdapterVerification] = {}
        self._rates = {name: Counter() for name in ("decode", "prefill", "steps", "requests")}
        self._minute = PlotHistory(MINUTE_BUCKET_S, MINUTE_BUCKETS)
        self._hour = PlotHistory(HOUR_BUCKET_S, HOUR_BUCKETS)
        self.shows_hour = False
        """Whether boards carry the last hour instead of the last minute."""
        self._ttft = Buckets(LATENCY_BUCKETS_MS)
        self._inter_token = Buckets(LATENCY_BUCKETS_MS)
        self._steps: Recent[Step] = Recent(STEPS)
        self._sync_points: Recent[SyncPoint] = Recent(SYNC_POINTS)
        self._events: Recent[Event] = Recent(EVENTS)
        self._logs: Recent[LogLine] = Recent(LOG_LINES)
        self._log_number = -1
        self._has_new_supervisor = False
        """Whether it has sent heartbeats alone, so that its pipeline is not known."""
        self._are_logs_old = False
        """Whether lines are kept that an earlier supervisor has numbered."""

    def emptied(self) -> Store:
        """An empty store of the same run, for a recording that moves to another time."""
        fresh = Store(self._run, self._adapter_colors)
        fresh.playback, fresh.disk_free_bytes = self.playback, self.disk_free_bytes
        fresh.local_url = self.local_url
        return fresh

    def become(self, other: Store) -> None:
        """Takes over the state of `other`, which is not used any more. Its events are not new."""
        shows_hour, moves = self.shows_hour, self.moves + 1
        vars(self).update(vars(other))
        self.shows_hour, self.moves = shows_hour, moves
        self._fresh = []

    # -- input

    def fold_message(self, message: Telemetry, now: float) -> None:
        """Folds one message received at `now`."""
        self._heard_at = now
        self.taken += 1
        self.moves += self._fold(message, now)

    def _fold(self, message: Telemetry, now: float) -> bool:
        """Returns whether the message changes the display."""
        latest, moves = self._latest, True
        match message:
            case Step():
                self._fold_step(message)
            case BatchView():
                self._fold_batch(message)
            case Heartbeat():
                moves = self._fold_heartbeat(message, now)
            case RouterStats():
                self._plot_router(latest.router, message)
                moves = False
            case ServerStats():
                if self.local_url:
                    message = msgspec.structs.replace(message, url=self.local_url)
                self._count_server(message)
                moves = False
            case WorkerStats():
                moves = False
            case AdapterTable():
                self._count_adapters(message)
                moves = latest.adapters is None or message.adapters != latest.adapters.adapters
            case ProcessTable():
                self._hear_of_the_ring(message.started_at)
                self._hear_of_the_start(message)
                latest = self._latest
                known = latest.processes
                moves = known is None or message.processes != known.processes
            case LogLines():
                self._fold_logs(message.lines)
            case PoolMap():
                if latest.pool and _is_same_pool(message, latest.pool):
                    return False
            case SyncPoint():
                self._sync_points.add(message)
            case Event():
                self._events.add(message)
                self._fresh.append(message)
        latest.fold_message(message)
        if moves and isinstance(message, ProcessTable):
            self._drop_what_is_gone(message)
        return moves

    def fold_snapshot(self, snapshot: Snapshot, now: float) -> None:
        """Folds the supervisor's state. Ages are computed on its clock, so they are right even if
        this machine's clock differs."""
        self._heard_at = now
        self._version = snapshot.version
        self._latest.progress = {(bar.source, bar.stage): bar for bar in snapshot.progress}
        self._latest.processes = snapshot.processes
        self._hear_of_the_start(snapshot.processes)
        self._drop_what_is_gone(snapshot.processes)
        for beat in sorted(snapshot.beats, key=lambda beat: beat.name != SUPERVISOR):
            heard_at = now - max(0.0, snapshot.at - beat.at)
            if heard_at >= self._pulse(beat.name).heard_at:
                self.moves += self._fold_heartbeat(beat, heard_at)
                if beat.name == SUPERVISOR:
                    self._hear_of_the_ring(snapshot.started_at)
                self._latest.fold_message(beat)
        self._hear_of_the_ring(snapshot.started_at)
        if before := snapshot.server_before:
            self._ttft.add(before.at, before.ttft)
            self._inter_token.add(before.at, before.inter_token)
        self._merge_steps(snapshot.steps)
        state = (snapshot.server, snapshot.router, *snapshot.workers, snapshot.adapters)
        for stats in (*state, snapshot.pool):
            if stats is not None:
                self.fold_message(stats, now)
        if snapshot.batch is not None:
            self._fold_batch(snapshot.batch)
            self._latest.batch = snapshot.batch
        self._events.replace(snapshot.events)
        self._merge_logs(snapshot.logs)
        if snapshot.moments:
            for plots in (self._minute, self._hour):
                plots.fill(snapshot.moments)
        self.moves += 1

    # -- orders given by this console

    def note_start(self, is_given: bool) -> None:
        """Records that the pipeline was started here; False: that the start has failed."""
        self._is_start_given = is_given
        self.moves += 1

    @property
    def is_start_given(self) -> bool:
        """Whether the pipeline was started here and its supervisor has not answered yet."""
        return self._is_start_given

    def _hear_of_the_start(self, table: ProcessTable) -> None:
        if table.state not in (ProcessState.STOPPED, ProcessState.STOPPING):
            self._is_start_given = False

    def note_order(self, name: str, doing: str) -> None:
        """Records an order in progress for an adapter ("verifying"); "" removes it."""
        if doing:
            self._orders[name] = doing
        else:
            self._orders.pop(name, None)
        self.moves += 1

    def fold_reply(self, reply: AdapterReply, is_gone: bool = False) -> None:
        """Folds the adapter's new state from a reply, since the next table may be two seconds away.
        `is_gone`: the adapter no longer exists."""
        if reply.verification is not None:
            self._verifications[reply.name] = AdapterVerification(reply.at, reply.verification)
        table = self._latest.adapters
        if table is not None and reply.at >= table.at and (reply.adapters or is_gone):
            names = [view.name for view in table.adapters]
            place = names.index(reply.name) if reply.name in names else len(names)
            others = [view for view in table.adapters if view.name != reply.name]
            others[place:place] = reply.adapters
            self._latest.adapters = msgspec.structs.replace(table, adapters=tuple(others))
            self._count_adapters(self._latest.adapters)
        self.moves += 1

    def fold_text(self, news: RequestText) -> None:
        """Appends to the text of the open request, or replaces it with the start of another
        request's. A piece that does not continue the known text is ignored."""
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

    def fold_spans(self, ends: SpanEnds) -> None:
        self._spans = ends
        self.moves += 1

    def link_age_s(self, now: float) -> float | None:
        """Seconds since the last message; None before the first one."""
        return None if self._heard_at is None else now - self._heard_at

    @property
    def message_rate(self) -> float:
        """Messages a second, over the last seconds."""
        return self._messages.rate

    def incarnation(self, name: str) -> int | None:
        """The incarnation in the last heartbeat of process `name`; None if none arrived."""
        pulse = self._pulses.get(name)
        return pulse.beat.incarnation if pulse and pulse.beat else None

    def drain_events(self) -> list[Event]:
        """Events received since the last call, without those in snapshots."""
        fresh, self._fresh = self._fresh, []
        return fresh

    # -- output

    def board(self, now: float) -> Board:
        """The pipeline at `now`."""
        self._messages.add(now, self.taken)
        ready = self.is_alive("router", now)
        adapters, costliest = self._adapter_rows()
        rates, latest = self._rates, self._latest
        plots = self._hour if self.shows_hour else self._minute
        return Board(
            now=now,
            run=self._run,
            link_age_s=self.link_age_s(now),
            version=self._version,
            started_at=self._started_at,
            table=latest.processes,
            processes=self._process_rows(now),
            server=latest.server,
            router=latest.router,
            workers=tuple(latest.workers[rank] for rank in sorted(latest.workers)),
            requests=tuple(
                RequestRow(view, now - view.arrived_at, self._request_tokens[view.request_id].rate)
                for view in (latest.batch.requests if latest.batch else ())
            ),
            adapters=adapters,
            costliest=costliest,
            adapter_speed=self._adapter_total.track,
            adapter_marks=self._adapter_history.of_all,
            base_model=latest.adapters.base_model if latest.adapters else "",
            decode_rate=rates["decode"].rate if ready else 0.0,
            is_measured=rates["decode"].is_known,
            prefill_rate=rates["prefill"].rate if ready else 0.0,
            request_rate=rates["requests"].rate if ready else 0.0,
            step_rate=rates["steps"].rate if ready else 0.0,
            decode=plots.decode.track,
            prefill=plots.prefill.track,
            running=plots.running.track,
            waiting=plots.waiting.track,
            steps=self._steps.all,
            parts={part: plots.parts[part].track for part in PARTS},
            read_rate=plots.read_rate.track,
            lora_overhead=plots.lora_overhead.track,
            first_token=plots.first_token.track,
            inter_token_gap=plots.inter_token.track,
            limits=plots.limits.track,
            sync_points=self._sync_points.all,
            ttft=self._ttft.counts(now),
            inter_token=self._inter_token.counts(now),
            progress=tuple(latest.progress.values()),
            events=self._events.all,
            logs=self._logs.all,
            adapter_colors=dict(self._adapter_colors.by_name),
            pool=latest.pool,
            orders=dict(self._orders),
            opened=self._opened,
            spans=self._spans,
            verifications=dict(self._verifications),
            disk_free_bytes=self.disk_free_bytes,
            is_start_given=self.is_start_given,
            playback=self.playback() if self.playback else None,
        )

    # -- one method per kind of message

    def _pulse(self, name: str) -> Pulse:
        return self._pulses.setdefault(name, Pulse())

    def _hear_of_the_ring(self, started_at: float | None) -> None:
        """Forgets the pipeline before this one, unless a new supervisor has adopted its processes:
        then `started_at`, the start of the pipeline, is the same."""
        if self._has_new_supervisor:
            self._has_new_supervisor = False
            if not started_at or started_at != self._started_at:
                self._logs.replace(())
                self._forget_the_ring()
        self._started_at = started_at or self._started_at

    def _forget_the_ring(self) -> None:
        """Forgets what processes of the pipeline before this one have said; plots keep it."""
        self._pulses = {name: p for name, p in self._pulses.items() if name == SUPERVISOR}
        before, self._latest = self._latest, LatestTelemetry()
        self._latest.processes, self._latest.progress = before.processes, before.progress
        self._steps.replace(())
        self._sync_points.replace(())
        self._step_number = 0
        self._ttft.clear()
        self._inter_token.clear()

    def is_alive(self, name: str, now: float) -> bool:
        """Whether the last heartbeat of process `name` is recent."""
        pulse = self._pulses.get(name)
        return pulse is not None and pulse.beat is not None and now - pulse.heard_at < GONE_SECONDS

    def _fold_heartbeat(self, beat: Heartbeat, heard_at: float) -> bool:
        """Returns whether the process's state or pid has changed."""
        pulse = self._pulse(beat.name)
        before = pulse.beat
        if before and before.incarnation != beat.incarnation and beat.name == "router":
            # The router was restarted; it will report the requests it has taken over.
            self._latest.batch, self._latest.pool, self._request_tokens = None, None, {}
        pulse.fold_heartbeat(beat, heard_at)
        if beat.name == SUPERVISOR:
            if self.supervisor and self.supervisor[0] != beat.incarnation:
                self._has_new_supervisor = self._are_logs_old = True
                self._log_number = -1  # another supervisor numbers its lines from 1
            self.supervisor = (beat.incarnation, heard_at)
        return before is None or _shown(before) != _shown(beat)

    def _drop_what_is_gone(self, table: ProcessTable) -> None:
        """Drops the bars of processes that have ended, and the requests that ended with a
        router."""
        latest = self._latest
        for view in table.processes:
            if view.state in GONE:
                latest.drop_progress(view.name)
            if view.name == "router" and view.state in GONE and latest.router:
                latest.batch, self._request_tokens = None, {}
                latest.router = msgspec.structs.replace(latest.router, running=0, waiting=0)

    def _plot_router(self, before: RouterStats | None, stats: RouterStats) -> None:
        self._rates["decode"].add(stats.at, stats.decode_tokens)
        self._rates["prefill"].add(stats.at, stats.prefill_tokens)
        self._rates["steps"].add(stats.at, stats.steps)
        for plots in (self._minute, self._hour):
            plots.fold_router(stats, before)

    def _count_server(self, stats: ServerStats) -> None:
        self._rates["requests"].add(stats.at, stats.requests)
        self._ttft.add(stats.at, stats.ttft)
        self._inter_token.add(stats.at, stats.inter_token)
        for plots in (self._minute, self._hour):
            plots.fold_server(stats)

    def _count_adapters(self, table: AdapterTable) -> None:
        for view in (table.base, *table.adapters):
            name = "" if view is table.base else view.name
            # The table arrives every two seconds: a shorter window would hold one sample.
            counter = self._adapter_tokens.setdefault(name, Counter(window_s=5.0))
            counter.add(table.at, view.output_tokens)
            series = self._adapter_series.setdefault(name, Series(bucket_s=2.0, length=600))
            series.add(table.at, counter.rate)
        names = {"", *(view.name for view in table.adapters)}
        if len(self._adapter_tokens) > len(names) + UNLOADED_KEPT:
            self._adapter_tokens = {n: self._adapter_tokens[n] for n in names}
            self._adapter_series = {n: self._adapter_series[n] for n in names}
            self._verifications = {n: v for n, v in self._verifications.items() if n in names}
        self._adapter_total.add(table.at, sum(self._adapter_tokens[name].rate for name in names))
        self._adapter_colors.give([view.name for view in table.adapters])
        self._adapter_history.fold_table(table)
        self._adapters = None

    def _fold_batch(self, batch: BatchView) -> None:
        before, self._request_tokens = self._request_tokens, {}
        for view in batch.requests:
            counter = before.get(view.request_id) or Counter(window_s=2.0)
            counter.add(batch.at, view.num_output)
            self._request_tokens[view.request_id] = counter

    def _fold_step(self, step: Step) -> None:
        if step.rank != 0:  # the ranks work in lockstep, so rank 0 is enough
            return
        if 0 < self._step_number < step.step:  # a restarted router counts from 1 again
            self.missed_steps += step.step - self._step_number - 1
        self._step_number = step.step
        self._steps.add(step)
        for plots in (self._minute, self._hour):
            plots.fold_step(step)

    def _merge_steps(self, steps: tuple[Step, ...]) -> None:
        """Merges a snapshot's steps with those received since. Its moments plot them."""
        by_time = {step.at: step for step in (*steps, *self._steps.all)}
        self._steps.replace(tuple(by_time[at] for at in sorted(by_time)))
        if steps and not self._step_number:
            self._step_number = steps[-1].step

    def _fold_logs(self, lines: tuple[LogLine, ...]) -> None:
        fresh = tuple(line for line in lines if line.number > self._log_number)
        if fresh:
            if self._log_number >= 0:
                self.missed_lines += fresh[0].number - self._log_number - 1
            self._log_number = fresh[-1].number
            self._logs.extend(tuple(self._shared(line) for line in fresh))

    def _shared(self, line: LogLine) -> LogLine:
        """The line with its names interned: 5 000 copies of a few strings take half a megabyte."""
        source, level = sys.intern(line.source), sys.intern(line.level)
        return LogLine(line.number, line.at, source, level, line.text)

    def _merge_logs(self, lines: tuple[LogLine, ...]) -> None:
        """Merges a snapshot's lines with those received since, by number."""
        if self._are_logs_old:
            self._are_logs_old = False
            self._logs.replace(())
        numbered = {line.number: line for line in (*lines, *self._logs.all)}
        if numbered:
            self._logs.replace(tuple(numbered[number] for number in sorted(numbered)))
            self._log_number = max(numbered)

    def _adapter_rows(self) -> tuple[tuple[AdapterRow, ...], tuple[AdapterRow, ...]]:
        """The base and the adapters in the router's order, and the costliest first."""
        table = self._latest.adapters
        if self._adapters is not None or table is None:
            return self._adapters or ((), ())
        shares = cost_shares(table)
        differs_at = units.distinct_from(shares)
        views = [
            ("", table.base),
            *((view.name, view) for view in table.adapters),
        ]
        marks = self._adapter_history.marks
        rows = tuple(
            AdapterRow(
                view,
                name=name or table.base_model,
                is_base=not name,
                tokens_s=self._adapter_tokens[name].rate,
                is_measured=self._adapter_tokens[name].is_known,
                speed=self._adapter_series[name].track,
                color=self._adapter_colors.by_name.get(name, "base"),
                costs=shares[name],
                differs_at=differs_at[name],
                marks=marks.get(name, ()),
            )
            for name, view in views
        )
        self._adapters = rows, tuple(sorted(rows, key=lambda row: row.costs.rank))
        return self._adapters

    def _process_rows(self, now: float) -> tuple[ProcessRow, ...]:
        table = self._latest.processes
        views = {view.name: view for view in table.processes} if table else {}
        names = dict.fromkeys((SUPERVISOR, *views, *self._pulses))
        if not views and not self._pulses:
            return ()
        rows = tuple(self._pulse(name).row(name, views.get(name), now) for name in names)
        if table is not None and table.supervisor_restarts:
            supervisor = msgspec.structs.replace(rows[0], restarts=table.supervisor_restarts)
            rows = (supervisor, *rows[1:])
        is_stopping = table is not None and table.state in (
            ProcessState.STOPPING,
            ProcessState.STOPPED,
        )
        if is_stopping and rows[0].is_stale:  # the supervisor, which ends last
            return tuple(_ended(row) if row.is_stale else row for row in rows)
        return rows


def _ended(silent: ProcessRow) -> ProcessRow:
    """A process of a pipeline that was asked to stop and has: it is not silent, it has ended."""
    return msgspec.structs.replace(
        silent,
        state=ProcessState.STOPPED,
        pid=0,
        cpu_fraction=0.0,
        rss_bytes=0,
        loop_lag_ms=0.0,
        hops=(),
    )


def _shown(beat: Heartbeat) -> tuple[ProcessState, int, bool]:
    """What of a heartbeat is drawn as soon as it changes."""
    return beat.state, beat.pid, beat.is_recording


def _is_same_pool(new: PoolMap, old: PoolMap) -> bool:
    return new.pages == old.pages and new.owners == old.owners
