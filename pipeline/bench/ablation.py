"""The cost of each part of serving adapters: `loraconsole bench --ablate`.

Runs the same closed loop against pipelines that each lack one part, as in S-LoRA's ablations. Every
measurement starts its own pipeline, one at a time. A round measures all sets of flags, in another
order than the round before, and only differences within a round are used, so that noise on the
machine affects all sets alike. Knows flags and results, nothing of how a pipeline works inside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import msgspec
from tqdm import tqdm

from ..api_keys import KEY_VARIABLES, hide_key_arguments
from ..config import Config, flag_of
from ..config_flags import add_config_flags, config_fields, config_from_flags
from ..errors import OperatorError, UsageError
from ..runtime.json_document import to_document
from ..runtime.stdout import ends_with_its_reader
from ..runtime.text_output import UTF8_OUTPUT, json_text
from .load_client import Client
from .stats import Result, summarise
from .workload import chat_workload

Flags = tuple[str, ...]
"""A set of ablation flags, as `Config` names them."""

FULL: Flags = ()
RESIDENT: Flags = ("no_lora_swap",)
LATE: Flags = ("no_prefetch",)
PLAIN: Flags = ("no_kernel",)
PLAIN_RESIDENT: Flags = ("no_kernel", "no_lora_swap")
OWN_MEMORY: Flags = ("no_mem_pool",)
PADDED: Flags = ("bmm",)
LOADED: Flags = ("no_lora_compute",)
BASE: Flags = ("no_lora",)
SETS = (FULL, RESIDENT, LATE, PLAIN, PLAIN_RESIDENT, OWN_MEMORY, PADDED, LOADED, BASE)


class PartCost(NamedTuple):
    """A part's cost: the time per token with it (`having`) minus that without it (`lacking`)."""

    part: str
    having: Flags
    lacking: Flags
    about: str


COSTS = (
    PartCost("LoRA in all", FULL, BASE, "adapters, against the base model alone"),
    PartCost("LoRA compute", FULL, LOADED, "the adapters' products"),
    PartCost("LoRA rest", LOADED, BASE, "scheduling and loading adapters, without their products"),
    PartCost("load (swap)", FULL, RESIDENT, "loading adapters on demand, against all resident"),
    PartCost("prefetch", FULL, LATE, "loading on arrival, against loading when there is room"),
    PartCost("LoRA kernels", FULL, PLAIN, "our kernels and graphs, against plain PyTorch"),
    # Both sides compute in plain PyTorch, on a GPU too, and adapters outside the pool stay
    # resident.
    PartCost("paging", PLAIN_RESIDENT, OWN_MEMORY, "pages of the pool, against separate memory"),
    PartCost("own ranks", PLAIN, PADDED, "each at its rank, against padding to the largest"),
)

PROMPT_TOKENS = 112
"""Upper limit of the benchmark's prompts, including chat template and padding to whole pages."""


def flags_text(flags: Flags) -> str:
    """A set of flags as on the command line."""
    return " ".join(map(flag_of, flags)) or "all parts"


def stand_ins(idle: Container[str]) -> dict[Flags, Flags]:
    """Each set of flags, to the equivalent set without the `idle` flags, which have no effect here,
    e.g. --no-kernel on a machine without our kernels."""
    return {flags: tuple(flag for flag in flags if flag not in idle) for flags in SETS}


class Loop(NamedTuple):
    """A closed loop: `requests` chats in all, `concurrency` at a time, adapters in turn."""

    concurrency: int
    requests: int
    max_tokens: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one set of flags, from the clients' side."""

    flags: Flags
    round: int
    seconds: float
    output_tokens: int
    ttft_ms_p50: float
    errors: int

    @property
    def token_ms(self) -> float:
        """Milliseconds per output token, over the whole loop, prompts and loads included."""
        return 1e3 * self.seconds / max(1, self.output_tokens)


# --- pipelines ----------------------------------------------------------------------------------


def replicate(adapters: dict[str, str], count: int) -> tuple[str, ...]:
    """NAME=PATH of `count` adapters: copies of the given ones, to a pipeline different adapters."""
    given = list(adapters.items())
    if not given:
        raise UsageError("no adapter to measure with", "give --adapter NAME=PATH")
    names = (f"{given[n % len(given)][0]}-{n // len(given)}" for n in range(count))
    return tuple(f"{name}={given[n % len(given)][1]}" for n, name in enumerate(names))


def adapter_tokens(config: Config) -> int:
    """The space of all adapters of `config`, in tokens of KV. Raises `OperatorError`."""
    import torch

    from ..fetch.fetch import resolve
    from ..model.adapter import measure_adapter
    from ..model.page_pool import PAGE_SIZE
    from ..model_files.model_config import read_model_config
    from ..runtime.guarded_file import AdapterError

    model_config = read_model_config(resolve(config), config.ignore_key)
    pages = {}
    for name, path in config.adapters().items():
        if path not in pages:
            try:
                pages[path] = measure_adapter(name, path, model_config, torch.float32).pages
            except AdapterError as error:
                raise OperatorError(f"adapter {name}: {error}") from error
    return PAGE_SIZE * sum(pages[path] for path in config.adapters().values())


def pool_tokens(flags: Flags, adapters: int, loop: Loop) -> int:
    """`--max-total-tokens` for `flags`: space for the running requests plus half of the adapters
    (which take `adapters` tokens), so that they evict each other. With --no-lora-swap, which pins
    at most half of a pool, twice the adapters' space."""
    running = loop.concurrency * (PROMPT_TOKENS + loop.max_tokens)
    return running + (2 * adapters if "no_lora_swap" in flags else adapters // 2)


def command_line(config: Config) -> list[str]:
    """The command-line flags that make `config`, without its keys."""
    flags: list[str] = []
    for field in config_fields():
        value = getattr(config, field.name)
        if value == getattr(Config(), field.name) or field.name in KEY_VARIABLES:
            continue
        if isinstance(value, bool):
            flags.append(field.flags[0 if value else 1])
        else:
            values = value if get_origin(field.kind) is tuple else (value,)
            flags += [text for one in values for text in (field.flag, str(one))]
    return flags


@contextlib.contextmanager
def pipeline(config: Config) -> Iterator[str]:
    """Starts a pipeline in its own run directory, yields its address when it is ready, and stops it
    at the end. Raises `OperatorError` if it does not start."""
    with tempfile.TemporaryDirectory(prefix="ablate-") as run:
        config = msgspec.structs.replace(config, run=run, port=0)
        command = [sys.executable, "-P", "-m", "loraconsole.console"]
        up = [*command, "up", "--json", *command_line(config)]
        try:
            keys = {variable: getattr(config, name) for name, variable in KEY_VARIABLES.items()}
            environment = {**os.environ, **UTF8_OUTPUT, **keys}
            started = subprocess.run(up, capture_output=True, encoding="utf-8", env=environment)
            if started.returncode:
                raise OperatorError(f"a pipeline did not start: {started.stderr.strip()}")
            yield json.loads(started.stdout)["url"]
        finally:
            down = [*command, "down", "--now", "--run", run]
            subprocess.run(down, capture_output=True)


# --- measuring ----------------------------------------------------------------------------------


def drive_loop(url: str, config: Config, loop: Loop) -> Result:
    """Runs a closed loop; the result from the clients' side."""
    return asyncio.run(_drive(url, config, loop))


async def _drive(url: str, config: Config, loop: Loop) -> Result:
    models = tuple(config.adapters())
    async with Client(url, config.api_key) as client:
        await client.meet(models, None, chat=True)
        workload = chat_workload(
            num_adapters=len(models), count=loop.requests, max_tokens=loop.max_tokens
        )
        lines, seconds = await client.run(workload, loop.concurrency)
    return summarise(lines, seconds, concurrency=loop.concurrency)


def measure_run(config: Config, flags: Flags, loop: Loop, round: int) -> Run:
    """Starts a pipeline with `flags`, warms up with a request per adapter, then measures."""
    with pipeline(config) as url:
        drive_loop(url, config, loop._replace(requests=len(config.adapter), max_tokens=2))
        result = drive_loop(url, config, loop)
    return Run(
        flags=flags,
        round=round,
        seconds=result.seconds,
        output_tokens=result.output_tokens,
        ttft_ms_p50=result.ttft_ms_p50 or math.nan,
        errors=result.errors,
    )


def measure_all(config: Config, loop: Loop, rounds: int, out: Path | None) -> list[Run]:
    """Measures all sets of flags that are valid with `config`, round by round."""
    import torch

    has_kernels = config.device != "cpu" and torch.cuda.is_available() and not config.no_kernel
    taken = adapter_tokens(config)
    configs: dict[Flags, Config] = {}
    for flags in dict.fromkeys(stand_ins(() if has_kernels else ("no_kernel",)).values()):
        tokens = pool_tokens(flags, taken, loop)
        try:
            configs[flags] = msgspec.structs.replace(
                config, max_total_tokens=tokens, **dict.fromkeys(flags, True)
            )
        except UsageError as error:
            print(f"left out: {error.what}", file=sys.stderr)
    runs = []
    total, is_shown = rounds * len(configs), sys.stderr.isatty()
    with tqdm(total=total, unit="run", leave=False, disable=not is_shown) as bar:
        for round in range(rounds):
            order = list(configs)
            for flags in order[round % len(order) :] + order[: round % len(order)]:
                bar.set_description(flags_text(flags))
                run = measure_run(configs[flags], flags, loop, round)
                runs.append(run)
                if out:
                    with out.open("ab") as file:
                        file.write(msgspec.json.encode(run) + b"\n")
                bar.update()
    return runs


class MeasuredCost(msgspec.Struct, frozen=True):
    """A part's cost in ms per token: median, least and most over the rounds; negative: saved."""

    part: str
    about: str
    ms: float
    least: float
    """Milliseconds."""
    most: float
    """Milliseconds."""
    share: float
    """`ms` as a share of the time per token with all parts."""


class AblationDocument(msgspec.Struct, frozen=True):
    """`bench --ablate --json`."""

    runs: tuple[Run, ...]
    costs: tuple[MeasuredCost, ...]


def differences(runs: list[Run]) -> list[MeasuredCost]:
    """The cost of each part whose two sets of flags were measured and differ."""
    measured = {(run.flags, run.round): run.token_ms for run in runs}
    rounds = sorted({run.round for run in runs})
    stood_for = stand_ins(() if any("no_kernel" in run.flags for run in runs) else ("no_kernel",))
    found = []
    for cost in COSTS:
        having, lacking = stood_for[cost.having], stood_for[cost.lacking]
        if having == lacking or any(
            (s, r) not in measured for s in (having, lacking) for r in rounds
        ):
            continue
        gaps = [measured[having, r] - measured[lacking, r] for r in rounds]
        whole = statistics.median(measured[FULL, r] for r in rounds)
        ms = statistics.median(gaps)
        found.append(MeasuredCost(cost.part, cost.about, ms, min(gaps), max(gaps), ms / whole))
    return found


# --- the command --------------------------------------------------------------------------------


@ends_with_its_reader()
def main() -> None:
    """Prints the result of each set and the cost of each part; `--out` appends runs as JSONL."""
    hide_key_arguments()
    parser = argparse.ArgumentParser(
        "loraconsole bench --ablate", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds over all sets")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N")
    parser.add_argument("--requests", type=int, default=48, metavar="N", help="requests per run")
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="tokens per answer")
    parser.add_argument(
        "--adapters",
        type=int,
        default=24,
        metavar="N",
        help="number of adapters, copied from those given; half of them fit in the pool",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="append runs as JSON lines")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_config_flags(parser)
    given = parser.parse_args()
    try:
        config = config_from_flags(vars(given))
        adapters = replicate(config.adapters(), given.adapters)
        config = msgspec.structs.replace(config, adapter=adapters)
        loop = Loop(given.concurrency, given.requests, given.max_tokens)
        runs = measure_all(config, loop, given.rounds, given.out)
    except OperatorError as error:
        if given.json:
            print(json.dumps({"error": error.what, "hint": error.hint}))
        sys.exit(f"loraconsole bench --ablate: {error}")
    costs = differences(runs)
    if given.json:
        document = AblationDocument(tuple(runs), tuple(costs))
        print(json_text(msgspec.json.encode(to_document(document))))
    else:
        print_sets(runs)
        print_costs(costs)


def _table(*heads: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number and head else "left")
    return table


def print_sets(runs: list[Run]) -> None:
    """Prints a row for each set of flags: medians over the rounds."""
    from ..runtime.stdout_console import StdoutConsole

    table = _table("lacking", "tok/s", "ms a token", "least", "most", "TTFT ms", "errors")
    for flags in dict.fromkeys(run.flags for run in runs):
        own = [run for run in runs if run.flags == flags]
        ms = [run.token_ms for run in own]
        table.add_row(
            flags_text(flags) if flags else "nothing",
            f"{1e3 / statistics.median(ms):.1f}",
            *(f"{value:.2f}" for value in (statistics.median(ms), min(ms), max(ms))),
            f"{statistics.median(run.ttft_ms_p50 for run in own):.0f}",
            str(sum(run.errors for run in own)),
        )
    StdoutConsole(width=120).print(table)


def print_costs(costs: list[MeasuredCost]) -> None:
    """Prints a row for each part, with the spread of the rounds."""
    from ..runtime.stdout_console import StdoutConsole

    table = _table("part", "ms a token", "least", "most", "of all", "")
    for cost in costs:
        table.add_row(
            cost.part,
            *(f"{value:+.2f}" for value in (cost.ms, cost.least, cost.most)),
            f"{cost.share:+.1%}",
            cost.about,
        )
    screen = StdoutConsole(width=120)
    screen.print()
    screen.print(table)


if __name__ == "__main__":
    main()
