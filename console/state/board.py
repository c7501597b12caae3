"""`Board`: an immutable snapshot of the whole pipeline, the only thing that panels draw.

The `Store` makes one per frame. Its fields are the ring's own messages; values computed from
several of them are cached properties, so a hidden panel costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from ...pipeline.runtime.health import LATE_SECONDS, is_late
from ...pipeline.runtime.percentile import percentile
from ...pipeline.runtime.step_statistics import PARTS, DecodeStatistics, part_us, step_us
from ..text import units
from .adapter_costs import CostShares
from .adapter_history import Mark
from .playback import PlaybackView
from .time_series import EMPTY_TRACK, Track, bucket_percentile

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
NO_SUPERVISOR = "NO SUPERVISOR"
"""`Condition.word` of a pipeline whose supervisor has ended or hangs."""
_WORDS = {
    ProcessState.PENDING: "STARTING",
    ProcessState.BACKOFF: "RECOVERING",
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
    def level(self) -> Level:
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
    marks: tuple[Mark, ...] = ()
    """What happened to it since this console is attached, oldest first."""

    @property
    def has_failed(self) -> bool:
        """Whether loading failed; requests for it are then refused."""
        return self.view.state is AdapterState.FAILED

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
    adapter_speed: Track = EMPTY_TRACK
    """Output tokens a second of the base and all adapters together, over time."""
    adapter_marks: tuple[Mark, ...] = ()
    """What happened to the adapters since this console is attached, oldest first, without hits."""
    base_model: str = ""
    decode_rate: float = 0.0
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

    # -- the machine as a whole

    @cached_property
    def condition(self) -> Condition:
        """The pipeline's state for the header; the word READY comes only from here."""
        supervisor = self.process(SUPERVISOR)
        if self.is_start_given:
            return Condition("STARTING", "warn", "waiting for the supervisor")
        if self.table is None or supervisor is None:
            if self.link_age_s is None or self.link_age_s > LATE_SECONDS:
                return Condition("CONNECTING", "warn", f"nothing answers in {self.run}")
            return Condition("ATTACHING", "warn", "asking the supervisor for what it knows")
        state = self.table.state
        if supervisor.age_s is not None and supervisor.age_s > LATE_SECONDS:
            if state in (ProcessState.STOPPED, ProcessState.STOPPING):
                return Condition(STOPPED, "dim")
            return Condition(
                NO_SUPERVISOR, "bad", f"not heard for {units.duration(supervisor.age_s)}"
            )
        word = _WORDS.get(state, state.name)
        stalled = [p.name for p in self.processes if p.is_stale]
        if state is ProcessState.READY:
            if stalled:
                return Condition("STALLED", "warn", ", ".join(stalled))
            return Condition(word, "good")
        if state is ProcessState.STOPPED and (held := [p.name for p in self.processes if p.held]):
            return Condition("INCOMPLETE", "warn", f"{', '.join(held)} stopped by an operator")
        ill = [
            f"{p.name}: {p.reason or p.state.value}"
            for p in self.processes
            if p.state in (ProcessState.FAILED, ProcessState.BACKOFF)
        ]
        return Condition(word, STATE_LEVELS[state], "; ".join(ill) or self._stage())

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
        for bar in reversed(self.stages):
            if not bar.done:
                share = f" {units.percent(bar.current / bar.total)}" if bar.total else ""
                return f"{bar.stage}{share}"
        return ""

    @cached_property
    def is_starting(self) -> bool:
        """Whether a start-up is in progress; the first screen then shows its stages."""
        return self.condition.word in ("STARTING", "RECOVERING", "FAILED") or (
            self.router is None and bool(self.stages)
        )

    def process(self, name: str) -> ProcessRow | None:
        return next((row for row in self.processes if row.name == name), None)

    # -- adapters

    @cached_property
    def costliest(self) -> tuple[AdapterRow, ...]:
        """The base and the adapters, the costliest first: by device time in the last minute, then
        since the start; without either in the router's order."""
        return tuple(sorted(self.adapters, key=lambda row: row.costs.rank))

    def color_of(self, adapter: str | None) -> str:
        """The style of an adapter's name; None is the base."""
        return "base" if adapter is None else self.adapter_colors.get(adapter, "text")

    def name_of(self, adapter: str | None) -> str:
        return "base" if adapter is None else adapter

    # -- latency

    @cached_property
    def ttft_quantiles(self) -> Quantiles:
        return Quantiles.of_buckets("first token", self.ttft)

    @cached_property
    def inter_token_quantiles(self) -> Quantiles:
        return Quantiles.of_buckets("inter-token", self.inter_token)

    @cached_property
    def sync_quantiles(self) -> tuple[Quantiles, ...]:
        """The host's waits for the device: after every step, and at each named sync point."""
        waits: dict[str, list[int]] = {"step": [step.sync_us for step in self.steps]}
        for point in self.sync_points:
            waits.setdefault(point.name, []).append(point.wait_us)
        return tuple(Quantiles.of_microseconds(name, values) for name, values in waits.items())

    @cached_property
    def phase_quantiles(self) -> tuple[Quantiles, ...]:
        """Durations of whole steps, by phase."""
        phases: dict[str, list[int]] = {"decode": [], "prefill": [], "mixed": []}
        for step in self.steps:
            phases.setdefault(step.phase, []).append(step_us(step))
        return tuple(Quantiles.of_microseconds(name, values) for name, values in phases.items())

    @cached_property
    def part_quantiles(self) -> Mapping[str, Quantiles]:
        """Durations of each part of a step, over all phases."""
        return {
            part: Quantiles.of_microseconds(part, (part_us(step, part) for step in self.steps))
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


def seconds_left(bar: Progress) -> float | None:
    """Estimated seconds left at the average rate so far; None if the total is unknown or nothing is
    done yet."""
    if bar.total is None or bar.current <= 0 or bar.done:
        return None
    return max(0.0, (bar.total - bar.current) * bar.elapsed_s / bar.current)
