"""Sends hostile frames to every inbox of a running pipeline: each must be counted as refused, or
ignored; no process ends, and a neighbour's answers stay what they were."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from typing import Any

import zmq
from ring import ADAPTERS, BASE

from loraconsole.pipeline.runtime.sockets import inbox_address

from .asks import make_asks
from .client import Client
from .frames import ACCEPTS, make_frame
from .kills import describe
from .load import Load, Truth
from .pipeline import Pipeline
from .ring_processes import find_ring

SEND_SECONDS = 60.0
"""Longest wait for room in an inbox: a process that is busy with a step drains it after that."""
COUNTED_SECONDS = 30.0
SLICE = 500
"""Frames between two turns of the neighbours in this process."""


class FrameRun:
    """Frames `start` to `start + count` of a seed."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self.pipeline, self.seed = pipeline, seed
        self._context = zmq.Context()
        self._sockets = {name: self._connect(name) for name in ACCEPTS}

    def _connect(self, name: str) -> zmq.Socket[bytes]:
        sender: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        sender.sndtimeo = int(SEND_SECONDS * 1e3)
        sender.linger = 0
        sender.connect(inbox_address(self.pipeline.run, name))
        return sender

    def close(self) -> None:
        for sender in self._sockets.values():
            sender.close()
        self._context.term()

    async def run(self, start: int, count: int) -> dict[str, Any]:
        """Its line: frames by inbox, refused ones as each process counts them, faults."""
        client = Client(self.pipeline.url, BASE)
        truth = Truth()
        asks = make_asks(self.seed, (BASE, *ADAPTERS), 10, (20, 40))
        await truth.learn(client, asks)
        load = Load(client, truth, self.seed, lambda: [BASE, *ADAPTERS], lambda model: {model})
        load.start(4)
        before, pids = await self._refused(), find_ring(self.pipeline.run)
        sent = await self._send(start, count)
        faults = await self._uncounted(before, sent)
        await asyncio.to_thread(self._send_raw, start)
        await load.stop()
        if find_ring(self.pipeline.run) != pids:
            faults.append(f"processes {pids} are now {find_ring(self.pipeline.run)}")
        faults += await self.pipeline.resting_faults()
        verdicts = Counter(out.verdict for out in load.outcomes)
        bad = [out for out in load.outcomes if out.verdict != "complete"]
        faults += [f"a neighbour's answer is {out.verdict}: {describe(out)}" for out in bad[:5]]
        await client.close()
        return {
            "frames": count,
            "seed": self.seed,
            "from": start,
            "sent": {f"{inbox} {'refused' if r else 'late'}": n for (inbox, r), n in sent.items()},
            "neighbours": dict(verdicts),
            "faults": faults,
        }

    async def _send(self, start: int, count: int) -> Counter[tuple[str, bool]]:
        def send_slice(numbers: range) -> None:
            for number in numbers:
                frame = make_frame(self.seed, number)
                self._sockets[frame.inbox].send(frame.data)
                sent[frame.inbox, frame.is_refused] += 1

        sent: Counter[tuple[str, bool]] = Counter()
        for first in range(start, start + count, SLICE):
            numbers = range(first, min(first + SLICE, start + count))
            await asyncio.to_thread(send_slice, numbers)
        return sent

    def _send_raw(self, start: int) -> None:
        """Bytes that are not even ZeroMQ's, to the sockets themselves. Its first protocol had no
        signature, so some arrive as frames, which are refused."""
        rng = random.Random(f"raw {self.seed} {start}")
        for name in ACCEPTS:
            for _ in range(20):
                with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                    raw.settimeout(5)
                    raw.connect(str(self.pipeline.run / f"{name}.inbox"))
                    raw.send(rng.randbytes(rng.choice((1, 10, 64, 5000))))

    async def _refused(self) -> dict[str, int]:
        """Refused frames of each inbox, as the processes' heartbeats say."""
        snapshot = await asyncio.to_thread(self.pipeline.snapshot)
        return {
            beat["name"]: hop["refused"]
            for beat in snapshot["beats"]
            for hop in beat["hops"]
            if hop["peer"] == beat["name"]
        }

    async def _uncounted(
        self, before: dict[str, int], sent: Counter[tuple[str, bool]]
    ) -> list[str]:
        """Waits until every refused frame is counted; the inboxes where one is not."""
        deadline = time.monotonic() + COUNTED_SECONDS
        while True:
            now = await self._refused()
            missing = {
                name: (sent[name, True], now[name] - refused)
                for name, refused in before.items()
                if now[name] - refused != sent[name, True]
            }
            if not missing:
                return []
            if time.monotonic() > deadline:
                return [f"{n}: {was} refused of {should}" for n, (should, was) in missing.items()]
            await asyncio.sleep(0.3)
