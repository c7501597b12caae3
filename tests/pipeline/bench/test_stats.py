"""What a benchmark computes: small cases by hand, and what must hold of any run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.bench.stats import (
    Timeline,
    counter_gap,
    decode_rate,
    jain_index,
    satisfaction,
    strip_throughput,
    summarise,
)


def test_a_run_by_hand() -> None:
    """Three requests in 10 s: one after 1 s, one after 3 s, one given up by the server."""
    lines = [
        Timeline("a", 0.0, [1.0, 1.5, 2.0], input_len=10, tokens=3),
        Timeline("b", 2.0, [5.0, 7.0], input_len=20, tokens=4, late=0.25),
        Timeline("b", 3.0, [], input_len=20, error="499 aborted", aborted=True),
    ]
    result = summarise(lines, 10.0)
    assert (result.requests, result.completed, result.aborted, result.errors) == (3, 2, 1, 0)
    assert (result.input_tokens, result.output_tokens) == (30, 7)
    assert (result.throughput, result.tokens_s) == (0.2, 0.7)
    assert result.latency_s == (2 + 5) / 2
    assert result.per_token_latency_s == pytest.approx((2 / 13 + 5 / 24) / 2, abs=1e-6)
    assert result.per_output_token_latency_s == pytest.approx((2 / 3 + 5 / 4) / 2, abs=1e-6)
    assert (result.ttft_ms, result.ttft_ms_p50, result.ttft_ms_p99) == (2000, 1000, 3000)
    assert (result.inter_token_ms_p50, result.inter_token_ms_p99) == (500, 2000)
    assert result.slo_attainment == pytest.approx(2 / 3, abs=1e-4)
    assert result.satisfaction == pytest.approx((35 / 36 + 3 / 4 + 0) / 3, abs=1e-4)
    assert (result.satisfaction_p10, result.satisfaction_p50) == (0, 0.75)
    assert result.late_ms_max == 250
    # Until the last one was sent, at 3 s, a had its prompt and 3 tokens, b had nothing.
    assert result.adapters["a"].service == 10 + 2 * 3
    assert result.adapters["b"].service == 0
    assert result.jain == 0.5
    assert (result.adapters["b"].requests, result.adapters["b"].completed) == (2, 1)
    assert result.adapters["b"].ttft_ms_p50 == 3000


def test_what_failed_is_told_from_what_was_given_up() -> None:
    lines = [
        Timeline("a", 0.0, [1.0], tokens=1),
        Timeline("a", 0.0, [1.0], error="connection lost"),
        Timeline("a", 0.0, [], error="aborted: too late", aborted=True),
    ]
    result = summarise(lines, 2.0)
    assert (result.completed, result.errors, result.aborted) == (1, 1, 1)
    assert result.slo_attainment == pytest.approx(1 / 3, abs=1e-4)


def test_the_slo_is_the_operators() -> None:
    line = Timeline("a", 0.0, [1.0], tokens=1)
    assert summarise([line], 1.0, slo_seconds=1.0).slo_attainment == 0
    assert summarise([line], 1.0, slo_seconds=2.0).satisfaction == 0.75


@given(st.floats(0, 100))
def test_satisfaction_falls_from_one_to_zero(ttft: float) -> None:
    assert 0 <= satisfaction(ttft) <= 1
    assert (satisfaction(ttft) > 0) == (ttft < 6 and (ttft / 6) ** 2 < 1)
    assert satisfaction(ttft + 0.5) <= satisfaction(ttft)
    assert satisfaction(math.inf) == 0


def test_stripped_throughput_leaves_ten_seconds_out_at_either_end() -> None:
    assert strip_throughput(600, 320.0, 2.0) == round((600 - 40) / 300, 4)
    assert strip_throughput(30, 320.0, 2.0) is None
    assert strip_throughput(600, 19.0, 2.0) is None


def test_decode_rate_counts_while_all_streams_decode() -> None:
    lines = [
        Timeline("a", 0.0, [1.0, 2.0, 3.0, 4.0], tokens=4),
        Timeline("a", 0.0, [2.0, 3.0, 4.0, 5.0], tokens=8),  # two tokens a chunk
    ]
    # Between 2 s and 4 s: two chunks of one, two of two.
    assert decode_rate(lines, 2) == (2 + 4) / 2
    assert decode_rate(lines, 3) is None


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=50))
def test_jains_index_lies_between_one_nth_and_one(values: list[float]) -> None:
    index = jain_index(values)
    assert index is not None
    assert 1 / len(values) - 1e-3 <= index <= 1 + 1e-3
    assert jain_index([values[0]] * 7) == 1
    assert jain_index([values[0], 0, 0, 0]) == 0.25


def test_jains_index_of_nothing_is_not_known() -> None:
    assert jain_index([]) is None
    assert jain_index([0, 0]) is None


# --- the counter gap ----------------------------------------------------------------------------


def test_a_counter_gap_by_hand() -> None:
    """a and b both have one more request waiting while a is served 10 + 2 * 3 tokens."""
    lines = [
        Timeline("a", 0.0, [1.0, 2.0, 3.0], input_len=10, tokens=3),
        Timeline("a", 0.0, [9.0], input_len=10, tokens=1),
        Timeline("b", 0.0, [4.0], input_len=5, tokens=1),
    ]
    assert counter_gap(lines) == 16


def test_who_comes_late_has_saved_nothing_up() -> None:
    """Without the lift to those who wait, b would come with a counter 32 below a's."""
    lines = [
        Timeline("a", 0.0, [1.0, 2.0, 3.0], input_len=10, tokens=3),
        Timeline("a", 0.0, [4.0, 5.0, 6.0], input_len=10, tokens=3),
        Timeline("a", 0.0, [20.0], input_len=10, tokens=1),
        Timeline("b", 7.0, [15.0], input_len=4, tokens=1),
        Timeline("b", 7.0, [30.0], input_len=4, tokens=1),
    ]
    assert counter_gap(lines) == 4 + 2  # what b alone got at 15 s


def test_nobody_who_does_not_wait_counts() -> None:
    lines = [
        Timeline("a", 0.0, [1.0, 2.0, 3.0], input_len=100, tokens=3),
        Timeline("b", 0.5, [50.0], input_len=5, tokens=1),
    ]
    assert counter_gap(lines) == 0


def serve(
    queues: dict[str, list[tuple[int, int]]], choose: Callable[[dict[str, float]], str]
) -> list[Timeline]:
    """One request at a time, a second a token; all were sent at the start."""
    lines, now = [], 0.0
    counters = dict.fromkeys(queues, 0.0)
    while any(queues.values()):
        client = choose({c: counters[c] for c in queues if queues[c]})
        prompt, answer = queues[client].pop(0)
        lines.append(Timeline(client, 0.0, [now + 1 + i for i in range(answer)], prompt, answer))
        now += answer
        counters[client] += prompt + 2 * answer
    return lines


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=12),
        min_size=2,
    )
)
def test_serving_the_least_served_keeps_the_gap_within_vtcs_bound(
    queues: dict[str, list[tuple[int, int]]],
) -> None:
    """With one request in the batch: the largest that one request costs."""
    bound = max(prompt + 2 * answer for own in queues.values() for prompt, answer in own)
    lines = serve(queues, lambda counters: min(counters, key=counters.__getitem__))
    assert counter_gap(lines) <= bound


def test_serving_in_order_of_arrival_does_not() -> None:
    queues = {"a": [(10, 5)] * 20, "b": [(10, 5)] * 20}
    lines = serve(queues, lambda counters: min(counters))
    assert counter_gap(lines) == 19 * 20  # all of a's but the last, which nobody waits beside


def test_the_most_frequent_error_is_told() -> None:
    errors = ["503 draining", "the answer is empty", "503 draining", ""]
    lines = [Timeline("a", 0.0, [1.0], tokens=1, error=error) for error in errors]
    lines.append(Timeline("a", 0.0, [], error="499 aborted", aborted=True))
    result = summarise(lines, 2.0)
    assert (result.errors, result.error) == (3, "503 draining")
