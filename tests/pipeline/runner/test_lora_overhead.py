"""What a step would have taken without adapters: learnt, and never guessed."""

from __future__ import annotations

from loraconsole.pipeline.runner.lora_overhead import RECENT, UNKNOWN, BaseEstimate, BaseTimes

GB = 1_000_000_000


def learnt(times: BaseTimes, rows: int, *busy_us: int, kv_bytes: int = 0) -> BaseTimes:
    for value in busy_us:
        assert times.take(rows, value, kv_bytes, has_adapters=False) is UNKNOWN
    return times


def test_nothing_is_known_before_a_base_step_was_seen() -> None:
    times = BaseTimes(GB)
    assert times.take(8, 9_000, 0, has_adapters=True).us == 0
    learnt(times, 8, 6_000)
    assert times.take(8, 9_000, 0, has_adapters=True).us == 6_000


def test_steps_with_adapters_teach_nothing() -> None:
    times = learnt(BaseTimes(GB), 8, 6_000)
    for _ in range(100):
        assert times.take(8, 90_000, 0, has_adapters=True).us == 6_000


def test_kv_is_taken_out_of_what_is_learnt_and_put_back_for_the_step_at_hand() -> None:
    times = learnt(BaseTimes(GB), 8, 7_000, kv_bytes=1_000_000)  # a millisecond of it is KV
    assert times.take(8, 0, 0, has_adapters=True).us == 6_000
    assert times.take(8, 0, 3_000_000, has_adapters=True).us == 9_000


def test_one_slow_step_does_not_show_and_old_ones_are_forgotten() -> None:
    times = learnt(BaseTimes(GB), 8, 6_000, 6_000, 60_000)
    assert times.take(8, 0, 0, has_adapters=True).us == 6_000
    learnt(times, 8, *[4_000] * RECENT)
    assert times.take(8, 0, 0, has_adapters=True).us == 4_000


def test_between_two_known_numbers_of_rows_it_is_the_line_and_beyond_them_unknown() -> None:
    times = learnt(learnt(BaseTimes(GB), 4, 4_000), 8, 6_000)
    assert times.take(5, 0, 0, has_adapters=True).us == 4_500
    assert times.take(3, 0, 0, has_adapters=True).us == 0
    assert times.take(9, 0, 0, has_adapters=True).us == 0
    learnt(times, 5, 5_000)
    assert times.take(5, 0, 0, has_adapters=True).us == 5_000


def test_without_a_copy_rate_kv_counts_nothing() -> None:
    times = learnt(BaseTimes(0.0), 2, 5_000, kv_bytes=GB)
    assert times.take(2, 0, GB, has_adapters=True).us == 5_000


def test_what_kv_costs_is_learnt_from_short_and_long_sequences() -> None:
    times = learnt(BaseTimes(10 * GB), 8, 6_000, 6_000, 9_000, kv_bytes=0)
    learnt(times, 8, 10_000, 10_000, 13_000, kv_bytes=4_000_000)
    times.learn_kv(8)
    assert times.kv_bytes_s == GB
    assert times.take(8, 0, 2_000_000, has_adapters=True).us == 8_000


def test_kv_is_never_read_faster_than_a_copy_or_backwards_in_time() -> None:
    for slow in (6_010, 5_000):
        times = learnt(BaseTimes(GB), 8, 6_000, kv_bytes=0)
        learnt(times, 8, slow, kv_bytes=4_000_000).learn_kv(8)
        assert times.kv_bytes_s == GB
    learnt(times, 4, 6_000, 60_000, kv_bytes=4_000_000).learn_kv(4)  # no two lengths
    times.learn_kv(3)  # of which nothing was seen
    assert times.kv_bytes_s == GB


def test_an_estimate_says_how_many_steps_it_is_from_how_far_they_lie_apart_and_how_old() -> None:
    times = BaseTimes(GB)
    for at, busy_us in ((1.0, 5_000), (2.0, 6_000), (3.0, 9_000)):
        times.take(4, busy_us, 0, at, has_adapters=False)
    assert times.take(4, 0, 0, 9.0, has_adapters=True) == BaseEstimate(6_000, 2_000, 3, 3.0)
    for busy_us in (10_000, 10_000):
        times.take(8, busy_us, 0, 2.0, has_adapters=False)
    between = times.take(6, 0, 0, 9.0, has_adapters=True)
    assert between == BaseEstimate(8_000, 1_000, 5, 2.0)
