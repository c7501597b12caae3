"""Statistics of steps: `DecodeStatistics` of decode steps' reads, `LoraTax` of what adapters cost
them, `StepMeans` of any steps.

Used by the console's screens, the server's `/metrics` and the supervisor's history.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

from ..messages import Step
from .percentile import half_spread

PARTS = ("host", "copy", "launch", "busy", "sync")
"""The parts of a step (see `messages.Step`). `copy` and `busy` overlap with the host's wait."""
RECENT = 64
"""Decode steps that count as recent: one to three seconds of serving."""
LEAST_PAIRS = 16
"""Pairs below which no LoRA tax is stated."""
LEAST_BASE_STEPS = 3
"""Steps without adapters below which none is stated: the warm-up takes as many of each size."""
BASE_OLD_S = 600.0
"""Age of the newest step without adapters beyond which none is stated. On a shared machine speeds
drift: within an hour the same pipeline showed -43 % to +273 %, against base steps of another
time."""


def part_us(step: Step, part: str) -> int:
    """Microseconds of one of `PARTS`."""
    value: int = getattr(step, f"{part}_us")
    return value


def step_us(step: Step) -> int:
    """Microseconds from the first work on the host until the tokens have arrived. While the device
    copies and computes, the host waits or does other work."""
    return step.host_us + step.launch_us + max(step.sync_us, step.copy_us + step.busy_us)


def began_at(step: Step, ended_before: float) -> float:
    """From when a step counts, unix seconds: the end of the step before, or after a pause as long
    before its own end as it took."""
    return min(step.at, max(ended_before, step.at - step_us(step) / 1e6))


class LoraTax(Struct, frozen=True, kw_only=True):
    """How much longer the device is busy with adapters than without, and whether that is certain.

    A pair is a decode step with adapters and the median of recent steps of the same size without
    (b, with half spread s). Over the last pairs:
        median = median(busy / b - 1)
        spread = sqrt(half_spread(busy / b - 1)^2 + ((1 + median) * median(s / b))^2)
    Shares: 0.4 is 40 % longer. Adapters only add work, so a value that is not above its spread is
    noise.
    """

    median: float = 0.0
    spread: float = 0.0
    pairs: int = 0
    base_steps: int = 0
    """Fewest steps without adapters behind a pair."""
    base_age_s: float = 0.0
    """Age of the newest of them at the newest pair."""
    base_ms: float = 0.0
    """Median of the device time without adapters."""
    at: float = 0.0
    """End of the newest pair, unix seconds."""

    @property
    def value(self) -> float | None:
        """The median, or None if `doubt` says why none is stated."""
        return None if self.doubt else self.median

    @property
    def doubt(self) -> str:
        """Why no tax is stated, in a few words; "" if it is."""
        if not self.pairs:
            return "no step to compare"
        if self.pairs < LEAST_PAIRS:
            return f"{self.pairs} of {LEAST_PAIRS} steps"
        if self.base_steps < LEAST_BASE_STEPS:
            return f"{self.base_steps} of {LEAST_BASE_STEPS} base steps"
        if self.base_age_s > BASE_OLD_S:
            return f"no base step for {self.base_age_s / 60:.0f} min"
        return "noise" if self.median <= self.spread else ""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> LoraTax:
        """From the decode steps among `steps` whose time without adapters is known; oldest
        first."""
        pairs = [step for step in steps if step.base_us and step.busy_us]
        if not pairs:
            return cls()
        shares = sorted(step.busy_us / step.base_us - 1 for step in pairs)
        median = statistics.median(shares)
        base = statistics.median(step.base_spread_us / step.base_us for step in pairs)
        return cls(
            median=median,
            spread=math.hypot(half_spread(shares), (1 + median) * base),
            pairs=len(pairs),
            base_steps=min(step.base_steps for step in pairs),
            base_age_s=pairs[-1].base_age_s,
            base_ms=statistics.median(step.base_us for step in pairs) / 1e3,
            at=pairs[-1].at,
        )


class DecodeStatistics(Struct, frozen=True, kw_only=True):
    """Memory reads of decode steps, their rate, and the cost of adapters. Bytes are means, the rate
    is a median; None if unknown."""

    weights: float
    adapters: float
    kv: float
    """Bytes a step."""
    bytes_s: float | None
    lora_tax: LoraTax
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
        prompts = [step for step in steps if step.phase != "decode" and step.busy_us]
        busy_us = sum(step.busy_us for step in prompts)
        return cls(
            weights=_mean([step.weight_bytes for step in last]),
            adapters=_mean([step.adapter_bytes for step in last]),
            kv=_mean([step.kv_bytes for step in last]),
            bytes_s=_median([step.read_bytes_s for step in last]),
            lora_tax=LoraTax.of([step for step in decode if step.base_us][-recent:]),
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
