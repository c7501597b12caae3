"""`loraconsole bench`: drives OpenAI-compatible servers through workloads; prints, keeps figures.

Several `--url` are measured in turns, so that a noisy machine is noisy for all. With `--profile`
it measures prompts alone and writes the table that the `pets` policy reads. This file is the
command line; who asks what is `workload`'s, HTTP is `client`'s, arithmetic is `figures`'.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from . import profile_table
from .client import Client
from .config import OperatorError, UsageError
from .figures import SLO_SECONDS, Result, summarise
from .results import ResultFile, Row, RunConfig, describe
from .trace import read_script, read_trace
from .workload import (
    GENERATORS,
    POPULARITIES,
    SEED,
    SUITES,
    Workload,
    chat,
    suite_named,
)

CHAT_CONCURRENCY = [1, 8, 32]
OPEN_LOOP = {"rate": 2.0, "cv": 1.0, "duration": 60.0, "alpha": 1.0}


@dataclass(frozen=True)
class Load:
    """A workload, what it was made from, and how it is driven."""

    name: str
    parameters: dict[str, Any]
    workload: Workload
    concurrency: int | None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "loraconsole bench",
        description="Drives OpenAI-compatible servers and tells what their clients saw.",
        epilog="`loraconsole bench compare A.jsonl B.jsonl` compares results; `--offline` runs the "
        "engine alone, on dummy weights.",
    )
    server = parser.add_argument_group("servers")
    server.add_argument(
        "--url", action="append", required=True, metavar="URL", help="repeat to compare servers"
    )
    server.add_argument(
        "--label", action="append", metavar="NAME", help="what results call it; one for each --url"
    )
    server.add_argument(
        "--api-key",
        default=os.environ.get("LORACONSOLE_API_KEY", ""),
        help="bearer token (also $LORACONSOLE_API_KEY)",
    )
    server.add_argument(
        "--model", action="append", metavar="NAME", help="models in turn; repeat for a mixture"
    )

    load = parser.add_argument_group("workload")
    load.add_argument(
        "--workload", choices=("chat", *GENERATORS, "script", "trace"), help="default: chat"
    )
    load.add_argument(
        "--suite", metavar="NAME", help=f"one of S-LoRA's: {', '.join(SUITES)} (a10g- may be left)"
    )
    load.add_argument(
        "--scale", type=_positive, default=1.0, metavar="X", help="requests/s of a suite, times X"
    )
    load.add_argument("--file", type=Path, metavar="FILE", help="of --workload script or trace")
    load.add_argument(
        "--speed", type=_positive, default=1.0, metavar="X", help="times a file's arrivals, X-fold"
    )
    load.add_argument(
        "--adapters", type=_count, metavar="N", help="so many of those listed; default: all"
    )
    load.add_argument("--alpha", type=_positive, help="1: uniform adapters; less: skewed (1)")
    load.add_argument("--popularity", choices=POPULARITIES, default="uniform", help="of punica")
    load.add_argument("--rate", type=_positive, help="requests/s of the open loop (2)")
    load.add_argument("--cv", type=_positive, help="of the gaps; 1: Poisson (1)")
    load.add_argument("--duration", type=_positive, metavar="SECONDS", help="of arrivals (60)")
    load.add_argument("--input-range", type=_count, nargs=2, metavar=("LOW", "HIGH"))
    load.add_argument("--output-range", type=_count, nargs=2, metavar=("LOW", "HIGH"))
    load.add_argument("--seed", type=int, default=SEED, help=f"S-LoRA's is {SEED}")
    load.add_argument(
        "--concurrency",
        type=_above_zero,
        nargs="+",
        metavar="N",
        help="closed loops: so many at a time, arrivals ignored (chat: 1 8 32)",
    )
    load.add_argument(
        "--requests", type=_above_zero, metavar="N", help="the first N; chat: default concurrency"
    )
    load.add_argument("--max-tokens", type=_above_zero, default=64, metavar="N", help="of a chat")

    out = parser.add_argument_group("results")
    out.add_argument(
        "--rounds", type=_above_zero, metavar="N", help="servers in turns (chat: 3, else 1)"
    )
    out.add_argument(
        "--slo-seconds", type=_positive, default=SLO_SECONDS, help="to the first token (6)"
    )
    out.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="append results as JSON lines; runs that are there are not run again",
    )
    out.add_argument("--append", action="store_true", help="what --out does anyway (S-LoRA's flag)")
    out.add_argument("--again", action="store_true", help="run what is there once more")
    out.add_argument("--json", action="store_true", help="one JSON document on stdout")
    profile_table.add_flags(parser.add_argument_group("profile"))
    return parser


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def _above_zero(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main() -> None:
    """Exit status 0; 1 where nothing could be measured; 2 for wrong usage; 130 after Ctrl-C, with
    the table of what was finished."""
    given = make_parser().parse_args()
    rows: list[Row] = []
    code = 0
    try:
        if given.profile:
            asyncio.run(profile_table.write(given))
            return
        asyncio.run(run_all(given, rows))
    except OperatorError as error:
        print(f"loraconsole bench: {error}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        kept = f"; {len(rows)} runs are finished" + (f", in {given.out}" if given.out else "")
        print(f"loraconsole bench: stopped{kept}", file=sys.stderr)
        code = 130
    if given.json and not (code and not rows):
        print(json.dumps([msgspec.to_builtins(row) for row in rows]))
    elif rows:
        print_table(rows)
    sys.exit(code)


async def run_all(given: argparse.Namespace, rows: list[Row]) -> None:
    """Every load on every server, the servers in turns, round by round. Appends to `rows` as runs
    end. What `--out` has already is taken from there."""
    labels = given.label or given.url
    if len(labels) != len(given.url):
        raise UsageError(f"{len(labels)} --label for {len(given.url)} --url", "one for each")
    rounds = given.rounds or (3 if _is_chat(given) else 1)
    kept = ResultFile(given.out) if given.out else None
    async with contextlib.AsyncExitStack() as stack:
        servers: list[tuple[Client, str, list[Load]]] = []
        for url, label in zip(given.url, labels, strict=True):
            client = await stack.enter_async_context(Client(url, given.api_key))
            count = None if given.suite else given.adapters
            await client.meet(tuple(given.model or ()), count, chat=_is_chat(given))
            loads = make_loads(given, len(client.models))
            for load in loads:
                _check_models(client, load)
            servers.append((client, label, loads))
        # Loads of several servers are alike, but for the number of adapters that each has.
        jobs = [
            (client, loads[step], _config(given, label, loads[step], number))
            for number in range(rounds)
            for step in range(len(servers[0][2]))
            for client, label, loads in servers
        ]
        known = {} if kept is None or given.again else kept.by_config()
        bar = stack.enter_context(
            tqdm(
                total=sum(
                    len(load.workload) for _, load, config in jobs if config.key() not in known
                ),
                unit="request",
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        )
        for client, load, config in jobs:
            if row := known.get(config.key()):
                rows.append(row)
                continue
            bar.set_description(f"{config.server} {describe(config)} {config.round + 1}/{rounds}")
            lines, seconds = await client.run(load.workload, load.concurrency, bar.update)
            result = summarise(
                lines,
                seconds,
                slo_seconds=given.slo_seconds,
                rate=load.parameters.get("rate") if load.concurrency is None else None,
                concurrency=load.concurrency,
            )
            rows.append(Row(config, result))
            if kept:
                kept.append(rows[-1])


def _config(given: argparse.Namespace, label: str, load: Load, number: int) -> RunConfig:
    return RunConfig(
        server=label,
        workload=load.name,
        parameters=load.parameters,
        concurrency=load.concurrency,
        slo_seconds=given.slo_seconds,
        round=number,
    )


def _is_chat(given: argparse.Namespace) -> bool:
    return not given.suite and given.workload in (None, "chat")


def _check_models(client: Client, load: Load) -> None:
    if load.workload.num_adapters > len(client.models):
        raise OperatorError(
            f"{client.url} has {len(client.models)} adapters, {load.workload.num_adapters} are "
            "wanted",
            "load more, or choose a smaller workload",
        )
    if not load.workload.num_adapters and not client.base:
        raise OperatorError(f"{client.url} lists no base model", "name one with --model")


def make_loads(given: argparse.Namespace, num_models: int) -> list[Load]:
    """The loads that the flags ask for, on a server with so many models to choose among.

    Raises `UsageError` where flags do not go together.
    """
    if given.suite and given.workload not in (None, "slora"):
        raise UsageError(f"--suite is of --workload slora, not {given.workload}")
    if (given.workload in ("script", "trace")) != bool(given.file):
        raise UsageError("--file goes with --workload script or trace, and they with it")
    if _is_chat(given):
        return _chat_loads(given, num_models)
    ranges = {
        name: tuple(given.__dict__[name])
        for name in ("input_range", "output_range")
        if given.__dict__[name]
    }
    num_adapters = num_models if given.adapters is None else given.adapters
    made: list[tuple[dict[str, Any], Workload]] = []
    if given.suite:
        suite = suite_named(given.suite)
        if given.adapters is not None:
            # A suite over fewer adapters than S-LoRA's cards hold: as many as there may be.
            counts = dict.fromkeys(min(n, given.adapters) for n in suite.num_adapters)
            suite = replace(suite, num_adapters=tuple(counts))
        for point in suite.points():
            point["rate"] = point["rate"] * given.scale
            point |= {name: given.__dict__[name] for name in OPEN_LOOP if given.__dict__[name]}
            made.append((point, GENERATORS["slora"](**point, **ranges, seed=given.seed)))
    elif given.workload == "script":
        script = read_script(given.file)
        made.append(({"file": given.file.name, "speed": given.speed}, script.paced(given.speed)))
    elif given.workload == "trace":
        alpha = given.alpha or 1.0
        parameters = {"file": given.file.name, "speed": given.speed, "alpha": alpha}
        parameters["num_adapters"] = num_adapters
        trace = read_trace(given.file, num_adapters=num_adapters, alpha=alpha, seed=given.seed)
        trace = trace.paced(given.speed)
        if given.duration:
            trace = trace.until(given.duration)
        made.append((parameters, trace))
    else:
        point = {name: given.__dict__[name] or value for name, value in OPEN_LOOP.items()}
        point["num_adapters"] = num_adapters
        if given.workload == "punica":
            del point["alpha"]
            point["popularity"] = given.popularity
            ranges.pop("input_range", None)
        made.append((point, GENERATORS[given.workload](**point, **ranges, seed=given.seed)))
    extra: dict[str, Any] = {"seed": given.seed, **ranges}
    if given.requests:
        extra["requests"] = given.requests
        made = [(point, workload.head(given.requests)) for point, workload in made]
    name = given.workload or "slora"
    loops: list[int | None] = given.concurrency or [None]
    return [
        Load(name, point | extra, workload, concurrency)
        for point, workload in made
        for concurrency in loops
    ]


def _chat_loads(given: argparse.Namespace, num_models: int) -> list[Load]:
    loads = []
    open_loop = given.rate is not None and not given.concurrency
    for concurrency in [None] if open_loop else given.concurrency or CHAT_CONCURRENCY:
        parameters: dict[str, Any] = {"num_models": num_models, "max_tokens": given.max_tokens}
        arrivals: dict[str, Any] = {}
        count = given.requests or concurrency or int(given.rate * (given.duration or 60))
        if given.model:
            parameters["models"] = given.model
        if open_loop:
            arrivals = {"rate": given.rate, "cv": given.cv or 1.0}
        parameters |= {"requests": count, **arrivals}
        workload = chat(
            num_adapters=num_models,
            count=count,
            max_tokens=given.max_tokens,
            seed=given.seed,
            **arrivals,
        )
        loads.append(Load("chat", parameters, workload, concurrency))
    return loads


def print_table(rows: list[Row]) -> None:
    """Medians over the rounds, a row for each server and load."""
    from rich.console import Console
    from rich.table import Table

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.config.load_key(), row.config.server), []).append(row)
    loads = list(dict.fromkeys(load for load, _ in groups))
    is_open = any(row.config.concurrency is None for row in rows)
    columns = {
        "req/s": "throughput",
        "tok/s": "tokens_s",
        **({} if is_open else {"decode tok/s": "decode_tokens_s"}),
        "TTFT ms": "ttft_ms_p50",
        "p99": "ttft_ms_p99",
        "inter-token ms": "inter_token_ms_p50",
        "p99 ": "inter_token_ms_p99",
        **(
            {"SLO": "slo_attainment", "satisfaction": "satisfaction", "gap": "counter_gap"}
            if is_open
            else {}
        ),
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("server", "load"):
        table.add_column(name, overflow="fold")
    for name in (*columns, "aborted", "errors"):
        table.add_column(name.strip(), justify="right")

    def median(results: list[Result], name: str) -> str:
        known = [value for result in results if (value := getattr(result, name)) is not None]
        if not known:
            return ""
        number = statistics.median(known)
        return f"{number:.2f}" if number < 10 else f"{number:.1f}"

    for (_, server), found in sorted(groups.items(), key=lambda item: loads.index(item[0][0])):
        results = [row.result for row in found]
        table.add_row(
            server,
            describe(found[0].config),
            *(median(results, name) for name in columns.values()),
            *(str(sum(getattr(r, name) for r in results)) for name in ("aborted", "errors")),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
