"""Recordings: all telemetry of a pipeline in a file, written and played.

A recording is gzipped JSON lines: a head, a snapshot, then every message with its time of arrival.
A truncated one (a full disk, a kill) plays up to its end.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ...pipeline.config import Config
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import PROTOCOL, Event, Message, Snapshot, Telemetry
from ...pipeline.runtime.sockets import InboxFull
from ..state.store import Store
from .telemetry import TelemetryClient

FLUSH_SECONDS = 1.0
"""Longest time that is lost when a recorder is killed."""
LEVEL = 6
"""gzip level: 64 rows at 10 Hz take 6 kB/s of file and under 1 % of a core."""
BURST = 2000
"""Most messages read at once, so that the screen stays responsive."""


class RecordingHead(msgspec.Struct, frozen=True, kw_only=True, tag="Recording"):
    """The first line."""

    protocol: int
    version: str
    run: str
    at: float


class RecordedMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message and its time of arrival, in unix seconds of the recording machine."""

    at: float
    message: Telemetry | Snapshot


class Recorder:
    """Appends messages to a file, and knows when it `is_full`."""

    def __init__(self, path: Path, config: Config, at: float, max_bytes: float) -> None:
        """Raises `OperatorError` if the file exists or cannot be created."""
        try:
            # It holds names and log lines: only its owner may read it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._raw = os.fdopen(descriptor, "wb")
        except FileExistsError:
            raise OperatorError(f"{path} exists", "record into another file") from None
        except OSError as error:
            raise OperatorError(f"cannot write {path}: {error.strerror}") from error
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=self._raw)
        self._max_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()
        self._flushed_at = at
        self.messages = 0
        self._write(RecordingHead(protocol=PROTOCOL, version=__version__, run=config.run, at=at))

    def take(self, at: float, message: Message) -> None:
        """Raises `OSError` on a full disk; everything flushed before is intact."""
        self._write(RecordedMessage(at, message))  # type: ignore[arg-type]  # telemetry or a snapshot
        self.messages += 1
        if at - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at = at
            self._file.flush()

    @property
    def num_bytes(self) -> int:
        """Size of the file after the last flush."""
        return self._raw.tell()

    @property
    def is_full(self) -> bool:
        return self.num_bytes >= self._max_bytes

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._raw.close()

    def _write(self, row: Any) -> None:
        self._file.write(self._encoder.encode(row) + b"\n")


class RecordingPlayer:
    """A recording that is being played; `now` is the time in it."""

    def __init__(
        self, path: Path, speed: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `OperatorError` if the file is not a recording, `UsageError` for a speed of 0."""
        if not 0 < speed < float("inf"):
            raise UsageError(f"--speed {speed:g} is not above 0", "1 is the original speed")
        self.path = path
        self._speed, self._clock = speed, clock
        self._lines = self._read()
        self._next = next(self._lines, None)
        if self._next is None:
            raise OperatorError(f"{path} holds no telemetry", "make one with: loraconsole record")
        self._start = self._last = self._next.at
        self._begun_at = clock()

    def now(self) -> float:
        """The time in the recording; it stops at the end."""
        at = self._start + (self._clock() - self._begun_at) * self._speed
        return min(at, self._last) if self.is_over else at

    @property
    def is_over(self) -> bool:
        return self._next is None

    def take(self) -> Iterator[RecordedMessage]:
        """The messages that are due, at most `BURST`."""
        now = self.now()
        for _ in range(BURST):
            if self._next is None or self._next.at > now:
                return
            due, self._next = self._next, next(self._lines, None)
            self._last = due.at
            yield due

    def _read(self) -> Iterator[RecordedMessage]:
        decoder = msgspec.json.Decoder(RecordedMessage)
        try:
            with gzip.open(self.path, "rb") as lines:
                head = msgspec.json.decode(next(lines, b""), type=RecordingHead)
                if head.protocol != PROTOCOL:
                    raise OperatorError(
                        f"{self.path} speaks protocol {head.protocol}, this console {PROTOCOL}",
                        f"play it with the loraconsole that recorded it (version {head.version})",
                    )
                for line in lines:
                    yield decoder.decode(line)
        except (EOFError, zlib.error):
            return  # truncated: everything before has been played
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile):
                raise OperatorError(f"{self.path} is not a recording: {error}") from error
            raise OperatorError(f"cannot read {self.path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise OperatorError(f"{self.path} is not a recording: {error}") from error


class RecordingTelemetry(TelemetryClient):
    """Telemetry of a recording; orders are refused."""

    def __init__(
        self, tape: RecordingPlayer, config: Config, store: Store, *more: Any, **named: Any
    ) -> None:
        super().__init__(config, store, *more, **named)
        self._tape = tape
        store.is_past = True

    async def run(self) -> None:
        has_announced_end = False
        try:
            while True:
                for heard in self._tape.take():
                    if isinstance(heard.message, Snapshot):
                        self._store.fold_snapshot(heard.message, heard.at)
                    else:
                        self._store.fold_message(heard.message, heard.at)
                self._store.drain_events()  # old events are listed, not notified
                if self._tape.is_over and not has_announced_end:
                    has_announced_end = True
                    now = self._tape.now()
                    end = Event(now, "info", "recording", "the recording ends here")
                    self._store.fold_message(end, now)
                self._on_news()
                await asyncio.sleep(0.05)
        finally:
            self.close()

    def _send(self, name: str, message: Message) -> None:
        raise InboxFull("this is a recording: it takes no orders")
