"""Measures the cost of many adapters on a real pipeline: memory, lists, cold starts, and the effect
of loading on a running stream. `python tests/measure_adapters.py --adapters 1000` prints one line
per figure. Not a test: machines are shared. Compared figures are measured in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from driver import save_adapter
from ring import BASE, Ring

RANK = 8
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
DIFFERENT = 16
"""Number of different weights; the adapters are links to these."""
PROMPT = "The old lighthouse keeper wrote in his book that night:"


def make_adapters(root: Path, count: int, model: Path) -> list[Path]:
    """Makes `count` adapter directories."""
    first = [
        save_adapter(root / f"w{i}", model, i, r=RANK, target_modules=MODULES)
        for i in range(min(DIFFERENT, count))
    ]
    paths = []
    for number in range(count):
        path = root / f"a{number:04}"
        path.mkdir()
        for file in first[number % len(first)].iterdir():
            (path / file.name).symlink_to(file)
        paths.append(path)
    return paths


def rss(ring: Ring) -> dict[str, float]:
    """MiB of each process."""
    return {beat["name"]: beat["rss_bytes"] / 2**20 for beat in ring.snapshot()["beats"]}


async def load(client: httpx.AsyncClient, names: Sequence[str], root: Path, at_once: int) -> float:
    """Loads adapters, `at_once` in parallel; returns the seconds until all are loaded."""
    gate = asyncio.Semaphore(at_once)

    async def one(name: str) -> None:
        async with gate:
            body = {"name": name, "path": str(root / name)}
            answer = await client.post("/v1/adapters", json=body)
            assert answer.status_code == 200, answer.text

    started = time.perf_counter()
    await asyncio.gather(*map(one, names))
    return time.perf_counter() - started


async def unload(client: httpx.AsyncClient, names: Sequence[str]) -> float:
    started = time.perf_counter()
    for answer in await asyncio.gather(*(client.delete(f"/v1/adapters/{n}") for n in names)):
        assert answer.status_code == 200, answer.text
    return time.perf_counter() - started


async def stream(client: httpx.AsyncClient, model: str, max_tokens: int) -> list[float]:
    """Milliseconds to the first token, then between tokens."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "ignore_eos": True}
    body |= {"temperature": 0, "stream": True}
    times = [time.perf_counter()]
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return [(b - a) * 1e3 for a, b in itertools.pairwise(times)]


def percentile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]


def say(what: str, **figures: Any) -> None:
    shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"what": what, **shown}), flush=True)


async def measure(ring: Ring, root: Path, names: list[str], rounds: int) -> None:
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(
        base_url=ring.url, timeout=600, limits=limits, trust_env=False
    ) as client:
        spare, names = names[:50], names[50:]
        before = rss(ring)
        seconds = await load(client, names, root, at_once=8)
        await asyncio.sleep(2.5)
        after = rss(ring)
        say("registered", adapters=len(names), seconds=seconds)
        say("memory MiB", **{name: after[name] - before[name] for name in after})

        started = time.perf_counter()
        listed = await client.get("/v1/adapters")
        views = listed.json()["adapters"]
        say(
            "GET /v1/adapters ms",
            ms=(time.perf_counter() - started) * 1e3,
            bytes=len(listed.content),
        )
        started = time.perf_counter()
        await asyncio.to_thread(ring.cli, "adapters", "list", "--json")
        say("adapters list --json s", seconds=time.perf_counter() - started)
        states: dict[str, int] = {}
        for view in views:
            states[view["state"]] = states.get(view["state"], 0) + 1
        router = ring.snapshot()["router"]
        say("pool", **states, **{k: router[k] for k in ("pages_total", "pages_adapters")})

        cold = [v["name"] for v in views if v["state"] == "host" and v["name"] in names]
        warm = [v["name"] for v in views if v["state"] == "gpu" and v["name"] in names]
        found: dict[str, list[float]] = {"resident": [], "cold": [], "base": []}
        for number in range(30):
            for kind, model in (
                ("base", BASE),
                ("resident", warm[-1 - number]),
                ("cold", cold[number] if cold else ""),
            ):
                if model:
                    found[kind].append((await stream(client, model, 2))[0])
        medians = {kind: statistics.median(values) for kind, values in found.items() if values}
        say("first token ms, median of 30", **medians)

        quiet: list[float] = []
        loading: list[float] = []
        seconds = 0.0
        await stream(client, BASE, 100)
        for _ in range(rounds):
            quiet += (await stream(client, BASE, 300))[1:]
            running = asyncio.create_task(stream(client, BASE, 300))
            await asyncio.sleep(0.5)
            seconds = await load(client, spare, root, at_once=8)
            loading += (await running)[1:]
            await unload(client, spare)
        for kind, values in (("undisturbed", quiet), ("while 50 load", loading)):
            say(
                f"between tokens ms, {kind}",
                p50=statistics.median(values),
                p90=percentile(values, 0.9),
                p99=percentile(values, 0.99),
                most=max(values),
            )
        say("50 loaded in", seconds=seconds)

        busy = [asyncio.create_task(stream(client, warm[0], 100)) for _ in range(8)]
        await asyncio.sleep(1.0)
        pages = next(v["pages"] for v in views if v["name"] == warm[0])
        held = ring.snapshot()["router"]["pages_adapters"]
        going = asyncio.create_task(unload(client, [warm[0]]))
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        body = {"model": warm[0], "prompt": PROMPT, "max_tokens": 2}
        late = await client.post("/v1/completions", json=body)
        refused_ms = (time.perf_counter() - started) * 1e3
        lengths = [len(times) for times in await asyncio.gather(*busy)]
        finished = time.perf_counter()
        await going
        drained_ms = (time.perf_counter() - finished) * 1e3
        await asyncio.sleep(0.7)
        left = held - ring.snapshot()["router"]["pages_adapters"]
        say(
            "unload under 8 streams",
            new_request=late.status_code,
            refused_ms=refused_ms,
            tokens_of_each=sorted(set(lengths)),
            answered_ms_after_the_last=drained_ms,
            pages=pages,
            pages_back=left,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="lc-") as directory:
        root = Path(directory)
        (root / "run").mkdir(mode=0o700)
        with Ring(root / "run", *options) as ring:
            model = (ring.run / "model").resolve()
            paths = make_adapters(root, given.adapters + 50, model)
            asyncio.run(measure(ring, root, [path.name for path in paths], given.rounds))


if __name__ == "__main__":
    main()
