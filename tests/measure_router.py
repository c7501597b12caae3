"""Measures steps per second of the scheduler alone, and of the router: a real router process with
its real sockets, and a fake worker that computes nothing.

`python tests/measure_router.py`: 256 requests run and 2 000 wait; each that ends is replaced by a
new one. Variations: `--policy`, `--adapters`, `--pages` (with few, the pool is full), `--profile`
(cProfile of the scheduler alone).
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import multiprocessing
import os
import pstats
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec
import zmq

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterRead,
    AdapterState,
    Batch,
    Introduce,
    PlaceAdapter,
    ReadAdapter,
    Ready,
    Request,
    SampledToken,
    SamplingParams,
    SchedulerSettings,
    Tokens,
    ToWorker,
    WorkerReady,
)
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.schedule.adapter_registry import AdapterRegistry
from loraconsole.pipeline.schedule.scheduler import Scheduler, SchedulerLimits

PAGE = 16
ROUNDS = 5


class Computed:
    """The tokens left of each sequence: the state a fake worker needs to answer a batch."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}

    def run(self, batch: Batch) -> Tokens:
        left = self._left
        for number in batch.release:
            left.pop(number, None)
        for admission in batch.admit:
            left[admission.sequence] = len(admission.token_ids)
        sampled = []
        for row in batch.rows:
            number = row.sequence
            rest = left[number] - row.num_tokens
            if rest:
                left[number] = rest
            else:
                left[number] = 1
                sampled.append(SampledToken(number, 11))
        return Tokens(batch.epoch, batch.step, 0, tuple(sampled))


def requests(given: argparse.Namespace) -> Iterator[Request]:
    """Endless requests: prompts of 1 to 64 tokens, answers of 8 to 512."""
    rng = random.Random(0)
    names = [None, *(f"a{i}" for i in range(given.adapters))] if given.adapters else [None]
    for number in itertools.count():
        yield Request(
            request_id=f"r-{number:016x}",
            adapter=rng.choice(names),
            prompt_ids=(1,) * rng.randint(1, 64),
            params=SamplingParams(max_tokens=rng.randint(8, 512), ignore_eos=True),
            arrived_at=1.0 + number * 1e-3,
        )


# --- the scheduler alone ------------------------------------------------------------------------


def make_scheduler(given: argparse.Namespace) -> Scheduler:
    registry = AdapterRegistry({f"a{i}": f"/a{i}" for i in range(given.adapters)}, now=0.0)
    settings = SchedulerSettings(policy=given.policy, slo_seconds=1e9)
    scheduler = Scheduler(registry, settings=settings)
    limits = SchedulerLimits(
        num_pages=given.pages,
        page_size=PAGE,
        max_model_len=4096,
        max_running=given.running,
        max_prefill_tokens=8192,
        chunk_tokens=192,
    )
    scheduler.reset(1, limits, 0.0)
    for adapter in registry:
        adapter.change_state(AdapterState.VALIDATING, 0.0)
        adapter.note_read(0, AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 4, "digest"), 1, 0.0)
        scheduler.residency.settle(adapter, 0, 0.0)
        adapter.note_placed(0, 1, 0.0)
    scheduler.residency.orders.clear()
    return scheduler


class Alone:
    """Scheduler and worker in one process, two steps in flight; only the scheduler is timed."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.scheduler = make_scheduler(given)
        self.coming = requests(given)
        self.total = given.running + given.waiting
        self.computed = Computed()
        self.flight: deque[Tokens] = deque()
        self.now = 0.0

    def steps(self, count: int) -> float:
        """Runs `count` steps; returns the scheduler's seconds."""
        spent = 0.0
        scheduler = self.scheduler
        for _ in range(count):
            started = time.perf_counter()
            while len(scheduler) < self.total:
                scheduler.add_request(next(self.coming), 0.0)
            batch = scheduler.next_batch(self.now)
            spent += time.perf_counter() - started
            for order in scheduler.residency.orders:
                if isinstance(order, PlaceAdapter):
                    adapter = scheduler.registry.find(order.key)
                    assert adapter is not None
                    adapter.note_placed(0, 1, 0.0)
            scheduler.residency.orders.clear()
            if batch is not None:
                self.flight.append(self.computed.run(batch))
            self.now += 1e-3
            if len(self.flight) > (batch is not None):  # none: a batch drains, as under merged
                tokens = self.flight.popleft()
                started = time.perf_counter()
                scheduler.accept_tokens(tokens, self.now)
                spent += time.perf_counter() - started
        return spent


def measure_alone(given: argparse.Namespace) -> None:
    alone = Alone(given)
    alone.steps(600)  # so that requests end at different times
    if given.profile:
        with cProfile.Profile() as profile:
            alone.steps(500)
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)
        return
    rates = [500 / alone.steps(500) for _ in range(ROUNDS)]
    print_rates("the scheduler alone", rates, alone.scheduler)


def print_rates(what: str, rates: list[float], scheduler: Scheduler | None = None) -> None:
    low, high = min(rates), max(rates)
    text = f"{what}: {statistics.median(rates):,.0f} steps/s ({low:,.0f} to {high:,.0f})"
    if scheduler:
        text += f", {len(scheduler.running)} running, {len(scheduler.waiting)} waiting"
    print(text, flush=True)


# --- the router -----------------------------------------------------------------------------------


def bind(context: zmq.Context[zmq.Socket[bytes]], run: Path, name: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = 100_000
    socket.bind(f"ipc://{run}/{name}.inbox")
    return socket


def be_a_worker(run: Path, pages: int, running: int) -> None:
    """Answers the router's batches, in a separate process."""
    context = zmq.Context()
    inbox = bind(context, run, "worker-0")
    router = context.socket(zmq.PUSH)
    router.connect(f"ipc://{run}/router.inbox")
    decoder, encode = msgspec.msgpack.Decoder(ToWorker), msgspec.msgpack.encode
    computed = Computed()
    while True:
        match message := decoder.decode(inbox.recv()):
            case Batch():
                router.send(encode(computed.run(message)))
            case Introduce():
                ready = WorkerReady(
                    rank=0,
                    incarnation=1,
                    device="cuda",
                    num_pages=pages,
                    page_size=PAGE,
                    max_model_len=4096,
                    max_running=running,
                    max_prefill_tokens=8192,
                    chunk_tokens=192,
                    vocab_size=100,
                    eos_token_ids=(),
                )
                router.send(encode(ready))
            case ReadAdapter(order=order):
                info = AdapterInfo(message.key, message.path, 8, ("q_proj",), 0, 0, "digest")
                router.send(encode(AdapterRead(0, order, info)))


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, which other load does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_router(given: argparse.Namespace) -> None:
    """Counts steps at the detokenizer's inbox, which gets the tokens of each. Each request that
    ends there is replaced by a new one."""
    with tempfile.TemporaryDirectory() as directory:
        run = make_run_directory(Path(directory) / "run")
        adapter = tuple(f"a{i}=/a{i}" for i in range(given.adapters))
        config = Config(
            run=str(run),
            scheduler=given.policy,
            adapter=adapter,
            max_running=given.running,
            slo_seconds=1e9,
            **({"event_log": True} if given.event_log else {}),
        )
        config.save()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        server, detokenizer = bind(context, run, "server"), bind(context, run, "detokenizer")
        worker = multiprocessing.Process(
            target=be_a_worker, args=(run, given.pages, given.running), daemon=True
        )
        worker.start()
        module = "loraconsole.pipeline.router.router"
        command = [sys.executable, "-P", "-m", module, "--run", str(run)]
        log = open(run / "router.log", "w")  # noqa: SIM115  # it lives as long as the router
        process = subprocess.Popen(command, stderr=log)
        try:
            router = context.socket(zmq.PUSH)
            router.sndhwm = 100_000
            router.connect(f"ipc://{run}/router.inbox")
            encode = msgspec.msgpack.encode
            for name in ("server", "detokenizer"):
                router.send(encode(Ready(name, 1)))
            server.recv()
            time.sleep(1.5)
            coming = requests(given)
            for request in itertools.islice(coming, given.running + given.waiting):
                router.send(encode(request))
            rates: list[float] = []
            costs: list[float] = []
            count, spent = 0, cpu_seconds(process.pid)
            started = time.perf_counter()
            while len(rates) < ROUNDS + 1:
                frame = detokenizer.recv()
                if b"StreamTokens" in frame[:40]:
                    count += 1
                    # Counted by the finish reason: decoding would take the router's core.
                    for request in itertools.islice(coming, frame.count(b"length")):
                        router.send(encode(request))
                elapsed = time.perf_counter() - started
                if elapsed >= given.seconds:
                    before, spent = spent, cpu_seconds(process.pid)
                    rates.append(count / elapsed)
                    costs.append((spent - before) / max(1, count) * 1e6)
                    count, started = 0, time.perf_counter()
            print_rates("the router and a fake worker", rates[1:])
            print(f"of the router's processor, {statistics.median(costs[1:]):.0f} us a step")
        finally:
            process.terminate()
            worker.terminate()
            process.wait()
            context.destroy(linger=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="fcfs")
    parser.add_argument("--running", type=int, default=256)
    parser.add_argument("--waiting", type=int, default=2000)
    parser.add_argument(
        "--pages", type=int, default=20_000, help="pages of the pool, 16 tokens each"
    )
    parser.add_argument("--adapters", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of a round with the router"
    )
    parser.add_argument("--event-log", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--alone", action="store_true", help="only the scheduler")
    given = parser.parse_args()
    measure_alone(given)
    if not given.alone and not given.profile:
        measure_router(given)


if __name__ == "__main__":
    main()
