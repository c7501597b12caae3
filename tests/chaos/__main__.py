"""Chaos: disturbs a real pipeline under load, by a seed, and checks that nothing is lost.

`make chaos MINUTES=10 SEED=1`, or a part of it:
`PYTHONPATH=tests python -P -m chaos kills --minutes 10 --seed 1 [--from ROUND --count ROUNDS]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .body_run import BodyRun
from .faults import ring_names
from .frame_run import FrameRun
from .hand_ring import HandRing
from .kills import KillOptions, Kills
from .pipeline import Pipeline
from .report import faults_of, kill_table

KEEP = "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"

PIECE = 20_000
"""Bodies in one line of the results: a run goes on from the last one's end by --from."""

FRAMES_A_MINUTE = 20_000


class Lines:
    """The run's JSON lines, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")
        self.all: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        self.all.append(line)
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self._file.flush()


def run_kills(given: argparse.Namespace, lines: Lines, directory: Path) -> None:
    options = KillOptions(
        given.seed,
        given.width,
        given.asks,
        names=tuple(given.names.split(",")) if given.names else ring_names(given.tp),
        pairs=not given.singles,
        stops=not given.singles,
        calm=given.calm,
    )
    with Pipeline(directory / "run", given.tp) as pipeline:
        asyncio.run(run_rounds(pipeline, options, given, lines, directory))
    lines.add({"down": True, "faults": pipeline.leftovers()})


async def run_rounds(
    pipeline: Pipeline,
    options: KillOptions,
    given: argparse.Namespace,
    lines: Lines,
    directory: Path,
) -> None:
    kills = Kills(pipeline, options, directory)
    await kills.prepare()
    print(f"{len(kills.truth.asks())} requests known, {options.width} at a time", flush=True)
    deadline = time.monotonic() + 60 * given.minutes
    for number in range(given.start, given.start + given.count):
        if time.monotonic() > deadline:
            break
        await kills.run_round(number)
        for line in kills.take_finished():
            show(line, lines)
    for line in await kills.finish():
        show(line, lines)


def run_frames(given: argparse.Namespace, lines: Lines, directory: Path) -> None:
    count = min(given.count, 100_000)
    with Pipeline(directory / "run") as pipeline:
        frames = FrameRun(pipeline, given.seed)
        lines.add(asyncio.run(frames.run(given.start, count)))
        frames.close()
    lines.add({"down": True, "faults": pipeline.leftovers()})
    print(lines.all[-2])


def run_bodies(given: argparse.Namespace, lines: Lines, directory: Path) -> None:
    async def run() -> None:
        async with HandRing(directory) as ring:
            deadline = time.monotonic() + 60 * given.minutes
            left = range(given.start, given.start + min(given.count, 1_000_000))
            while left and time.monotonic() < deadline:
                piece, left = left[:PIECE], left[PIECE:]
                lines.add(await BodyRun(ring, given.seed).run(piece.start, len(piece)))
                print(lines.all[-1], flush=True)
        lines.add({"down": True, "faults": ring.leftovers()})

    asyncio.run(run())


def show(line: dict[str, Any], lines: Lines) -> None:
    lines.add(line)
    if "round" in line:
        print(
            f"{line['round']:4} {line['fault']:28} back {line['back_s']} s, {line['accepted']} "
            f"accepted, {line['verdicts']}, pause {line['longest_pause_s']} s {line['faults']}",
            flush=True,
        )


def run_all(given: argparse.Namespace, lines: Lines, directory: Path) -> None:
    """Seven tenths of the minutes for kills, the rest for the others."""
    for part, share in (("frames", 0.1), ("bodies", 0.2), ("kills", 0.7)):
        own = directory / part
        own.mkdir()
        minutes = share * given.minutes
        count = int(FRAMES_A_MINUTE * minutes) if part == "frames" else given.count
        print(f"{part}: {minutes:.1f} minutes", flush=True)
        PARTS[part](
            argparse.Namespace(**vars(given) | {"minutes": minutes, "count": count}), lines, own
        )


PARTS = {"kills": run_kills, "frames": run_frames, "bodies": run_bodies, "all": run_all}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--from", dest="start", type=int, default=0, help="first round or case")
    parser.add_argument("--count", type=int, default=1_000_000, help="most rounds or cases")
    parser.add_argument("--width", type=int, default=32, help="requests at a time")
    parser.add_argument("--asks", type=int, default=60, help="different requests")
    parser.add_argument("--names", default="", help="processes to disturb; all by default")
    parser.add_argument("--tp", type=int, default=1, help="workers that share the model")
    parser.add_argument("--singles", action="store_true", help="no pairs and no SIGSTOP")
    parser.add_argument("--calm", action="store_true", help="the next fault waits for all streams")
    parser.add_argument("--out", type=Path, default=Path("chaos.jsonl"), help="JSON lines")
    return parser.parse_args()


def main() -> int:
    given = parse()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        directory = Path(name)
        for variable in KEEP:  # neither settings nor transcripts of this user
            os.environ[variable] = str(directory / variable)
        lines = Lines(given.out)
        PARTS[given.part](given, lines, directory)
    print(kill_table(lines.all))
    faults = faults_of(lines.all)
    print(f"{len(faults)} faults" + "".join(f"\n- {fault}" for fault in faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
