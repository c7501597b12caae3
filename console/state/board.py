"""`Board`: an immutable snapshot of the whole pipeline, the only thing that panels draw.

The `Store` makes one per frame. Its fields are the ring's own messages; values computed from
several of them are cached properties, so a hidden panel costs nothing.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct

from ...pipeline.messages import (
    LATENCY_BUCKETS_MS,
    AdapterState,
    AdapterView,
    Event,
    LogLine,
    PoolMap,
    ProcessState,
    ProcessTable,
    Progress,
    RequestText,
    RequestView,
    RouterStats,
    ServerStats,
    SpanEnds,
    Step,
    SyncPoint,
    Verification,
    WorkerStats,
)
from ...pipeline.runtime.health import GONE_SECONDS, LATE_SECONDS, is_late
from ...pipeline.runtime.percentile import percentile
from ...pipeline.runtime.step_statistics import PARTS, DecodeStatistics, part_us, step_us
from ..text import units
from .adapter_costs import CostShares
from .adapter_history import Mark
from .playback import PlaybackView
from .time_series import EMPTY_TRACK, TallyTrack, Track, bucket_percentile

WINDOW_S = 60.0
"""Percentiles are of the last minute."""
SUPERVISOR = "supervisor"
MOCK = "mock"
"""The version that a mock pipeline reports."""

Level = Literal["good", "warn", "bad", "dim"]
HOST_PARTS = ("host", "launch", "sync")
DEVICE_PARTS = ("copy", "busy")
STATE_LEVELS: Mapping[ProcessState, Level] = {
    ProcessState.READY: "good",
    ProcessState.DONE: "good",
    ProcessState.STARTING: "warn",
    ProcessState.DRAINING: "warn",
    ProcessState.STOPPING: "warn",
    ProcessState.BACKOFF: "warn",
    ProcessState.FAILED: "bad",
    ProcessState.PENDING: "dim",
    ProcessState.STOPPED: "dim",
}
STOPPED = "STOPPED"
"""`Condition.word` of a pipeline that an operator has stopped."""
STALLED = "STALLED"
"""`Condition.word` while a process that should send heartbeats does not."""
RECOVERING = "RECOVERING"
"""`Condition.word` while a process that fell is not back."""
NO_SUPERVISOR = "NO SUPERVISOR"
"""`Condition.word` of a pipeline of which nothing is heard, the supervisor included."""
UNSUPERVISED = "UNSUPERVISED"
"""`Condition.word` of a pipeline that serves while its supervisor is silent."""
REVIVAL_SECONDS = 5.0
"""Silence of the supervisor alone that is not shown: the ring starts another within a second, on a
busy machine within three."""
_WORDS = {
    ProcessState.PENDING: "STARTING",
    ProcessState.BACKOFF: RECOVERING,
    ProcessState.DONE: STOPPED,
}


WHERE = {AdapterState.GPU: "on device", AdapterState.HOST: "in memory"}
"""Where an adapter's weights are, in words that are true on a CPU as well."""


class Condition(Struct, frozen=True):
    """The pipeline's state in a word, its severity, and the reason."""

    word: str
    level: Level
    detail: str = ""


class HopRow(Struct, frozen=True):
    """Traffic of one socket of a process. `peer` is the inbox it writes to, or its own name."""

    peer: str
    frames_s: float
    bytes_s: float
    frames: int
    refused: int


class ProcessRow(Struct, frozen=True):
    """One process, as reported by the supervisor and by its own heartbeats."""

    name: str
    state: ProcessState
    reason: str = ""
    pid: int = 0
    restarts: int = 0
    since: float | None = None
    """When it entered its current state."""
    started_at: float | None = None
    """When the process with this pid was started."""
    falls: int = 0
    """How often it has ended without being asked to."""
    fell_at: float | None = None
    fall_reason: str = ""
    """Why it last fell."""
    is_recovering: bool = False
    """Whether it fell and the pipeline has not been READY since."""
    exit_code: int | None = None
    retry_at: float | None = None
    held: bool = False
    """Whether an operator has stopped it; only an operator starts it again."""
    age_s: float | None = None
    """Seconds since its last heartbeat; None if none has arrived."""
    cpu_fraction: float = 0.0
    """Of one core, over the last seconds."""
    rss_bytes: int = 0
    loop_lag_ms: float = 0.0
    protocol: int | None = None
    hops: tuple[HopRow, ...] = ()
    is_recording: bool = False
    """Whether it records spans."""

    @property
    def is_stale(self) -> bool:
        """Whether expected heartbeats are missing."""
        return is_late(self.state, self.age_s)

    @property
    def is_up(self) -> bool:
        """Whether it does its work: READY or DRAINING, with recent heartbeats."""
        return self.state in (ProcessState.READY, ProcessState.DRAINING) and not self.is_stale

    @property
    def is_fallen(self) -> bool:
        """Whether its fall is not mended yet: it is down, starting again, or given up."""
        return self.is_recovering or self.state in (ProcessState.FAILED, ProcessState.BACKOFF)

    @property
    def word(self) -> str:
        """Its state in a word."""
        if self.is_stale:
            return "silent"
        is_again = self.state is ProcessState.STARTING and (self.is_recovering or self.restarts > 0)
        return "restarting" if is_again else self.state.value

    @property
    def level(self) -> Level:
        if self.is_recovering:
            return "bad"
        return "warn" if self.is_stale else STATE_LEVELS[self.state]

    def frames_to(self, peer: str) -> float:
        """Frames a second it writes to the inbox of `peer`."""
        return sum(hop.frames_s for hop in self.hops if hop.peer == peer)


class RequestRow(Struct, frozen=True):
    """One live request and its speed."""

    view: RequestView
    age_s: float
    tokens_s: float


class AdapterRow(Struct, frozen=True):
    """One adapter, or the base model, and its speed."""

    view: AdapterView
    name: str
    """Its name in requests; for the base, the model's name."""
    is_base: bool
    tokens_s: float
    speed: Track
    """Output tokens a second over time."""
    color: str
    """The style of its name; it never changes."""
    costs: CostShares = CostShares()
    differs_at: int = 0
    """The first letter of its name that distinguishes it from the other names."""
    marks: tuple[Mark, ...] = ()
    """What happened to it since this console is attached, oldest first."""
    is_measured: bool = True
    """Whether `tokens_s` was measured: not before the second table of a fresh console."""

    @property
    def has_failed(self) -> bool:
        """Whether loading failed; requests for it are then refused."""
        return self.view.state is AdapterState.FAILED

    @property
    def rate_text(self) -> str:
        """Its tokens a second; a dash until they are measured."""
        return units.rate(self.tokens_s) if self.is_measured else units.NOTHING

    @property
    def mark(self) -> str:
        """The mark before its name."""
        return "✗" if self.has_failed else "○" if self.is_base else "●"


class AdapterVerification(Struct, frozen=True):
    """The result of an adapter's last verification, and its time."""

    at: float
    verification: Verification


class Quantiles(Struct, frozen=True):
    """Percentiles in milliseconds; None if nothing was measured."""

    name: str
    count: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    most: float | None = None

    @classmethod
    def of_microseconds(cls, name: str, values: Iterable[int]) -> Quantiles:
        ordered = [value / 1e3 for value in sorted(values)]
        p50, p90, p99 = (percentile(ordered, q) for q in (0.5, 0.9, 0.99))
        return cls(name, len(ordered), p50, p90, p99, ordered[-1] if ordered else None)

    @classmethod
    def of_buckets(cls, name: str, counts: tuple[int, ...]) -> Quantiles:
        p50, p90, p99 = (bucket_percentile(LATENCY_BUCKETS_MS, counts, q) for q in (0.5, 0.9, 0.99))
        return cls(name, sum(counts), p50, p90, p99)


class Board(Struct, frozen=True, kw_only=True, dict=True):
    """Everything the console knows at `now`. Ages are seconds before `now`."""

    now: float
    run: str
    link_age_s: float | None = None
    """Seconds since the last message; None before the first one."""
    version: str = ""
    started_at: float | None = None
    table: ProcessTable | None = None
    processes: tuple[ProcessRow, ...] = ()
    """In start order, the supervisor first."""
    server: ServerStats | None = None
    router: RouterStats | None = None
    workers: tuple[WorkerStats, ...] = ()
    requests: tuple[RequestRow, ...] = ()
    adapters: tuple[AdapterRow, ...] = ()
    """The base first, then the adapters in the router's order."""
    costliest: tuple[AdapterRow, ...] = ()
    """The same, the costliest first: by device time in the last minute, then since the router
    started; without either in the router's order."""
    adapter_speed: Track = EMPTY_TRACK
    """Output tokens a second of the base and all adapters together, over time."""
    adapter_marks: tuple[Mark, ...] = ()
    """What happened to the adapters since this console is attached, oldest first, without hits."""
    base_model: str = ""
    decode_rate: float = 0.0
    is_measured: bool = True
    """Whether `decode_rate` was measured: not before the second report of the router."""
    prefill_rate: float = 0.0
    request_rate: float = 0.0
    step_rate: float = 0.0
    decode: Track = EMPTY_TRACK
    prefill: Track = EMPTY_TRACK
    running: Track = EMPTY_TRACK
    waiting: Track = EMPTY_TRACK
    steps: tuple[Step, ...] = ()
    parts: Mapping[str, Track] = {}
    read_rate: Track = EMPTY_TRACK
    """Bytes a second that decode steps read."""
    lora_overhead: Track = EMPTY_TRACK
    """Extra time of decode steps due to adapters, as a fraction: 0.4 is 40 % longer."""
    first_token: Track = EMPTY_TRACK
    """p50 as means and p99 as peaks, milliseconds, as in `inter_token_gap`."""
    inter_token_gap: Track = EMPTY_TRACK
    limits: TallyTrack = TallyTrack(EMPTY_TRACK.bucket_s)
    """Steps by what kept waiting requests out of them; kinds are `plot_history.LIMITS`."""
    sync_points: tuple[SyncPoint, ...] = ()
    ttft: tuple[int, ...] = ()
    inter_token: tuple[int, ...] = ()
    progress: tuple[Progress, ...] = ()
    events: tuple[Event, ...] = ()
    logs: tuple[LogLine, ...] = ()
    adapter_colors: Mapping[str, str] = {}
    pool: PoolMap | None = None
    orders: Mapping[str, str] = {}
    """This console's orders that are not answered yet, by the adapter's name: "verifying"."""
    opened: RequestText | None = None
    """The text so far of the request that is open on the screen."""
    spans: SpanEnds | None = None
    """The newest spans of the last recording, once the screen has asked for them."""
    verifications: Mapping[str, AdapterVerification] = {}
    """Results of verifications, by the adapter's name."""
    disk_free_bytes: int | None = None
    """On the disk of the run directory; None if that is on another machine."""
    is_start_given: bool = False
    """Whether this console has started the pipeline, and its supervisor has not answered yet."""
    playback: PlaybackView | None = None
    """Where a recording that is played stands; None for a pipeline. No process can be queried."""

    @property
    def decode_text(self) -> str:
        """Decoded tokens a second; a dash until they are measured."""
        return units.rate(self.decode_rate) if self.is_measured else units.NOTHING

    # -- the machine as a whole

    @cached_property
    def condition(self) -> Condition:
        """The pipeline's state for the header; the word READY comes only from here."""
        supervisor = self.process(SUPERVISOR)
        if self.is_start_given:
            return Condition("STARTING", "warn", "waiting for the supervisor")
        if self.table is None or supervisor is None:
            if self.link_age_s is None or self.link_age_s > LATE_SECONDS:
                return Condition("CONNECTING", "warn", f"no pipeline answers in {self.run}")
            return Condition("ATTACHING", "warn", "asking the supervisor for its state")
        state = self.table.state
        if supervisor.age_s is not None and supervisor.age_s > LATE_SECONDS:
            if state in (ProcessState.STOPPED, ProcessState.STOPPING):
                return Condition(STOPPED, "dim")
            if not self._is_ring_heard:
                silence = f"no heartbeat for {units.duration(supervisor.age_s)}"
                return Condition(NO_SUPERVISOR, "bad", silence)
            if supervisor.age_s > REVIVAL_SECONDS:
                silence = f"supervisor silent for {units.duration(supervisor.age_s)}"
                return Condition(UNSUPERVISED, "bad", f"{silence}: nothing is restarted")
        word = _WORDS.get(state, state.name)
        stalled = [p for p in self.processes if p.is_stale and p.name != SUPERVISOR]
        if state is ProcessState.READY:
            if stalled:
                is_gone = any((p.age_s or 0.0) > GONE_SECONDS for p in stalled)
                silent = (f"{p.name} silent for {units.age(p.age_s or 0.0)}" for p in stalled)
                return Condition(STALLED, "bad" if is_gone else "warn", ", ".join(silent))
            return Condition(word, "good")
        if state is ProcessState.STOPPED and (held := [p.name for p in self.processes if p.held]):
            return Condition("INCOMPLETE", "warn", f"{', '.join(held)} stopped by an operator")
        if state is ProcessState.FAILED:
            failed = [p for p in self.processes if p.state is ProcessState.FAILED]
            ill = "; ".join(f"{p.name}: {p.reason or p.state.value}" for p in failed)
            return Condition(word, "bad", ill)
        if state not in (ProcessState.STOPPING, ProcessState.STOPPED):
            if fallen := [p for p in self.processes if p.is_fallen]:
                return Condition(RECOVERING, "bad", self._recoveries(fallen))
            if self.table.down_since is not None:
                return Condition("RESTARTING", "warn", self._restarts(self.table.down_since))
        return Condition(word, STATE_LEVELS[state], self._stage())

    @property
    def _is_ring_heard(self) -> bool:
        """Whether a process other than the supervisor has sent a heartbeat lately."""
        ages = (row.age_s for row in self.processes if row.name != SUPERVISOR)
        return any(age_s is not None and age_s <= LATE_SECONDS for age_s in ages)

    @property
    def is_supervisor_awaited(self) -> bool:
        """Whether the supervisor alone is silent, for a time in which the ring starts another."""
        row = self.process(SUPERVISOR)
        age_s = (row.age_s if row else None) or 0.0
        return self._is_ring_heard and LATE_SECONDS < age_s <= REVIVAL_SECONDS

    def _recoveries(self, fallen: Sequence[ProcessRow]) -> str:
        """`24 requests wait 6 s for worker-0 (weights 41 %)`."""
        since = [p.fell_at for p in fallen if p.fell_at is not None]
        return self._wait(fallen, min(since, default=self.now))

    def _restarts(self, since: float) -> str:
        """The same for processes that are restarted by an order."""
        return self._wait(self._down_in_ring, since)

    @cached_property
    def _down_in_ring(self) -> Sequence[ProcessRow]:
        """The processes of the ring that do not do their work, in start order."""
        ring = (p for p in self.processes if p.name not in (SUPERVISOR, "fetch"))
        return [p for p in ring if not p.is_up]

    def _wait(self, down: Sequence[ProcessRow], since: float) -> str:
        age = units.age(max(0.0, self.now - since))
        names = ", ".join(f"{p.name} ({self.progress_of(p) or self.mending(p)})" for p in down)
        if not names:
            return f"down for {age}"
        return f"{self.standstill} {age} for {names}" if self.standstill else f"{names} for {age}"

    def recovery(self, process: ProcessRow) -> str:
        """`worker-0 died 6 s ago (killed by SIGKILL), restarting: weights 41 %`."""
        return f"{self.fall(process)}, {self.mending(process)}"

    def fall(self, process: ProcessRow) -> str:
        """`worker-0 died 6 s ago (killed by SIGKILL)`."""
        ago = ""
        if process.fell_at is not None:
            ago = f" {units.age(max(0.0, self.now - process.fell_at))} ago"
        why = process.fall_reason or process.reason
        return f"{process.name} died{ago}{f' ({why})' if why else ''}"

    def mending(self, process: ProcessRow) -> str:
        """What is done about a fall at present."""
        if process.retry_at is not None:
            return f"restarts in {self._seconds_to(process.retry_at)}"
        if process.state in (ProcessState.READY, ProcessState.DRAINING):
            waits = self._down_in_ring[:1]
            return f"is back, {waits[0].name} {self.mending(waits[0])}" if waits else "is back"
        return f"{process.word}: {self.progress_of(process)}".rstrip(": ")

    def progress_of(self, process: ProcessRow) -> str:
        """How far the start of a process is: `weights 41 %`; else what it does, if it says so."""
        if process.state is not ProcessState.STARTING:
            return ""
        bar = self._bar_of(process)
        return _progress(bar) if bar else process.reason

    def _seconds_to(self, at: float) -> str:
        """The time until `at` in whole seconds, so that it changes once a second: `1 s`."""
        return units.age(math.ceil(max(0.0, at - self.now)))

    def _bar_of(self, process: ProcessRow) -> Progress | None:
        """The present stage of the start of a process."""
        bars = (bar for bar in reversed(self.stages) if bar.source == process.name)
        return next((bar for bar in bars if not bar.done), None)

    @cached_property
    def standstill(self) -> str:
        """How many requests wait while the pipeline cannot compute: `12 requests wait`; "" if
        none, or if the router, which held them, is gone."""
        router = self.process("router")
        if self.router is None or router is None or router.is_fallen or not router.pid:
            return ""
        number = self.router.running + self.router.waiting
        if not number:
            return ""
        return f"{units.count(number)} requests wait" if number > 1 else "1 request waits"

    @cached_property
    def stall(self) -> str:
        """Why no live request makes progress: `worker-0 restarting, 41 %`; "" if they do,
        or if the whole pipeline is stopped."""
        if self.is_stopped:
            return ""
        for process in self.processes:
            if not process.name.startswith("worker-") and process.name != "router":
                continue
            if process.is_stale:
                return f"{process.name} silent for {units.age(process.age_s or 0.0)}"
            if process.held:
                return f"{process.name} stopped by an operator"
            if process.retry_at is not None:
                return f"{process.name} down, restarts in {self._seconds_to(process.retry_at)}"
            if not process.is_up and process.state is not ProcessState.STOPPED:
                bar = self._bar_of(process)
                share = units.percent(bar.current / bar.total) if bar and bar.total else ""
                what = f"{process.name} {process.word}"
                return f"{what}, {share}" if share else what
        return ""

    @property
    def has_worker_down(self) -> bool:
        """Whether a rank's process has ended and is not ready again; its weights are gone."""
        return any(row.is_fallen and row.name.startswith("worker-") for row in self.processes)

    @property
    def is_recording(self) -> bool:
        """Whether a process records spans, which slows it down a little."""
        return any(process.is_recording for process in self.processes)

    @property
    def is_stopped(self) -> bool:
        """Whether the whole pipeline was stopped, or is started and silent yet: nothing answers."""
        return self.condition.word == STOPPED or self.is_start_given

    @property
    def is_down(self) -> bool:
        """Whether no supervisor answers any more, so that the pipeline may be started again."""
        return self.condition.word in (STOPPED, NO_SUPERVISOR)

    @cached_property
    def stages(self) -> tuple[Progress, ...]:
        """Progress bars of the start-up; `verify` is not one, since it runs on a ready pipeline."""
        return tuple(bar for bar in self.progress if bar.stage != "verify")

    def _stage(self) -> str:
        """The current stage of the start-up and its progress: `weights 61 %`."""
        return next((_progress(bar) for bar in reversed(self.stages) if not bar.done), "")

    @cached_property
    def is_starting(self) -> bool:
        """Whether a first start is in progress; the first screen then shows only its stages."""
        if self.is_restarting:
            return False
        return self.condition.word in ("STARTING", RECOVERING, "FAILED") or (
            self.router is None and bool(self.stages)
        )

    @cached_property
    def is_restarting(self) -> bool:
        """Whether a pipeline that was READY is not now; its last figures are then still shown."""
        is_down = self.table is not None and self.table.down_since is not None
        return is_down and self.condition.word in (RECOVERING, "RESTARTING", "FAILED")

    @cached_property
    def process_states(self) -> tuple[tuple[str, ProcessState, bool], ...]:
        """Name, state and whether it is recovering, of each process: alerts on a death follow
        from these."""
        return tuple((p.name, p.state, p.is_recovering) for p in self.processes)

    def process(self, name: str) -> ProcessRow | None:
        return next((row for row in self.processes if row.name == name), None)

    # -- adapters

    @cached_property
    def fastest_adapter_s(self) -> float:
        """The most output tokens a second of an adapter or the base; 0 without any."""
        return max((row.tokens_s for row in self.adapters), default=0.0)

    def color_of(self, adapter: str | None) -> str:
        """The style of an adapter's name; None is the base."""
        return "base" if adapter is None else self.adapter_colors.get(adapter, "text")

    def name_of(self, adapter: str | None) -> str:
        return "base" if adapter is None else adapter

    def differs_at(self, adapter: str | None) -> int | None:
        """The first letter of an adapter's name that distinguishes it from the other names; None
        if the adapter is not known."""
        return None if adapter is None else self._differs_at.get(adapter)

    @cached_property
    def _differs_at(self) -> Mapping[str, int]:
        return {row.name: row.differs_at for row in self.adapters}

    # -- latency

    @cached_property
    def ttft_quantiles(self) -> Quantiles:
        return Quantiles.of_buckets("TTFT", self.ttft)

    @cached_property
    def inter_token_quantiles(self) -> Quantiles:
        return Quantiles.of_buckets("inter-token", self.inter_token)

    @cached_property
    def recent_steps(self) -> tuple[Step, ...]:
        """Steps of the last `WINDOW_S` seconds, which percentiles are of; oldest first."""
        first = bisect.bisect_left(self.steps, self.now - WINDOW_S, key=lambda step: step.at)
        return self.steps[first:]

    @property
    def idle_s(self) -> float:
        """Seconds since the last step; 0 without any."""
        return max(0.0, self.now - self.steps[-1].at) if self.steps else 0.0

    @cached_property
    def sync_quantiles(self) -> tuple[Quantiles, ...]:
        """The host's waits for the device: after every step, and at each named sync point."""
        waits: dict[str, list[int]] = {"step": [step.sync_us for step in self.recent_steps]}
        for point in self.sync_points:
            if self.now - point.at <= WINDOW_S:
                waits.setdefault(point.name, []).append(point.wait_us)
        return tuple(Quantiles.of_microseconds(name, values) for name, values in waits.items())

    @cached_property
    def phase_quantiles(self) -> tuple[Quantiles, ...]:
        """Durations of whole steps, by phase."""
        phases: dict[str, list[int]] = {"decode": [], "prefill": [], "mixed": []}
        for step in self.recent_steps:
            phases.setdefault(step.phase, []).append(step_us(step))
        return tuple(Quantiles.of_microseconds(name, values) for name, values in phases.items())

    @cached_property
    def part_quantiles(self) -> Mapping[str, Quantiles]:
        """Durations of each part of a step, over all phases."""
        return {
            part: Quantiles.of_microseconds(
                part, (part_us(step, part) for step in self.recent_steps)
            )
            for part in PARTS
        }

    @cached_property
    def decode_statistics(self) -> DecodeStatistics:
        """Bytes read by the last decode steps, their speed, and the cost of adapters."""
        return DecodeStatistics.of(self.steps)

    @property
    def copy_bytes_s(self) -> float | None:
        """Measured rate of a copy within the first worker's device memory, bytes a second."""
        return self.workers[0].copy_bytes_s or None if self.workers else None

    @property
    def read_share(self) -> float | None:
        """The share of `copy_bytes_s` that decode steps reach."""
        rate, best = self.decode_statistics.bytes_s, self.copy_bytes_s
        return rate / best if rate is not None and best else None

    @property
    def times_steps(self) -> bool:
        """Whether steps are timed; an operator may have turned that off."""
        return not self.workers or self.workers[0].times_steps


def _progress(bar: Progress) -> str:
    """`weights 41 %`."""
    share = f" {units.percent(bar.current / bar.total)}" if bar.total else ""
    return f"{bar.stage}{share}"


def seconds_left(bar: Progress) -> float | None:
    """Estimated seconds left at the average rate so far; None if the total is unknown or nothing is
    done yet."""
    if bar.total is None or bar.current <= 0 or bar.done:
        return None
    return max(0.0, (bar.total - bar.current) * bar.elapsed_s / bar.current)
