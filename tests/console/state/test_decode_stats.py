"""What decode steps read and what adapters cost them, as the screen sums it up."""

from __future__ import annotations

import pytest

from loraconsole.console.state.decode_stats import Reads
from loraconsole.console.state.store import Store
from loraconsole.pipeline.messages import Step, WorkerStats

NOTHING = Reads.of(())


def step(number: int = 0, phase: str = "decode", busy_us: int = 10_000, **more: int) -> Step:
    figures = {"weight_bytes": 100_000_000, "adapter_bytes": 4_000_000, "kv_bytes": 16_000_000}
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
        sync_us=1,
        **(figures | more),
    )


def test_without_steps_nothing_is_known() -> None:
    assert NOTHING.step_bytes == 0
    assert (NOTHING.bytes_s, NOTHING.tax, NOTHING.tax_median) == (None, None, None)


def test_bytes_and_time_of_decode_steps_make_the_rate() -> None:
    reads = Reads.of([step(), step(busy_us=12_000), step(busy_us=90_000)])
    assert reads.step_bytes == 120_000_000
    assert reads.bytes_s == pytest.approx(120e6 / 0.012)


def test_prompts_are_bound_by_arithmetic_and_count_in_tokens_alone() -> None:
    reads = Reads.of([step(phase="prefill", busy_us=50_000), step(phase="mixed", busy_us=50_000)])
    assert reads.bytes_s is None and reads.step_bytes == 0
    assert reads.prompt_rate == pytest.approx(1024 / 0.1)


def test_the_tax_is_what_a_step_takes_longer_than_the_base_would() -> None:
    old = [step(number, base_us=8_000) for number in range(100)]
    new = [step(number, base_us=5_000) for number in range(100, 164)]
    reads = Reads.of([*old, *new])
    assert reads.tax == pytest.approx(1.0)
    assert reads.tax_median == pytest.approx(0.25)
    assert reads.base_ms == 5.0


def test_steps_of_the_base_alone_have_no_tax() -> None:
    assert Reads.of([step(), step()]).tax is None


def test_the_board_holds_what_is_achieved_against_the_copy_rate() -> None:
    store = Store("/run")
    stats = WorkerStats(
        at=1000.0,
        rank=0,
        device="cpu",
        dtype="int4",
        model="m",
        threads=2,
        weights_bytes=1,
        pool_bytes=1,
        adapter_bytes=1,
        copy_bytes_s=48e9,
    )
    store.take(stats, 1000.0)
    for number in range(10):
        store.take(step(number, base_us=8_000), 1000.0)
    board = store.board(1000.1)
    assert board.read_share == pytest.approx(0.25)
    assert board.read_rate.means[-1] == pytest.approx(12e9)
    assert board.tax.means[-1] == pytest.approx(0.25)
