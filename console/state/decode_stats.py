"""`Reads`: what the last decode steps read from memory, how fast, and what adapters cost them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct

from ...pipeline.messages import Step

RECENT = 64
"""Decode steps that "now" is made of: one to three seconds of serving."""


class Reads(Struct, frozen=True, kw_only=True):
    """Bytes are means, rates and taxes medians; None where nothing is known."""

    weights: float
    adapters: float
    kv: float
    """Bytes a step."""
    bytes_s: float | None
    tax: float | None
    """How much longer a step with adapters takes than without them: 0.4 is two fifths."""
    tax_median: float | None
    """The same over all steps known, not the last ones alone."""
    base_ms: float | None
    """What the last steps with adapters would have taken without."""
    prompt_rate: float | None
    """Tokens a second of steps with prompts, while the device computes."""

    @property
    def step_bytes(self) -> float:
        return self.weights + self.adapters + self.kv

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Reads:
        decode = [step for step in steps if step.phase == "decode" and step.rows]
        last = decode[-RECENT:]
        taxed = [step for step in last if step.base_us]
        prompts = [step for step in steps if step.phase != "decode" and step.busy_us]
        busy_us = sum(step.busy_us for step in prompts)
        return cls(
            weights=_mean([step.weight_bytes for step in last]),
            adapters=_mean([step.adapter_bytes for step in last]),
            kv=_mean([step.kv_bytes for step in last]),
            bytes_s=_median([step.read_bytes_s for step in last]),
            tax=_median([step.lora_overhead for step in taxed]),
            tax_median=_median([step.lora_overhead for step in decode]),
            base_ms=_median([step.base_us / 1e3 for step in taxed]),
            prompt_rate=sum(step.tokens for step in prompts) / busy_us * 1e6 if busy_us else None,
        )


def _mean(values: Sequence[int]) -> float:
    return statistics.fmean(values) if values else 0.0


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
