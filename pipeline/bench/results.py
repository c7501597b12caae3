"""`ResultFile`: benchmark results as JSON lines, one `ResultRow` per run; read, resumed, compared.

An interrupted run leaves at most an incomplete last line, which is removed when the file is next
opened. Knows nothing of what the figures mean.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OperatorError
from .stats import Result

ROOM = 1 << 18
"""Bytes written as a test before a run; a row with a thousand adapters takes half of it."""


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and where; runs of equal configs differ only by chance. `server` is its label
    or URL. `concurrency` None is an open loop."""

    server: str
    workload: str
    parameters: dict[str, Any]
    concurrency: int | None
    slo_seconds: float
    round: int

    def key(self) -> str:
        """A string that is equal for equal configs."""
        return msgspec.json.encode(self, order="sorted").decode()

    def load_key(self) -> str:
        """A string that is equal for equal loads, regardless of server and round."""
        return msgspec.structs.replace(self, server="", round=0).key()


class ResultRow(msgspec.Struct, frozen=True):
    """A line of the file."""

    config: RunConfig
    result: Result


def describe_load(config: RunConfig) -> str:
    """A short description of a load: how it is driven, and its parameters within a suite."""
    found = config.parameters
    words = [config.workload]
    if "popularity" in found:
        words.append(found["popularity"])
    if "num_adapters" in found:
        words.append(f"n={found['num_adapters']}")
    if config.concurrency is not None:
        return " ".join([*words, f"{config.concurrency} at once"])
    for name in ("alpha", "rate", "cv", "speed"):
        if name in found:
            words.append(f"{name}={found[name]:g}")
    return " ".join(words)


def read_rows(path: Path) -> list[ResultRow]:
    """All rows; an incomplete last line is skipped. Raises `OperatorError` naming file and line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(msgspec.json.decode(line, type=ResultRow))
        except msgspec.DecodeError as error:
            torn = number == len(lines) and not isinstance(error, msgspec.ValidationError)
            if not torn:
                what = f"{path}, line {number}: not a result of loraconsole bench: {error}"
                raise OperatorError(what, "remove the line, or name another file") from error
    return rows


class ResultFile:
    """The existing rows of a file, and appending to it. Opening it tests by writing that there is
    space for more, before anything is measured.

    Raises `OperatorError` if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        regular = path.is_file()
        self.rows = read_rows(path) if regular else []
        try:
            with path.open("r+b" if regular else "wb") as file:
                end = file.seek(0, os.SEEK_END)
                if regular:
                    end = self._mend(file.fileno(), path.read_bytes())
                file.seek(end)
                file.write(b" " * ROOM)
                file.flush()
                os.fsync(file.fileno())
                file.truncate(end)
        except OSError as error:
            raise self._unwritable(error) from error

    @staticmethod
    def _mend(file: int, content: bytes) -> int:
        """Ends the last line, or removes it if it is incomplete; returns the file's new length."""
        whole = content.rfind(b"\n") + 1
        try:
            msgspec.json.decode(content[whole:], type=ResultRow)
        except msgspec.DecodeError:
            os.ftruncate(file, whole)
            return whole
        os.pwrite(file, b"\n", len(content))
        return len(content) + 1

    def by_config(self) -> dict[str, ResultRow]:
        """The newest existing row for each `RunConfig.key`."""
        return {row.config.key(): row for row in self.rows}

    def append(self, row: ResultRow) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self.rows.append(row)

    def _unwritable(self, error: OSError) -> OperatorError:
        return OperatorError(
            f"cannot write {self.path}: {error.strerror}", "free space, or name another --out"
        )
