"""`ResultFile`: the JSON lines that benchmarks leave, a `ResultRow` a run; read, resumed, compared.

A run that was cut short leaves at most a torn last line, which is cut off when the file is opened
again. Knows nothing of what the figures mean.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OperatorError
from .stats import Result

ROOM = 1 << 18
"""Bytes that are tried before a run; a row with a thousand adapters takes half of it."""


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and where; two runs of one config differ by chance alone. `server` is its label
    or URL. `concurrency` None is an open loop."""

    server: str
    workload: str
    parameters: dict[str, Any]
    concurrency: int | None
    slo_seconds: float
    round: int

    def key(self) -> str:
        """Equal for equal configs."""
        return msgspec.json.encode(self, order="sorted").decode()

    def load_key(self) -> str:
        """Equal for equal loads, whatever the server and the round."""
        return msgspec.structs.replace(self, server="", round=0).key()


class ResultRow(msgspec.Struct, frozen=True):
    """A line of the file."""

    config: RunConfig
    result: Result


def describe_load(config: RunConfig) -> str:
    """A load in few words: how it is driven, and what differs between points of a suite."""
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
    """All rows; a torn last line is passed over. Raises `OperatorError` naming file and line."""
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
                what = f"{path}, line {number}: no result of loraconsole bench: {error}"
                raise OperatorError(what, "remove the line, or name another file") from error
    return rows


class ResultFile:
    """Rows that are there, and room for more: proved by writing, before anything is measured.

    Raises `OperatorError` where the file cannot be read or written.
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
        """Ends the last line, or cuts it off where it is torn; where the file ends then."""
        whole = content.rfind(b"\n") + 1
        try:
            msgspec.json.decode(content[whole:], type=ResultRow)
        except msgspec.DecodeError:
            os.ftruncate(file, whole)
            return whole
        os.pwrite(file, b"\n", len(content))
        return len(content) + 1

    def by_config(self) -> dict[str, ResultRow]:
        """What was measured before, by `RunConfig.key`; the newest."""
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
            f"cannot write {self.path}: {error.strerror}", "make room, or name another --out"
        )
