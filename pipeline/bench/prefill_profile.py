"""`loraconsole bench --profile FILE`: how long prompts take, by batch size, length and rank.

Makes the table that the `pets` policy plans with (S-LoRA's `--profile`). Measures a running
pipeline from outside: the time to answer a request of `batch` prompts for one token each. HTTP and
the pipeline's processes add the same to every figure, so this cancels when the policy subtracts the
base model's time from an adapter's.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import msgspec
import numpy as np
from tqdm import tqdm

from ..errors import OperatorError
from ..schedule.pets import LatencyTable
from .load_client import PLAIN_IDS

BATCHES = [1, 2, 4, 8]
LENGTHS = [32, 128, 512, 1024]
Cells: TypeAlias = dict[int, dict[int, float]]


def add_profile_flags(group: Any) -> None:
    group.add_argument(
        "--profile", type=Path, metavar="FILE", help="only write the table for --scheduler pets"
    )
    group.add_argument("--profile-batches", type=int, nargs="+", metavar="N", default=BATCHES)
    group.add_argument("--profile-lengths", type=int, nargs="+", metavar="N", default=LENGTHS)
    group.add_argument(
        "--profile-rounds", type=int, default=3, metavar="N", help="rounds for medians"
    )


async def write(given: argparse.Namespace) -> None:
    """Measures the one `--url` and writes the table. Raises `OperatorError` if it is not a
    loraconsole pipeline, it refuses a prompt, or the file cannot be written."""
    if len(given.url) != 1:
        raise OperatorError("--profile measures one server", "give one --url")
    try:
        given.profile.touch()
    except OSError as error:
        raise OperatorError(f"cannot write {given.profile}: {error.strerror}") from error
    headers = {"authorization": f"Bearer {given.api_key}"} if given.api_key else {}
    async with httpx.AsyncClient(
        base_url=given.url[0], headers=headers, timeout=600, trust_env=False
    ) as http:
        base, by_rank = await _models(http, given.url[0])
        table = await measure(
            http, base, by_rank, given.profile_batches, given.profile_lengths, given.profile_rounds
        )
    document = msgspec.json.format(msgspec.json.encode(table))
    try:
        given.profile.write_bytes(document + b"\n")
    except OSError as error:
        raise OperatorError(f"cannot write {given.profile}: {error.strerror}") from error
    print(f"{given.profile}: base model, and ranks {', '.join(map(str, table.rank)) or 'none'}")


async def _models(http: httpx.AsyncClient, url: str) -> tuple[str, dict[int, str]]:
    """The base model's name, and one adapter for each rank."""
    try:
        models = (await http.get("/v1/models")).raise_for_status().json()["data"]
        views = (await http.get("/v1/adapters")).raise_for_status().json()["adapters"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise OperatorError(
            f"{url} does not show the ranks of its adapters: {error}",
            "it is not a loraconsole pipeline",
        ) from error
    base = next(model["id"] for model in models if not model["parent"])
    served = {model["id"] for model in models}
    ranks = {view["rank"]: view["name"] for view in views if view["name"] in served}
    return base, dict(sorted(ranks.items()))


async def measure(
    http: httpx.AsyncClient,
    base: str,
    by_rank: dict[int, str],
    batches: list[int],
    lengths: list[int],
    rounds: int,
) -> LatencyTable:
    """Medians over `rounds`. Every round measures all cells in another order, so that a machine
    that slows down affects them alike. One unmeasured request per model loads the adapters."""
    models = [base, *by_rank.values()]
    cells = list(itertools.product(models, batches, lengths))
    found: dict[tuple[str, int, int], list[float]] = {cell: [] for cell in cells}
    rng = np.random.default_rng(0)  # all prompts differ, so that no prefix cache helps
    for model in models:
        await _prefill_ms(http, model, rng.integers(*PLAIN_IDS, (1, min(lengths))).tolist())
    todo = [cell for n in range(rounds) for cell in random.Random(n).sample(cells, len(cells))]
    for model, batch, length in tqdm(todo, unit="prefill", disable=not sys.stderr.isatty()):
        prompts = rng.integers(*PLAIN_IDS, (batch, length)).tolist()
        found[model, batch, length].append(await _prefill_ms(http, model, prompts))

    def table(model: str) -> Cells:
        return {
            batch: {
                length: round(statistics.median(found[model, batch, length]), 3)
                for length in lengths
            }
            for batch in batches
        }

    return LatencyTable(table(base), {rank: table(name) for rank, name in by_rank.items()})


async def _prefill_ms(http: httpx.AsyncClient, model: str, prompts: list[list[int]]) -> float:
    body = {"model": model, "prompt": prompts, "max_tokens": 1, "ignore_eos": True}
    started = time.perf_counter()
    try:
        response = await http.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        raise OperatorError(
            f"the server does not answer: {error or type(error).__name__}"
        ) from error
    if response.status_code != 200:
        raise OperatorError(
            f"{len(prompts)} prompts of {len(prompts[0])} tokens: {response.text[:200]}",
            "choose other --profile-batches and --profile-lengths",
        )
    return (time.perf_counter() - started) * 1e3
