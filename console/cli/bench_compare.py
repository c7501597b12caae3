"""`loraconsole bench compare A.jsonl B.jsonl`: results side by side, as a table and as bars.

Each server of each file is a side; the first is the baseline. Figures are medians over rounds;
loads that a side did not run are listed. Reads only the files.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.table import Table
from rich.text import Text

from ...pipeline.bench.results import ResultRow, RunConfig, describe_load, read_rows
from ...pipeline.bench.stats import Result
from ...pipeline.errors import OperatorError
from ...pipeline.runtime.stdout_console import StdoutConsole
from ..client.bench_metrics import FIELDS, METRICS, Metric
from ..text import plot, units
from .printing import print_json

BAR = 48
"""Cells of the longest bar."""
SHOWN = ("throughput", "tokens_s", "ttft_ms_p50", "ttft_ms_p99", "inter_token_ms_p50")
SHOWN_CLOSED = ("decode_tokens_s", "errors")
SHOWN_OPEN = ("slo_attainment", "satisfaction", "counter_gap", "aborted", "errors")


class ComparedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """`bench compare` prints an array of these, one a load."""

    workload: str
    parameters: dict[str, Any]
    concurrency: int | None
    """None is an open loop."""
    sides: dict[str, dict[str, float | None]]
    """Medians over the rounds by side and figure; the unit is in the figure's name."""


class Side(NamedTuple):
    """One server of one file: its results by load."""

    name: str
    results: dict[str, list[Result]]

    def median(self, load: str, field: str) -> float | None:
        """The median of a field over the rounds; None if it was not measured."""
        values = [getattr(result, field) for result in self.results.get(load, ())]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None


def main(flags: list[str]) -> int:
    """Exit status 0. Raises `OperatorError` if no load was run by two sides."""
    parser = argparse.ArgumentParser("loraconsole bench compare", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="made by bench --out")
    parser.add_argument(
        "--metric", choices=FIELDS, action="append", metavar="NAME", help=", ".join(FIELDS)
    )
    parser.add_argument("--all", action="store_true", help="every metric")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args(flags)
    rows = {path: read_rows(path) for path in given.files}
    sides = make_sides(rows)
    configs = {row.config.load_key(): row.config for own in rows.values() for row in own}
    common = [load for load in configs if sum(load in side.results for side in sides) > 1]
    console = StdoutConsole(width=None if sys.stdout.isatty() else 120)
    if not common:
        loads = "; ".join(f"{side.name}: {_loads(side, configs)}" for side in sides)
        raise OperatorError(f"no load was run twice: {loads}", "compare runs of the same workload")
    is_open = any(configs[load].concurrency is None for load in common)
    usual = SHOWN + (SHOWN_OPEN if is_open else SHOWN_CLOSED)
    wanted = given.metric or (FIELDS if given.all else usual)
    if given.json:
        print_json([_document(sides, load, configs[load]) for load in common])
        return 0
    for load in common:
        console.print(Text(describe_load(configs[load]), style="bold"))
        console.print(make_table(sides, load, wanted))
        console.print()
    first = METRICS[FIELDS.index(wanted[0])]
    console.print(Text(f"{first.label}\n", style="bold"), end="")
    for line in bars(sides, [(load, describe_load(configs[load])) for load in common], first.field):
        console.print(Text(line))
    for side in sides:
        missing = [load for load in configs if load not in side.results]
        if missing:
            names = "; ".join(describe_load(configs[load]) for load in missing)
            console.print(Text(f"\nnot in {side.name}: {names}", style="yellow"), end="")
    console.print()
    return 0


def _document(sides: list[Side], load: str, config: RunConfig) -> ComparedLoad:
    """Every median of every side that ran this load."""
    return ComparedLoad(
        workload=config.workload,
        parameters=config.parameters,
        concurrency=config.concurrency,
        sides={
            side.name: {field: side.median(load, field) for field in FIELDS}
            for side in sides
            if load in side.results
        },
    )


def _loads(side: Side, configs: dict[str, RunConfig]) -> str:
    return ", ".join(describe_load(configs[load]) for load in side.results)


def make_sides(rows: dict[Path, list[ResultRow]]) -> list[Side]:
    """A side for each server of each file; its name has the file's or server's name as needed to be
    unique."""
    found: dict[tuple[Path, str], Side] = {}
    keys = dict.fromkeys((path, row.config.server) for path, own in rows.items() for row in own)
    paths = Counter(path for path, _ in keys)
    servers = Counter(server for _, server in keys)
    for path, server in keys:
        name = server
        if servers[server] > 1:
            name = path.stem if paths[path] == 1 else f"{path.stem}: {server}"
        found[path, server] = Side(name, {})
    for path, own in rows.items():
        for row in own:
            results = found[path, row.config.server].results
            results.setdefault(row.config.load_key(), []).append(row.result)
    return list(found.values())


def make_table(sides: list[Side], load: str, fields: tuple[str, ...]) -> Table:
    """A table with a row for each metric. Sides after the first also have the ratio to the first's
    figure, green if better, red if worse."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number, side in enumerate(sides):
        table.add_column(side.name, justify="right")
        if number:
            table.add_column("ratio", justify="right")
    for field in fields:
        metric = METRICS[FIELDS.index(field)]
        values = [side.median(load, field) for side in sides]
        if all(value is None for value in values):
            continue
        cells = [Text(_number(values[0]))]
        for value in values[1:]:
            cells += [Text(_number(value)), _ratio(values[0], value, metric)]
        table.add_row(metric.label, *cells)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return units.NOTHING
    return f"{value:.4g}" if value < 10_000 else units.count(value)


def _ratio(first: float | None, value: float | None, metric: Metric) -> Text:
    if not first or value is None:
        return Text("")
    ratio = value / first
    style = ""
    if metric.more_is_better is not None and abs(ratio - 1) >= 0.02:
        style = "green" if (ratio > 1) == metric.more_is_better else "red"
    return Text(f"{ratio:.2f}x", style)


def bars(sides: list[Side], loads: list[tuple[str, str]], field: str) -> list[str]:
    """The name of each load and a bar for each side that ran it, all to one scale."""
    values = [[side.median(load, field) for side in sides] for load, _ in loads]
    top = plot.top_of(max((v for row in values for v in row if v is not None), default=0.0))
    width = max(len(side.name) for side in sides)
    lines = []
    for (_, title), row in zip(loads, values, strict=True):
        lines.append(title)
        for side, value in zip(sides, row, strict=True):
            if value is not None:
                filled, rest = plot.gauge(value / top, BAR)
                lines.append(f"  {side.name:<{width}} {filled}{rest} {_number(value)}")
    return lines
