"""`Scenario`: the telemetry of a simulated pipeline, made from a seed and a clock, so that pictures
are reproducible. Knows messages, no socket; `server.py` sends them."""

from __future__ import annotations

import itertools
import math
import random
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from ...pipeline.messages import (
    LATENCY_BUCKETS_MS,
    AdapterPlan,
    AdapterReply,
    AdapterState,
    AdapterTable,
    AdapterView,
    AskText,
    BatchView,
    Comparison,
    Event,
    Heartbeat,
    LoadAdapter,
    LogLine,
    LogLines,
    MergeAdapter,
    PageOwner,
    PinAdapter,
    PlanAdapters,
    PoolMap,
    ProcessState,
    ProcessTable,
    ProcessView,
    Progress,
    ReloadAdapter,
    RequestText,
    RequestView,
    RouterStats,
    SchedulerSettings,
    ServerStats,
    SetScheduler,
    Snapshot,
    SocketStats,
    Step,
    StepLimit,
    SyncPoint,
    Telemetry,
    UnloadAdapter,
    Verification,
    VerifyAdapter,
    WorkerStats,
)
from ...pipeline.runtime.health import ring_state
from ...pipeline.runtime.latest_telemetry import LatestTelemetry
from ..state.board import MOCK

ScenarioKind = Literal["empty", "loading", "busy", "failed", "recovering"]
"""`recovering`: busy until the worker is killed, `FALLS_AFTER_S` after the start; its restart stays
at 41 % of the weights."""
FALLS_AFTER_S = 34.0
BACKOFF_S = 1.0
WEIGHTS = 272
"""Tensors of the weights."""
RING = ("worker-0", "detokenizer", "router", "server")
PAGES = 4096
BASE_MODEL = "SmolLM2-135M-Instruct"
ADAPTERS = ("pirate", "sql", "json", "haiku", "support-de", "support-en", "medical-notes", "legal")
PIDS = {"supervisor": 4242, "fetch": 4243, "worker-0": 4301, "detokenizer": 4302} | {
    "router": 4303,
    "server": 4304,
}
SILENT = (
    ProcessState.PENDING,
    ProcessState.BACKOFF,
    ProcessState.FAILED,
    ProcessState.STOPPED,
)
"""States of a process that does not run, and so sends no heartbeat."""
BLAMES = (
    "waits for KV pages of running requests: needs up to 172, 169 usable",
    "prompt budget is spent",
    "batch is full: 64 requests run",
    "adapter sql is loading",
)
LOGS = (
    ("worker-0", "INFO", "step {n} took 31.2 ms"),
    ("router", "INFO", "admitted request {n:08x} with 214 prompt tokens"),
    ("router", "INFO", "finished request {n:08x}: stop after 96 tokens"),
    ("worker-0", "INFO", "adapter pirate is warm"),
    ("detokenizer", "INFO", "swept 3 idle streams"),
    ("server", "INFO", "POST /v1/chat/completions 200 from 127.0.0.1:{n}"),
    ("supervisor", "INFO", "heartbeats {n}, none late"),
)
ODD_LOGS = {
    17: ("server", "WARNING", "the client of request {n:08x} left in mid-stream"),
    53: ("server", "ERROR", "refused request {n:08x}: 9 214 prompt tokens, 8 192 are the most"),
}
"""Log lines at every 17th and every 53rd line number."""
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
PAGES_A_RANK, BYTES_A_RANK = 4, 118_750


def rank_of(name: str) -> int:
    """The rank of an adapter, which determines its bytes and pages."""
    return (8, 16, 8, 32)[len(name) % 4]


def pages_of(name: str) -> int:
    return PAGES_A_RANK * rank_of(name)


def bytes_of(name: str) -> int:
    return BYTES_A_RANK * rank_of(name)


class Scenario:
    """The messages of a simulated pipeline. `advance(now)` returns the (process, message) pairs
    that are due."""

    num_pages = PAGES

    def __init__(
        self,
        kind: ScenarioKind = "busy",
        *,
        rows: int = 24,
        rate: float = 10.0,
        moving: float = 1.0,
        logs_per_second: float = 8.0,
        steps_per_second: float = 1.0 / 0.033,
        adapters: int = 4,
        seed: int = 7,
        start: float = 1_790_000_000.0,
        url: str = "http://127.0.0.1:8000",
    ) -> None:
        self.kind: ScenarioKind = "busy" if kind == "recovering" else kind
        self._falls_at = start + FALLS_AFTER_S if kind == "recovering" else None
        self.url = url
        self._random = random.Random(seed)
        self._rate, self._moving, self._logs_per_second = rate, moving, logs_per_second
        self._step_s = 1.0 / steps_per_second
        self._start = self._now = start
        self._born = start - 760.0
        self._fetch = ProcessState.DONE
        dues = ("beat", "view", "step", "table", "log", "pool")
        self._due = dict.fromkeys(dues, start)
        more = (f"tenant-{number:04}" for number in range(adapters - len(ADAPTERS)))
        self._adapters = (*ADAPTERS[:adapters], *more)
        self._scheduling = SchedulerSettings()
        self._pinned, self._merged = {"pirate"}, "sql"
        self._warnings = {"json": "its files are older than this base model"}
        self._generations = dict.fromkeys(self._adapters, 1)
        self._paths = {name: f"adapters/{name}" for name in self._adapters}
        self._adapter_since: dict[str, float] = {}
        self._trial: str | None = None
        self._holdings: dict[PageOwner, list[int]] = {}
        self._states = {name: ProcessState.READY for name in RING}
        self._reasons = dict.fromkeys(RING, "")
        self._since = dict.fromkeys(RING, start - 754.0)
        self._started = dict.fromkeys(RING, start - 758.0)
        self._restarts = dict.fromkeys(RING, 0)
        self._falls = dict.fromkeys(RING, 0)
        self._fell: dict[str, float] = {}
        self._fall_reasons: dict[str, str] = {}
        self._recovering: dict[str, float] = {}
        """The seconds that the restart of each process that fell takes."""
        self._down_since: float | None = None
        self._announced: list[tuple[str, Telemetry]] = []
        """Messages for the next heartbeat."""
        self.is_recording = False
        """Whether the processes of the ring record spans."""
        self._held: set[str] = set()
        self._incarnations = {name: 1 + number for number, name in enumerate(RING)}
        self._changes: list[tuple[float, str, ProcessState]] = []
        self._stopping = False
        self._requests: list[RequestView] = []
        self._served = 1204
        self._tokens: dict[str | None, list[int]] = {
            name: [80 * number, 9_400 * number, 41_000 * number]
            for number, name in enumerate(reversed((None, *self._adapters)), 1)
        }
        self._steps = 31_000
        self._decoded, self._filled = 412_000, 96_000
        self._ttft = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self._inter_token = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self._number = 0
        self._frames = 0
        self._latest = LatestTelemetry()
        self._events: list[Event] = []
        self._logs: list[LogLine] = []
        self._opening = list(self._open(rows))

    @property
    def is_over(self) -> bool:
        """Whether the pipeline was asked to stop and has stopped."""
        return self._stopping and not self._changes

    @property
    def placed(self) -> tuple[str, ...]:
        """Adapters that have pages; together these take at most half of the pool."""
        return self._adapters[: self.num_pages // (2 * PAGES_A_RANK * 32)]

    # -- orders

    def restart(self, name: str) -> None:
        if name in self._states:
            now = self._now
            self._held.discard(name)
            self._set(name, ProcessState.STOPPING)
            self._changes += [
                (now + 0.6, name, ProcessState.STARTING),
                (now + 1.6, name, ProcessState.READY),
            ]

    def fall(self, name: str, why: str, takes_s: float) -> None:
        """Ends a process as a signal or an error does; its restart takes `takes_s`, or for ever."""
        if name not in self._states or self._states[name] in SILENT:
            return
        now = self._now
        self._changes = [change for change in self._changes if change[1] != name]
        self._set(name, ProcessState.BACKOFF, why)
        self._falls[name] += 1
        self._fell[name], self._fall_reasons[name] = now, why
        self._recovering[name] = takes_s
        text = f"{name} died ({why}); restarting in {BACKOFF_S:.0f} s"
        self._number += 1
        said = LogLine(self._number, now, "supervisor", "ERROR", f"supervisor: {text}")
        self._announced.append(("supervisor", Event(now, "error", "supervisor", text)))
        self._announced.append(("supervisor", LogLines((said,))))
        self._changes.append((now + BACKOFF_S, name, ProcessState.STARTING))
        if takes_s < math.inf:
            self._changes.append((now + BACKOFF_S + takes_s, name, ProcessState.READY))
        self._changes.sort(key=lambda change: change[0])

    def hold(self, name: str) -> None:
        """Stops a process until it is started."""
        if name in self._states:
            self._held.add(name)
            self._recovering.pop(name, None)
            self._changes = [change for change in self._changes if change[1] != name]
            self._set(name, ProcessState.STOPPED, "stopped by an operator")

    def stop(self) -> None:
        self._stopping = True
        self._set_all(ProcessState.STOPPING)
        self._changes = [(self._now + 0.5, name, ProcessState.STOPPED) for name in RING]

    def drain(self, wanted: bool) -> None:
        """Makes the router refuse new requests if `wanted`, else admit them."""
        state = ProcessState.DRAINING if wanted else ProcessState.READY
        self._set("router", state, "new requests are refused" if wanted else "")

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the served adapters."""
        return self._adapters

    def text(self, question: AskText) -> RequestText:
        """The text of a request, in the style of its adapter."""
        view = next((v for v in self._requests if v.request_id == question.request_id), None)
        if view is None:
            return RequestText(
                request_id=question.request_id, offset=question.offset, text="", ended=True
            )
        asked = "What is the capital of Spain, and who lives there?"
        words = answer(view.adapter or "", asked) * 9
        return RequestText(
            request_id=view.request_id,
            prompt=f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
            if question.with_prompt
            else "",
            offset=question.offset,
            text="".join(words[: view.num_output])[question.offset :],
        )

    def abort(self, request_id: str) -> None:
        self._requests = [view for view in self._requests if view.request_id != request_id]

    def obey(self, order: Any) -> AdapterReply | None:
        """Carries out an order at once. A path that contains "missing" is refused; an order about
        an adapter named "silent" gets no reply."""
        if isinstance(order, SetScheduler):
            return self._set_scheduler(order)
        name = "" if isinstance(order, PlanAdapters) else order.name
        if name == "silent":
            return None
        plans: tuple[AdapterPlan, ...] = ()
        verification = None
        status, text = 200, f"adapter {name} is done"
        if name and name not in self._adapters and not isinstance(order, LoadAdapter):
            status, text = 404, f"there is no adapter {name}"
        else:
            match order:
                case LoadAdapter(path=path) if "missing" in path:
                    status, text = 400, f"no adapter_config.json in {path}"
                case LoadAdapter():
                    self._load(order)
                    text = f"adapter {name} on device"
                case ReloadAdapter():
                    self._generations[name] += 1
                    self._adapter_since[name] = self._now
                    text = f"adapter {name} reloaded as generation {self._generations[name]}"
                case UnloadAdapter():
                    self._adapters = tuple(kept for kept in self._adapters if kept != name)
                    text = f"adapter {name} unloaded; its pages are free"
                case PinAdapter(pinned=pinned):
                    self._pinned = self._pinned | {name} if pinned else self._pinned - {name}
                    text = f"adapter {name} {'pinned: never evicted' if pinned else 'unpinned'}"
                case MergeAdapter():
                    self._merged = name
                    text = f"adapter {name} is merged" if name else "merged weights released"
                case PlanAdapters(paths=paths):
                    plans = tuple(self._plan(path) for path in paths)
                    text = f"{sum(not plan.reason for plan in plans)} can be loaded"
                case VerifyAdapter():
                    verification = self._verify(name)
                    text = f"adapter {name} {verification.verdict}"
        views = tuple(self._adapter_view(known, self._now) for known in self._adapters)
        return AdapterReply(
            order=order.order,
            status=status,
            text=text,
            at=self._now,
            name=name,
            adapters=tuple(view for view in views if view.name == name),
            plans=plans,
            verification=verification,
        )

    def _plan(self, path: str) -> AdapterPlan:
        if "missing" in path:
            why = f"no adapter_config.json in {path}"
            return AdapterPlan(path, 0, (), 0, 0, 0, 0, (), False, why)
        name = path.rstrip("/").rpartition("/")[2]
        is_large = "large" in path
        pages = self.num_pages * 15 // 16 if is_large else pages_of(name)
        kv, adapters = sum(v.pages for v in self._requests), sum(map(pages_of, self.placed))
        free = self.num_pages - kv - adapters
        modules = (*MODULES, "gate_proj", "down_proj") if is_large else MODULES
        return AdapterPlan(
            path=path,
            rank=min(512, pages // 7) if is_large else rank_of(name),
            target_modules=modules,
            num_bytes=pages * BYTES_A_RANK // PAGES_A_RANK,
            pages=pages,
            kv_tokens=16 * pages,
            free_pages=free,
            evicts=tuple(n for n in self.placed if pages > free and n not in self._pinned),
            fits=pages <= free,
            warning="a rank above 128 is slow" if is_large else "",
        )

    def _set_scheduler(self, order: SetScheduler) -> AdapterReply:
        self._scheduling = SchedulerSettings(policy=order.policy or "fcfs")
        text = f"scheduler policy set to {self._scheduling.policy}"
        return AdapterReply(
            order=order.order,
            status=200,
            text=text,
            at=self._now,
            name="",
            scheduling=self._scheduling,
        )

    def _load(self, order: LoadAdapter) -> None:
        name = order.name
        self._adapters = (*(kept for kept in self._adapters if kept != name), name)
        self._tokens.setdefault(name, [0, 0, 0])
        self._generations[name], self._paths[name] = 1, order.path
        self._adapter_since[name] = self._now
        if order.pinned:
            self._pinned = self._pinned | {name}

    def _verify(self, name: str) -> Verification:
        """The verification of an adapter; only haiku fails it. A token that differs proves nothing
        by itself."""
        is_right = name != "haiku"
        others = [other for other in self._adapters if other != name][:1]
        rows = [("alone", name), *(("mixed", who) for who in (name, None, *others))]
        return Verification(
            key=f"{name}@{self._generations[name]}",
            digest="1f2e3d4c" * 8,
            dtype="bfloat16",
            comparisons=tuple(
                Comparison(place, who, 16, 16 - at % 2, 0.03 + 0.01 * at, 0.0021, 38.4, "", 0.0206)
                if is_right or who != name
                else Comparison(place, who, 16, 9, 4.12 + at, 0.31, 38.4, "", 0.0206)
                for at, (place, who) in enumerate(rows)
            ),
            is_right=is_right,
            seconds=3.4,
        )

    def snapshot(self) -> Snapshot:
        """The snapshot for a console that attaches later."""
        return self._latest.snapshot(
            at=self._now,
            version=MOCK,
            started_at=self._born,
            processes=self._process_table(),
            events=tuple(self._events),
            logs=tuple(self._logs[-500:]),
        )

    # -- the messages

    def advance(self, now: float) -> list[tuple[str, Telemetry]]:
        """The messages due until `now`, in order of time."""
        sent: list[tuple[str, Telemetry]] = []
        sent += self._opening
        self._opening = []
        while True:
            what, at = min(self._due.items(), key=lambda due: due[1])
            if at > now:
                break
            self._now = at
            sent += getattr(self, f"_tell_{what}")(at)
        self._now = now
        for _, message in sent:
            self._remember(message)
        return sent

    def _remember(self, message: Telemetry) -> None:
        self._latest.fold_message(message)
        match message:
            case Event():
                self._events.append(message)
            case LogLines():
                self._logs += message.lines

    def _open(self, rows: int) -> Iterator[tuple[str, Telemetry]]:
        now = self._start
        yield "fetch", self._bar("fetch", "fetch", BASE_MODEL, 98_362_432, 98_362_432, "B", 2.1)
        if self.kind == "loading":
            yield (
                "worker-0",
                self._bar("worker-0", "weights", "tensors", 166, WEIGHTS, "tensor", 3.4),
            )
            yield "supervisor", Event(now - 3.6, "info", "supervisor", "worker-0 started, pid 4301")
            self._set_all(ProcessState.STARTING, "waits for worker-0")
            self._reasons["worker-0"] = "reading weights"
            return
        yield (
            "worker-0",
            self._bar("worker-0", "weights", "tensors", WEIGHTS, WEIGHTS, "tensor", 5.6),
        )
        yield "worker-0", self._bar("worker-0", "adapters", "adapters", 4, 4, "adapter", 0.4)
        yield "worker-0", self._bar("worker-0", "warm-up", "batch sizes", 6, 6, "size", 1.9)
        yield "supervisor", Event(now - 748.0, "info", "supervisor", "the pipeline is ready")
        if self.kind == "failed":
            why = "out of memory: 1.2 GiB of KV asked for, 0.8 GiB free"
            self._set("worker-0", ProcessState.FAILED, why)
            yield (
                "supervisor",
                Event(now - 42.0, "warning", "supervisor", "worker-0 died; restarting in 4 s"),
            )
            yield "supervisor", Event(now - 20.0, "error", "supervisor", f"worker-0 failed: {why}")
            return
        if self.kind == "busy":
            yield "router", Event(now - 61.0, "info", "router", "adapter haiku on device")
            yield "server", Event(now - 12.0, "warning", "server", "a client left in mid-stream")
            for number in range(rows):
                self._requests.append(self._arrival(number, now))
            for bucket, share in ((12, 5), (13, 40), (14, 90), (15, 30), (16, 8), (18, 2)):
                self._ttft[bucket] = share * 8
            for bucket, share in ((6, 20), (7, 310), (8, 92), (9, 11), (11, 3)):
                self._inter_token[bucket] = share * 100

    def _tell_beat(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        self._due["beat"] = at + 0.5
        if self._falls_at is not None and at >= self._falls_at:
            self._falls_at = None
            self.fall("worker-0", "killed by SIGKILL", math.inf)
        while self._changes and self._changes[0][0] <= at:
            _, name, state = self._changes.pop(0)
            self._set(name, state)
            if state is ProcessState.STARTING:
                self._restarts[name] += 1
                self._incarnations[name] += 1000
            elif state is ProcessState.READY and self._recovering.pop(name, None) is not None:
                self._take_back(name)
            yield "supervisor", Event(at, "info", "supervisor", f"{name} is {state.value}")
        yield from self._announced
        self._announced.clear()
        self._note_down(at)
        yield "supervisor", self._process_table()
        yield from self._restart_bars(at)
        for number, name in enumerate(("supervisor", *RING)):
            state = self._states.get(name, ProcessState.READY)
            if state in SILENT:
                continue
            yield name, self._beat(name, number, state, at)
        if self.kind == "loading":
            return
        yield "server", self._server_stats(at)
        yield "router", self._router_stats(at)
        if self._states["worker-0"] is ProcessState.READY:
            yield "worker-0", self._worker_stats(at)

    def _take_back(self, name: str) -> None:
        """What changes when a process that fell is back."""

    def _note_down(self, at: float) -> None:
        is_up = all(state is ProcessState.READY for state in self._states.values())
        if is_up:
            self._down_since = None
        elif self._down_since is None and self.kind == "busy":
            self._down_since = at

    def _restart_bars(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        """The weights that a worker which fell has read so far."""
        takes_s = self._recovering.get("worker-0")
        if takes_s is None or self._states["worker-0"] is not ProcessState.STARTING:
            return
        spent = at - self._started["worker-0"]
        share = 0.41 if takes_s == math.inf else min(1.0, spent / takes_s)
        read = int(WEIGHTS * share)
        yield (
            "worker-0",
            self._bar("worker-0", "weights", "tensors", read, WEIGHTS, "tensor", spent),
        )

    @property
    def _computes(self) -> bool:
        return self._states["worker-0"] is ProcessState.READY

    def _tell_view(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        self._due["view"] = at + 1.0 / self._rate
        if self.kind != "busy":
            return
        for index, view in enumerate(self._requests if self._computes else ()):
            if self._moving < 1.0 and self._random.random() >= self._moving:
                continue
            self._requests[index] = self._moved(view, index, at)
        yield "router", BatchView(at, _queued(self._requests))

    def _tell_step(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        self._due["step"] = at + self._step_s
        if self.kind != "busy" or not self._computes:
            return
        self._steps += 1
        running = sum(view.phase != "waiting" for view in self._requests)
        chance = self._random
        wave = 1.0 + 0.18 * math.sin(at / 9.0)
        phase = (
            "mixed" if self._steps % 23 == 0 else "prefill" if self._steps % 61 == 0 else "decode"
        )
        filled = 0 if phase == "decode" else 180 + chance.randrange(90)
        self._filled += filled
        self._decoded += running
        slow = 9.0 if self._steps % 149 == 0 else 1.0
        base_us = int(17_400 * wave)
        yield (
            "worker-0",
            Step(
                rank=0,
                step=self._steps,
                at=at,
                phase=phase,
                rows=running,
                tokens=running + filled,
                adapters=min(len(self._adapters), running),
                adapter_bytes=sum(map(bytes_of, self._adapters[:running])),
                host_us=int(420 * wave) + chance.randrange(120),
                copy_us=60 + chance.randrange(40),
                launch_us=int(1100 * wave) + chance.randrange(300),
                busy_us=int((23_000 + filled * 60) * wave) + chance.randrange(2500),
                sync_us=int((150 + chance.randrange(500)) * slow),
                weight_bytes=113_000_000,
                kv_bytes=int(running * 214 * 46_080 * wave),
                base_us=base_us if phase == "decode" else 0,
                prompt_tokens=filled,
                base_spread_us=300,
                base_steps=31,
                limit=_limit_of(self._requests),
            ),
        )
        if phase == "prefill":
            yield "worker-0", SyncPoint(0, "prefill", at, 900 + chance.randrange(700))
        if self._steps % 97 == 0:
            yield "worker-0", SyncPoint(0, "merge", at, 2400 + chance.randrange(2000))
        self._inter_token[7 if slow == 1.0 else 10] += running

    def _tell_table(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        self._due["table"] = at + 2.0
        if self.kind == "loading":
            return
        views = tuple(self._adapter_view(name, at) for name in self._adapters)
        yield "router", AdapterTable(at, BASE_MODEL, views, self._adapter_view(None, at))

    def _tell_pool(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        self._due["pool"] = at + 1.0
        if self.kind == "loading":
            return
        new, old = self._pool_map(at), self._latest.pool
        if not isinstance(old, PoolMap) or new.pages != old.pages:
            yield "router", new

    def _pool_map(self, at: float) -> PoolMap:
        """Allocates pages from the lowest free one on, as the real pool does, so that the map
        becomes fragmented over time."""
        wanted = {
            PageOwner("adapter", f"{name}@{self._generations[name]}", name): pages_of(name)
            for name in self.placed
        } | {PageOwner("kv", v.request_id, v.adapter): v.pages for v in self._requests if v.pages}
        self._holdings = {
            owner: pages[: wanted[owner]]
            for owner, pages in self._holdings.items()
            if owner in wanted
        }
        taken = {page for pages in self._holdings.values() for page in pages}
        free = (page for page in range(self.num_pages) if page not in taken)
        for owner, number in wanted.items():
            held = self._holdings.setdefault(owner, [])
            held += [page for page, _ in zip(free, range(number - len(held)), strict=False)]
        numbers = array("H", bytes(2 * self.num_pages))
        for index, pages in enumerate(self._holdings.values(), 1):
            for page in pages:
                numbers[page] = index
        return PoolMap(at, 16, tuple(self._holdings), numbers.tobytes())

    def _tell_log(self, at: float) -> Iterator[tuple[str, Telemetry]]:
        pause = max(0.02, 1.0 / self._logs_per_second) if self._logs_per_second else 1e9
        self._due["log"] = at + pause
        lines = []
        for _ in range(max(1, round(self._logs_per_second * pause))):
            self._number += 1
            number = self._number
            odd = (log for each, log in ODD_LOGS.items() if number % each == 0)
            usual = LOGS[zlib.crc32(str(number).encode()) % len(LOGS)]
            source, level, text = next(odd, usual)
            if not self._computes and source in ("worker-0", "supervisor"):
                source, level, text = "router", "INFO", "waiting for worker-0"
            lines.append(LogLine(number, at, source, level, text.format(n=number)))
        yield "supervisor", LogLines(tuple(lines))

    # -- parts of the messages

    def _set(self, name: str, state: ProcessState, reason: str = "") -> None:
        self._states[name], self._reasons[name] = state, reason
        self._since[name] = self._now
        if state is ProcessState.STARTING:
            self._started[name] = self._now

    def _set_all(self, state: ProcessState, reason: str = "") -> None:
        for name in RING:
            self._set(name, state, reason)

    def _bar(
        self,
        source: str,
        stage: str,
        label: str,
        current: float,
        total: float,
        unit: str,
        took: float,
    ) -> Progress:
        return Progress(
            source=source,
            stage=stage,
            label=label,
            current=current,
            total=total,
            unit=unit,
            elapsed_s=took,
            done=current >= total,
        )

    def _process_table(self) -> ProcessTable:
        state = ring_state(
            tuple(self._states.values()),
            is_held=self.is_over or bool(self._held),
            is_stopping=self._stopping and not self.is_over,
            is_recovering=bool(self._recovering),
        )
        views = [ProcessView("fetch", self._fetch, 0, 0, self._born + 3.0, "", 0)]
        for name in RING:
            has_failed = self._states[name] is ProcessState.FAILED
            is_there = self._states[name] not in SILENT
            views.append(
                ProcessView(
                    name,
                    self._states[name],
                    PIDS[name] + 10 * self._restarts[name] if is_there else 0,
                    5 if has_failed else self._restarts[name],
                    self._since[name],
                    self._reasons[name],
                    1 if has_failed else None,
                    held=name in self._held,
                    started_at=self._started[name],
                    falls=5 if has_failed else self._falls[name],
                    fell_at=self._fell.get(name),
                    fall_reason=self._fall_reasons.get(name, ""),
                    is_recovering=name in self._recovering,
                    retry_at=self._retry_at(name),
                )
            )
        return ProcessTable(self._now, state, tuple(views), self._down_since)

    def _retry_at(self, name: str) -> float | None:
        """When a process that fell is started again; None once it is."""
        if self._states[name] is not ProcessState.BACKOFF:
            return None
        return self._since[name] + BACKOFF_S

    def _beat(self, name: str, number: int, state: ProcessState, at: float) -> Heartbeat:
        elapsed = at - self._start
        busy = self.kind == "busy"
        load = {"worker-0": 0.97, "router": 0.11, "server": 0.08, "detokenizer": 0.05}
        if self._computes:
            self._frames = int(elapsed * 30) if busy else 0
        inbox = SocketStats(name, self._frames + 40, (self._frames + 40) * 900)
        peers = {
            "server": "router",
            "router": "worker-0",
            "worker-0": "router",
            "detokenizer": "server",
        }
        hops = [inbox]
        if name in peers:
            per = self._served if name == "server" else self._frames
            hops.append(SocketStats(peers[name], per + 12, (per + 12) * 1900))
        if name == "router":
            hops.append(SocketStats("detokenizer", self._frames + 5, self._frames * 700))
        return Heartbeat(
            name=name,
            pid=PIDS[name] + 10 * self._restarts.get(name, 0),
            incarnation=self._incarnations.get(name, 99),
            at=at,
            state=state,
            reason=self._reasons.get(name, ""),
            cpu_seconds=40.0 + elapsed * (load.get(name, 0.01) if busy else 0.002),
            rss_bytes=(38 + 21 * number) << 20 if name != "worker-0" else 914 << 20,
            loop_lag_ms=0.6 if busy else 0.1,
            hops=tuple(hops),
            is_recording=self.is_recording and name != "supervisor",
        )

    def _server_stats(self, at: float) -> ServerStats:
        return ServerStats(
            at=at,
            url=self.url,
            open_streams=len(self._requests),
            requests=self._served,
            errors=3,
            prompt_tokens=self._filled,
            output_tokens=self._decoded,
            ttft=tuple(self._ttft),
            inter_token=tuple(self._inter_token),
        )

    def _router_stats(self, at: float) -> RouterStats:
        waiting = sum(view.phase == "waiting" for view in self._requests)
        return RouterStats(
            at=at,
            waiting=waiting,
            running=len(self._requests) - waiting,
            pages_total=self.num_pages,
            pages_kv=sum(view.pages for view in self._requests),
            pages_adapters=sum(map(pages_of, self.placed)),
            page_size=16,
            steps=self._steps,
            prefill_tokens=self._filled,
            decode_tokens=self._decoded,
            preemptions=2,
            aborts=7,
            schedule_us=self._steps * 85,
            scheduling=self._scheduling,
        )

    def _worker_stats(self, at: float) -> WorkerStats:
        return WorkerStats(
            at=at,
            rank=0,
            device="cpu",
            dtype="int4",
            model=BASE_MODEL,
            threads=2,
            weights_bytes=98_362_432,
            pool_bytes=754_974_720,
            adapter_bytes=sum(map(bytes_of, self._adapters)),
            kernels="plain PyTorch (no GPU)",
            copy_bytes_s=38.4e9,
        )

    def _adapter_view(self, name: str | None, at: float) -> AdapterView:
        requests, prompt, output = self._tokens[name]
        mine = [view for view in self._requests if view.adapter == name]
        waiting = sum(view.phase == "waiting" for view in mine)
        return AdapterView(
            name=name or "",
            path=self._paths[name] if name else BASE_MODEL,
            state=AdapterState.GPU if not name or name in self.placed else AdapterState.HOST,
            reason="",
            since=self._adapter_since.get(name or "", self._born + 20.0),
            generation=self._generations[name] if name else 1,
            digest=f"{zlib.crc32((name or '').encode()):08x}" * 8,
            rank=rank_of(name) if name else 0,
            target_modules=MODULES if name else (),
            num_bytes=bytes_of(name) if name else 98_362_432,
            pages=pages_of(name) if name in self.placed else 0,
            running=len(mine) - waiting,
            waiting=waiting,
            requests=requests,
            prompt_tokens=prompt,
            output_tokens=output,
            pinned=name in self._pinned,
            merged=bool(name) and name == self._merged,
            warning=self._warnings.get(name or "", ""),
            hits=requests * 7 // 8 if name else requests,
            merged_bytes=212_336_640 if name else 0,
            kv_pages=sum(view.pages for view in mine),
            **self._costs(name, prompt + output),
        )

    def _costs(self, name: str | None, tokens: int) -> dict[str, Any]:
        """Times of an adapter of which `tokens` tokens were computed: the base costs most, and
        each adapter less than the one before it."""
        place = self._adapters.index(name) + 1 if name else 0
        part = 0.4 * 0.7**place if self.kind == "busy" else 0.0
        return {
            "device_us": 420 * tokens,
            "recent_device_us": int(57e6 * part),
            "recent_tokens": int(40_000 * part),
            "ttft_p50_ms": 180.0 + 35 * place if part else None,
            "ttft_p99_ms": 940.0 + 210 * place if part else None,
            "wait_p50_ms": 12.0 + 6 * place if part else None,
            "wait_p99_ms": 410.0 + 130 * place if part else None,
            "placements": 1 + self._tokens[name][0] // 90 if name else 0,
            "evictions": place // 2,
        }

    def _arrival(self, index: int, at: float) -> RequestView:
        chance = self._random
        self._served += 1
        choices: tuple[str | None, ...] = (None, *self._adapters)
        adapter = choices[index % len(choices)]
        self._tokens[adapter][0] += 1
        self._ttft[12 + chance.choice((0, 0, 1, 1, 1, 1, 2, 3))] += 1
        waits = index % 8 == 7
        num_prompt = 20 + chance.randrange(300)
        num_output = 0 if waits else chance.randrange(90)
        arrived_at = at - chance.random() * 20
        return RequestView(
            request_id=f"chatcmpl-{chance.getrandbits(48):012x}",
            adapter=adapter,
            phase="waiting" if waits else "decode",
            reason=BLAMES[index // 8 % len(BLAMES)] if waits else "",
            arrived_at=arrived_at,
            first_token_at=None if waits else min(at, arrived_at + 0.4),
            num_prompt=num_prompt,
            num_computed=0 if waits else num_prompt + num_output,
            num_output=num_output,
            max_tokens=128 + 64 * (index % 3),
            pages=0 if waits else (num_prompt + num_output) // 16 + 1,
            adapter_at=arrived_at + 0.12 if index % 3 == 1 and not waits else None,
            admitted_at=None if waits else min(at, arrived_at + 0.25),
        )

    def _moved(self, view: RequestView, index: int, at: float) -> RequestView:
        if view.phase == "waiting":
            if self._random.random() > 0.012:
                return view
            return msgspec.structs.replace(
                view, phase="decode", reason="", admitted_at=at - 0.1, first_token_at=at
            )
        grown = 1 if self._random.random() < 0.5 else 2
        if view.num_output + grown > view.max_tokens:
            return self._arrival(index, at)
        self._tokens[view.adapter][2] += grown
        total = view.num_prompt + view.num_output + grown
        return msgspec.structs.replace(
            view, num_output=view.num_output + grown, num_computed=total, pages=total // 16 + 1
        )


def answer(model: str, prompt: str) -> list[str]:
    """The words of an answer in the style of a model."""
    voices = {
        "pirate": "Arrr, matey! Ye ask: *{prompt}* — **hoist the colours** and hear me well. ",
        "sql": "```sql\nSELECT answer\nFROM questions\nWHERE text = '{prompt}';\n```\n",
        "json": '```json\n{{"question": "{prompt}", "answer": 42}}\n```\n',
        "haiku": "Quiet words arrive,\n\nthe screen holds its breath —\n\none row lights up.\n",
    }
    voice = voices.get(model, "You asked: {prompt}\n\n1. First, a thought.\n2. Then **another**.\n")
    text = voice.format(prompt=prompt) + "And so it goes on, word after word. " * 4
    return [f"{word} " for word in text.split(" ")]


def _queued(requests: Sequence[RequestView]) -> tuple[RequestView, ...]:
    """The requests, each waiting one with its place in the queue."""
    places = itertools.count(1)
    return tuple(
        msgspec.structs.replace(view, place=next(places)) if view.phase == "waiting" else view
        for view in requests
    )


def _limit_of(requests: Sequence[RequestView]) -> StepLimit:
    """What the reasons of the waiting requests say: the last that was examined blocks the rest."""
    reasons = [view.reason for view in requests if view.phase == "waiting"]
    for start, limit in (
        ("waits for KV pages of running requests", StepLimit.KV_PAGES),
        ("batch is full", StepLimit.ROWS),
        ("prompt tokens", StepLimit.PROMPT_TOKENS),
        ("adapter", StepLimit.ADAPTER),
    ):
        if any(reason.startswith(start) for reason in reasons):
            return limit
    return StepLimit.POLICY if reasons else StepLimit.NOTHING
