"""What an adapter has cost lately: windows of time, and percentiles of waits."""

from __future__ import annotations

from loraconsole.pipeline.messages import COST_SECONDS, WAITS_KEPT, WAITS_SECONDS
from loraconsole.pipeline.schedule.tally import MARK_SECONDS, Tally, Waits


def test_the_recent_cost_is_that_of_the_last_minute_and_then_nothing() -> None:
    tally = Tally()
    for second in range(0, 301, 2):  # as the router's table asks
        tally.device_us += 2_000.0
        tally.output_tokens += 10
        device_us, tokens = tally.recent_cost(1_000.0 + second)
        expected = min(second + 2, COST_SECONDS)
        assert 0 <= device_us / 1_000.0 - expected <= MARK_SECONDS + 3
        assert tokens == device_us / 200.0
    for second in range(302, 420, 2):
        last = tally.recent_cost(1_000.0 + second)
    assert last == (0.0, 0)
    assert tally.device_us == 151 * 2_000.0


def test_work_after_a_long_pause_is_not_mixed_with_the_work_before_it() -> None:
    tally = Tally()
    tally.device_us = 5_000.0
    tally.recent_cost(10.0)
    assert tally.recent_cost(500.0) == (0.0, 0)
    tally.device_us += 70.0
    assert tally.recent_cost(502.0) == (70.0, 0)
    assert tally.recent_cost(502.0 + COST_SECONDS - 1) == (70.0, 0)
    assert tally.recent_cost(504.0 + COST_SECONDS) == (0.0, 0)


def test_an_idle_tally_keeps_no_marks() -> None:
    tally = Tally()
    tally.output_tokens = 3
    for second in range(1_000):
        tally.recent_cost(float(second))
    assert len(tally._marks) == 1


def test_waits_expire_by_time_and_by_number() -> None:
    waits = Waits()
    assert waits.percentiles_ms(0.0) == (None, None)
    for number in range(100):
        waits.add(float(number), (number + 1) / 1e3)
    assert waits.percentiles_ms(100.0) == (50.0, 99.0)
    assert waits.percentiles_ms(WAITS_SECONDS + 89.5) == (95.0, 100.0)
    assert waits.percentiles_ms(WAITS_SECONDS + 200.0) == (None, None)
    for _ in range(2 * WAITS_KEPT):
        waits.add(1_000.0, 1.0)
    for _ in range(WAITS_KEPT):
        waits.add(1_001.0, 2.0)
    assert waits.percentiles_ms(1_001.0) == (2_000.0, 2_000.0)


def test_a_clock_that_was_set_back_gives_no_negative_wait() -> None:
    waits = Waits()
    waits.add(5.0, -0.4)
    assert waits.percentiles_ms(5.0) == (0.0, 0.0)
