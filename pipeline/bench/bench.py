"""`loraconsole bench`: runs workloads on OpenAI-compatible servers; prints and saves results.

Several `--url` are measured alternately, so that noise on the machine affects all alike. With
`--profile` it measures prompts alone and writes the table that the `pets` policy reads. This file
is the command line; requests come from `workload`, HTTP is in `load_client`, arithmetic in `stats`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
from tqdm import tqdm

from ..api_keys import BENCH_VARIABLE, hide_key_arguments, read_key
from ..errors import OperatorError, UsageError
from ..runtime.json_document import to_document
from ..runtime.stdout import ends_with_its_reader
from ..runtime.text_output import json_text
from ..runtime.wording import counted
from . import prefill_profile
from .load_client import Client
from .load_spec import LoadSpec, above_zero, add_load_flags, is_chat, make_load_specs, positive
from .results import ResultFile, ResultRow, RunConfig, describe_load
from .stats import SLO_SECONDS, Result, Timeline, live, summarise

LIVE_SECONDS = 0.25
"""Interval between two lines of --live."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "loraconsole bench",
        description="Drives OpenAI-compatible servers and reports what their clients saw.",
        epilog="`loraconsole bench compare A.jsonl B.jsonl` compares results; `--offline` runs the "
        "engine alone, on dummy weights.",
    )
    server = parser.add_argument_group("servers")
    server.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="server; repeat to compare several; default: the running pipeline's (--run DIR)",
    )
    server.add_argument(
        "--label", action="append", metavar="NAME", help="name in the results, one per --url"
    )
    server.add_argument(
        "--api-key",
        # Not the server's own variable: its key must not be sent to any --url by default.
        default=os.environ.get(BENCH_VARIABLE, ""),
        help=f"bearer token; @FILE reads it from a file (also ${BENCH_VARIABLE})",
    )
    server.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="model to ask; repeat to ask several in turn",
    )

    add_load_flags(parser.add_argument_group("workload"))

    out = parser.add_argument_group("results")
    out.add_argument(
        "--rounds", type=above_zero, metavar="N", help="rounds over all servers (chat: 3, else 1)"
    )
    out.add_argument(
        "--slo-seconds", type=positive, default=SLO_SECONDS, help="limit of the TTFT (6)"
    )
    out.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="append results as JSON lines; runs already in the file are skipped",
    )
    out.add_argument(
        "--append", action="store_true", help="no effect: --out appends (S-LoRA's flag)"
    )
    out.add_argument("--again", action="store_true", help="repeat runs that are already in --out")
    out.add_argument("--json", action="store_true", help="one JSON document on stdout")
    out.add_argument(
        "--live", action="store_true", help="progress as JSON lines on stdout, and no table"
    )
    prefill_profile.add_profile_flags(parser.add_argument_group("profile"))
    return parser


@ends_with_its_reader()
def main() -> None:
    """Exit status 0; 1 if a measurement failed; 2 for wrong usage; 130 after Ctrl-C, with the table
    of finished runs."""
    hide_key_arguments()
    parser = make_parser()
    given = parser.parse_args()
    if not given.url:  # `loraconsole bench` enters that of the running pipeline
        parser.error("the following arguments are required: --url")
    rows: list[ResultRow] = []
    code = 0
    try:
        given.api_key = read_key(given.api_key, "--api-key")
        if given.profile:
            asyncio.run(prefill_profile.write(given))
            return
        asyncio.run(run_all(given, rows))
    except OperatorError as error:
        if given.json and not rows:
            print(json.dumps({"error": error.what, "hint": error.hint}))
        print(f"loraconsole bench: {error}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        kept = f"; {counted(len(rows), 'run', 'are')} finished"
        kept += f", in {given.out}" if given.out else ""
        print(f"loraconsole bench: stopped{kept}", file=sys.stderr)
        code = 130
    if given.json and not (code and not rows):
        print(json_text(msgspec.json.encode(to_document(rows))))
    elif rows and not given.live:
        print_medians(rows)
    sys.exit(code)


async def run_all(given: argparse.Namespace, rows: list[ResultRow]) -> None:
    """Runs every load on every server, alternating servers, round by round. Appends to `rows` as
    runs end. A run that is already in `--out` is read from there."""
    labels = given.label or given.url
    if len(labels) != len(given.url):
        raise UsageError(f"{len(labels)} --label for {len(given.url)} --url", "one for each")
    rounds = given.rounds or (3 if is_chat(given) else 1)
    kept = ResultFile(given.out) if given.out else None
    async with contextlib.AsyncExitStack() as stack:
        servers: list[tuple[Client, str, list[LoadSpec]]] = []
        for url, label in zip(given.url, labels, strict=True):
            client = await stack.enter_async_context(Client(url, given.api_key))
            count = None if given.suite else given.adapters
            await client.meet(tuple(given.model or ()), count, chat=is_chat(given))
            specs = make_load_specs(given, len(client.models))
            for spec in specs:
                _check_models(client, spec)
            servers.append((client, label, specs))
        # All servers have the same loads, except for their numbers of adapters.
        jobs = [
            (client, specs[step], _config(given, label, specs[step], number))
            for number in range(rounds)
            for step in range(len(servers[0][2]))
            for client, label, specs in servers
        ]
        known = {} if kept is None or given.again else kept.by_config()
        bar = stack.enter_context(
            tqdm(
                total=sum(
                    len(spec.workload) for _, spec, config in jobs if config.key() not in known
                ),
                unit="request",
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        )
        for client, spec, config in jobs:
            if row := known.get(config.key()):
                rows.append(row)
                continue
            bar.set_description(
                f"{config.server} {describe_load(config)} {config.round + 1}/{rounds}"
            )
            seen = Watcher(
                describe_load(config), len(rows) + 1, len(jobs), len(spec.workload), client
            )

            def ended(line: Timeline, seen: Watcher = seen) -> None:
                bar.update()
                if given.live:
                    seen.ended(line)

            telling = asyncio.create_task(seen.tell_forever()) if given.live else None
            try:
                lines, seconds = await client.run(spec.workload, spec.concurrency, ended)
            finally:
                if telling is not None:
                    telling.cancel()
            result = summarise(
                lines,
                seconds,
                slo_seconds=given.slo_seconds,
                rate=spec.parameters.get("rate") if spec.concurrency is None else None,
                concurrency=spec.concurrency,
            )
            rows.append(ResultRow(config, result))
            if kept:
                kept.append(rows[-1])


class Watcher:
    """Prints a run's progress for another program: a `Live` per line of JSON on stdout."""

    def __init__(self, load: str, run: int, runs: int, total: int, client: Client) -> None:
        self._client, self._streamed_before = client, client.streamed
        self._lines: list[Timeline] = []
        self._started = time.perf_counter()
        self._total = total
        self._of = partial(live, load=load, run=run, runs=runs, total=total, seconds=0.0)
        self._told = self._of([])

    def ended(self, line: Timeline) -> None:
        self._lines.append(line)
        if len(self._lines) == self._total:
            self.tell()

    async def tell_forever(self) -> None:
        """Prints also while no request ends, since time and streamed text advance."""
        while True:
            self.tell()
            await asyncio.sleep(LIVE_SECONDS)

    def tell(self) -> None:
        if len(self._lines) != self._told.done:  # percentiles of many requests are expensive
            self._told = self._of(self._lines)
        now = msgspec.structs.replace(
            self._told,
            seconds=round(time.perf_counter() - self._started, 3),
            streamed=self._client.streamed - self._streamed_before,
        )
        print(json_text(msgspec.json.encode(now)), flush=True)


def _config(given: argparse.Namespace, label: str, spec: LoadSpec, number: int) -> RunConfig:
    return RunConfig(
        server=label,
        workload=spec.name,
        parameters=spec.parameters,
        concurrency=spec.concurrency,
        slo_seconds=given.slo_seconds,
        round=number,
    )


def _check_models(client: Client, spec: LoadSpec) -> None:
    if spec.workload.num_adapters > len(client.models):
        raise OperatorError(
            f"{client.url} has {len(client.models)} adapters, {spec.workload.num_adapters} are "
            "needed",
            "load more, or choose a smaller workload",
        )
    if not spec.workload.num_adapters and not client.base:
        raise OperatorError(f"{client.url} lists no base model", "name one with --model")


def print_medians(rows: list[ResultRow]) -> None:
    """Prints a row for each server and load: medians over the rounds."""
    from rich.table import Table

    from ..runtime.stdout_console import StdoutConsole

    groups: dict[tuple[str, str], list[ResultRow]] = {}
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
            describe_load(found[0].config),
            *(median(results, name) for name in columns.values()),
            *(str(sum(getattr(r, name) for r in results)) for name in ("aborted", "errors")),
        )
    StdoutConsole(width=None if sys.stdout.isatty() else 160).print(table)
    for row in rows:
        if row.result.error:
            failed = counted(row.result.errors, "request")
            print(
                f"{row.config.server}, {describe_load(row.config)}: {failed} failed, most often by:"
            )
            print(f"  {row.result.error}")


if __name__ == "__main__":
    main()
