"""The rounds of kills: one fault a round under load, and what became of every stream."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ring import ADAPTERS, BASE

from .asks import make_asks
from .client import Client, Outcome
from .faults import RING, STOP, Fault, fault_of
from .load import Load, Truth
from .orders import MERGED, Orders
from .pipeline import Pipeline
from .ring_processes import find_ring, send_signal

BACK_SECONDS = 120.0
"""A ring that is not whole again after this long has failed the round; it is started again."""
FALLS_A_MINUTE = 4
"""Kills of one process in a minute: with five the supervisor gives a process up, as it should."""
BAD = ("lost", "wrong", "stuck")
"""Verdicts that no request may have."""
IN_FLIGHT_SECONDS = 0.5
"""What was under way at a fault arrives within this; the pause begins behind it."""
BUSY_SECONDS = 30.0
"""Longest wait for the load to be running again before a fault."""


@dataclass(frozen=True)
class KillOptions:
    """What a run of rounds does."""

    seed: int
    width: int = 32
    asks: int = 60
    tokens: tuple[int, int] = (30, 90)
    names: tuple[str, ...] = RING
    """Processes that faults may hit."""
    pairs: bool = True
    stops: bool = True
    calm: bool = False
    """Each fault waits until every stream of the one before has gone on: a pause then has one
    cause."""
    orders: tuple[str, ...] = ("guest", "reload", "merge", "pin", "scheduler", "drain")
    rest_every: int = 8
    """Rounds between two looks at the pipeline at rest."""


@dataclass
class Round:
    """One fault, and what was seen. Times are seconds."""

    number: int
    seed: int
    fault: Fault
    at: float
    """Monotonic."""
    back_s: float | None = None
    """From the fault until all processes ran and /health was 200."""
    faults: list[str] = field(default_factory=list)
    live: list[Outcome] = field(default_factory=list)
    until: float = float("inf")
    """When the next fault came: what was lost later is that one's."""

    def verdict_of(self, out: Outcome) -> str:
        """As far as this fault decided it."""
        failed_at = out.turned_at or out.ended_at or self.at
        return "later" if out.verdict in BAD and failed_at >= self.until else out.verdict

    def finish(self) -> dict[str, Any]:
        """Its line, once every request that was live has ended."""
        verdicts = Counter(map(self.verdict_of, self.live))
        accepted = [out for out in self.live if out.was_accepted]
        inside = [
            out.pause_s
            for out in accepted
            if out.pause_began < self.at + IN_FLIGHT_SECONDS < out.pause_began + out.pause_s
        ]
        bad = [out for out in self.live if self.verdict_of(out) in BAD]
        return {
            "round": self.number,
            "seed": self.seed,
            "fault": self.fault.title,
            "details": asdict(self.fault),
            "back_s": self.back_s and round(self.back_s, 2),
            "live": len(self.live),
            "accepted": len(accepted),
            "verdicts": dict(verdicts),
            "broken": sum(out.num_breaks > 0 for out in self.live),
            "resumed": sum(out.num_resumes > 0 for out in self.live),
            "refused_connections": sum(out.num_refused_connections for out in self.live),
            "longest_pause_s": round(max(inside, default=0.0), 2),
            "faults": self.faults,
            "bad": [describe(out) for out in bad[:5]],
        }


def describe(out: Outcome) -> dict[str, Any]:
    """An outcome that should not be, with all that repeats it."""
    return {
        "verdict": out.verdict,
        "id": out.request_id,
        "ask": asdict(out.ask),
        "reason": out.reason,
        "faults": out.answer.faults[:3],
        "breaks": out.num_breaks,
        "resumes": out.num_resumes,
        "said": [choice.content for choice in out.answer.choices.values()],
        "expected": [list(answer) for answer in out.expected] if out.verdict == "wrong" else [],
    }


class Kills:
    """Runs rounds on one pipeline."""

    def __init__(self, pipeline: Pipeline, options: KillOptions, directory: Path) -> None:
        self.pipeline, self.options = pipeline, options
        self.client = Client(pipeline.url, BASE)
        self.truth = Truth()
        self.orders = Orders(pipeline, options.seed, directory, options.orders)
        self.load = Load(
            self.client, self.truth, options.seed, self.orders.models, self.orders.owners
        )
        self._killed_at: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=FALLS_A_MINUTE)
        )
        self._open: list[Round] = []
        self._reported: set[str] = set()
        """Ids of requests whose loss is in a round's line."""

    async def prepare(self) -> None:
        """Learns the undisturbed answers and starts the load."""
        options = self.options
        asks = make_asks(options.seed, (BASE, *ADAPTERS), options.asks, options.tokens)
        await self.truth.learn(self.client, asks)
        await self.orders.prepare()
        if "merge" in options.orders:
            merge = f"{self.pipeline.url}/v1/adapters/{MERGED}/merge"
            (await self.client.http.post(merge)).raise_for_status()
            await self.truth.check(self.client, [a for a in asks if a.model == MERGED], 1)
            (await self.client.http.delete(merge)).raise_for_status()
        self.load.start(options.width)
        self._ordering = asyncio.create_task(self.orders.give_forever())

    async def finish(self) -> list[dict[str, Any]]:
        """Ends orders and load; the lines of the rounds that were still open, and of the end."""
        self._ordering.cancel()
        await asyncio.gather(self._ordering, return_exceptions=True)
        await self.orders.settle()
        await self.load.stop()
        lines = self.take_finished()
        faults = await self.pipeline.resting_faults()
        lines.append(
            {
                "end": True,
                "seed": self.options.seed,
                "faults": faults,
                "unstable": self.truth.num_unstable,
                "orders": dict(self.orders.counts),
                **self.totals(),
            }
        )
        await self.orders.close()
        await self.client.close()
        return lines

    def totals(self) -> dict[str, Any]:
        """Over all requests of the run, those of no round too."""
        outcomes = self.load.outcomes
        bad = [o for o in outcomes if o.verdict in BAD and o.request_id not in self._reported]
        return {
            "requests": len(outcomes),
            "accepted": sum(out.was_accepted for out in outcomes),
            "verdicts": dict(Counter(out.verdict for out in outcomes)),
            "broken": sum(out.num_breaks > 0 for out in outcomes),
            "resumed": sum(out.num_resumes > 0 for out in outcomes),
            "bad": [describe(out) for out in bad[:20]],
        }

    def take_finished(self) -> list[dict[str, Any]]:
        """The lines of rounds whose requests have all ended since the last call."""
        ready = [r for r in self._open if all(out.ended_at is not None for out in r.live)]
        self._open = [r for r in self._open if r not in ready]
        for this in ready:
            self._reported |= {out.request_id for out in this.live if this.verdict_of(out) in BAD}
        return [r.finish() for r in ready]

    async def run_round(self, number: int) -> None:
        """One fault, until the ring is whole again."""
        self.load.raise_errors()
        options = self.options
        fault = fault_of(options.seed, number, options.names, options.pairs, options.stops)
        await self._wait_allowed(fault)
        if options.calm:
            await self._wait_calm()
        await self._wait_busy()
        await asyncio.sleep(fault.wait)
        this = Round(number, options.seed, fault, time.monotonic(), live=self.load.running())
        for before in self._open:
            before.until = min(before.until, this.at)
        self._open.append(this)
        killed = await self._inflict(fault, this)
        if await self.pipeline.wait_back(killed, BACK_SECONDS):
            this.back_s = time.monotonic() - this.at
        else:
            this.faults.append(f"not back after {BACK_SECONDS:.0f} s: {await self._state()}")
            await asyncio.to_thread(self.pipeline.again)
        if number % options.rest_every == options.rest_every - 1:
            await self._rest(this)

    async def _inflict(self, fault: Fault, this: Round) -> dict[str, int]:
        """Sends the signals; the pids that must be gone afterwards."""
        killed: dict[str, int] = {}
        for index, name in enumerate(fault.names):
            if index:
                await asyncio.sleep(fault.delay)
            pid = find_ring(self.pipeline.run).get(name)
            if pid is None:
                continue  # the first one's death has it restarting already
            if fault.kind == STOP:
                send_signal(pid, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                send_signal(pid, signal.SIGCONT)
            elif send_signal(pid):
                killed[name] = pid
                self._killed_at[name].append(time.monotonic())
        return killed

    async def _wait_allowed(self, fault: Fault) -> None:
        for name in fault.names:
            times = self._killed_at[name]
            while len(times) == FALLS_A_MINUTE and time.monotonic() - times[0] < 62.0:
                await asyncio.sleep(0.5)

    async def _wait_calm(self) -> None:
        """Every stream that was live at the last fault has had an event since, or has ended."""
        for last in self._open[-1:]:
            while any(out.ended_at is None and out.last_event_at < last.at for out in last.live):
                await asyncio.sleep(0.1)

    async def _wait_busy(self) -> None:
        """Three quarters of the load have got a first token, or have waited long for it."""
        deadline = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < deadline:
            running = self.load.running()
            if sum(out.was_accepted or not out.ask.is_streamed for out in running) >= (
                0.75 * self.options.width
            ):
                return
            await asyncio.sleep(0.05)

    async def _rest(self, this: Round) -> None:
        """Lets everything end, and looks at what the pipeline holds."""
        self.load.pause()
        while self.load.running():
            await asyncio.sleep(0.1)
        this.faults += await self.pipeline.resting_faults()
        self.load.resume()

    async def _state(self) -> str:
        ring = find_ring(self.pipeline.run)
        done = await asyncio.to_thread(self.pipeline.cli, "status", check=False)
        return f"{ring} {done.stdout[-600:]} {done.stderr[-300:]}"
