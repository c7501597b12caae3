"""What it costs to time every step: the bare loop with and without `--no-step-times`, in turns.

    python tests/measure_step_times.py MODEL_DIRECTORY --rows 1 8 32 --repeat 15

Prints medians of microseconds a step, the difference, and how far runs of the same kind lie apart.
On a GPU: `--device cuda --dummy`. Not a test: machines are shared.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from loraconsole.pipeline.config import Config, shipped_adapters
from loraconsole.pipeline.model.bare_loop import BareLoop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="config.json with weights beside it")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32, help="decode steps of one measurement")
    parser.add_argument("--context", type=int, default=64, help="prompt tokens of each row")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dummy", action="store_true", help="random weights, no adapters")
    given = parser.parse_args()
    tokens = max(given.rows) * (given.context + given.steps + 32) + 16384
    loops = {
        word: BareLoop(
            Config(
                adapter=() if given.dummy else shipped_adapters(),
                device=given.device,
                dummy=given.dummy,
                max_total_tokens=tokens,
                no_step_times=word == "off",
            ),
            given.directory,
        )
        for word in ("on", "off")
    }
    for rows in given.rows:
        found: dict[str, list[float]] = {word: [] for word in loops}
        for turn in range(given.repeat):
            for word in sorted(loops, reverse=turn % 2 == 0):  # neither always comes first
                speed = loops[word].decode(rows, given.steps, given.context, mixed=not given.dummy)
                found[word].append(rows / speed * 1e6)
        on, off = (statistics.median(found[word]) for word in ("on", "off"))
        spread = statistics.median(abs(value - off) for value in found["off"]) / off
        print(
            f"{rows:3d} rows: on {on:8.1f} us, off {off:8.1f} us a step: {on / off - 1:+.2%}; "
            f"runs of the same kind lie {spread:.2%} apart",
            flush=True,
        )


if __name__ == "__main__":
    main()
