"""`findings`: applies the alert rules to a `Board`. Pure: no clock, no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from ...pipeline.messages import PROTOCOL, AdapterState, ProcessState
from ...pipeline.runtime.health import GONE_SECONDS
from ...pipeline.runtime.latest_telemetry import STEPS_KEPT
from ...pipeline.runtime.percentile import percentile
from ..text import units
from .board import SUPERVISOR, Board
from .log_reference import LogReference
from .signals import how

Severity = Literal["bad", "warn"]
LAG_MS = 250.0
RECENT_S = 60.0
"""Steps older than this count in no alert."""
SETTLING_S = 5.0
"""The lag of a loop counts from so many seconds after the process became READY."""
RESTARTED_S = 300.0
"""How long the alert on a crash lasts after it, for an operator who was away."""


class AlertLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds of alerts: `[alerts]` of the settings. 0 turns a rule off."""

    no_step_seconds: Annotated[
        float, Meta(ge=0, description="seconds without a step while requests run")
    ] = 10.0
    sync_wait_p99_ms: Annotated[
        float, Meta(ge=0, description="p99 of the host's wait for the device after a step, ms")
    ] = 1000.0
    ttft_p99_ms: Annotated[float, Meta(ge=0, description="TTFT p99 of the last minute, ms")] = (
        10_000.0
    )
    queue: Annotated[float, Meta(ge=0, description="requests in the queue")] = 64.0
    pool_fraction: Annotated[
        float, Meta(ge=0, le=1, description="share of the pool's pages in use")
    ] = 0.95
    disk_gib: Annotated[
        float, Meta(ge=0, description="GiB free on the disk of the run directory")
    ] = 1.0


class AlertFinding(NamedTuple):
    """One problem on a board, and the screen to open for it."""

    level: Severity
    text: str
    subject: str = ""
    """The process or adapter, if the rule is about one of several."""
    screen: str = ""
    filter: str = ""
    """Filter to set on that screen."""
    log_reference: LogReference | None = None
    """Its log line, if it has one; preferred to the screen, as it shows more."""
    rule: str = ""
    """The name of its rule, which `findings` enters."""
    past: str = ""
    """The text once it is over, if `text` is true only while it lasts: `died 7 s ago`."""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the alert from board to board."""
        return (self.rule, self.subject)


class Rule(NamedTuple):
    """A rule: the function that finds it, its meaning, and what an operator can do about it."""

    name: str
    limit: str
    """Its field of `AlertLimits`; "" if it has no threshold."""
    meaning: str
    remedy: str
    find: Callable[[Board, AlertLimits], Iterator[AlertFinding]]
    is_event: bool = False
    """Whether the pipeline publishes an event for it; then the alert shows no second notice."""


# --- processes ----------------------------------------------------------------------------------


def _fallen(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        name = process.name
        at = process.since if process.fell_at is None else process.fell_at
        log_reference = None if at is None else LogReference(name, at)
        if process.state is ProcessState.FAILED:
            text = f"{name} failed: {process.reason or 'see its log'}"
            yield AlertFinding("bad", text, name, "Processes", name, log_reference)
        elif process.is_fallen:
            text = "; ".join(filter(None, (board.recovery(process), board.standstill)))
            why = f" ({process.fall_reason})" if process.fall_reason else ""
            down_s = max(0.0, board.now - (board.now if at is None else at))
            past = f"{name} was down for {units.age(down_s)}{why}"
            yield AlertFinding("bad", text, name, "Logs", name, log_reference, past=past)


def _held(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        if process.held:
            lost = "no client can connect" if process.name == "server" else "requests are refused"
            text = f"{process.name} stopped by an operator: {lost}"
            yield AlertFinding("warn", text, process.name, "Processes", process.name)


def _silent(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        age_s = process.age_s or 0.0
        if process.name == SUPERVISOR and board.is_supervisor_awaited:
            continue
        if process.is_stale and process.state is not ProcessState.FAILED:
            text = f"{process.name} silent for {units.age(age_s)}"
            level: Severity = "bad" if age_s > GONE_SECONDS else "warn"
            past = f"{process.name} was silent for {units.age(age_s)}"
            yield AlertFinding(level, text, process.name, "Processes", process.name, past=past)


def _restarted(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        is_back = process.state is ProcessState.READY and not process.is_recovering
        fell_at = process.fell_at
        if is_back and fell_at is not None and board.now - fell_at < RESTARTED_S:
            ago = units.age(max(0.0, board.now - fell_at))
            times = f"; {process.falls} deaths" if process.falls > 1 else ""
            why = process.fall_reason or (how(process.exit_code) if process.exit_code else "")
            why = f" ({why})" if why else ""
            text = f"{process.name} died {ago} ago{why}, restarted{times}"
            name, log_reference = process.name, LogReference(process.name, fell_at)
            past = f"{name} died{why}, restarted{times}"
            yield AlertFinding("warn", text, name, "Logs", name, log_reference, past=past)


def _late(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        is_settled = process.since is None or board.now - process.since > SETTLING_S
        if process.loop_lag_ms > LAG_MS and is_settled and not process.is_stale:
            text = f"{process.name} loop lag is {units.milliseconds(process.loop_lag_ms)}"
            yield AlertFinding("warn", text, process.name, "Processes", process.name)


def _refused(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        if refused := sum(hop.refused for hop in process.hops):
            text = f"{process.name} refused {refused} frames"
            yield AlertFinding("warn", text, process.name, "Logs", process.name)


def _protocol(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for process in board.processes:
        if process.protocol not in (None, PROTOCOL):
            text = f"{process.name} speaks protocol {process.protocol}, this console {PROTOCOL}"
            yield AlertFinding("bad", text, process.name, "Processes", process.name)


# --- work ---------------------------------------------------------------------------------------


def _no_step(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    router, worker = board.router, board.process("worker-0")
    if router is None or not router.running or worker is None:
        return
    if worker.state is not ProcessState.READY or not board.steps:
        return  # a worker that is down has an alert of its own
    runs = [row.view.admitted_at or 0.0 for row in board.requests if row.view.phase != "waiting"]
    still = board.now - max(board.steps[-1].at, worker.since or 0.0, min(runs, default=0.0))
    if still > limits.no_step_seconds:
        number = units.count(router.running)
        text = f"no step for {units.duration(still)} while {number} requests run"
        past = f"no step for {units.duration(still)} while {number} requests ran"
        yield AlertFinding("bad", text, screen="Latency", past=past)


def _sync_wait(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    if any(worker.device == "cpu" for worker in board.workers):
        return  # the host waits for the step itself: no wait beside the work can be seen
    last = islice(reversed(board.steps), STEPS_KEPT)
    recent = takewhile(lambda step: board.now - step.at < RECENT_S, last)
    waits = sorted(step.sync_us for step in recent)
    p99 = percentile(waits, 0.99)
    if p99 is not None and p99 / 1e3 > limits.sync_wait_p99_ms:
        text = f"sync wait p99 is {units.milliseconds(p99 / 1e3)}"
        yield AlertFinding("warn", text, screen="Latency")


def _ttft(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    p99 = board.ttft_quantiles.p99
    if p99 is not None and p99 > limits.ttft_p99_ms:
        text = f"TTFT p99 is {units.milliseconds(p99)}"
        yield AlertFinding("warn", text, screen="Batch", filter="waiting|prefill")


def _queue(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    if board.router is not None and board.router.waiting > limits.queue:
        number = board.router.waiting
        text = f"{units.count_noun(number, 'request')} waiting"
        yield AlertFinding("warn", text, screen="Batch", filter="waiting")


def _adapter_failed(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    for row in board.adapters:
        if row.view.state is AdapterState.FAILED:
            text = f"adapter {row.name} failed: {row.view.reason or 'see the logs'}"
            log_reference = LogReference("router", row.view.since, f"adapter {row.name} failed")
            yield AlertFinding("bad", text, row.name, "Adapters", row.name, log_reference)


# --- room ---------------------------------------------------------------------------------------


def _pool(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    router = board.router
    if router is not None and router.pages_total:
        taken = (router.pages_kv + router.pages_adapters) / router.pages_total
        if taken > limits.pool_fraction:
            text = f"page pool {units.percent(taken)} in use"
            yield AlertFinding("warn", text, screen="Overview")


def _disk(board: Board, limits: AlertLimits) -> Iterator[AlertFinding]:
    left = board.disk_free_bytes
    if left is not None and left < limits.disk_gib * 2**30:
        text = f"{units.size(left)} free on the disk of {board.run}"
        yield AlertFinding("bad", text, screen="Logs")


RULES: tuple[Rule, ...] = (
    Rule(
        "process down",
        "",
        "A process of the ring died and is not READY again. The supervisor restarts it after 1, "
        "2, 4 … seconds; after five deaths in a minute it stops trying.",
        "Its last log lines are under Processes, all of them under Logs. r under Processes "
        "starts it.",
        _fallen,
        is_event=True,
    ),
    Rule(
        "process stopped",
        "",
        "An operator stopped a process of the ring. It was x under Processes or loraconsole stop; "
        "the supervisor does not restart it. Without it no request is answered.",
        "x or r under Processes starts it, and so does loraconsole start.",
        _held,
        is_event=True,
    ),
    Rule(
        "process silent",
        "",
        "No heartbeat from a process. Each sends two a second: this one is blocked or "
        "stopped, or the machine is overloaded.",
        "Look at its CPU: at 100 % it computes, at 0 % it hangs. Logs show what it did last; r "
        "under Processes restarts it.",
        _silent,
    ),
    Rule(
        "process restarted",
        "",
        "A process died and was restarted. Its running requests were recomputed, or ended with an "
        "error.",
        "Its log says why it died. If the worker ran out of memory, set a smaller "
        "--max-total-tokens.",
        _restarted,
        is_event=True,
    ),
    Rule(
        "loop lag high",
        "",
        f"The event loop of a process is more than {LAG_MS:.0f} ms late. Everything it passes on "
        "is late.",
        "Too many clients on the server, or other programs take the CPU: see CPU under Processes.",
        _late,
    ),
    Rule(
        "frames refused",
        "",
        "An inbox received messages of a wrong type. Another version or another program writes "
        "to this run directory.",
        "Stop that program, or give this pipeline a run directory of its own (--run).",
        _refused,
    ),
    Rule(
        "version mismatch",
        "",
        "The pipeline and this console are of different versions. Some values may be wrong.",
        "Stop it with loraconsole down and start it again.",
        _protocol,
    ),
    Rule(
        "no step",
        "no_step_seconds",
        "Requests are running, but no step completes. The device hangs, a kernel is being "
        "compiled, or ranks wait for each other.",
        "See the worker's log. If steps do not resume, restart worker-0; accepted streams "
        "continue.",
        _no_step,
    ),
    Rule(
        "sync wait high",
        "sync_wait_p99_ms",
        "The host waits too long for the device. The value is the p99 over the last "
        "steps of the last minute; it is not checked on a CPU.",
        "Latency shows the phase and the sync point. If steps hold long prompts, set a smaller "
        "--chunk-tokens.",
        _sync_wait,
    ),
    Rule(
        "TTFT high",
        "ttft_p99_ms",
        "The time to first token is above its limit. The value is the p99 over the last minute.",
        "Batch shows why each request waits: pages, prompt budget, a loading adapter, a cap.",
        _ttft,
    ),
    Rule(
        "long queue",
        "queue",
        "The queue is above its limit. Requests arrive faster than they are answered.",
        "Batch shows why. If most are for one adapter, another policy may share more fairly.",
        _queue,
    ),
    Rule(
        "adapter failed",
        "",
        "An adapter could not be loaded. Requests for it are refused with this reason.",
        "Repair its files and reload it (r under Adapters), or unload it.",
        _adapter_failed,
    ),
    Rule(
        "pool full",
        "pool_fraction",
        "Nearly all pages are in use. Requests wait for pages, or are preempted and recomputed.",
        "The page pool shows their owners. Unload adapters, or raise --max-total-tokens.",
        _pool,
    ),
    Rule(
        "disk low",
        "disk_gib",
        "The disk of the run directory is nearly full. Logs and spans are written there.",
        "Delete old run directories and models; loraconsole doctor shows the disks.",
        _disk,
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}


def findings(board: Board, limits: AlertLimits) -> tuple[AlertFinding, ...]:
    """The findings of all enabled rules on this board, worst first. A stopped pipeline has none:
    its last numbers are no news."""
    if board.is_stopped:
        return ()
    found = [
        finding._replace(rule=rule.name)
        for rule in RULES
        if not rule.limit or getattr(limits, rule.limit) > 0
        for finding in rule.find(board, limits)
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "bad"))
