"""`LogTail`: the log files of a run, merged and parsed while they grow.

Every process appends to its own `RUN/logs/NAME.log`, so a dead or stopped reader does not block any
of them. The supervisor's tail also keeps the files within a budget. Knows files and lines, no
socket.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ...pipeline.messages import LogLine
from ...pipeline.runtime.clock import seconds_set, unix_time
from ..state.crash import FATAL, TRACEBACK

KEEP_LINES = 5000
MAX_FILE_BYTES = 16 << 20
"""A log of this size becomes `NAME.log.1`, in place of the one before; so all logs of a process
take twice as much."""
READ_BYTES = 1 << 20
CAUGHT_UP_BYTES = READ_BYTES // 2
BEHIND_BYTES = 4 << 20
"""A process that writes faster than its log is read: beyond this, lines are left out here. They are
in the file."""
MAX_LINE_CHARACTERS = 4000

# As `process.LOG_FORMAT` writes it; other lines are of tracebacks or printed by libraries.
_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}) (?P<level>[A-Z]+) (?P<text>.*)", re.DOTALL
)


class LogTail:
    """Reads new lines of every log in a directory; keeps the last `KEEP_LINES`."""

    def __init__(self, directory: Path, turns_over: bool = False) -> None:
        """`turns_over`: files beyond `MAX_FILE_BYTES` are put aside and begin again."""
        self._directory = directory
        self._turns_over = turns_over
        self._files: dict[str, _File] = {}
        self._number = 0
        self.lines: deque[LogLine] = deque(maxlen=KEEP_LINES)

    def read_new(self) -> list[LogLine]:
        """Lines of all files since the last call, ordered by time."""
        found: list[tuple[float, str, str, str]] = []
        for path in sorted(self._directory.glob("*.log")):
            file = self._files.setdefault(path.stem, _File(path))
            found.extend((at, path.stem, level, text) for at, level, text in file.read_new())
            if self._turns_over:
                file.turn_over()
        found.sort(key=lambda entry: entry[0])  # stable: a traceback stays after its log line
        fresh = []
        for at, source, level, text in found:
            self._number += 1
            fresh.append(LogLine(self._number, at, source, level, text))
        self.lines.extend(fresh)
        return fresh

    def catch_up(self) -> None:
        """Reads the ends of the files, at most `CAUGHT_UP_BYTES` of each. `read_new` then returns
        only what is written from now on."""
        for path in self._directory.glob("*.log"):
            self._files[path.stem] = _File(path, CAUGHT_UP_BYTES)
        self.read_new()

    def last_words(self, source: str) -> str:
        """The last non-empty log line of a process; after a crash it names the exception."""
        for line in reversed(self.lines):
            if line.source == source and line.text.strip():
                return line.text.strip()
        return ""


class _File:
    """One log file, read from the end of the last read on."""

    def __init__(self, path: Path, last_bytes: int | None = None) -> None:
        """From the start of the file, or only its `last_bytes`."""
        self._path = path
        self._offset = 0
        if last_bytes is not None:
            with contextlib.suppress(OSError):
                self._offset = max(0, os.path.getsize(path) - last_bytes)
        self._skips_rest = self._offset > 0
        """Whether reading begins within a line."""
        self._rest = b""
        self._last = (unix_time(), "INFO")

    def read_new(self) -> Iterator[tuple[float, str, str]]:
        """(unix time, level, text) of each complete new line. A line without a time gets the time
        and level of the one before; lines of a traceback are errors."""
        try:
            size = os.path.getsize(self._path)
            if size < self._offset:  # turned over, or truncated by an operator
                self._offset, self._rest = 0, b""
            if size == self._offset:
                return
            with self._path.open("rb") as file:
                skipped = self._skip_to_the_end(file, size)
                data = file.read(READ_BYTES)
        except OSError:
            return  # removed meanwhile; the next call tries again
        self._offset += len(data)
        if skipped:
            yield self._last[0], "WARNING", f"{skipped >> 20} MiB of this log are not shown"
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skips_rest and lines:
            self._skips_rest = False
            del lines[0]
        if len(self._rest) > READ_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        texts = [line.decode(errors="replace")[:MAX_LINE_CHARACTERS] for line in lines]
        for number, text in enumerate(texts):
            if text.startswith(FATAL):
                self._last = (self._written_at(texts[number:]), "ERROR")
            yield self._parse(text)

    def _skip_to_the_end(self, file: BinaryIO, size: int) -> int:
        """Moves to the place to read on. If too much is unread, that is the beginning of a line
        near the end, and the number of bytes left out is returned; else 0."""
        file.seek(self._offset)
        if size - self._offset <= BEHIND_BYTES:
            return 0
        file.seek(size - READ_BYTES)
        file.readline(READ_BYTES)
        before, self._offset, self._rest = self._offset, file.tell(), b""
        return self._offset - before

    def turn_over(self) -> None:
        """Puts a file aside that is full and has been read. It is copied: its process keeps it
        open. On a full disk it is emptied all the same, which makes room."""
        if self._offset < MAX_FILE_BYTES:
            return
        with contextlib.suppress(OSError):
            shutil.copyfile(self._path, self._path.with_suffix(".log.1"))
        with contextlib.suppress(OSError):
            # Writers use O_APPEND, so their next line goes to the new end.
            os.truncate(self._path, 0)
        self._offset, self._rest = 0, b""

    def _written_at(self, lines: list[str]) -> float:
        """When the first of these lines was written, which has no time of its own, maybe hours
        after the one before: just before the next that has one, else at the file's last write."""
        next_one = next((match for match in map(_LINE.fullmatch, lines) if match), None)
        if next_one is not None:
            return datetime.fromisoformat(next_one["time"]).timestamp()
        try:
            return max(self._last[0], os.path.getmtime(self._path) - round(seconds_set()))
        except OSError:
            return self._last[0]

    def _parse(self, line: str) -> tuple[float, str, str]:
        if match := _LINE.fullmatch(line):
            at = datetime.fromisoformat(match["time"]).timestamp()
            self._last = (at, match["level"])
            return at, match["level"], match["text"]
        at, level = self._last
        if line.startswith(TRACEBACK):
            self._last = (at, "ERROR")
            level = "ERROR"
        return at, level, line


def put_aside(directory: Path) -> None:
    """Renames the logs of the previous run, so that a new run's logs start empty."""
    for path in directory.glob("*.log"):
        path.replace(path.with_suffix(".log.1"))
