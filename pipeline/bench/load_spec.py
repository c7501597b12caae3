"""`LoadSpec`: a workload and how it is driven, made from the flags of `loraconsole bench`.

Refuses flags that do not apply to the chosen workload. Knows no server.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .workload import (
    GENERATORS,
    POPULARITIES,
    SEED,
    SUITES,
    Workload,
    chat_workload,
    suite_named,
)
from .workload_files import read_script, read_trace

CHAT_CONCURRENCY = [1, 8, 32]
OPEN_LOOP = {"rate": 2.0, "cv": 1.0, "duration": 60.0, "alpha": 1.0}
MAX_TOKENS = 64
GENERATED = {"slora", "long-tail", "punica"}
TAKEN_BY = {
    "file": {"script", "trace"},
    "speed": {"script", "trace"},
    "scale": {"suite"},
    "alpha": {"slora", "long-tail", "trace"},
    "popularity": {"punica"},
    "rate": {"chat", *GENERATED},
    "cv": {"chat", *GENERATED},
    "duration": {"chat", "trace", "suite", *GENERATED},
    "input_range": {"slora", "long-tail", "suite"},
    "output_range": {"suite", *GENERATED},
    "max_tokens": {"chat"},
}
"""Flags, to the workloads they apply to; others refuse them."""


@dataclass(frozen=True)
class LoadSpec:
    """A workload, what it was made from, and how it is driven."""

    name: str
    parameters: dict[str, Any]
    workload: Workload
    concurrency: int | None


def add_load_flags(group: Any) -> None:
    """Adds the flags of the workload: its adapters, prompts and arrivals."""
    group.add_argument(
        "--workload", choices=("chat", *GENERATORS, "script", "trace"), help="default: chat"
    )
    group.add_argument(
        "--suite", metavar="NAME", help=f"one of S-LoRA's: {', '.join(SUITES)} (a10g- is optional)"
    )
    group.add_argument("--scale", type=positive, metavar="X", help="multiply a suite's rate by X")
    group.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="the script or trace of --workload script or trace",
    )
    group.add_argument("--speed", type=positive, metavar="X", help="multiply a file's rate by X")
    group.add_argument(
        "--adapters", type=count_of, metavar="N", help="the first N listed adapters; default: all"
    )
    group.add_argument("--alpha", type=positive, help="1: uniform adapters; less: skewed (1)")
    group.add_argument("--popularity", choices=POPULARITIES, help="punica's distribution (uniform)")
    group.add_argument("--rate", type=positive, help="open-loop rate, requests/s (2)")
    group.add_argument("--cv", type=positive, help="burstiness (CV) of arrivals; 1: Poisson (1)")
    group.add_argument(
        "--duration", type=positive, metavar="SECONDS", help="length of the arrivals (60)"
    )
    group.add_argument("--input-range", type=count_of, nargs=2, metavar=("LOW", "HIGH"))
    group.add_argument("--output-range", type=count_of, nargs=2, metavar=("LOW", "HIGH"))
    group.add_argument("--seed", type=int, default=SEED, help=f"S-LoRA's is {SEED}")
    group.add_argument(
        "--concurrency",
        type=above_zero,
        nargs="+",
        metavar="N",
        help="closed loops: N requests at a time, arrivals ignored (chat: 1 8 32)",
    )
    group.add_argument(
        "--requests",
        type=above_zero,
        metavar="N",
        help="only the first N requests; chat: number of requests (default: --concurrency)",
    )
    group.add_argument(
        "--max-tokens", type=above_zero, metavar="N", help="tokens of a chat's answer (64)"
    )


# Types of flags.


def positive(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def count_of(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def above_zero(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def is_chat(given: argparse.Namespace) -> bool:
    """Whether the flags choose the chat workload."""
    return not given.suite and given.workload in (None, "chat")


def make_load_specs(given: argparse.Namespace, num_models: int) -> list[LoadSpec]:
    """The loads that the flags describe, for a server with `num_models` models.

    Raises `UsageError` if flags conflict.
    """
    if given.suite and given.workload not in (None, "slora"):
        raise UsageError(f"--suite is for --workload slora, not {given.workload}")
    kind = "suite" if given.suite else given.workload or "chat"
    for name, kinds in TAKEN_BY.items():
        if kind not in kinds and getattr(given, name) is not None:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is not for {kind}", f"it is for {', '.join(sorted(kinds))}")
    if kind in TAKEN_BY["file"] and given.file is None:
        raise UsageError(f"--workload {kind} needs --file", f"give the {kind}'s file")
    if kind == "chat":
        return _chat_loads(given, num_models)
    ranges = {
        name: tuple(getattr(given, name))
        for name in ("input_range", "output_range")
        if getattr(given, name)
    }
    num_adapters = num_models if given.adapters is None else given.adapters
    speed = given.speed or 1.0
    made: list[tuple[dict[str, Any], Workload]] = []
    if given.suite:
        suite = suite_named(given.suite)
        if given.adapters is not None:
            # A suite with fewer adapters than S-LoRA's GPUs hold: cap each count.
            counts = dict.fromkeys(min(n, given.adapters) for n in suite.num_adapters)
            suite = replace(suite, num_adapters=tuple(counts))
        for point in suite.points():
            point["rate"] *= given.scale or 1.0
            point["duration"] = given.duration or point["duration"]
            made.append((point, GENERATORS["slora"](**point, **ranges, seed=given.seed)))
    elif kind == "script":
        script = read_script(given.file)
        made.append((_of_file(given.file, speed), script.paced(speed)))
    elif kind == "trace":
        alpha = given.alpha or OPEN_LOOP["alpha"]
        trace = read_trace(given.file, num_adapters=num_adapters, alpha=alpha, seed=given.seed)
        trace = trace.paced(speed)
        parameters = _of_file(given.file, speed) | {"alpha": alpha, "num_adapters": num_adapters}
        if given.duration:
            parameters["duration"] = given.duration
            trace = trace.until(given.duration)
        made.append((parameters, trace))
    else:
        point = {name: getattr(given, name) or value for name, value in OPEN_LOOP.items()}
        point["num_adapters"] = num_adapters
        if kind == "punica":
            del point["alpha"]
            point["popularity"] = given.popularity or "uniform"
        made.append((point, GENERATORS[kind](**point, **ranges, seed=given.seed)))
    extra: dict[str, Any] = {"seed": given.seed, **ranges}
    if given.requests:
        extra["requests"] = given.requests
        made = [(point, workload.head(given.requests)) for point, workload in made]
    name = "slora" if given.suite else kind
    loops: list[int | None] = given.concurrency or [None]
    return [
        LoadSpec(name, point | extra, workload, concurrency)
        for point, workload in made
        for concurrency in loops
    ]


def _of_file(path: Path, speed: float) -> dict[str, Any]:
    """A file's parameters; the digest makes another file of the same name another load."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return {"file": path.name, "digest": digest, "speed": speed}


def _chat_loads(given: argparse.Namespace, num_models: int) -> list[LoadSpec]:
    specs = []
    max_tokens = given.max_tokens or MAX_TOKENS
    open_loop = given.rate is not None
    if open_loop and given.concurrency:
        raise UsageError("give --rate (open loop) or --concurrency (closed loop), not both")
    if not open_loop and (given.cv or given.duration):
        raise UsageError("--cv and --duration are for an open loop", "give a --rate")
    for concurrency in [None] if open_loop else given.concurrency or CHAT_CONCURRENCY:
        parameters: dict[str, Any] = {"num_models": num_models, "max_tokens": max_tokens}
        arrivals: dict[str, Any] = {}
        count = given.requests or concurrency or int(given.rate * (given.duration or 60))
        if given.model:
            parameters["models"] = given.model
        if open_loop:
            arrivals = {"rate": given.rate, "cv": given.cv or 1.0}
        parameters |= {"requests": count, **arrivals}
        workload = chat_workload(
            num_adapters=num_models,
            count=count,
            max_tokens=max_tokens,
            seed=given.seed,
            **arrivals,
        )
        specs.append(LoadSpec("chat", parameters, workload, concurrency))
    return specs
