"""Runs S-LoRA's suites on real pipelines: one for each policy, on the default model with random
adapters of one of S-LoRA's settings, all driven by `loraconsole bench` in turns. Unknown options
are passed to the bench:

    python tests/measure_suites.py --setting S1 --adapters 200 --scheduler fcfs --scheduler lifo \
        --suite cv --duration 40 --input-range 8 128 --output-range 8 128 --out cv.jsonl

Not a test: machines are shared. `loraconsole bench compare cv.jsonl` compares the policies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from driver import save_adapter
from ring import Ring

from loraconsole.pipeline.bench.workload import SETTINGS
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.fetch.fetch import resolve

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj"]
DIFFERENT = 8
"""Adapters of each rank with different weights; the others are copies under other names."""


def make_adapters(root: Path, count: int, ranks: tuple[int, ...], model: Path) -> list[str]:
    """NAME=PATH of `count` adapters, with ranks in turn as in S-LoRA's launcher."""
    flags = []
    for number in range(count):
        rank = ranks[number % len(ranks)]
        copy = number // len(ranks) % DIFFERENT
        path = root / f"rank-{rank}-{copy}"
        if not path.exists():
            save_adapter(path, model, number, r=rank, target_modules=MODULES)
        flags.append(f"a{number:04}={path}")
    return flags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--setting", choices=SETTINGS, default="S1", help="gives the ranks")
    parser.add_argument("--adapters", type=int, default=200, metavar="N", help="number of adapters")
    parser.add_argument("--scheduler", action="append", metavar="NAME", help="default: fcfs")
    parser.add_argument(
        "--up", default="", metavar="FLAGS", help="more flags of `up`, as one argument"
    )
    given, bench = parser.parse_known_args()
    model = resolve(Config())
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        adapters = make_adapters(root, given.adapters, SETTINGS[given.setting].ranks, model)
        settings = root / "settings.toml"
        settings.write_text(f"adapter = {json.dumps(adapters)}\n")
        servers = []
        for policy in given.scheduler or ["fcfs"]:
            run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            flags = ("--config", str(settings), "--scheduler", policy, *shlex.split(given.up))
            ring = stack.enter_context(Ring(run, *flags))
            servers += ["--url", ring.url, "--label", policy]
        command = [sys.executable, "-P", "-m", "loraconsole.pipeline.bench.bench", *servers, *bench]
        command += ["--adapters", str(given.adapters)]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
