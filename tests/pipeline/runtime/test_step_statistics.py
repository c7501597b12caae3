"""What decode steps read, what adapters cost them, and means over steps."""

from __future__ import annotations

import pytest

from loraconsole.pipeline.messages import Step
from loraconsole.pipeline.runtime.step_statistics import DecodeStatistics, StepMeans

NOTHING = DecodeStatistics.of(())


def step(number: int = 0, phase: str = "decode", busy_us: int = 10_000, **more: int) -> Step:
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
    assert (NOTHING.bytes_s, NOTHING.lora_overhead, NOTHING.lora_overhead_of_all) == (
        None,
        None,
        None,
    )


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


def test_the_tax_is_what_a_step_takes_longer_than_the_base_would() -> None:
    old = [step(number, base_us=8_000) for number in range(100)]
    new = [step(number, base_us=5_000) for number in range(100, 164)]
    reads = DecodeStatistics.of([*old, *new])
    assert reads.lora_overhead == pytest.approx(1.0)
    assert reads.lora_overhead_of_all == pytest.approx(0.25)
    assert reads.base_ms == 5.0


def test_steps_of_the_base_alone_have_no_tax() -> None:
    assert DecodeStatistics.of([step(), step()]).lora_overhead is None


def test_means_of_steps_are_milliseconds_and_leave_out_what_was_not_measured() -> None:
    means = StepMeans.of([step(base_us=8_000), step(phase="prefill", busy_us=30_000, sync_us=5)])
    assert (means.steps, means.busy_ms, means.most_sync_ms) == (2, 20.0, 0.005)
    assert means.read_bytes_s == pytest.approx(12e9)  # of the decode step alone
    assert means.lora_overhead == pytest.approx(0.25)
    assert StepMeans.of([step(busy_us=0)]).read_bytes_s is None
