"""Breaks a step's time down into kernels by name and the gaps between them; they sum to the step.
Read from the device's own trace (torch.profiler), so it works for replayed graphs.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KernelBreakdown:
    """Mean microseconds per step."""

    kernels: dict[str, tuple[float, float]]
    """By name: launches per step, and microseconds without overlap with kernels begun earlier."""
    idle_us: float
    """Microseconds in which no kernel ran."""
    step_us: float


def measure_kernels(run: Iterable[object], steps: int) -> KernelBreakdown:
    """Exhausts `run`, which does `steps` steps, under the profiler.

    Kernels on two streams overlap: each microsecond counts for the one that began first.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        deque(run, maxlen=0)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profile.events() or ()
        if event.device_type.name == "CUDA"
    )
    counts: dict[str, int] = defaultdict(int)
    spent: dict[str, float] = defaultdict(float)
    reached, idle = spans[0][0], 0.0
    for start, end, name in spans:
        kind = _kind(name)
        counts[kind] += 1
        idle += max(0.0, start - reached)
        spent[kind] += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    total = reached - spans[0][0]
    order = sorted(spent, key=lambda kind: -spent[kind])
    kernels = {kind: (counts[kind] / steps, spent[kind] / steps) for kind in order}
    return KernelBreakdown(kernels, idle / steps, total / steps)


def _kind(name: str) -> str:
    """A kernel's name without its template arguments."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))[:60]
