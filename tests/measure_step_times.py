"""Measures the cost of timing every step: the bare loop with and without it, in turns, on one
loaded model (two loaded models differ by more, because of their weights' places in memory).

    python tests/measure_step_times.py MODEL_DIRECTORY --rows 1 8 32 --repeat 15

Prints median microseconds per step, the median difference of neighbours, and the median difference
of neighbours of one kind, which is the noise.
On a GPU: `--device cuda --dummy`. Not a test: machines are shared.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from loraconsole.pipeline.bench.bare_loop import BareLoop
from loraconsole.pipeline.config import Config, shipped_adapters


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
    config = Config(
        adapter=() if given.dummy else shipped_adapters(),
        device=given.device,
        dummy=given.dummy,
        max_total_tokens=tokens,
    )
    loop = BareLoop(config, given.directory)

    def run(rows: int, *, timed: bool) -> float:
        """Microseconds per step."""
        loop._runner.timer.is_on = timed  # as the flag does
        speed = loop.decode(rows, given.steps, given.context, mixed=not given.dummy)
        return rows / speed * 1e6

    for rows in given.rows:
        on, off, differences, noise = [], [], [], []
        for turn in range(given.repeat):
            order = (True, False, False, True) if turn % 2 else (False, True, True, False)
            values = [run(rows, timed=timed) for timed in order]
            ons = [value for value, timed in zip(values, order, strict=True) if timed]
            offs = [value for value, timed in zip(values, order, strict=True) if not timed]
            on += ons
            off += offs
            differences.append(sum(ons) / sum(offs) - 1)
            noise += [abs(ons[0] / ons[1] - 1), abs(offs[0] / offs[1] - 1)]
        print(
            f"{rows:3d} rows: on {statistics.median(on):8.1f} us, "
            f"off {statistics.median(off):8.1f} us a step: "
            f"{statistics.median(differences):+.2%}; noise {statistics.median(noise):.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
