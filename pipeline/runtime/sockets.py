"""The ring's ZeroMQ sockets: `Inbox` and `Outbox` (PUSH/PULL), `Beacon` and `Watch` (PUB/SUB).

A process owns one inbox, a bound PULL at `ipc://RUN/NAME.inbox`; every message to it is pushed
there. Telemetry is the reverse: a process binds `ipc://RUN/NAME.stats`, and any number may
subscribe. Knows frames and types, not their meaning.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import zmq
import zmq.asyncio

from ..messages import Message, SocketStats, Telemetry
from ..private_files import private_umask

log = logging.getLogger(__name__)

T = TypeVar("T")

INBOX_FRAMES = 65536
"""Frames queued at the sender for an inbox that is not drained; beyond them sending raises
`InboxFull`. A full queue of requests (--max-waiting) that is opened, aborted and opened again takes
a few frames for each."""
TAKEN_AT_ONCE = 16
"""Frames of an inbox that are handled before the event loop goes on: taking one that has arrived
does not wait."""
TELEMETRY_FRAMES = 2000
"""Frames queued for a slow console; later ones are dropped, since the pipeline never waits."""
MAX_FRAME_BYTES = 64 << 20
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a frame raises: msgspec lets a tag or a key that is not UTF-8, and nesting of more
than a thousand levels, through as Python's own errors."""


class InboxFull(Exception):
    """A peer has not drained its inbox: the frame was not sent, and the caller must report it."""


def make_context() -> zmq.asyncio.Context:
    """The process's one context, with two I/O threads as in S-LoRA. Sockets close within half a
    second, so that a last message is sent, but a dead peer does not delay the exit."""
    context = zmq.asyncio.Context(2)
    context.linger = 500
    return context


def inbox_path(run: Path, name: str) -> Path:
    """The unix socket of an inbox."""
    return run / f"{name}.inbox"


def inbox_address(run: Path, name: str) -> str:
    return f"ipc://{inbox_path(run, name)}"


def stats_address(run: Path, name: str) -> str:
    return f"ipc://{run}/{name}.stats"


def _bind(socket: zmq.Socket[Any], address: str) -> None:
    """Binds a unix socket, which only this user may connect to; a file left by a killed process is
    replaced."""
    path = address.removeprefix("ipc://")
    if os.path.exists(path):
        os.unlink(path)
    with private_umask():
        socket.bind(address)


class Inbox(Generic[T]):
    """The bound PULL of a process. `accepts` is a union of message types; others are refused."""

    def __init__(self, context: zmq.asyncio.Context, run: Path, name: str, accepts: Any) -> None:
        self.name = name
        self._socket = context.socket(zmq.PULL)
        self._socket.rcvhwm = INBOX_FRAMES
        self._socket.maxmsgsize = MAX_FRAME_BYTES
        self._address = inbox_address(run, name)
        self._path = run / f"{name}.inbox"
        self.bind()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(accepts)
        self._frames = self._bytes = self._refused = 0
        self._warned_at = 0.0

    def bind(self) -> None:
        """Binds the socket; again if its file was removed. Its connections go on."""
        _bind(self._socket, self._address)

    def is_lost(self) -> bool:
        """Whether the socket's file was removed, so that no new sender reaches it."""
        return not self._path.exists()

    async def receive(self) -> T:
        """The next message. A malformed frame is refused, counted and logged, never raised."""
        while True:
            if self._frames % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)
            frame = await self._socket.recv()
            self._frames += 1
            self._bytes += len(frame)
            try:
                return self._decoder.decode(frame)
            except UNREADABLE as error:
                self._refused += 1
                if time.monotonic() - self._warned_at > 1.0:  # a flood must not fill the log
                    self._warned_at = time.monotonic()
                    log.warning("refused a frame of %d bytes: %s", len(frame), error)

    def stats(self) -> SocketStats:
        return SocketStats(self.name, self._frames, self._bytes, self._refused)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class Outbox:
    """A PUSH to one inbox. Sending never blocks: it queues, or raises `InboxFull`."""

    def __init__(self, context: zmq.asyncio.Context, run: Path, name: str) -> None:
        self.name = name
        # A plain socket of the same context: a non-blocking send needs no future.
        self._socket: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.PUSH)
        self._socket.sndhwm = INBOX_FRAMES
        self._socket.linger = 500
        self._socket.connect(inbox_address(run, name))
        self._encoder = msgspec.msgpack.Encoder()
        self._frames = self._bytes = self._refused = 0

    def send(self, message: Message) -> None:
        self.send_frame(self._encoder.encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Sends an encoded frame, so that a message to several ranks is encoded once."""
        try:
            self._socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            self._refused += 1
            raise InboxFull(f"{self.name} has not drained its inbox") from None
        self._frames += 1
        self._bytes += len(frame)

    def stats(self) -> SocketStats:
        return SocketStats(self.name, self._frames, self._bytes, self._refused)

    def close(self) -> None:
        self._socket.close()


class Beacon:
    """The bound PUB of a process: telemetry, dropped if nothing subscribes."""

    def __init__(self, context: zmq.asyncio.Context, run: Path, name: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.PUB)
        self._socket.sndhwm = TELEMETRY_FRAMES
        self._socket.linger = 500
        self._address = stats_address(run, name)
        self._path = run / f"{name}.stats"
        self.bind()
        self._encoder = msgspec.msgpack.Encoder()

    def bind(self) -> None:
        """Binds the socket; again if its file was removed. Its connections go on."""
        _bind(self._socket, self._address)

    def publish(self, message: Message) -> None:
        self._socket.send(self._encoder.encode(message), zmq.DONTWAIT)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class Watch:
    """A SUB on the telemetry of several processes, which may start and exit at any time."""

    def __init__(self, context: zmq.asyncio.Context, run: Path, names: tuple[str, ...]) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.SUB)
        self._awaited: zmq.asyncio.Socket | None = None
        self._socket.rcvhwm = TELEMETRY_FRAMES
        self._socket.subscribe(b"")
        # Reconnects to a restarted process within a quarter of a second.
        self._socket.reconnect_ivl = 100
        self._socket.reconnect_ivl_max = 250
        for name in names:
            self._socket.connect(stats_address(run, name))
        self._decoder: msgspec.msgpack.Decoder[Telemetry] = msgspec.msgpack.Decoder(Telemetry)
        self.refused = 0

    async def receive(self) -> list[Telemetry]:
        """Waits for a message, then takes all that have arrived: at 5 000 a second, one wake-up per
        burst costs a tenth of one wake-up per message."""
        if self._awaited is None:  # made late: a reader that only drains needs no wake-ups
            self._awaited = zmq.asyncio.Socket.from_socket(self._socket)
        frame = await self._awaited.recv()
        return [*self._decode(frame), *self.drain()]

    def drain(self) -> Iterator[Telemetry]:
        """The messages that have arrived, one by one; does not wait. After a minute asleep they are
        thousands: as a list they took 25 MiB that a console never gave back."""
        while True:
            try:
                frame = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            yield from self._decode(frame)

    def _decode(self, frame: bytes) -> tuple[Telemetry, ...]:
        try:
            return (self._decoder.decode(frame),)
        except UNREADABLE:
            self.refused += 1
            return ()

    def close(self) -> None:
        self._socket.close()
