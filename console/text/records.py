"""Rows of a table as records: for the clipboard, and for files of CSV and JSON.

A record has a value for each column, also for those that the screen has no room for. Its names say
the units: `age_s`, `size_bytes`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

Record: TypeAlias = dict[str, Any]
"""Texts, numbers, booleans and None by name."""


def as_text(records: Sequence[Record]) -> str:
    """A single record as `name: value` lines; several as a table with tabs and a line of names."""
    if len(records) == 1:
        return "\n".join(f"{name}: {_shown(value)}" for name, value in records[0].items())
    return _separated(records, "\t")


def as_csv(records: Sequence[Record]) -> str:
    """Lines of comma-separated values, the names first; an unknown value is empty."""
    return _separated(records, ",")


def as_json(records: Sequence[Record]) -> str:
    """A list of objects."""
    return msgspec.json.format(msgspec.json.encode(records), indent=2).decode() + "\n"


def for_file(path: Path, records: Sequence[Record]) -> str:
    """The text of a file in the format that its ending names. Raises `ValueError` for another."""
    match path.suffix.lower():
        case ".csv":
            return as_csv(records)
        case ".json":
            return as_json(records)
    raise ValueError("the name must end in .csv or .json")


def _separated(records: Sequence[Record], mark: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, lineterminator="\n")
    writer.writerow(records[0] if records else ())
    writer.writerows([_shown(value) for value in record.values()] for record in records)
    return out.getvalue()


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value}"
