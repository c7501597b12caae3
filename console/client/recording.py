"""Recordings: all telemetry of a pipeline in a file (`record`), and the console on it (`Playback`).

A recording is gzipped JSON lines: a head, a snapshot, then every message with the time at which it
was heard. One that breaks off (a full disk, a kill) plays as far as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ...pipeline.config import Config
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import PROTOCOL, Event, Message, Order, Snapshot, Telemetry
from ...pipeline.runtime.sockets import InboxFull
from ...pipeline.runtime.wording import counted
from ..state.store import HISTORY_S, Store
from ..supervisor.lock import is_running
from ..text import units
from .remote import Remote
from .telemetry import Telemetry as Sockets

FLUSH_SECONDS = 1.0
"""At most so much is lost when a recorder is killed."""
SILENCE_SECONDS = 5.0
LEVEL = 6
"""Of gzip: 64 rows at 10 Hz take 6 kB/s of file and under 1 % of a core."""
BURST = 2000
"""Messages taken at once while a recording is wound on; then the screen has its turn."""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="Recording"):
    """The first line."""

    protocol: int
    version: str
    run: str
    at: float


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """One message and when it came, in unix seconds of the machine that recorded."""

    at: float
    message: Telemetry | Snapshot


class Recorder:
    """Appends to a file until it is as large as allowed."""

    def __init__(self, path: Path, config: Config, at: float, max_bytes: float) -> None:
        """Raises `OperatorError` where the file exists or cannot be made."""
        try:
            # Names and log lines are in it: for its owner alone.
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
        self._write(Head(protocol=PROTOCOL, version=__version__, run=config.run, at=at))

    def take(self, at: float, message: Message) -> None:
        """Raises `OSError` on a full disk; what was flushed before is whole."""
        self._write(Heard(at, message))  # type: ignore[arg-type]  # telemetry or a snapshot
        self.messages += 1
        if at - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at = at
            self._file.flush()

    @property
    def num_bytes(self) -> int:
        """In the file, as of the last flush."""
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


def record(config: Config, given: argparse.Namespace) -> int:
    """Records until Ctrl-C, the pipeline's end, or a limit."""
    if given.seconds is not None and given.seconds <= 0:
        raise UsageError("--seconds must be above 0")

    async def listen() -> tuple[Recorder, str]:
        async with Remote(config) as remote:
            watch = remote.watch()
            started = time.time()
            recorder = Recorder(Path(given.file), config, started, given.max_mib * 2**20)
            try:
                snapshot = await remote.snapshot(log_lines=500, history_s=HISTORY_S)
                recorder.take(time.time(), snapshot)
                if not given.json:
                    print(f"recording {config.run}; Ctrl-C ends it", file=sys.stderr)
                end = started + given.seconds if given.seconds else float("inf")
                while True:
                    now = time.time()
                    if now >= end:
                        return recorder, "as long as asked"
                    if recorder.is_full:
                        return recorder, f"--max-mib {given.max_mib:g} is reached"
                    try:
                        async with asyncio.timeout(min(SILENCE_SECONDS, end - now)):
                            heard = await watch.receive()
                    except TimeoutError:
                        if not is_running(config.run_path):
                            return recorder, "the pipeline has ended"
                        continue
                    now = time.time()
                    for message in heard:
                        recorder.take(now, message)
            except asyncio.CancelledError:
                return recorder, "interrupted"
            except OSError as error:
                return recorder, f"the disk takes no more: {error.strerror}"
            finally:
                recorder.close()

    recorder, why = asyncio.run(listen())
    size = Path(given.file).stat().st_size
    if given.json:
        document = {"file": given.file, "messages": recorder.messages, "bytes": size, "end": why}
        print(msgspec.json.encode(document).decode())
    else:
        what = f"{counted(recorder.messages, 'message')}, {units.size(size)}"
        print(f"{given.file}: {what} ({why}). loraconsole play {given.file}")
    return 1 if why.startswith("the disk") else 0


class Tape:
    """A recording and the place it has been played to; `now` is the time there."""

    def __init__(
        self, path: Path, speed: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `OperatorError` where the file is no recording, `UsageError` for a speed of 0."""
        if not 0 < speed < float("inf"):
            raise UsageError(f"--speed {speed:g} is not above 0", "1 is as it happened")
        self.path = path
        self._speed, self._clock = speed, clock
        self._lines = self._read()
        self._next = next(self._lines, None)
        if self._next is None:
            raise OperatorError(f"{path} holds no telemetry", "make one with: loraconsole record")
        self._start = self._last = self._next.at
        self._begun_at = clock()

    def now(self) -> float:
        """The time on the tape; it stands still at the end."""
        at = self._start + (self._clock() - self._begun_at) * self._speed
        return min(at, self._last) if self.is_over else at

    @property
    def is_over(self) -> bool:
        return self._next is None

    def take(self) -> Iterator[Heard]:
        """What is due, at most `BURST` messages."""
        now = self.now()
        for _ in range(BURST):
            if self._next is None or self._next.at > now:
                return
            due, self._next = self._next, next(self._lines, None)
            self._last = due.at
            yield due

    def _read(self) -> Iterator[Heard]:
        decoder = msgspec.json.Decoder(Heard)
        try:
            with gzip.open(self.path, "rb") as lines:
                head = msgspec.json.decode(next(lines, b""), type=Head)
                if head.protocol != PROTOCOL:
                    raise OperatorError(
                        f"{self.path} speaks protocol {head.protocol}, this console {PROTOCOL}",
                        f"play it with version {head.version}",
                    )
                for line in lines:
                    yield decoder.decode(line)
        except (EOFError, zlib.error):
            return  # it breaks off: what was there has been played
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile):
                raise OperatorError(f"{self.path} is no recording: {error}") from error
            raise OperatorError(f"cannot read {self.path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise OperatorError(f"{self.path} is no recording: {error}") from error


class Playback(Sockets):
    """What `Telemetry` is to a pipeline, for a tape. Nobody is there to take an order."""

    def __init__(self, tape: Tape, config: Config, store: Store, *more: Any, **named: Any) -> None:
        super().__init__(config, store, *more, **named)
        self._tape = tape
        store.is_past = True

    async def run(self) -> None:
        said_so = False
        try:
            while True:
                for heard in self._tape.take():
                    if isinstance(heard.message, Snapshot):
                        self._ledger.take_snapshot(heard.message, heard.at)
                    else:
                        self._ledger.take(heard.message, heard.at)
                self._ledger.drain_events()  # what happened then is history: the list has it
                if self._tape.is_over and not said_so:
                    said_so = True
                    now = self._tape.now()
                    end = Event(now, "info", "recording", "the recording ends here")
                    self._ledger.take(end, now)
                self._on_news()
                await asyncio.sleep(0.05)
        finally:
            self.close()

    def order(self, order: Order) -> None:
        raise InboxFull("this is a recording: nobody takes orders")

    def _send(self, name: str, message: Message) -> None:
        raise InboxFull("this is a recording: nobody takes orders")
