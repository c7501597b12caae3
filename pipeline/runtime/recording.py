"""Recordings: all telemetry of a pipeline in a file.

A recording is gzipped JSON lines: a head, a snapshot, then every message with its time of arrival.
`record` writes one of a running pipeline, `replay` one of an event log; the console plays both.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ..errors import OperatorError
from ..messages import PROTOCOL, Message, Snapshot, Telemetry

FLUSH_SECONDS = 1.0
"""Longest time that is lost when a recorder is killed."""
LEVEL = 6
"""gzip level: 64 rows at 10 Hz take 6 kB/s of file and under 1 % of a core."""


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

    def __init__(self, path: Path, run: str, at: float, max_bytes: float) -> None:
        """`run` is the recorded run directory. Raises `OperatorError` if the file exists or cannot
        be created."""
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
        self._write(RecordingHead(protocol=PROTOCOL, version=__version__, run=run, at=at))

    def take(self, at: float, message: Message) -> None:
        """Raises `OSError` on a full disk; everything flushed before is intact."""
        self._write(RecordedMessage(at, message))  # type: ignore[arg-type]  # telemetry or a snapshot
        self.messages += 1
        if at - self._flushed_at >= FLUSH_SECONDS:
            self._flushed_at = at
            self.flush()

    def flush(self) -> None:
        """Makes readers of the file see what was taken."""
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
