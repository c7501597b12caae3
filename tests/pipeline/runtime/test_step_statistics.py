"""What decode steps read, what adapters cost them, and means over steps."""

from __future__ import annotations

import math
from typing import Any

import pytest

from loraconsole.pipeline.messages import Step
from loraconsole.pipeline.runtime.step_statistics import DecodeStatistics, LoraTax, StepMeans

NOTHING = DecodeStatistics.of(())


def step(number: int = 0, phase: str = "decode", busy_us: int = 10_000, **more: Any) -> Step:
    figures = {"weight_bytes": 100_000_000, "adapter_bytes": 4_000_000, "kv_bytes": 16_000_000}
    figures["sync_us"] = 1
    return Step(
        rank=0,
        step=number,
        at=1000.0 + number / 100,
        phase=phase,
        rows=8,
        tokens=8 if phase == "decode" else 512,
        adapters=2,
        host_us=1,
        copy_us=1,
        launch_us=1,
        busy_us=busy_us,
        **(figures | more),
    )


def test_without_steps_nothing_is_known() -> None:
    assert NOTHING.step_bytes == 0
    assert NOTHING.bytes_s is None and NOTHING.lora_tax.value is None


def test_bytes_and_time_of_decode_steps_make_the_rate() -> None:
    reads = DecodeStatistics.of([step(), step(busy_us=12_000), step(busy_us=90_000)])
    assert reads.step_bytes == 120_000_000
    assert reads.bytes_s == pytest.approx(120e6 / 0.012)


def test_prompts_are_bound_by_arithmetic_and_count_in_tokens_alone() -> None:
    reads = DecodeStatistics.of(
        [step(phase="prefill", busy_us=50_000), step(phase="mixed", busy_us=50_000)]
    )
    assert reads.bytes_s is None and reads.step_bytes == 0
    assert reads.prompt_rate == pytest.approx(1024 / 0.1)


def pairs(*busy_us: int, **more: Any) -> LoraTax:
    """The tax of decode steps with these times, against a base of 10 ms."""
    given = {"base_us": 10_000, "base_steps": 31, "base_spread_us": 0} | more
    return LoraTax.of([step(at, busy_us=busy, **given) for at, busy in enumerate(busy_us)])


def test_the_tax_is_what_a_step_takes_longer_than_the_base_would() -> None:
    old = [step(number, base_us=8_000, base_steps=3) for number in range(100)]
    new = [step(number, base_us=5_000, base_steps=31) for number in range(100, 164)]
    tax = DecodeStatistics.of([*old, *new]).lora_tax
    assert tax.value == pytest.approx(1.0)  # of the recent steps
    assert (tax.pairs, tax.base_steps, tax.base_ms, tax.spread) == (64, 31, 5.0, 0.0)
    assert tax.at == new[-1].at


def test_the_spread_of_the_tax_is_that_of_its_pairs_and_of_the_base() -> None:
    busy = (13_000, 14_000, 15_000) * 8
    assert pairs(*busy).spread == pytest.approx(0.1)
    assert pairs(*busy, base_spread_us=1_000).spread == pytest.approx(math.hypot(0.1, 1.4 * 0.1))
    assert pairs(*busy).value == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("tax", "doubt"),
    [
        (LoraTax(), "no step to compare"),
        (pairs(*[14_000] * 15), "15 of 16 steps"),
        (pairs(*[14_000] * 16, base_steps=2), "2 of 3 base steps"),
        (pairs(*[14_000] * 16, base_age_s=900.0), "no base step for 15 min"),
        (pairs(*[8_000, 14_000, 20_000] * 8), "noise"),  # +40 % within 60 %
        (pairs(*[14_000] * 16, base_spread_us=4_000), "noise"),
        (pairs(*[6_000] * 64), "noise"),  # adapters cannot save time
        (pairs(*[14_000] * 16), ""),
    ],
)
def test_a_tax_that_is_not_certain_is_not_stated(tax: LoraTax, doubt: str) -> None:
    assert tax.doubt == doubt
    assert (tax.value is None) is bool(doubt)


def test_steps_of_the_base_alone_have_no_tax() -> None:
    assert DecodeStatistics.of([step(), step()]).lora_tax == LoraTax()


def test_means_of_steps_are_milliseconds_and_leave_out_what_was_not_measured() -> None:
    means = StepMeans.of([step(base_us=8_000), step(phase="prefill", busy_us=30_000, sync_us=5)])
    assert (means.steps, means.busy_ms, means.most_sync_ms) == (2, 20.0, 0.005)
    assert means.read_bytes_s == pytest.approx(12e9)  # of the decode step alone
    assert means.lora_overhead == pytest.approx(0.25)
    assert StepMeans.of([step(busy_us=0)]).read_bytes_s is None
