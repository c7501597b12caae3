"""What `--deterministic` costs on a CPU: the processor's time of a step of the default model with
its adapters, with and without, each in processes of their own, in turns; the least of all turns.

    python tests/measure_determinism.py --dtype bfloat16 [--turns 4]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import defaultdict

from driver import GREEDY, Driver, start_runner

from loraconsole.pipeline.config import Config, shipped_adapters
from loraconsole.pipeline.fetch.fetch import resolve
from loraconsole.pipeline.runner.runner import ModelRunner

PAGES = 900
STEPS = 16
ROWS = (1, 8, 32)
PROMPT = 250


def place_adapters(runner: ModelRunner) -> None:
    """Drops all sequences and places the adapters in the pool's last pages."""
    runner.reset()
    pages = iter(range(runner.loaded.pool.num_pages - 1, 0, -1))
    for info in runner.adapters.held():
        runner.adapters.place(info.key, [next(pages) for _ in range(info.pages)]).result()


def measure(dtype: str, *, deterministic: bool) -> dict[str, float]:
    """Milliseconds of the processor's time: of decode steps, and of a prompt."""
    runner, _ = start_runner(
        resolve(Config()),
        adapter=shipped_adapters(),
        dtype=dtype,
        deterministic=deterministic,
        max_total_tokens=24_000,
    )
    names = [entry.partition("=")[0] for entry in shipped_adapters()]
    chance, found = random.Random(0), {}

    def milliseconds(driver: Driver, counts: dict[int, int]) -> float:
        started = time.process_time()
        driver.step(counts)
        return (time.process_time() - started) * 1e3

    for rows in ROWS:
        for kind, adapters in (("base", [None]), ("adapters", names)):
            place_adapters(runner)
            driver = Driver(runner, PAGES)
            for row in range(rows):
                prompt = [chance.randrange(3, 40_000) for _ in range(60)]
                driver.add(prompt, GREEDY, adapters[row % len(adapters)])
            driver.prefill(range(rows), 64)
            times = [milliseconds(driver, dict.fromkeys(range(rows), 1)) for _ in range(STEPS)]
            found[f"{rows} rows, {kind}"] = sorted(times)[STEPS // 4]
    times = []
    for _ in range(3):
        place_adapters(runner)
        driver = Driver(runner, PAGES)
        number = driver.add([chance.randrange(3, 40_000) for _ in range(PROMPT)])
        times.append(milliseconds(driver, {number: PROMPT}))
    return found | {f"a prompt of {PROMPT}": min(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--only", choices=("on", "off"), help="one process, as JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.dtype, deterministic=given.only == "on")))
        return
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(given.turns):
        for mode in ("on", "off") if turn % 2 else ("off", "on"):
            command = [sys.executable, __file__, "--dtype", given.dtype, "--only", mode]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for what, value in json.loads(done.stdout.splitlines()[-1]).items():
                times[what][mode].append(value)
    for what, own in times.items():
        on, off = min(own["on"]), min(own["off"])
        print(f"{what:20} {off:8.2f} ms without {on:8.2f} ms with {on / off - 1:+7.1%}")


if __name__ == "__main__":
    main()
