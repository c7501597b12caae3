"""What a router that is gone has sent, among the messages of its successor."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Batch,
    EvictAdapter,
    Introduce,
    Message,
    Reset,
    ToWorker,
)
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.runtime.process import Process


class Receiver(Process):
    """A process that reads what a worker reads."""

    accepts = ToWorker


def received(run: Path, *frames: Message) -> list[Message]:
    """What a process gets of these frames, a last batch not counted."""
    last = Batch(1, 99, (), (), ())

    async def receive() -> list[Message]:
        process = Receiver(Config(run=str(make_run_directory(run))), "worker-0")
        sender = process.outbox("worker-0")
        for frame in (*frames, last):
            sender.send(frame)
        found: list[Message] = []
        async with asyncio.timeout(30):
            while (message := await process.receive()) != last:
                found.append(message)
        process.close()
        return found

    return asyncio.run(receive())


def test_late_messages_of_an_earlier_router_are_dropped(tmp_path: Path) -> None:
    """Whatever their order. A later router has the larger incarnation."""
    kept = (
        Introduce(router=5),
        Reset(1, router=5),
        Introduce(router=9),
        Reset(2, router=9),
        EvictAdapter("one@1", router=9),
    )
    late = (Introduce(router=5), Reset(1, router=5), EvictAdapter("one@1", router=5))
    mixed = (*kept[:3], late[0], kept[3], late[1], kept[4], late[2])
    assert received(tmp_path / "r", *mixed) == list(kept)


def test_a_process_that_starts_later_hears_the_router_without_an_introduction(
    tmp_path: Path,
) -> None:
    frames = (Reset(1, router=5), EvictAdapter("one@1"), Introduce(router=9), Reset(2, router=9))
    assert received(tmp_path / "r", *frames, Reset(1, router=5)) == list(frames)
