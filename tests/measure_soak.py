"""Measures what a pipeline holds over time, under mixed load: memory, descriptors, threads of each
process, and the disk of its run directory. Prints each slope and a verdict.

`python tests/measure_soak.py --minutes 180 -- --tp 2`: what follows `--` goes to `loraconsole up`.
The load: chats and completions, streamed and whole, of the base model and of adapters; requests
that their client drops; adapters that are loaded under new names, asked and unloaded; orders that
are refused. Every answer of one prompt is compared with the first: the pipeline runs in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from ring import ADAPTERS, BASE, Ring, shipped

MIB = 2**20
SLACK = {"MiB": 24.0, "descriptors": 12.0, "threads": 4.0}
"""Growth from the second quarter of the run to the last that is not called a leak: caches fill,
and consoles and connections come and go."""
RELATIVE_SLACK = 0.03
OPTIONS = ("--dtype", "float32", "--max-total-tokens", "8192")
"""Texts that do not depend on the batch; and a pool of which all pages are soon touched: a larger
one takes memory for an hour."""
JSON = "application/json"
PROMPT = "Count the ships in the harbour."


@dataclass
class Load:
    """Clients of the pipeline at `url`, until `ended`."""

    url: str
    seed: int
    ended: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    truths: dict[str, str] = field(default_factory=dict)
    """The first answer to `PROMPT`, by model."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> None:
        """One client."""
        dice = random.Random(f"{self.seed} {number}")
        acts = (self._ask, self._ask_whole, self._stream, self._drop, self._refused)
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as http:
            while not self.ended.is_set():
                act = dice.choice(acts) if number or dice.random() > 0.3 else self._come_and_go
                try:
                    act(http, dice)
                except (httpx.HTTPError, AssertionError, ValueError) as error:
                    self._note(f"{act.__name__.strip('_')}: {error!r}"[:300])
                with self._lock:
                    self.counts[act.__name__.strip("_")] += 1

    def _note(self, fault: str) -> None:
        with self._lock:
            self.faults.append(fault)

    def _ask(self, http: httpx.Client, dice: random.Random) -> None:
        """The prompt of which every answer must be the same."""
        model = dice.choice((BASE, *ADAPTERS))
        text = chat(http, model, PROMPT, temperature=0, max_tokens=24)
        with self._lock:
            first = self.truths.setdefault(model, text)
        assert text == first, f"{model} said {text!r}, and before {first!r}"

    def _ask_whole(self, http: httpx.Client, dice: random.Random) -> None:
        text = " ".join(
            dice.choices(("sea", "ship", "rope", "wind", "salt"), k=dice.randint(1, 200))
        )
        chat(http, dice.choice((BASE, *ADAPTERS)), text, n=dice.choice((1, 1, 3)), max_tokens=16)

    def _stream(self, http: httpx.Client, dice: random.Random) -> None:
        with http.stream("POST", "/v1/completions", json=self._long(dice)) as response:
            assert response.status_code == 200, response.read()
            last = ""
            for line in response.iter_lines():
                last = line or last
            assert last == "data: [DONE]", last

    def _drop(self, http: httpx.Client, dice: random.Random) -> None:
        """Closes the connection after some tokens."""
        body = self._long(dice) | {"max_tokens": 400, "ignore_eos": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            for number, _ in enumerate(response.iter_lines()):
                if number >= dice.randint(0, 10):
                    break

    def _long(self, dice: random.Random) -> dict[str, object]:
        prompt = f"Day {dice.randrange(10**9)}: the sea was"
        model = dice.choice((BASE, *ADAPTERS))
        return {"model": model, "prompt": prompt, "max_tokens": dice.randint(1, 64), "stream": True}

    def _refused(self, http: httpx.Client, dice: random.Random) -> None:
        name = f"none-{dice.randrange(10**9)}"
        body = {"model": name, "prompt": "x", "max_tokens": 4}
        for response in (
            http.post("/v1/completions", json=body),
            http.delete(f"/v1/adapters/{name}"),
            http.post("/v1/completions", content=b"{", headers={"Content-Type": JSON}),
        ):
            assert response.status_code in (400, 404), f"{response.status_code} {response.text}"

    def _come_and_go(self, http: httpx.Client, dice: random.Random) -> None:
        """An adapter of a name that was never there before."""
        name = f"guest-{dice.randrange(10**12)}"
        body = {"name": name, "path": str(shipped(dice.choice(ADAPTERS)))}
        loaded = http.post("/v1/adapters", json=body)
        assert loaded.status_code == 200, loaded.text
        chat(http, name, PROMPT, max_tokens=8)
        gone = http.delete(f"/v1/adapters/{name}")
        assert gone.status_code == 200, gone.text


def chat(http: httpx.Client, model: str, text: str, **more: object) -> str:
    """The answer's text."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]} | more
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, f"{response.status_code} {response.text[:200]}"
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


# --- samples --------------------------------------------------------------------------------------


def sample(ring: Ring, pids: dict[str, int]) -> dict[tuple[str, str], float]:
    """What each process holds, by process and unit; and the MiB of each folder of the run directory
    as those of `disk FOLDER`."""
    found: dict[tuple[str, str], float] = {}
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found[name, "MiB"] = pages * os.sysconf("SC_PAGE_SIZE") / MIB
            found[name, "descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
            found[name, "threads"] = len(os.listdir(f"/proc/{pid}/task"))
    sizes: dict[str, int] = defaultdict(int)
    for path in ring.run.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                parts = path.relative_to(ring.run).parts
                sizes[parts[0] if len(parts) > 1 else "."] += path.stat().st_size
    for folder, size in sizes.items():
        found[f"disk {folder}", "MiB"] = size / MIB
    return found


def all_pids(ring: Ring) -> dict[str, int]:
    """The pid of every process of the ring, the supervisor's too."""
    snapshot = ring.snapshot()
    pids = {row["name"]: row["pid"] for row in snapshot["processes"]["processes"] if row["pid"]}
    return pids | {
        beat["name"]: beat["pid"] for beat in snapshot["beats"] if beat["name"] == "supervisor"
    }


def slope_an_hour(points: list[tuple[float, float]]) -> float:
    """Growth an hour by least squares; points are (seconds, value)."""
    if len(points) < 2:
        return 0.0
    line = statistics.linear_regression(*zip(*points, strict=True))
    return line.slope * 3600


def judge(rows: list[tuple[float, dict[tuple[str, str], float]]]) -> bool:
    """Prints the table of what was held; returns whether nothing grows beyond its slack."""
    span, is_well = rows[-1][0], True
    print(f"{'':22} {'unit':12} {'start':>9} {'2nd quarter':>12} {'last':>9} {'an hour':>9}")
    for key in sorted({key for _, row in rows for key in row}):
        points = [(at, row[key]) for at, row in rows if key in row]
        settled = [(at, value) for at, value in points if at >= span / 4]
        second = [value for at, value in settled if at < span / 2]
        last = [value for at, value in settled if at >= span * 3 / 4]
        if not second or not last:
            continue
        before, after = statistics.median(second), statistics.median(last)
        grows = after - before > max(SLACK[key[1]], before * RELATIVE_SLACK)
        is_well &= not grows
        print(
            f"{key[0]:22} {key[1]:12} {points[0][1]:9.1f} {before:12.1f} {after:9.1f} "
            f"{slope_an_hour(settled):+9.1f}{'  GROWS' if grows else ''}"
        )
    return is_well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--out", type=Path, help="a file for the samples, as JSON lines")
    parser.add_argument("up", nargs="*", help="options of loraconsole up")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as run,
        Ring(Path(run), *OPTIONS, *given.up) as ring,
    ):
        ring.wait_ready()
        load = Load(ring.url, given.seed)
        clients = [threading.Thread(target=load.run, args=(n,)) for n in range(given.clients)]
        began, pids = time.monotonic(), all_pids(ring)
        rows = [(0.0, sample(ring, pids))]
        for client in clients:
            client.start()
        while (at := time.monotonic() - began) < given.minutes * 60:
            time.sleep(min(given.every, given.minutes * 60 - at))
            rows.append((time.monotonic() - began, sample(ring, pids)))
            if given.out:
                row = {f"{name} {unit}": value for (name, unit), value in rows[-1][1].items()}
                with given.out.open("a") as file:
                    file.write(json.dumps({"at": round(rows[-1][0], 1), **row}) + "\n")
        load.ended.set()
        for client in clients:
            client.join()
        ring.wait_idle()
        is_same = all_pids(ring) == pids
        counts = ", ".join(f"{count} {name}" for name, count in sorted(load.counts.items()))
    is_well = judge(rows)
    print(f"{given.minutes:g} minutes: {counts}; {len(load.faults)} faults")
    for fault, count in Counter(load.faults).most_common(10):
        print(f"  {count} x {fault}")
    if not is_same:
        print("a process was restarted")
    is_well &= is_same and not load.faults
    print("verdict: " + ("nothing grows, nothing failed" if is_well else "see above"))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
