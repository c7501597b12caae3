"""Workloads from files: request lists and recorded traces.

A bad file is refused, naming the line; only a trace's format is inferred, from its header.
"""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ..errors import UsageError
from .workload import SEED, Arrival, Workload


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests as parallel lists: the adapter's number, tokens of prompt and answer, and seconds
    since the previous request. S-LoRA's profiled fork uses them to provoke head-of-line blocking:
    long requests first, short ones right after."""

    ind: list[int]
    input_lens: list[int]
    output_lens: list[int]
    intervals: list[float]


def read_script(path: Path) -> Workload:
    """Reads a `Script` from a JSON or TOML file. An adapter of -1 is the base model.

    Raises `UsageError` naming the error."""
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        script = msgspec.convert(values, Script)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"{path} is not {kind}: {error}", "lists end in .toml or .json") from error
    except msgspec.ValidationError as error:
        hint = "it has four lists: ind, input_lens, output_lens, intervals"
        raise UsageError(f"{path}: {error}", hint) from error
    lengths = {name: len(getattr(script, name)) for name in script.__struct_fields__}
    if len(set(lengths.values())) != 1 or not script.ind:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError(f"{path}: the lists must have equal lengths and not be empty: {listed}")
    at = np.cumsum(script.intervals).tolist()
    for row, (who, prompt, answer, gap) in enumerate(
        zip(script.ind, script.input_lens, script.output_lens, script.intervals, strict=True)
    ):
        if who < -1 or prompt < 1 or answer < 1 or not 0 <= gap < float("inf"):
            raise UsageError(
                f"{path}: request {row} is {who}, {prompt}, {answer}, {gap}",
                "ind from -1 (the base model), lengths from 1, intervals from 0",
            )
    arrivals = (
        Arrival(when, None if who < 0 else who, prompt, answer)
        for when, who, prompt, answer in zip(
            at, script.ind, script.input_lens, script.output_lens, strict=True
        )
    )
    return Workload(max(script.ind) + 1, tuple(arrivals))


class Columns(NamedTuple):
    """The names of the needed columns in a trace format."""

    at: str
    input_len: str
    output_len: str
    model: str = ""


FORMATS = {
    "Azure": Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "BurstGPT": Columns("Timestamp", "Request tokens", "Response tokens", "Model"),
}


def read_trace(path: Path, *, num_adapters: int, alpha: float = 1.0, seed: int = SEED) -> Workload:
    """Reads a CSV trace of Azure's LLM services (times as dates) or of BurstGPT (times in seconds).

    Azure's traces name no model: the adapter is drawn as in `workload.slora`. BurstGPT's models get
    adapters in order of appearance, reused in turn if there are more models. Rows without a prompt
    or an answer (failed requests) are left out; times start at 0. Raises `UsageError` naming the
    line that cannot be read.
    """
    rows = list(_rows(path))
    if not rows:
        raise UsageError(f"{path} has no request with a prompt and an answer")
    rows.sort(key=lambda row: row[0])
    begin = rows[0][0]
    drawn = (np.random.RandomState(seed).power(alpha, len(rows)) * num_adapters).astype(int)
    seen: dict[str, int] = {}
    arrivals = []
    for (at, prompt, answer, model), random_one in zip(rows, drawn.tolist(), strict=True):
        own = seen.setdefault(model, len(seen)) % max(1, num_adapters) if model else random_one
        arrivals.append(Arrival(at - begin, own if num_adapters else None, prompt, answer))
    return Workload(num_adapters, tuple(arrivals))


def _rows(path: Path) -> Iterator[tuple[float, int, int, str]]:
    """(seconds, prompt tokens, answer tokens, model) of each row with both."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, reader.fieldnames or ())
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                prompt = _tokens(where, columns.input_len, row[columns.input_len])
                answer = _tokens(where, columns.output_len, row[columns.output_len])
                at = _seconds(where, columns.at, row[columns.at])
                if prompt and answer:
                    yield at, prompt, answer, row[columns.model] if columns.model else ""
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from error


def _columns(path: Path, header: object) -> Columns:
    names = set(header) if isinstance(header, (list, tuple)) else set()
    for columns in FORMATS.values():
        if {column for column in columns if column} <= names:
            return columns
    known = "; ".join(f"{name}: {', '.join(filter(None, c))}" for name, c in FORMATS.items())
    raise UsageError(f"{path}, line 1: columns {sorted(names)} match no trace format", known)


def _tokens(where: str, column: str, text: str | None) -> int:
    try:
        if (number := int(text or "")) >= 0:
            return number
    except ValueError:
        pass
    raise UsageError(f"{where}: {column} {text!r} is not a number of tokens")


def _seconds(where: str, column: str, text: str | None) -> float:
    """Seconds, from a number or a date with up to seven decimals."""
    try:
        if math.isfinite(number := float(text or "")):
            return number
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        raise UsageError(f"{where}: {column} {text!r} is neither seconds nor a date") from None
