"""Statistics of steps: `DecodeStatistics` of decode steps' reads, `StepMeans` of any steps.

Used by the console's screens, the server's `/metrics` and the supervisor's history.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct

from ..messages import Step

PARTS = ("host", "copy", "launch", "busy", "sync")
"""The parts of a step (see `messages.Step`). `copy` and `busy` overlap with the host's wait."""
RECENT = 64
"""Decode steps that count as recent: one to three seconds of serving."""


def part_us(step: Step, part: str) -> int:
    """Microseconds of one of `PARTS`."""
    value: int = getattr(step, f"{part}_us")
    return value


def step_us(step: Step) -> int:
    """Microseconds from the first work on the host until the tokens have arrived. While the device
    copies and computes, the host waits or does other work."""
    return step.host_us + step.launch_us + max(step.sync_us, step.copy_us + step.busy_us)


class DecodeStatistics(Struct, frozen=True, kw_only=True):
    """Memory reads of decode steps, their rate, and the cost of adapters. Bytes are means, rates
    and overheads are medians; None if unknown."""

    weights: float
    adapters: float
    kv: float
    """Bytes a step."""
    bytes_s: float | None
    lora_overhead: float | None
    """Device time added by adapters, as a share of the time without them: 0.4 is 40 % more."""
    lora_overhead_of_all: float | None
    """The same over all decode steps given, not only the recent ones."""
    base_ms: float | None
    """Device time that recent steps with adapters would have taken without them."""
    prompt_rate: float | None
    """Tokens of steps with prompts per second of device time."""

    @property
    def step_bytes(self) -> float:
        return self.weights + self.adapters + self.kv

    @classmethod
    def of(cls, steps: Sequence[Step], recent: int = RECENT) -> DecodeStatistics:
        """From the last `recent` decode steps of `steps`, unless a field says otherwise."""
        decode = [step for step in steps if step.phase == "decode" and step.rows]
        last = decode[-recent:]
        with_adapters = [step for step in last if step.base_us]
        prompts = [step for step in steps if step.phase != "decode" and step.busy_us]
        busy_us = sum(step.busy_us for step in prompts)
        return cls(
            weights=_mean([step.weight_bytes for step in last]),
            adapters=_mean([step.adapter_bytes for step in last]),
            kv=_mean([step.kv_bytes for step in last]),
            bytes_s=_median([step.read_bytes_s for step in last]),
            lora_overhead=_median([step.lora_overhead for step in with_adapters]),
            lora_overhead_of_all=_median([step.lora_overhead for step in decode]),
            base_ms=_median([step.base_us / 1e3 for step in with_adapters]),
            prompt_rate=sum(step.tokens for step in prompts) / busy_us * 1e6 if busy_us else None,
        )


class StepMeans(Struct, frozen=True, kw_only=True):
    """Means over steps of any phase, milliseconds; None if unknown."""

    steps: int
    host_ms: float
    copy_ms: float
    launch_ms: float
    busy_ms: float
    sync_ms: float
    most_sync_ms: float
    """The longest wait for the device."""
    read_bytes_s: float | None
    lora_overhead: float | None

    @classmethod
    def of(cls, steps: Sequence[Step]) -> StepMeans:
        """From at least one step."""
        parts = {
            f"{part}_ms": sum(part_us(step, part) for step in steps) / len(steps) / 1e3
            for part in PARTS
        }
        rates = [rate for step in steps if (rate := step.read_bytes_s) is not None]
        overheads = [share for step in steps if (share := step.lora_overhead) is not None]
        return cls(
            steps=len(steps),
            **parts,
            most_sync_ms=max(step.sync_us for step in steps) / 1e3,
            read_bytes_s=sum(rates) / len(rates) if rates else None,
            lora_overhead=sum(overheads) / len(overheads) if overheads else None,
        )


def _mean(values: Sequence[int]) -> float:
    return statistics.fmean(values) if values else 0.0


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
