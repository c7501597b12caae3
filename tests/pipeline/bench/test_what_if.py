"""A recorded day with other settings: what is learnt from a log, and what a real one gives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ring import ADAPTERS, Ring, shipped

from loraconsole.console.state.what_if import (
    client_rows,
    describe_error,
    describe_settings,
    figure_rows,
)
from loraconsole.pipeline.bench.what_if import changed_config, compare_runs, observe, summarise_run
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError, UsageError
from loraconsole.pipeline.messages import (
    Admission,
    Batch,
    BatchRow,
    Refused,
    SamplingParams,
    StreamToken,
)
from loraconsole.pipeline.router.event_lines import Asked
from loraconsole.pipeline.router.request_times import RequestTimes
from loraconsole.pipeline.router.simulation import answer_lengths
from loraconsole.pipeline.router.step_times import ShapeReader, StepSample, StepShape, StepTimes

TTFT_BOUND, TOKENS_BOUND = 0.4, 0.1
"""Relative errors of a simulation without a change, as docs/scheduling.md says."""


# --- steps --------------------------------------------------------------------------------------


def shapes(seed: int, count: int) -> Iterator[StepShape]:
    chance = random.Random(seed)
    for _ in range(count):
        rows = chance.randint(0, 32)
        prompt = chance.choice((0, 0, 0, chance.randint(1, 400)))
        yield StepShape(rows, prompt, chance.randint(0, 5), rows * chance.randint(10, 900))


def cost(shape: StepShape) -> float:
    return (
        0.020
        + 0.001 * shape.decode_rows
        + 0.0004 * shape.prompt_tokens
        + 0.003 * shape.adapters
        + 0.0005 * shape.kv_tokens / 1000
    )


def test_prices_of_a_step_are_learnt_and_hold_for_shapes_that_were_not_seen() -> None:
    at, samples = 1_790_000_000.0, []
    for shape in shapes(1, 400):
        at += cost(shape)
        samples.append(StepSample(at, shape, cost(shape)))
    times = StepTimes.fit(samples)
    assert times is not None and times.error < 1e-6
    assert times.prices == pytest.approx((0.020, 0.001, 0.0004, 0.003, 0.0005), rel=1e-3)
    for shape in shapes(2, 50):
        assert times.seconds(shape, at + 999.0) == pytest.approx(cost(shape), rel=1e-3)


def test_a_stall_stays_where_it_was_and_does_not_raise_the_prices() -> None:
    at, samples = 1_790_000_000.0, []
    for number, shape in enumerate(shapes(3, 900)):
        slow = 5.0 if 300 <= number < 360 else 1.0
        at += cost(shape) * slow
        samples.append(StepSample(at, shape, cost(shape) * slow))
    times = StepTimes.fit(samples)
    assert times is not None
    shape = StepShape(8, 0, 2, 4000)
    calm, stalled = samples[100].at, samples[330].at
    assert times.seconds(shape, calm) == pytest.approx(cost(shape), rel=0.05)
    assert times.seconds(shape, stalled) > 3 * cost(shape)
    whole = sum(sample.seconds for sample in samples)
    estimated = sum(times.seconds(s.shape, s.at - s.seconds) for s in samples)
    assert estimated == pytest.approx(whole, rel=1e-6), "the day is as long as it was"


def test_answers_that_a_late_router_found_together_do_not_spoil_the_prices() -> None:
    """One of two steps then seems to take twice as long, and the other no time."""
    at, samples = 1_790_000_000.0, []
    for number, shape in enumerate(shapes(4, 600)):
        part = {0: 1.999, 1: 0.001}.get(number % 12, 1.0)
        at += cost(shape) * part
        samples.append(StepSample(at, shape, cost(shape) * part))
    times = StepTimes.fit(samples)
    assert times is not None
    assert times.prices[:4] == pytest.approx((0.020, 0.001, 0.0004, 0.003), rel=0.2)


def test_no_price_is_negative_and_a_log_without_steps_teaches_nothing() -> None:
    assert StepTimes.fit([]) is None
    falling = [StepSample(float(n), StepShape(n, 0, 0, 100 * n), 1.0 / (1 + n)) for n in range(30)]
    times = StepTimes.fit(falling)
    assert times is not None and all(price >= 0 for price in times.prices)


def test_a_batch_has_the_shape_of_what_it_computes() -> None:
    read = ShapeReader().read_batch
    params = SamplingParams()
    admit = (
        Admission(1, (0,) * 10, 10, params, "sql@1"),
        Admission(2, (0,) * 4, 4, params, None),
    )
    first = Batch(1, 0, (), admit, (BatchRow(1, 6), BatchRow(2, 4)))
    assert read(first) == StepShape(0, 10, 1, 10, 2)
    second = Batch(1, 1, (), (), (BatchRow(1, 4), BatchRow(2, 1)))
    assert read(second) == StepShape(1, 4, 1, 10 + 5, 1)
    third = Batch(1, 2, (2,), (), (BatchRow(1, 1),))
    assert read(third) == StepShape(1, 0, 1, 11)


# --- requests -----------------------------------------------------------------------------------


def asked(name: str, adapter: str | None = "sql", at: float = 10.0, most: int = 8) -> Asked:
    return Asked(at=at, request=name, adapter=adapter, num_prompt=3, max_tokens=most, arrived_at=at)


def told(times: RequestTimes, name: str, count: int, end: str | None, start: float) -> None:
    for index in range(count):
        last = end if index == count - 1 else None
        times.note_tokens([StreamToken(name, index, 0, (), last)], start + index)


def test_a_run_is_summed_up_by_adapter_and_what_has_ended_does_not_end_again() -> None:
    times = RequestTimes()
    for name, adapter in (("a", "sql"), ("b", "sql"), ("c", None), ("d", None)):
        times.note_asked(asked(name, adapter))
    told(times, "a", 4, "stop", 11.0)
    told(times, "b", 8, "length", 13.0)
    times.note_refused(Refused("c", 503, "too late"), 12.0)
    times.note_aborted("c", "client gone", 13.0)
    times.note_aborted("d", "client gone", 13.0)
    run = summarise_run(times, "base", steps=9, preemptions=0)
    assert (run.requests, run.answered, run.refused, run.aborted) == (4, 2, 1, 1)
    assert (run.ttft_ms_p50, run.ttft_ms_p99) == (1000.0, 3000.0)
    assert run.adapters["sql"].output_tokens == run.output_tokens == 12
    assert (run.adapters["base"].refused, run.adapters["base"].ttft_ms_p50) == (1, None)
    assert times.live == 0 and sum(times.ttft) == 2 and sum(times.inter_token) == 10


def test_an_answer_keeps_its_length_and_one_that_was_cut_off_gets_its_adapters_median() -> None:
    times = RequestTimes()
    for name in "abcde":
        times.note_asked(asked(name, most=20))
    times.note_asked(asked("other", "haiku", most=5))
    for name, count in (("a", 4), ("b", 6), ("c", 9)):
        told(times, name, count, "stop", 11.0)
    told(times, "d", 20, "length", 11.0)
    told(times, "e", 11, None, 11.0)
    times.note_aborted("e", "client gone", 30.0)
    lengths = dict(answer_lengths(times))
    assert lengths == {"a": 4, "b": 6, "c": 9, "d": 0, "e": 12, "other": 0}


def test_settings_are_named_as_flags_and_others_are_refused() -> None:
    config, names = changed_config(
        Config(run="/r"),
        [
            "policy=vtc_fair",
            "pool=4096",
            "fair-weight=a=2",
            "fair_weight=b=3",
            "no_prefetch=true",
            "evict=lfu",
        ],
    )
    assert (config.scheduler, config.max_total_tokens) == ("vtc_fair", 4096)
    assert config.fair_weight == ("a=2", "b=3") and config.no_prefetch is True
    assert names == {"scheduler", "max_total_tokens", "fair_weight", "no_prefetch", "evict"}
    for wrong, what in (
        ("port=1", "is not NAME=VALUE"),
        ("policy", "is not NAME=VALUE"),
        ("policy=best", "Invalid enum value"),
        ("evict=random", "Invalid enum value"),
        ("pool=-1", "Expected `int`"),
    ):
        with pytest.raises(UsageError, match=what):
            changed_config(Config(run="/r"), [wrong])


# --- a real pipeline's log ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests of five models, most for one, that come faster than any machine answers them."""
    options = ["--event-log", "--dtype", "float32", "--max-running", "4"]
    options += ["--max-total-tokens", "2000"]
    options += [f"--adapter={name}={shipped(name)}" for name in ADAPTERS]
    chance = random.Random(3)
    kept = tmp_path_factory.mktemp("logs") / "day.jsonl"
    with (
        Ring(tmp_path_factory.mktemp("r"), *options) as ring,
        ThreadPoolExecutor(50) as pool,
    ):

        def ask() -> int:
            name = chance.choices([*ADAPTERS, ""], [8, 1, 1, 1, 1])[0]
            text = "sea " * chance.randint(1, 60)
            return ring.chat(name, text, max_tokens=chance.choice((8, 16, 48))).status_code

        asking = []
        for _ in range(60):
            asking.append(pool.submit(ask))
            time.sleep(chance.expovariate(30.0))
        assert {one.result() for one in asking} == {200}
        ring.wait_idle()
        time.sleep(0.3)  # the log is written ten times a second
        [path] = (ring.run / "events").iterdir()
        kept.write_bytes(path.read_bytes())
    return kept


@pytest.mark.processes
def test_without_a_change_the_simulation_is_near_the_log(log: Path) -> None:
    found = compare_runs(log, ["policy=fcfs"])
    recorded, same = found.recorded, found.unchanged
    assert recorded.requests == recorded.answered == same.answered == 60
    assert recorded.output_tokens == same.output_tokens
    assert found.changed == same, "the policy is the log's own"
    model = found.model
    assert model.steps_measured > 100 and model.failures == 0
    assert model.ttft_p50_error is not None and abs(model.ttft_p50_error) < TTFT_BOUND
    assert abs(model.tokens_s_error) < TOKENS_BOUND
    for name, client in recorded.adapters.items():
        assert same.adapters[name].output_tokens == client.output_tokens
    assert "TTFT p50" in describe_error(found)


@pytest.mark.processes
def test_a_policy_a_pool_and_a_limit_change_what_they_must(log: Path, tmp_path: Path) -> None:
    fair = compare_runs(log, ["policy=vtc_fair"])
    assert fair.changed.counter_gap < fair.unchanged.counter_gap
    rest = [name for name in fair.recorded.adapters if name != "haiku"]

    def waits(run: Any) -> float:
        return sum(run.adapters[name].wait_ms_p50 for name in rest)

    assert waits(fair.changed) < waits(fair.unchanged), "the others wait for the greedy one"
    alone = compare_runs(log, ["max_running=1"])
    assert alone.changed.wait_ms_p50 > 1.1 * alone.unchanged.wait_ms_p50
    assert alone.changed.tokens_s < alone.unchanged.tokens_s
    assert alone.changed.answered == 60
    small = compare_runs(log, ["pool=400"])
    assert small.changed.wait_ms_p50 > small.unchanged.wait_ms_p50
    late = compare_runs(log, ["policy=abort", "slo_seconds=0.5"])
    assert late.changed.refused > 0 and late.unchanged.refused == 0
    assert late.changed.answered + late.changed.refused == 60
    rows = {row.name: row for row in figure_rows(late)}
    assert rows["refused"].changed == str(late.changed.refused)
    assert rows["refused"].difference == f"+{late.changed.refused}"
    haiku = next(client_rows(late))
    assert haiku.name == "haiku" and "→" in haiku.answered
    assert describe_settings(late.against) == "scheduler abort, slo_seconds 0.5"


@pytest.mark.processes
def test_the_command_prints_it_and_refuses_what_it_cannot_compare(
    log: Path, tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "loraconsole.console", "replay", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = run(str(log), "--against", "policy=lifo")
    assert done.returncode == 0, done.stderr
    assert "scheduler fcfs in the log, changed to scheduler lifo" in done.stdout
    assert "TTFT p99" in done.stdout and "haiku" in done.stdout
    document = json.loads(run(str(log), "--against", "policy=lifo", "--json").stdout)
    assert document["against"] == {"scheduler": "lifo"}
    assert document["changed"]["ttft_ms_p99"] > document["changed"]["ttft_ms_p50"]
    wrong = run(str(log), "--against", "policy=best", "--json")
    assert wrong.returncode == 2 and "policy=best" in json.loads(wrong.stdout)["error"]
    lines = log.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if '"is_admitted":true' in line)
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join([*lines[:at], lines[at].replace('"need":', '"need":9'), *lines[at + 1 :]])
    )
    done = run(str(other), "--against", "policy=lifo")
    assert done.returncode == 1 and f"line {at + 1}" in done.stderr
    with pytest.raises(OperatorError, match=f"line {at + 1}"):
        observe(other, None)
