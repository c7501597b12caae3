"""`DemoScenario`: the scenario of `--mock`: the pipeline starts, requests arrive in waves and wait
for various reasons, adapters are loaded and unloaded, now and then a process falls and is
restarted. The same seed and clock make the same messages.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ...pipeline.messages import (
    COST_SECONDS,
    LATENCY_BUCKETS_MS,
    WAITS_KEPT,
    AdapterState,
    AdapterView,
    BatchView,
    Event,
    LoadAdapter,
    ProcessState,
    RequestView,
    Step,
    Telemetry,
)
from ...pipeline.runtime.percentile import percentile
from .scenario import BASE_MODEL, RING, Scenario, pages_of

Sent = tuple[str, Telemetry]
"""The process that sends a message, and the message."""

MAX_RUNNING = 20
NUM_PAGES = 1060
CHUNK_TOKENS = 256
WAVE_SECONDS = 80.0
PLACE_SECONDS = 0.7
"""Time to copy an adapter from the host into pages."""
DRAIN_SECONDS = 3.0
RESIDENT = 7
"""Most adapters with pages at a time; the others are on the host."""


class ScenarioStage(NamedTuple):
    """A progress bar during the start."""

    source: str
    stage: str
    label: str
    total: float
    unit: str
    begins_s: float
    takes_s: float


START = (
    ScenarioStage("fetch", "fetch", BASE_MODEL, 98_362_432, "B", 0.2, 1.8),
    ScenarioStage("worker-0", "weights", "tensors", 272, "tensor", 2.4, 3.6),
    ScenarioStage("worker-0", "warm-up", "batch sizes", 6, "size", 6.0, 2.0),
    ScenarioStage("worker-0", "adapters", "adapters", 6, "adapter", 8.0, 1.0),
)
LOADED = ("support-fr", "support-es", "contracts", "triage", "sql-v2", "minutes")
"""Adapters that the simulated operator loads, one after the other."""
FALLS = (
    ("detokenizer", "killed by SIGSEGV"),
    ("worker-0", "killed by SIGKILL"),
    ("server", "exit status 1"),
)


RESTART_S = {"worker-0": 4.0}
"""Seconds that the restart of a process takes, if it is not short."""


class AdapterWork:
    """What one adapter has cost in the demo."""

    def __init__(self) -> None:
        self.placements, self.evictions = 1, 0
        self.device_us = 0.0
        self.seconds: Counter[int] = Counter()
        """Device time by second, microseconds."""
        self.tokens: Counter[int] = Counter()
        """Tokens by second."""
        self.waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self.first_tokens: deque[float] = deque(maxlen=WAITS_KEPT)
        """Milliseconds from arrival, of each request."""

    def pay(self, at: float, device_us: float) -> None:
        self.device_us += device_us
        self.seconds[int(at)] += round(device_us)

    def costs(self, now: float) -> dict[str, Any]:
        """The fields of an `AdapterView`."""
        first = int(now - COST_SECONDS)
        for counts in (self.seconds, self.tokens):
            for second in [second for second in counts if second < first]:
                del counts[second]
        first_tokens, waits = sorted(self.first_tokens), sorted(self.waits)
        return {
            "device_us": round(self.device_us),
            "recent_device_us": self.seconds.total(),
            "recent_tokens": self.tokens.total(),
            "ttft_p50_ms": percentile(first_tokens, 0.5),
            "ttft_p99_ms": percentile(first_tokens, 0.99),
            "wait_p50_ms": percentile(waits, 0.5),
            "wait_p99_ms": percentile(waits, 0.99),
            "placements": self.placements,
            "evictions": self.evictions,
        }


class DemoScenario(Scenario):
    """The scenario of the demo. `boots=False` leaves out the start."""

    num_pages = NUM_PAGES

    def __init__(
        self,
        seed: int = 7,
        *,
        start: float,
        boots: bool = True,
        url: str = "http://127.0.0.1:8000",
    ) -> None:
        self._bars = list(START)
        self._boots = boots
        self._owed = 0.0
        self._states_of: dict[str, tuple[AdapterState, str]] = {}
        self._used: dict[str, float] = {}
        self._till: list[tuple[float, str, AdapterState]] = []
        self._loads = 0
        self._work: dict[str | None, AdapterWork] = {}
        self._next_load, self._next_fall = start + 35.0, start + 95.0
        super().__init__(
            "loading", adapters=6, logs_per_second=6.0, seed=seed, start=start, url=url
        )
        self._due["script"] = start
        self._merged = ""

    # -- events without orders

    def _open(self, rows: int) -> Iterator[Sent]:
        self._born = self._start
        self._since = dict.fromkeys(RING, self._start)
        self._started = dict.fromkeys(RING, self._start)
        self._steps = self._decoded = self._filled = self._served = 0
        self._tokens = {name: [0, 0, 0] for name in self._tokens}
        for number, name in enumerate(self._adapters):
            state = AdapterState.GPU if number < RESIDENT else AdapterState.HOST
            self._states_of[name] = (state, "")
        if not self._boots:
            self._bars = []
            yield from self._become_ready(self._start)
            return
        self._fetch = ProcessState.STARTING
        self._set_all(ProcessState.PENDING)
        yield "supervisor", Event(self._start, "info", "supervisor", "started fetch, pid 4243")

    @property
    def placed(self) -> tuple[str, ...]:
        return tuple(name for name in self._adapters if self._state_of(name)[0] is AdapterState.GPU)

    def _state_of(self, name: str) -> tuple[AdapterState, str]:
        return self._states_of.get(name, (AdapterState.GPU, ""))

    def _adapter_view(self, name: str | None, at: float) -> AdapterView:
        view = super()._adapter_view(name, at)
        if name is None:
            return view
        state, reason = self._state_of(name)
        pages = pages_of(name) if state in (AdapterState.GPU, AdapterState.DRAINING) else 0
        return msgspec.structs.replace(view, state=state, reason=reason, pages=pages)

    def _costs(self, name: str | None, tokens: int) -> dict[str, Any]:
        return self._work_of(name).costs(self._now)

    def _work_of(self, name: str | None) -> AdapterWork:
        return self._work.setdefault(name, AdapterWork())

    def _load(self, order: LoadAdapter) -> None:
        self._states_of[order.name] = (AdapterState.HOST, "")
        super()._load(order)
        if len(self.placed) < RESIDENT:
            self._states_of[order.name] = (AdapterState.GPU, "")

    def _tell_script(self, at: float) -> Iterator[Sent]:
        self._due["script"] = at + 0.2
        if self._bars:
            yield from self._boot(at)
        if self.kind == "loading" or self._stopping:
            return
        while self._till and self._till[0][0] <= at:
            _, name, state = self._till.pop(0)
            yield from self._move(name, state, at)
        if at >= self._next_load:
            self._next_load = at + 30.0 + 20.0 * self._random.random()
            yield from self._bring_another(at)
        if at >= self._next_fall:
            self._next_fall = at + 150.0 + 60.0 * self._random.random()
            self._fall()

    # -- the start

    def _boot(self, at: float) -> Iterator[Sent]:
        elapsed = at - self._start
        if elapsed >= START[1].begins_s - 0.3 and self._fetch is not ProcessState.DONE:
            self._fetch = ProcessState.DONE
            self._set_all(ProcessState.STARTING, "waits for worker-0")
            self._set("worker-0", ProcessState.STARTING, "reading weights")
            yield "supervisor", Event(at, "info", "supervisor", "started worker-0, pid 4301")
        for bar in list(self._bars):
            share = (elapsed - bar.begins_s) / bar.takes_s
            if share < 0:
                break
            current = float(int(bar.total * min(1.0, share**1.3)))
            yield (
                bar.source,
                self._bar(
                    *(bar.source, bar.stage, bar.label, current, bar.total, bar.unit),
                    min(bar.takes_s, elapsed - bar.begins_s),
                ),
            )
            if share >= 1:
                self._bars.remove(bar)
        if not self._bars:
            yield from self._become_ready(at)

    def _become_ready(self, at: float) -> Iterator[Sent]:
        self.kind = "busy"
        self._set_all(ProcessState.READY)
        yield "supervisor", Event(at, "info", "supervisor", "the pipeline is ready")
        yield from self._tell_table(at)

    # -- adapters

    def _bring_another(self, at: float) -> Iterator[Sent]:
        """The simulated operator loads the next adapter of `LOADED`, or unloads it if it is loaded
        already."""
        name = LOADED[self._loads % len(LOADED)]
        if name in self._adapters:
            self._states_of[name] = (AdapterState.DRAINING, "unloaded by an operator")
            self._till.append((at + DRAIN_SECONDS, name, AdapterState.GONE))
            yield "router", Event(at, "info", "router", f"adapter {name} unloading")
        else:
            self._load(LoadAdapter(order="", reply_to="", name=name, path=f"adapters/{name}"))
            self._states_of[name] = (AdapterState.FETCHING, "")
            for after, state in (
                (1.2, AdapterState.VALIDATING),
                (1.8, AdapterState.HOST),
                (2.4, AdapterState.LOADING),
                (2.4 + PLACE_SECONDS, AdapterState.GPU),
            ):
                self._till.append((at + after, name, state))
        self._loads += 1
        self._till.sort(key=lambda due: due[0])
        yield from self._tell_table(at)

    def _move(self, name: str, state: AdapterState, at: float) -> Iterator[Sent]:
        if name not in self._adapters:
            return
        self._adapter_since[name] = at
        if state is AdapterState.GONE:
            self._adapters = tuple(kept for kept in self._adapters if kept != name)
            self._requests = [view for view in self._requests if view.adapter != name]
            yield "router", Event(at, "info", "router", f"adapter {name} unloaded")
        else:
            if state is AdapterState.GPU:
                yield from self._evict_down_to(RESIDENT - 1, at, name)
                if len(self.placed) >= RESIDENT:  # all are in use: it stays on the host
                    state = AdapterState.HOST
            self._states_of[name] = (state, "")
            if state is AdapterState.VALIDATING:
                yield "worker-0", self._bar("worker-0", "adapter", name, 14, 14, "tensor", 0.6)
            if state is AdapterState.GPU:
                self._work_of(name).placements += 1
                yield "router", Event(at, "info", "router", f"adapter {name} on device")
        yield from self._tell_table(at)

    def _evict_down_to(self, most: int, at: float, winner: str) -> Iterator[Sent]:
        """Moves the least recently used adapters to the host; those in use or pinned stay."""
        busy = {view.adapter for view in self._requests if view.phase != "waiting"}
        idle = [name for name in self.placed if name not in busy | self._pinned]
        idle.sort(key=lambda name: self._used.get(name, 0.0))
        for name in idle[: max(0, len(self.placed) - most)]:
            reason = f"evicted for adapter {winner}"
            self._states_of[name] = (AdapterState.HOST, reason)
            self._adapter_since[name] = at
            self._work_of(name).evictions += 1
            text = f"adapter {name} is {reason}: {pages_of(name)} pages"
            yield "router", Event(at, "info", "router", text)

    def _want(self, name: str, at: float) -> bool:
        """Whether a request may run with an adapter; one on the host starts loading."""
        self._used[name] = at
        state = self._state_of(name)[0]
        if state is AdapterState.HOST and not any(due[1] == name for due in self._till):
            self._states_of[name] = (AdapterState.LOADING, "")
            self._till.append((at + PLACE_SECONDS, name, AdapterState.GPU))
            self._till.sort(key=lambda due: due[0])
        return state is AdapterState.GPU

    # -- falls

    def _fall(self) -> None:
        name, why = FALLS[self._random.randrange(len(FALLS))]
        if not self._changes:
            self.fall(name, why, RESTART_S.get(name, 0.8))

    def _take_back(self, name: str) -> None:
        """Running requests are computed again."""
        if name == "worker-0":
            self._requests = [
                view
                if view.phase == "waiting"
                else msgspec.structs.replace(
                    view, phase="waiting", reason="queued", num_computed=0, pages=0
                )
                for view in self._requests
            ]

    # -- requests

    def _tell_step(self, at: float) -> Iterator[Sent]:
        can_step = self._states["worker-0"] is ProcessState.READY
        if can_step and any(view.phase != "waiting" for view in self._requests):
            for sent in super()._tell_step(at):
                if isinstance(sent[1], Step):
                    self._pay(sent[1], at)
                yield sent
        self._due["step"] = at + self._step_s

    def _pay(self, step: Step, at: float) -> None:
        """Divides a step's device time among the running requests."""
        running = [view.adapter for view in self._requests if view.phase != "waiting"]
        for adapter in running:
            self._work_of(adapter).pay(at, step.busy_us / len(running))

    def _tell_view(self, at: float) -> Iterator[Sent]:
        period = 1.0 / self._rate
        self._due["view"] = at + period
        if self.kind != "busy":
            return
        self._arrive(at, period)
        if self._states["worker-0"] is ProcessState.READY:
            self._compute(at, round(period / self._step_s))
        yield "router", BatchView(at, tuple(self._requests))

    def _arrive(self, at: float, period: float) -> None:
        """Adds requests in waves; the base model gets the most."""
        if self._states["server"] is not ProcessState.READY or self._stopping:
            return
        wave = 0.5 + 0.5 * math.sin((at - self._start) / WAVE_SECONDS * 2 * math.pi - 1.0)
        self._owed += period * (0.3 + 4.6 * wave) * 2 * self._random.random()
        while self._owed >= 1.0 and len(self._requests) < 64:
            self._owed -= 1.0
            known = (None, *self._adapters)
            rank = int(len(known) ** self._random.random() * 1.2) - 1
            adapter = known[min(max(0, rank), len(known) - 1)]
            if adapter and self._state_of(adapter)[0] is AdapterState.DRAINING:
                continue
            self._served += 1
            self._tokens[adapter][0] += 1
            self._requests.append(
                RequestView(
                    request_id=f"chatcmpl-{self._random.getrandbits(48):012x}",
                    adapter=adapter,
                    phase="waiting",
                    reason="queued",
                    arrived_at=at,
                    first_token_at=None,
                    num_prompt=20 + self._random.randrange(600),
                    num_computed=0,
                    num_output=0,
                    max_tokens=64 + 64 * self._random.randrange(4),
                    pages=0,
                )
            )

    def _compute(self, at: float, steps: int) -> None:
        """Runs `steps` steps for the running requests. Waiting ones are admitted or get a reason,
        the oldest first."""
        kept: list[RequestView] = []
        running = sum(view.phase != "waiting" for view in self._requests)
        # Worst case: each request reaches its limit, and the largest adapters have pages.
        pages = sum(_most_pages(view) for view in self._requests if view.phase != "waiting")
        largest = sorted(map(pages_of, (*self._adapters, *LOADED)))[-RESIDENT:]
        budget, room = CHUNK_TOKENS, self.num_pages - sum(largest)
        blocked, place = "", 0
        for view in self._requests:
            if view.phase == "waiting":
                need, place = _most_pages(view), place + 1
                reason = blocked
                if not reason and view.adapter and not self._want(view.adapter, at):
                    reason = f"adapter {view.adapter} is loading"
                elif not reason and running >= MAX_RUNNING:
                    reason = f"batch is full: {MAX_RUNNING} requests run"
                    blocked = f"behind {view.request_id[-10:]}: the batch is full"
                elif not reason and pages + need > room:
                    why = f"needs up to {pages + need}, {room} usable"
                    reason = f"waits for KV pages of running requests: {why}"
                    blocked = f"behind {view.request_id[-10:]}, which waits for KV pages"
                if reason:
                    kept.append(msgspec.structs.replace(view, reason=reason, place=place))
                    continue
                place -= 1
                self._work_of(view.adapter).waits.append((at - view.arrived_at) * 1e3)
                running, pages = running + 1, pages + need
                view = msgspec.structs.replace(view, phase="prefill", reason="", place=0)
            if view.phase == "prefill":
                part = min(budget, view.num_prompt + view.num_output - view.num_computed)
                budget -= part
                computed = view.num_computed + part
                if computed < view.num_prompt + view.num_output or not part:
                    kept.append(self._sized(view, num_computed=computed))
                    continue
                first_at = view.first_token_at
                if first_at is None:
                    first_at = at
                    self._tokens[view.adapter][1] += view.num_prompt
                    waited = at - view.arrived_at + 0.05 + 0.06 * self._random.random()
                    self._count_first_token(waited)
                    work = self._work_of(view.adapter)
                    work.first_tokens.append(waited * 1e3)
                    work.tokens[int(at)] += view.num_prompt
                kept.append(
                    self._sized(
                        view, phase="decode", num_computed=computed, first_token_at=first_at
                    )
                )
                continue
            output = min(view.max_tokens, view.num_output + steps)
            self._tokens[view.adapter][2] += output - view.num_output
            self._work_of(view.adapter).tokens[int(at)] += output - view.num_output
            # Most answers end before their limit, some at it.
            if output < view.max_tokens and self._random.random() > 0.012:
                total = view.num_prompt + output
                kept.append(self._sized(view, num_output=output, num_computed=total))
        self._requests = kept

    def _sized(self, view: RequestView, **changes: object) -> RequestView:
        new: RequestView = msgspec.structs.replace(view, **changes)
        return msgspec.structs.replace(new, pages=new.num_computed // 16 + 1)

    def _count_first_token(self, seconds: float) -> None:
        self._ttft[bisect_left(LATENCY_BUCKETS_MS, seconds * 1e3)] += 1


def _most_pages(view: RequestView) -> int:
    return (view.num_prompt + view.max_tokens) // 16 + 1
