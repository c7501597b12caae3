"""`Tape`: a recording as a file in which any time is found quickly, also while it is being written.

A thread reads the file once, and keeps the decompressor's state at every few hundred kilobytes;
reading begins at one of them. Knows no speed and no clock.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.messages import PROTOCOL
from ...pipeline.runtime.recording import RecordedMessage, RecordingHead

PIECE = 1 << 15
"""Bytes read at a time."""
SPACING = 1 << 18
"""Compressed bytes between two checkpoints; doubled as often as there are too many of them."""
MOST_CHECKPOINTS = 64
"""A checkpoint takes about 40 kB: 2.5 MB in all."""
GROWTH_SECONDS = 0.05
"""Between two looks at a file that is being written."""
GZIP = 31
"""zlib's `wbits` for gzip."""
FIRST_SECONDS = 20.0
"""Most seconds until a file that is being written has its first message."""


class TapePlace(NamedTuple):
    """A place from which the file can be read."""

    at: float
    """Time of the last message before it, unix seconds."""
    offset: int
    decoder: Any
    """A zlib decompressor that has read all before `offset`."""
    rest: bytes
    """The beginning of the line that goes on at `offset`."""


class LineReader:
    """Reads the lines of an open file, from its beginning or from a checkpoint."""

    def __init__(
        self, file: BinaryIO, grows: Callable[[], bool], place: TapePlace | None = None
    ) -> None:
        """`grows`: whether the file is still being written."""
        self._file, self._grows = file, grows
        self.offset = place.offset if place else 0
        self.decoder: Any = place.decoder.copy() if place else zlib.decompressobj(GZIP)
        self.rest = place.rest if place else b""
        self.damage = ""
        """Why the file could not be read further."""
        file.seek(self.offset)

    def read_lines(self) -> list[bytes] | None:
        """The complete lines of the next piece; none while the file has not grown; None at its end,
        or where it breaks off."""
        grows = self._grows()  # asked first: what is written after the read is not missed
        raw = self._file.read(PIECE)
        if not raw:
            return [] if grows else None
        try:
            data = self.rest + self.decoder.decompress(raw)
        except zlib.error as error:
            self.damage = str(error)
            return None
        self.offset += len(raw)
        lines: list[bytes] = data.split(b"\n")
        self.rest = lines.pop()
        return lines


class Tape:
    """The messages of one recording, by time. Close it after use."""

    def __init__(self, path: Path, grows: Callable[[], bool] = lambda: False) -> None:
        """`grows`: whether the file is still being written. Raises `OperatorError` if it is not a
        recording."""
        self.path = path
        self._grows = grows
        self._is_closed = False
        self.start = self.end = self._read_head().at
        """Times of the first message and of the last that was found, unix seconds."""
        self.is_whole = False
        """Whether the file has been read to its end."""
        self._checkpoints: tuple[TapePlace, ...] = (
            TapePlace(self.start, 0, zlib.decompressobj(GZIP), b""),
        )
        self._finding = threading.Thread(target=self._find_checkpoints, daemon=True)
        self._finding.start()

    @property
    def is_growing(self) -> bool:
        """Whether the file is still being written."""
        return self._grows()

    def close(self) -> None:
        self._is_closed = True
        self._finding.join()

    def lines_from(self, at: float) -> Iterator[bytes | None]:
        """The lines of messages from some time before `at` on; None while the next one has not
        been written. A truncated file ends where it breaks off."""
        places = self._checkpoints
        place = next((found for found in reversed(places) if found.at < at), places[0])
        with self.path.open("rb") as file:
            reader = LineReader(file, self._grows, place)
            while (lines := reader.read_lines()) is not None:
                if not lines:
                    yield None
                for line in lines:
                    if line.startswith(b"["):  # not the head
                        yield line

    def _read_head(self) -> RecordedMessage:
        """Checks the head; returns the first message."""
        until = time.monotonic() + FIRST_SECONDS
        found: list[bytes] = []
        try:
            with self.path.open("rb") as file:
                reader = LineReader(file, self._grows)
                while len(found) < 2 and (lines := reader.read_lines()) is not None:
                    found += lines
                    if not lines:
                        if time.monotonic() > until:
                            break
                        time.sleep(GROWTH_SECONDS)
            if not found:
                what = reader.damage or "it has no line"
                raise OperatorError(f"{self.path} is not a recording: {what}")
            head = msgspec.json.decode(found[0], type=RecordingHead)
            if head.protocol != PROTOCOL:
                raise OperatorError(
                    f"{self.path} speaks protocol {head.protocol}, this console {PROTOCOL}",
                    f"play it with the loraconsole that recorded it (version {head.version})",
                )
            if len(found) < 2:
                hint = "make one with: loraconsole record"
                raise OperatorError(f"{self.path} holds no telemetry", hint)
            return msgspec.json.decode(found[1], type=RecordedMessage)
        except OSError as error:
            raise OperatorError(f"cannot read {self.path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise OperatorError(f"{self.path} is not a recording: {error}") from error

    def _find_checkpoints(self) -> None:
        """Reads the file to its end, in a thread."""
        spacing, found = SPACING, self._checkpoints
        with self.path.open("rb") as file:
            reader = LineReader(file, self._grows)
            while not self._is_closed:
                if reader.offset - found[-1].offset >= spacing:
                    state = reader.decoder.copy()
                    found = (*found, TapePlace(self.end, reader.offset, state, reader.rest))
                    if len(found) > MOST_CHECKPOINTS:
                        found, spacing = found[::2], spacing * 2
                    self._checkpoints = found
                lines = reader.read_lines()
                if lines is None:
                    break
                if not lines:
                    time.sleep(GROWTH_SECONDS)
                elif lines[-1].startswith(b"["):
                    self.end = time_of(lines[-1])
        self.is_whole = True


def wait_for_file(path: Path, grows: Callable[[], bool]) -> bool:
    """Waits until another process has made a file; False if it ends without."""
    while not path.exists() and grows():
        time.sleep(GROWTH_SECONDS)
    return path.exists()


def time_of(line: bytes) -> float:
    """The time of a message's line, without decoding it."""
    return float(line[1 : line.index(b",")])
