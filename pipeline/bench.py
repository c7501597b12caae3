"""Drives an OpenAI-compatible server and tells what its clients saw: `loraconsole bench`.

A closed loop: so many requests at a time, the next begins when one ends. One client measures our
pipeline and any other server alike; several `--url` are measured in turns, so that a noisy
machine is noisy for all. Knows HTTP and clocks, nothing of how a server works inside.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import httpx
import msgspec
from tqdm import tqdm

from .config import OperatorError

PROMPTS = (
    "What is the capital of Spain?",
    "Tell me about the sea.",
    "How many customers ordered more than five books last year?",
    "Maria Lopez, 34, moved from Lima to Oslo in May 2019 to work as a nurse.",
    "Why is the sky blue?",
    "Write a short note to a neighbour about the noise.",
    "Explain how bread rises.",
    "List three uses of copper.",
)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks what: `requests` in all, `concurrency` at a time, models in turn."""

    concurrency: int
    requests: int
    models: tuple[str, ...]
    max_tokens: int


class Timeline(msgspec.Struct):
    """When one request's text came, seconds of one clock; `tokens` as the server counts them."""

    sent: float
    chunks: list[float]
    tokens: int = 0
    error: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `decode_tokens_s` counts only while every one of the concurrent streams was
    decoding, between the last first token and the first last token: prompts and stragglers
    left out. It is None where more requests than `concurrency` ran, since prompts then come
    in between."""

    url: str
    load: Load
    seconds: float
    errors: int
    output_tokens: int
    tokens_s: float
    decode_tokens_s: float | None
    ttft_ms_p50: float
    ttft_ms_p99: float
    inter_token_ms_p50: float
    inter_token_ms_p99: float


async def drive(url: str, api_key: str, load: Load, show: bool) -> Result:
    """One run against one server. Raises `OperatorError` where every request fails."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=load.concurrency)
    timeout = httpx.Timeout(10.0, read=600.0, pool=None)
    jobs = iter(range(load.requests))
    done: list[Timeline] = []
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=timeout, trust_env=False
    ) as client:
        with tqdm(total=load.requests, unit="request", disable=not show, leave=False) as bar:

            async def work() -> None:
                for job in jobs:
                    done.append(await ask(client, load, job))
                    bar.update()

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(load.concurrency)))
            seconds = time.perf_counter() - started
    good = [line for line in done if not line.error]
    if not good:
        raise OperatorError(f"every request to {url} failed: {done[0].error}")
    return summarise(url, load, seconds, good, len(done) - len(good))


async def ask(client: httpx.AsyncClient, load: Load, job: int) -> Timeline:
    """One streamed chat; an error is part of the result."""
    body = {
        "model": load.models[job % len(load.models)],
        "messages": [{"role": "user", "content": PROMPTS[job % len(PROMPTS)]}],
        "max_tokens": load.max_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    line = Timeline(time.perf_counter(), [])
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                line.error = f"{response.status_code} {response.text[:200]}"
                return line
            async for text in response.aiter_lines():
                if not text.startswith("data: {"):
                    continue
                event = json.loads(text[6:])
                if "error" in event:
                    line.error = str(event["error"])
                    return line
                if event.get("usage"):
                    line.tokens = event["usage"]["completion_tokens"]
                if event["choices"]:
                    line.chunks.append(time.perf_counter())
    except httpx.HTTPError as error:
        line.error = f"{type(error).__name__}: {error}"
    return line


def summarise(url: str, load: Load, seconds: float, lines: list[Timeline], errors: int) -> Result:
    """Figures of a run from its requests' timelines."""
    ttft = [(line.chunks[0] - line.sent) * 1e3 for line in lines if line.chunks]
    gaps = [(b - a) * 1e3 for line in lines for a, b in itertools.pairwise(line.chunks)]
    output = sum(line.tokens for line in lines)
    return Result(
        url=url,
        load=load,
        seconds=round(seconds, 3),
        errors=errors,
        output_tokens=output,
        tokens_s=round(output / seconds, 2),
        decode_tokens_s=_decode_rate(load, lines),
        ttft_ms_p50=round(percentile(ttft, 50), 1),
        ttft_ms_p99=round(percentile(ttft, 99), 1),
        inter_token_ms_p50=round(percentile(gaps, 50), 2),
        inter_token_ms_p99=round(percentile(gaps, 99), 2),
    )


def _decode_rate(load: Load, lines: list[Timeline]) -> float | None:
    if load.requests > load.concurrency or len(lines) < load.concurrency:
        return None
    begin = max(line.chunks[0] for line in lines)
    end = min(line.chunks[-1] for line in lines)
    if end <= begin:
        return None
    # A chunk may hold several tokens (text held back), so each counts by its request's mean.
    tokens = sum(
        sum(begin < at <= end for at in line.chunks) * line.tokens / len(line.chunks)
        for line in lines
    )
    return round(tokens / (end - begin), 2)


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank; nan of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def main() -> None:
    """Prints a table of medians over the rounds, and appends every run to `--out` as JSONL."""
    parser = argparse.ArgumentParser("loraconsole bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--url", action="append", required=True, metavar="URL", help="repeat to compare servers"
    )
    parser.add_argument("--api-key", default="", help="bearer token")
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="models in turn; repeat for a mixture"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--requests", type=int, metavar="N", help="in all; default: concurrency")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="interleaved")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append results as JSON lines")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    try:
        results = asyncio.run(run_all(given))
    except OperatorError as error:
        sys.exit(f"loraconsole bench: {error}")
    if given.json:
        print(json.dumps([msgspec.to_builtins(result) for result in results]))
    else:
        print_table(results)


async def run_all(given: argparse.Namespace) -> list[Result]:
    """Every server at every concurrency, the servers in turns within a round."""
    results = []
    models = {url: await choose_models(url, given.api_key, given.model) for url in given.url}
    for _ in range(given.rounds):
        for concurrency in given.concurrency:
            for url in given.url:
                load = Load(
                    concurrency=concurrency,
                    requests=given.requests or concurrency,
                    models=models[url],
                    max_tokens=given.max_tokens,
                )
                result = await drive(url, given.api_key, load, sys.stderr.isatty())
                results.append(result)
                if given.out:
                    with given.out.open("ab") as file:
                        file.write(msgspec.json.encode(result) + b"\n")
    return results


async def choose_models(url: str, api_key: str, wanted: list[str] | None) -> tuple[str, ...]:
    """The models asked for, else all that the server lists."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            response = (await client.get("/v1/models")).raise_for_status()
    except httpx.HTTPError as error:
        raise OperatorError(f"{url} does not list its models: {error}") from error
    listed = tuple(model["id"] for model in response.json()["data"])
    return tuple(wanted) if wanted else listed


def print_table(results: list[Result]) -> None:
    """Medians over the rounds, one row a server and concurrency."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("server")
    for name in ("at once", "tok/s", "decode tok/s", "TTFT ms", "inter-token ms", "p99", "errors"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.url, result.load.concurrency), []).append(result)

    def median(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{statistics.median(known):.1f}" if known else ""

    for (url, concurrency), runs in sorted(groups.items(), key=lambda item: item[0][1]):
        table.add_row(
            url,
            str(concurrency),
            median([run.tokens_s for run in runs]),
            median([run.decode_tokens_s for run in runs]),
            median([run.ttft_ms_p50 for run in runs]),
            median([run.inter_token_ms_p50 for run in runs]),
            median([run.inter_token_ms_p99 for run in runs]),
            str(sum(run.errors for run in runs)),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
