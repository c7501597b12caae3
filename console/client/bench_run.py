"""`BenchRun`: a running benchmark, in a separate process; `BenchFiles`: results of earlier ones.

The child is `pipeline/bench/bench.py`, so the console need not import its HTTP client. Knows no
widget.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec

from ...pipeline.api_keys import key_pipe, without_keys
from ...pipeline.bench.results import ResultRow, read_rows
from ...pipeline.bench.stats import Live
from ...pipeline.errors import OperatorError
from ...pipeline.private_files import PRIVATE, private_umask
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..paths import data_directory

CANCELLED = "cancelled"
SAMPLES = 512
"""Most rates kept of a run, for its plot."""
LEAST_SECONDS = 0.15
"""Shortest interval of a rate."""
LEAST_STEPS = 4
"""Fewest gaps between tokens in the interval of a rate: one more or less changes it by a fifth."""
Range: TypeAlias = tuple[int, int]
"""Lengths in tokens, end excluded."""
SUITES = (
    *("num-adapter", "alpha", "cv", "req-rate", "a100-40-num-adapter", "a100-80-S2-num-adapter"),
    *("a100-80-S4-num-adapter", "a100-80-S4-req-rate", "a100-80-S4-cv", "a100-80-table"),
    *("ablation-no-mem", "ablation-cluster", "ablation-cluster-cv"),
)
"""Names of the suites of `pipeline/bench/workload.py`."""


class WorkloadChoice(NamedTuple):
    """A workload in the form: a description, its flags of `loraconsole bench`, the fields of a plan
    that it uses, and its defaults if they differ from `BenchPlan`'s."""

    what: str
    flags: tuple[str, ...]
    takes: tuple[str, ...]
    usual: Mapping[str, Any] = MappingProxyType({})


_OPEN = ("models", "requests", "at_once", "rate", "cv")
_ALL = {"requests": None, "at_once": None}
"""Defaults of a file or a suite, which determines the number and times of its requests."""


def _punica(what: str, popularity: str) -> WorkloadChoice:
    flags = ("--workload", "punica", "--popularity", popularity)
    return WorkloadChoice(what, flags, (*_OPEN, "adapters", "tokens", "slo"))


WORKLOADS = {
    "chat": WorkloadChoice(
        "chat questions, models in turn",
        ("--workload", "chat"),
        (*_OPEN, "tokens", "slo"),
    ),
    "uniform": _punica("Punica's: √n adapters share n requests", "uniform"),
    "distinct": _punica("Punica's: a different adapter for every request", "distinct"),
    "skewed": _punica("Punica's: each adapter 1.5 times as popular as the next", "skewed"),
    "identical": _punica("Punica's: one adapter for all", "identical"),
    "slora": WorkloadChoice(
        "S-LoRA's generator: adapters drawn with alpha, lengths uniform",
        ("--workload", "slora"),
        (*_OPEN, "alpha", "adapters", "prompt", "tokens", "slo"),
    ),
    "long-tail": WorkloadChoice(
        "S-LoRA's generator with long-tailed lengths",
        ("--workload", "long-tail"),
        (*_OPEN, "alpha", "adapters", "prompt", "tokens", "slo"),
        {"tokens": (8, 512)},
    ),
    "suite": WorkloadChoice(
        "S-LoRA's published settings, a run for each",
        (),
        (
            *("suite", "models", "scale", "seconds", "requests", "at_once"),
            *("adapters", "prompt", "tokens", "slo"),
        ),
        {**_ALL, "tokens": None},
    ),
    "script": WorkloadChoice(
        "requests listed in a file: ind, input_lens, output_lens, intervals",
        ("--workload", "script"),
        ("file", "models", "speed", "requests", "at_once", "slo"),
        _ALL,
    ),
    "trace": WorkloadChoice(
        "a CSV file of Azure's LLM services or of BurstGPT",
        ("--workload", "trace"),
        (
            *("file", "models", "speed", "seconds", "requests", "at_once"),
            *("alpha", "adapters", "slo"),
        ),
        _ALL,
    ),
}
FLAGS = {
    "file": "--file",
    "suite": "--suite",
    "speed": "--speed",
    "scale": "--scale",
    "seconds": "--duration",
    "requests": "--requests",
    "at_once": "--concurrency",
    "rate": "--rate",
    "cv": "--cv",
    "alpha": "--alpha",
    "adapters": "--adapters",
    "prompt": "--input-range",
    "tokens": "--output-range",
    "slo": "--slo-seconds",
}


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark to run; None leaves a field to the workload. With `at_once` None, requests are
    sent at the workload's times; a generator makes `rate` a second."""

    workload: str = "chat"
    file: str = ""
    suite: str = "num-adapter"
    models: tuple[str, ...] = ()
    """Names of the models asked in turn; all if empty."""
    speed: float = 1.0
    scale: float = 1.0
    seconds: float | None = None
    requests: int | None = 24
    at_once: int | None = 8
    rate: float = 2.0
    cv: float = 1.0
    alpha: float = 1.0
    adapters: int | None = None
    prompt: Range | None = None
    tokens: Range | None = (64, 65)
    slo: float = 6.0

    @classmethod
    def usual(cls, workload: str) -> BenchPlan:
        """The form's initial plan for a workload."""
        return cls(workload=workload, **WORKLOADS[workload].usual)

    def flags(self) -> list[str]:
        """The options of `loraconsole bench` for this plan."""
        _, flags, takes, _ = WORKLOADS[self.workload]
        found = list(flags)
        is_chat = self.workload == "chat"
        found += [word for name in self.models for word in ("--model", name)]
        for name in takes:
            if name == "models":
                continue
            value = getattr(self, name)
            if value is None or (is_chat and self.at_once and name in ("rate", "cv")):
                continue
            if is_chat and name == "tokens":
                found += ["--max-tokens", str(value[0])]
            else:
                found += [FLAGS[name], *map(str, value if isinstance(value, tuple) else (value,))]
        if "rate" in takes and not is_chat and self.requests:
            # A generator makes rate * duration requests; the first `requests` are sent.
            found += ["--duration", str(self.requests / self.rate + 1)]
        return found


class BenchRun:
    """One child process: `run` it, watch `live`, `cancel` it."""

    def __init__(self, plan: BenchPlan, url: str, api_key: str, label: str, out: Path) -> None:
        self.plan, self.out = plan, out
        self.live: Live | None = None
        self.error = ""
        self.started_at = time.time()
        self._marks: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        """(seconds, pieces of text) at the ends of the plot's intervals."""
        self._command = [
            *(sys.executable, "-P", "-m", "loraconsole.pipeline.bench.bench"),
            *("--live", "--rounds", "1"),
            *("--url", url, "--label", label, "--out", str(out), *plan.flags()),
        ]
        self._api_key = api_key
        self._child: asyncio.subprocess.Process | None = None
        self.is_running = True
        self._cancelled = False

    @property
    def command(self) -> str:
        """The equivalent shell command."""
        return shlex.join(["loraconsole", "bench", *self._command[6:]])

    @property
    def speeds(self) -> list[float]:
        """Tokens per second at each mark since the one before, or over at least `LEAST_STEPS` gaps
        between tokens: tokens come a step at a time, and shorter intervals hold none or one."""
        marks, rates = list(self._marks), []
        gap_s = (self.live.inter_token_ms[0] or 0.0) / 1e3 if self.live else 0.0
        for index in range(1, len(marks)):
            at, pieces = marks[index]
            start = index - 1
            while start and at - marks[start][0] < LEAST_STEPS * gap_s:
                start -= 1
            since, before = marks[start]
            rates.append((pieces - before) / (at - since))
        return rates

    @property
    def interval_s(self) -> float:
        """Mean seconds between two of `speeds`; 0 without any."""
        marks = self._marks
        return (marks[-1][0] - marks[0][0]) / (len(marks) - 1) if len(marks) > 1 else 0.0

    @property
    def is_refused(self) -> bool:
        """Whether the child failed before its first request: the plan is wrong."""
        return bool(self.error) and self.live is None and not self._cancelled

    @property
    def left_s(self) -> float | None:
        """Estimated seconds left at the average rate so far; None if nothing is done yet."""
        live = self.live
        if live is None or not live.done or not self.is_running:
            return None
        return live.seconds / live.done * (live.total - live.done)

    async def run(self, on_news: Callable[[], None]) -> None:
        """Runs the child; returns when it has ended. `on_news` is called after each of its lines; a
        failure is in `error`."""
        try:
            with private_umask():
                self.out.parent.mkdir(parents=True, exist_ok=True)
            with key_pipe(self._api_key) as (key, descriptors):
                self._child = child = await asyncio.create_subprocess_exec(
                    *self._command,
                    *key,
                    env={**without_keys(os.environ), **UTF8_OUTPUT},
                    pass_fds=descriptors,
                    umask=PRIVATE,  # its results are beside the transcripts
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for the console
                )
            assert child.stdout is not None and child.stderr is not None
            errors = asyncio.create_task(child.stderr.read())
            async for line in child.stdout:
                self._take(line)
                on_news()
            printed = (await errors).decode(errors="replace").strip()
            if await child.wait() and not self._cancelled:
                self.error = printed.rpartition("\n")[2].removeprefix("loraconsole bench: ")
        except OSError as error:
            self.error = f"it could not be started: {error}"
        finally:
            self.kill()
            self.is_running = False
            on_news()

    def _take(self, line: bytes) -> None:
        """Reads a line of the child. A line less than `LEAST_SECONDS` after the one before, such as
        the last of a run, extends that one's interval."""
        now = msgspec.json.decode(line, type=Live)
        before, self.live = self.live, now
        if before is None or before.run != now.run:
            self._marks.clear()
        elif len(self._marks) > 1 and now.seconds - self._marks[-1][0] < LEAST_SECONDS:
            self._marks.pop()
        if not self._marks or now.seconds > self._marks[-1][0]:
            self._marks.append((now.seconds, now.streamed))

    def cancel(self) -> None:
        """Ends the child. Its measurements are lost: only complete runs are kept."""
        self._cancelled, self.error = True, CANCELLED
        self.kill()

    def kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()


class Kept(msgspec.Struct, frozen=True):
    """A result, with its file's modification time, its file and its line number."""

    at: float
    path: Path
    row: ResultRow
    number: int


class BenchFiles:
    """Results in the files of a directory and in opened files; read again when a file changes."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or data_directory() / "bench"
        self._named: list[Path] = []
        self._known: dict[Path, tuple[float, list[Kept]]] = {}
        self.broken: dict[Path, OperatorError] = {}

    def new(self) -> Path:
        """The path of a new file for the next run."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return self.directory / f"{stamp}.jsonl"

    def open(self, path: Path) -> None:
        """Adds the results of a file. Raises `OperatorError` if it cannot be read."""
        read_rows(path)
        if path not in self._named:
            self._named.append(path)

    def rows(self) -> list[Kept]:
        """All results, the newest first."""
        found: list[Kept] = []
        for path in (*self._named, *self.directory.glob("*.jsonl")):
            with contextlib.suppress(OSError):
                found += self._of(path)
        return sorted(found, key=lambda kept: (kept.at, kept.number), reverse=True)

    def _of(self, path: Path) -> list[Kept]:
        changed = path.stat().st_mtime
        known = self._known.get(path)
        if known is None or known[0] != changed:
            try:
                rows = read_rows(path)
                self.broken.pop(path, None)
            except OperatorError as error:
                rows, self.broken[path] = [], error
            kept = [Kept(changed, path, row, number) for number, row in enumerate(rows, 1)]
            known = self._known[path] = (changed, kept)
        return known[1]
