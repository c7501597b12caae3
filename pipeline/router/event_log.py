"""`EventLog`: writes the lines of `event_lines` to a file, as JSON; `read_log` reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from ... import __version__
from ..config import Config
from ..errors import OperatorError
from ..messages import PROTOCOL
from ..schedule.pets import LatencyTable
from .event_lines import FORMAT, AnyLine, Full, Started
from .record import RouterRecord

MAX_BYTES = 256 << 20
"""Most bytes of a file. A step that admits one request takes 570, so it lasts more than an hour at
100 steps a second. Then a last line says that the file is full."""
KEPT_FILES = 4


class EventLog:
    """The log of one router. Closed until `open`; lines are in the file after the next `flush`. A
    file that cannot be written ends the log, not the router: `error` says why."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self.error = ""
        """Why the log has ended before the router; "" if it has not, or is full."""
        self._left = 0
        self._encoder = msgspec.json.Encoder()
        self.path: Path | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(
        self,
        directory: Path,
        incarnation: int,
        config: Config,
        table: LatencyTable,
        at: float,
        max_bytes: int = MAX_BYTES,
        record: RouterRecord | None = None,
    ) -> None:
        """Begins a file for this start of the router, readable by its owner alone, and removes the
        oldest files beyond `KEPT_FILES`. Raises `OSError`."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(directory.glob("router-*.jsonl"))[: -(KEPT_FILES - 1)]:
            old.unlink(missing_ok=True)
        self.path = directory / f"router-{incarnation}.jsonl"
        self.path.touch(mode=0o600)
        self._file = self.path.open("wb", buffering=1 << 16)
        self._left = max_bytes
        known = msgspec.structs.replace(config, api_key="", admin_key="")
        self.write_line(
            Started(
                at=at,
                format=FORMAT,
                protocol=PROTOCOL,
                version=__version__,
                incarnation=incarnation,
                config=known,
                table=table,
                record=record,
            )
        )

    def write_line(self, line: AnyLine) -> None:
        """Does nothing if the log is closed or full."""
        if self._file is None:
            return
        data = self._encoder.encode(line)
        self._left -= len(data) + 1
        if self._left < 0:
            data = self._encoder.encode(Full(at=line.at))
        try:
            self._file.write(data + b"\n")
        except OSError as error:
            self._give_up(error)
        if self._left < 0:
            self.close()

    def flush(self) -> None:
        if self._file:
            try:
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        self.flush()
        if self._file:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        """Closes the file without what could not be written: its last line may be cut off."""
        self.error = f"cannot write {self.path}: {error.strerror}"
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):  # closing tries to write the rest once more
                file.close()


class LogHead(msgspec.Struct, frozen=True):
    """The fields of the first line that are checked before the others are read."""

    event: str = ""
    format: int = 0
    protocol: int = 1
    version: str = ""


def read_log(path: Path) -> Iterator[tuple[int, AnyLine]]:
    """Each line with its number. Raises `OperatorError` naming a line that is not an event."""
    decoder = msgspec.json.Decoder(AnyLine)
    try:
        file = path.open("rb")
    except OSError as error:
        raise OperatorError(
            f"cannot read {path}: {error.strerror}", "logs of --event-log are in RUN/events"
        ) from error
    number = 0
    with file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                raise OperatorError(
                    f"line {number} of {path} is cut off",
                    "the router exited while it wrote it; the lines before it can be replayed: "
                    f"take them with head -n {number - 1}",
                )
            try:
                if number == 1:
                    check_head(path, msgspec.json.decode(text, type=LogHead))
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise OperatorError(
                    f"line {number} of {path} is not an event: {error}",
                    "is it a log of --event-log?",
                ) from error
            yield number, line
    if not number:
        raise OperatorError(f"{path} is empty", "is it a log of --event-log?")


def check_head(path: Path, head: LogHead) -> None:
    """Raises `OperatorError` if it is not a log's first line, or has another protocol or format."""
    if head.event != "started":
        raise OperatorError(
            f"{path} does not begin with the router's start", "a log is replayed whole"
        )
    for name, there, here in (
        ("protocol", head.protocol, PROTOCOL),
        ("format", head.format, FORMAT),
    ):
        if there != here:
            raise OperatorError(
                f"{path} has {name} {there}, this is {here}",
                f"replay it with the loraconsole that wrote it (version {head.version})",
            )
