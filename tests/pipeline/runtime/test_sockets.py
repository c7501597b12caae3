"""Real sockets: what is accepted, what is refused, what happens when nobody reads."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from loraconsole.pipeline.messages import (
    Abort,
    Batch,
    BatchRow,
    Event,
    Introduce,
    Reset,
    Telemetry,
    ToRouter,
    ToWorker,
)
from loraconsole.pipeline.runtime import sockets
from loraconsole.pipeline.runtime.sockets import (
    Beacon,
    Inbox,
    InboxFull,
    Outbox,
    Watch,
    make_context,
)


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    context = make_context()
    context.linger = 0
    yield context
    context.destroy(linger=0)


def test_messages_arrive_in_order_and_are_counted(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    async def talk() -> None:
        inbox: Inbox[object] = Inbox(context, tmp_path, "worker-0", ToWorker)
        outbox = Outbox(context, tmp_path, "worker-0")
        batch = Batch(1, 2, (), (), tuple(BatchRow(i, 1, (i,)) for i in range(64)))
        sent = [Introduce(), Reset(5), batch]
        for message in sent:
            outbox.send(message)
        assert [await inbox.receive() for _ in sent] == sent
        assert inbox.stats().frames == 3
        assert outbox.stats().num_bytes == inbox.stats().num_bytes > 0

    asyncio.run(talk())


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"not msgpack at all",
        b"\x81\xa4type\xa7Unknown",
        b"\x82\xa4type\xa5Reset\xa5epoch\xa1x",  # right tag, wrong type of field
        bytes(1000),
        b"\x82\xa4type\xa5Res\xd6t\xa5epoch\x01",  # a tag that is not UTF-8
        b"\x82\xa4type\xa5Reset\xa5other" + b"\x91" * 5000 + b"\x90",  # deeper than Python's stack
    ],
)
def test_a_malformed_frame_is_refused_and_the_next_good_one_arrives(
    tmp_path: Path, context: zmq.asyncio.Context, frame: bytes
) -> None:
    async def talk() -> None:
        inbox: Inbox[object] = Inbox(context, tmp_path, "worker-0", ToWorker)
        outbox = Outbox(context, tmp_path, "worker-0")
        outbox.send_frame(frame)
        outbox.send(Reset(7))
        assert await asyncio.wait_for(inbox.receive(), 5) == Reset(7)
        assert inbox.stats().refused == 1

    asyncio.run(talk())


def test_a_message_for_another_inbox_is_refused_by_type(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    async def talk() -> None:
        inbox: Inbox[object] = Inbox(context, tmp_path, "router", ToRouter)
        outbox = Outbox(context, tmp_path, "router")
        outbox.send(Reset(7))
        outbox.send(Abort("r", "why"))
        assert await asyncio.wait_for(inbox.receive(), 5) == Abort("r", "why")
        assert inbox.stats().refused == 1

    asyncio.run(talk())


def test_an_inbox_nobody_drains_fills_up_and_says_so(
    tmp_path: Path, context: zmq.asyncio.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "INBOX_FRAMES", 10)
    outbox = Outbox(context, tmp_path, "nobody")
    with pytest.raises(InboxFull, match="nobody has not drained"):
        for _ in range(100):
            outbox.send(Introduce())
    assert outbox.stats().frames >= 10 and outbox.stats().refused == 1


def test_the_loop_goes_on_while_a_full_inbox_is_drained(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    """Taking a frame that has arrived does not wait, and heartbeats must not stop meanwhile."""

    async def talk() -> None:
        inbox: Inbox[object] = Inbox(context, tmp_path, "router", ToRouter)
        outbox, turns = Outbox(context, tmp_path, "router"), 0
        for _ in range(1000):
            outbox.send(Abort("r", "why"))
        await asyncio.wait_for(inbox.receive(), 5)
        await asyncio.sleep(0.2)  # all have arrived

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        for _ in range(999):
            await inbox.receive()
        counting.cancel()
        assert turns >= 999 // sockets.TAKEN_AT_ONCE

    asyncio.run(talk())


def test_what_was_sent_before_the_peer_came_back_is_delivered(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    """A restarted process finds the socket file of the one before and takes its place."""

    async def talk() -> None:
        outbox = Outbox(context, tmp_path, "worker-0")
        outbox.send(Reset(1))
        first: Inbox[object] = Inbox(context, tmp_path, "worker-0", ToWorker)
        assert await asyncio.wait_for(first.receive(), 5) == Reset(1)
        first._socket.close()  # as in a crash: the file stays
        await asyncio.sleep(0.05)
        second: Inbox[object] = Inbox(context, tmp_path, "worker-0", ToWorker)
        outbox.send(Reset(2))
        assert await asyncio.wait_for(second.receive(), 5) == Reset(2)

    asyncio.run(talk())


def test_telemetry_reaches_every_watch_and_nobody_watching_costs_nothing(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    async def talk() -> None:
        beacon = Beacon(context, tmp_path, "router")
        for n in range(5000):  # nobody listens: dropped, never blocking
            beacon.publish(Event(float(n), "info", "router", "unheard"))
        watches = [Watch(context, tmp_path, ("router", "absent")) for _ in range(2)]
        await asyncio.sleep(0.2)
        events = [Event(float(n), "info", "router", "heard") for n in range(100)]
        for event in events:
            beacon.publish(event)
        for watch in watches:
            heard: list[Telemetry] = []
            while len(heard) < 100:
                heard += await asyncio.wait_for(watch.receive(), 5)
            assert heard == events

    asyncio.run(talk())


def test_socket_files_lie_in_the_run_directory(
    tmp_path: Path, context: zmq.asyncio.Context
) -> None:
    async def talk() -> None:
        inbox: Inbox[object] = Inbox(context, tmp_path, "router", ToRouter)
        assert stat.S_ISSOCK((tmp_path / "router.inbox").stat().st_mode)
        inbox.close()
        assert not (tmp_path / "router.inbox").exists()

    asyncio.run(talk())
