"""Workloads: S-LoRA's to the bit, others by what defines them; files that are refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.bench import workload as w
from loraconsole.pipeline.bench.workload_files import read_script, read_trace
from loraconsole.pipeline.errors import UsageError

LOAD: dict[str, Any] = {"num_adapters": 200, "alpha": 1, "rate": 2, "cv": 1, "duration": 300}


def test_sloras_generator_gives_its_published_requests() -> None:
    load = w.slora(**LOAD)
    first = load.arrivals[:5]
    assert len(load) == 600
    assert [a.adapter for a in first] == [74, 190, 146, 119, 31]
    assert [a.input_len for a in first] == [12, 473, 99, 177, 324]
    assert [a.output_len for a in first] == [410, 43, 292, 195, 89]
    assert [round(a.at, 4) for a in first] == [0.1598, 3.0856, 3.3633, 3.6635, 3.7529]
    assert round(load.arrivals[-1].at, 1) == 301.0


def test_sloras_table_touches_907_of_2000_adapters() -> None:
    load = w.slora(**LOAD | {"num_adapters": 2000, "rate": 10, "duration": 120})
    assert len({a.adapter for a in load.arrivals}) == 907


def test_without_adapters_lengths_and_times_stay_the_same() -> None:
    with_adapters, without = w.slora(**LOAD), w.slora(**LOAD | {"num_adapters": 0})
    assert all(a.adapter is None for a in without.arrivals)
    assert [(a.at, a.input_len, a.output_len) for a in without.arrivals] == [
        (a.at, a.input_len, a.output_len) for a in with_adapters.arrivals
    ]


@pytest.mark.parametrize("alpha, share", [(0.1, 0.589), (0.3, 0.204), (0.6, 0.042)])
def test_the_hottest_adapters_share_is_one_nth_to_the_alpha(alpha: float, share: float) -> None:
    load = w.slora(**LOAD | {"alpha": alpha, "rate": 200})
    hottest = sum(a.adapter == 0 for a in load.arrivals) / len(load)
    assert share == pytest.approx((1 / 200) ** alpha, abs=0.001)
    assert hottest == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("cv", [0.5, 1, 4])
def test_gaps_have_the_mean_and_the_variation_asked_for(cv: float) -> None:
    load = w.slora(**LOAD | {"cv": cv, "rate": 300})
    gaps = np.diff([0.0, *(a.at for a in load.arrivals)])
    assert gaps.mean() == pytest.approx(1 / 300, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)


def test_long_tails_are_mostly_short() -> None:
    load = w.long_tail(**LOAD | {"rate": 100})
    lengths = [a.input_len for a in load.arrivals] + [a.output_len for a in load.arrivals]
    assert min(lengths) == 8
    assert 600 < max(lengths) < 1024  # (1 - x)^10 of 120 000 lie beyond x
    assert np.mean(lengths) == pytest.approx(8 + 1016 / 11, rel=0.03)
    assert np.median(lengths) < 80


@given(st.integers(1, 500))
def test_punicas_shares_add_up_and_are_what_they_are_called(count: int) -> None:
    shares = {name: w.popularity_shares(name, count) for name in w.POPULARITIES}
    for own in shares.values():
        assert sum(own) == count
        assert own == sorted(own, reverse=True)
        assert min(own) >= 1
    assert len(shares["distinct"]) == count
    assert shares["identical"] == [count]
    assert len(shares["uniform"]) == int(np.ceil(np.sqrt(count)))
    assert shares["uniform"][0] - shares["uniform"][-1] <= 1


def test_skewed_adapters_are_asked_half_as_often_again_as_the_next() -> None:
    shares = w.popularity_shares("skewed", 2000)
    growing = [int(1.5**i) for i in range(len(shares) - 1)]
    left_over = 2000 - sum(growing)
    assert shares == sorted([*growing, left_over], reverse=True)
    assert 0 < left_over <= int(1.5 ** len(growing))


@pytest.mark.parametrize("popularity", w.POPULARITIES)
def test_punicas_requests_have_those_shares_in_mixed_order(popularity: w.Popularity) -> None:
    load = w.punica(popularity=popularity, num_adapters=100, rate=10, cv=1, duration=10)
    asked = Counter(a.adapter for a in load.arrivals)
    assert sorted(asked.values(), reverse=True) == w.popularity_shares(popularity, 100)
    if len(asked) > 1:
        owners = [a.adapter for a in load.arrivals]
        assert owners != sorted(owners, key=lambda owner: owner or 0)
    assert min(a.input_len for a in load.arrivals) >= 2
    assert 10 < np.median([a.input_len for a in load.arrivals]) < 25  # of 18 e^(0.8 z) - 1: 17


def test_distinct_requests_share_adapters_where_there_are_fewer() -> None:
    load = w.punica(popularity="distinct", num_adapters=4, rate=10, cv=1, duration=2)
    assert Counter(a.adapter for a in load.arrivals) == dict.fromkeys(range(4), 5)


def test_suites_are_every_combination_with_sloras_requests_in_them() -> None:
    points = list(w.suite_named("req-rate").points())
    assert points == list(w.suite_named("a10g-req-rate").points())
    assert [len(w.slora(**point)) for point in points] == [300, 450, 600, 750]
    assert [p["alpha"] for p in w.suite_named("alpha").points()] == [0.1, 0.3, 0.6, 1]
    assert [p["cv"] for p in w.suite_named("cv").points()] == [1, 2, 4, 6, 8]
    assert len(w.slora(**next(w.SUITES["a100-80-table"].points()))) == 1200
    with pytest.raises(UsageError, match="a10g-alpha"):
        w.suite_named("a10g-beta")


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"alpha": 0}, "alpha 0"),
        ({"cv": 0}, "cv 0"),
        ({"rate": -1}, "rate -1"),
        ({"duration": 0.1}, "no request"),
        ({"input_range": (8, 8)}, r"\[8, 8\)"),
        ({"output_range": (0, 4)}, r"\[0, 4\)"),
    ],
)
def test_parameters_that_make_no_workload_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        w.slora(**LOAD | wrong)


def test_speed_and_heads_leave_the_requests_as_they_are() -> None:
    load = w.slora(**LOAD)
    fast = load.paced(3).head(10)
    assert [a.at * 3 for a in fast.arrivals] == pytest.approx([a.at for a in load.arrivals[:10]])
    assert [a.input_len for a in fast.arrivals] == [a.input_len for a in load.arrivals[:10]]
    assert all(a.at < 100 for a in load.until(100).arrivals)
    assert load.arrivals[len(load.until(100))].at >= 100


# --- scripts and traces -------------------------------------------------------------------------

HEAD_OF_LINE = {
    "ind": [0, 1, 2, 3, 4, -1],
    "input_lens": [2046, 2046, 2046, 8, 8, 8],
    "output_lens": [2048, 2048, 2048, 8, 8, 1800],
    "intervals": [0, 0, 0, 0.5, 0, 1],
}


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_a_script_is_played_as_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    lines = "\n".join(f"{name} = {values}" for name, values in HEAD_OF_LINE.items())
    path.write_text(json.dumps(HEAD_OF_LINE) if kind == "json" else lines)
    load = read_script(path)
    assert load.num_adapters == 5
    assert [a.adapter for a in load.arrivals] == [0, 1, 2, 3, 4, None]
    assert [a.at for a in load.arrivals] == [0, 0, 0, 0.5, 0.5, 1.5]
    assert load.arrivals[5] == w.Arrival(1.5, None, 8, 1800)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"ind": [0]}, "ind 1, input_lens 6"),
        ({"ind": [-2, 1, 2, 3, 4, 5]}, "request 0"),
        ({"input_lens": [1, 1, 0, 1, 1, 1]}, "request 2"),
        ({"intervals": [0, -1, 0, 0, 0, 0]}, "request 1"),
        ({"output_lens": "many"}, "output_lens"),
        ({"other": [1]}, "other"),
    ],
)
def test_a_script_that_is_wrong_names_the_place(
    tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(HEAD_OF_LINE | wrong))
    with pytest.raises(UsageError, match=told):
        read_script(path)


def test_files_that_are_no_scripts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text("ind = [")
    with pytest.raises(UsageError, match="not TOML"):
        read_script(path)
    with pytest.raises(UsageError, match="No such file"):
        read_script(tmp_path / "none.json")


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05.0000000,0,7
2023-11-16 18:17:03.5799600,110,27
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,Conversation log
118,ChatGPT,417,0,417,Conversation log
120,ChatGPT,300,4,304,API log
"""


def test_azures_trace_keeps_its_gaps_and_draws_adapters(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    load = read_trace(path, num_adapters=7)
    assert [(a.input_len, a.output_len) for a in load.arrivals] == [
        (110, 27),
        (4808, 10),
        (3180, 8),
    ]
    assert [a.at for a in load.arrivals] == pytest.approx([0, 0.4, 0.452], abs=1e-5)
    drawn = (np.random.RandomState(w.SEED).power(1, 3) * 7).astype(int)
    assert [a.adapter for a in load.arrivals] == drawn.tolist()


def test_burstgpts_models_take_adapters_in_turn_and_its_failures_are_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(BURST)
    arrivals = read_trace(path, num_adapters=2).arrivals
    assert [(a.at, a.adapter, a.input_len) for a in arrivals] == [
        (0, 0, 472),
        (40, 1, 1087),
        (115, 0, 300),
    ]
    assert {a.adapter for a in read_trace(path, num_adapters=1).arrivals} == {0}
    assert {a.adapter for a in read_trace(path, num_adapters=0).arrivals} == {None}


@pytest.mark.parametrize(
    "text, told",
    [
        ("a,b,c\n1,2,3\n", "line 1: columns ['a', 'b', 'c'] match no trace format"),
        ("", "line 1: columns [] match no trace format"),
        (AZURE + "yesterday,1,2\n", "line 6: TIMESTAMP 'yesterday' is neither"),
        (AZURE + "nan,1,2\n", "line 6: TIMESTAMP 'nan' is neither"),
        (AZURE + "2023-11-16 18:17:03,-4,2\n", "line 6: ContextTokens '-4' is not a number"),
        (BURST + "130,GPT-4,12\n", "line 6: Response tokens None is not a number"),
        (BURST.splitlines()[0] + "\n", "no request with a prompt and an answer"),
    ],
)
def test_a_trace_that_cannot_be_read_names_column_and_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(told)):
        read_trace(path, num_adapters=2)
