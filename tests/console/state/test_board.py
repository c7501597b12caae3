"""The books and what is reckoned from them: rates, buckets, percentiles, conditions, alerts."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.console.mock.scenario import ADAPTERS, Scenario, ScenarioKind
from loraconsole.console.state.alerts import AlertLimits, findings
from loraconsole.console.state.board import Board, Quantiles, seconds_left
from loraconsole.console.state.store import LOG_LINES, STEPS, Store
from loraconsole.console.state.time_series import (
    PLOTTED,
    Buckets,
    Counter,
    PercentileSeries,
    PlotColumns,
    RateSeries,
    Series,
    SlidingWindow,
    TallySeries,
    bucket_percentile,
)
from loraconsole.console.supervisor.metrics_history import MetricsHistory
from loraconsole.console.supervisor.snapshot_cache import SnapshotCache
from loraconsole.console.text import plot, units
from loraconsole.console.text.filter import Filter
from loraconsole.pipeline.messages import (
    LATENCY_BUCKETS_MS,
    PROTOCOL,
    AskSnapshot,
    Event,
    Heartbeat,
    LogLine,
    LogLines,
    ProcessState,
    Progress,
    RequestText,
    ServerStats,
    Snapshot,
    Step,
    WorkerStats,
)
from loraconsole.pipeline.runtime.percentile import percentile
from loraconsole.pipeline.runtime.step_statistics import PARTS, step_us

START = 1_790_000_000.0


def told(
    scenario: ScenarioKind = "busy", seconds: float = 10.0, **options: int
) -> tuple[Store, Board]:
    """A store that has heard a scenario, and its board at the end."""
    scenario, store = Scenario(scenario, start=START, **options), Store("/run/here")
    for tick in range(round(seconds * 5) + 1):
        now = START + tick / 5
        for _, message in scenario.advance(now):
            store.fold_message(message, now)
    return store, store.board(START + seconds)


# --- numbers over time --------------------------------------------------------------------------


def test_a_counter_gives_the_slope_of_its_window() -> None:
    counter = Counter(window_s=2.0)
    for second in range(10):
        counter.add(second, 100 * min(second, 5))  # it stands still from the fifth second on
    assert counter.rate == 0.0
    counter = Counter(window_s=2.0)
    for second in range(10):
        counter.add(second, 7 * second)
    assert counter.rate == pytest.approx(7.0)


def test_a_counter_that_falls_starts_anew() -> None:
    counter = Counter()
    counter.add(0.0, 1000)
    counter.add(1.0, 2000)
    counter.add(2.0, 3)  # the process was restarted
    assert counter.rate == 0.0
    counter.add(3.0, 8)
    assert counter.rate == pytest.approx(5.0)


def test_a_series_gathers_means_and_peaks_and_leaves_gaps_empty() -> None:
    series = Series(bucket_s=1.0)
    for at, value in ((100.1, 2.0), (100.8, 4.0), (103.0, 9.0)):
        series.add(at, value)
    window = series.track.window(103.5, PLOTTED)
    means, peaks = window.means[-4:], window.peaks[-4:]
    assert means[0] == 3.0 and peaks[0] == 4.0
    assert math.isnan(means[1]) and math.isnan(means[2])
    assert means[3] == window.highest == window.highest_peak == 9.0


@pytest.mark.parametrize("count", [2, 36, 58, 116, 120, 220, 360])
@pytest.mark.parametrize("bucket_s", [0.5, 30.0])
def test_plots_of_any_width_span_the_same_time(count: int, bucket_s: float) -> None:
    series = Series(bucket_s, 2 * PLOTTED)
    now = 1_790_000_000.0
    for back in range(2 * PLOTTED, -1, -1):
        at = now - back * bucket_s
        series.add(at, at)
    window = series.track.window(now, count)
    assert len(window.means) == len(window.peaks) == count
    columns = PlotColumns.of(bucket_s, now, count)
    assert columns.span_s == pytest.approx(series.track.span_s) == PLOTTED * bucket_s
    assert now - columns.starts_at <= columns.span_s
    for column, mean in enumerate(window.means):
        ends_at = columns.starts_at + (column + 1) * columns.column_s
        if ends_at < now - bucket_s:
            assert mean == pytest.approx(ends_at - columns.column_s / 2, abs=bucket_s)
    cell = columns.cell_at(now - columns.span_s / 2)
    assert columns.time_of(cell) == pytest.approx(
        now - columns.span_s / 2, abs=columns.column_s * 2
    )


def test_a_step_longer_than_a_bucket_leaves_no_gap_in_what_is_drawn() -> None:
    series = Series(bucket_s=0.5)
    for number in range(40):
        series.add(1000 + 0.8 * number, 7.0, since=1000 + 0.8 * (number - 1))
    assert set(series.track.means) == {7.0}
    series.add(1100.0, 7.0, since=1099.9)  # after a pause
    assert math.isnan(series.track.means[-3])


@given(st.floats(0.01, 3.0), st.integers(1, 500))
def test_the_throughput_of_even_steps_is_drawn_even_whatever_a_step_takes(
    step_s: float, tokens: int
) -> None:
    """Counted where they end, steps of 0.8 s would be bars of 0 and of twice the rate."""
    series = RateSeries(bucket_s=0.5)
    for number in range(1, int(20 / step_s)):
        series.add_work(1000 + (number - 1) * step_s, 1000 + number * step_s, tokens)
    means = [mean for mean in series.track.means if mean == mean]  # the newest may just begin
    assert len(means) >= len(series.track.means) - 1
    assert means == pytest.approx([tokens / step_s] * len(means), rel=1e-3)


def test_throughput_counts_the_time_in_which_nothing_is_done() -> None:
    series = RateSeries(bucket_s=1.0)
    series.add_work(1000.0, 1000.25, 10)
    assert list(series.track.means) == [40.0]  # so far
    series.add_work(1001.5, 1001.5, 0)  # nothing runs
    assert list(series.track.means) == [10.0, 0.0]
    series.add_work(1002.5, 1003.0, 5)
    assert list(series.track.means)[:3] == [10.0, 0.0, 5.0]
    series.add_work(1009.0, 1009.5, 5)  # nothing was heard meanwhile
    assert all(math.isnan(mean) for mean in series.track.means[4:9])
    assert series.track.means[9] == 10.0


def test_percentiles_over_time_are_of_what_was_counted_in_each_bucket() -> None:
    bounds = (10.0, 100.0)
    series = PercentileSeries(bounds, bucket_s=1.0)
    series.add_counts(1000.0, (100, 0, 0))  # since the server began
    assert not series.track.means
    series.add_counts(1000.5, (110, 0, 0))
    series.add_counts(1000.9, (110, 10, 0))
    assert list(series.track.means) == [bucket_percentile(bounds, (10, 10, 0), 0.5)]
    assert list(series.track.peaks) == [bucket_percentile(bounds, (10, 10, 0), 0.99)]
    series.add_counts(1002.5, (110, 10, 1))
    assert math.isnan(series.track.means[1])
    assert series.track.means[2] == series.track.peaks[2] == 100.0  # it is more than that
    series.add_counts(1003.5, (0, 3, 0))  # a restarted server
    assert len(series.track.means) == 3


def test_tallies_count_a_long_step_in_all_its_buckets_and_are_filled_with_the_past() -> None:
    series = TallySeries(2, bucket_s=1.0, length=8)
    series.add(1000.5, 0)
    series.add(1003.5, 1, since=1000.5)
    series.add(1003.6, 1)
    assert [list(kind) for kind in series.track.counts] == [[1, 0, 0, 0], [0, 1, 1, 2]]
    series.fill([(998.5, (3, 0)), (1000.5, (9, 9))])
    assert [list(kind) for kind in series.track.counts] == [[3, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 2]]
    series.add(1020.0, 0)
    assert [list(kind) for kind in series.track.counts] == [[1], [0]]
    columns = PlotColumns.of(1.0, 1020.0, PLOTTED)
    cells = series.track.cells(columns)
    assert len(cells) == PLOTTED // 2 and sum(counts[0] for counts in cells) == 1
    assert cells[columns.cell_at(1020.0)] == (1, 0)


@given(st.integers(0, 30), st.integers(1, 10), st.integers(0, 12))
def test_a_window_always_has_the_width_asked_for(shift: int, pairs: int, back: int) -> None:
    series = Series(bucket_s=1.0, length=16)
    for second in range(20):
        series.add(1000 + second, float(second))
    window = series.track.window(1000 + shift, 2 * pairs, float(back))
    assert len(window.means) == len(window.peaks) == 2 * pairs
    known = [value for value in window.means if not math.isnan(value)]
    assert known == sorted(known)


def test_a_cell_of_a_plot_keeps_its_two_buckets_while_time_goes_on() -> None:
    series = Series(bucket_s=1.0)
    for second in range(40):
        series.add(1000 + second, float(second))
    track = series.track
    for now in range(1020, 1038):
        means = [mean for mean in track.window(now, PLOTTED).means if mean == mean]
        assert int(means[0]) % 2 == 0  # an even bucket stands at the left of its cell


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_percentiles_from_buckets_lie_near_those_of_the_values(q: float) -> None:
    values = sorted(3.0 * 1.05**n for n in range(120))
    counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
    for value in values:
        counts[next(i for i, bound in enumerate(LATENCY_BUCKETS_MS) if value <= bound)] += 1
    exact = percentile(values, q)
    near = bucket_percentile(LATENCY_BUCKETS_MS, counts, q)
    assert exact is not None and near is not None
    assert near == pytest.approx(exact, rel=0.25)  # five buckets a decade: at most 60 % wide


def test_empty_histograms_have_no_percentiles() -> None:
    assert bucket_percentile((1.0, 2.0), (0, 0, 0), 0.5) is None
    assert percentile((), 0.5) is None


def test_beyond_the_last_bound_a_percentile_is_said_to_be_larger_than_it() -> None:
    assert bucket_percentile((1.0, 2.0), (0, 0, 4), 0.5) == math.inf
    assert bucket_percentile((1.0, 2.0), (6, 0, 4), 0.5) == pytest.approx(5 / 6)
    counts = (*(0 for _ in LATENCY_BUCKETS_MS), 9)
    slow = Quantiles.of_buckets("TTFT", counts)
    assert units.milliseconds(slow.p50) == "> 1000 s"
    assert slow.p99 is not None and slow.p99 > LATENCY_BUCKETS_MS[-1]  # alerts compare it


def test_a_track_that_sweeps_keeps_each_bucket_in_its_place() -> None:
    series = Series(1.0)
    for at in range(4 * PLOTTED):
        series.add(at, float(at))
    for now in range(2 * PLOTTED, 4 * PLOTTED, 2):
        means = series.track.window(now + 1, PLOTTED, sweeps=True).means
        kept = [value for value in means if value == value]
        assert sorted(kept) == list(range(now + 4 - PLOTTED, now + 2))
        assert all(means[int(value) % PLOTTED] == value for value in kept)
        gap = (now + 2) % PLOTTED
        assert all(value != value for value in means[gap : gap + 2])


def test_buckets_count_what_fell_in_during_the_window() -> None:
    buckets = Buckets((1.0, 2.0), window_s=10.0)
    for second in range(0, 40, 5):
        buckets.add(second, (second, 2 * second, 0))
    assert buckets.counts(36) == (10, 20, 0)
    assert buckets.counts(45) == (10, 20, 0)
    assert buckets.counts(45.1) == (0, 0, 0)  # the newest sample has left the window
    buckets.add(40, (0, 0, 1))  # a new process
    assert buckets.counts(41) == (0, 0, 1)
    buckets.add(41, (0, 0, 1, 7))  # of another version, whose bounds are unknown
    assert buckets.counts(41) == (0, 0, 1)


# --- what comes in, what goes out ---------------------------------------------------------------


def test_throughput_and_load_come_from_the_routers_counters() -> None:
    _, board = told("busy", rows=16)
    assert board.router is not None
    assert board.router.running == 14  # every eighth row waits
    assert 350 < board.decode_rate < 500  # 14 rows, 30 steps a second
    assert board.step_rate == pytest.approx(30.3, abs=1.0)
    assert board.decode.window(board.now, 20).highest > 300


def test_a_requests_speed_comes_from_its_own_tokens() -> None:
    _, board = told("busy", rows=8)
    running = [row for row in board.requests if row.view.phase == "decode" and row.tokens_s]
    assert running and all(5 < row.tokens_s < 25 for row in running)


def test_a_dead_router_has_no_speed() -> None:
    store, board = told("busy")
    assert board.decode_rate > 0
    assert store.board(board.now + 10).decode_rate == 0.0


def test_books_are_bounded() -> None:
    store, _ = told("empty")
    for number in range(0, 3 * LOG_LINES, 100):
        lines = tuple(LogLine(n, START, "router", "INFO", "x") for n in range(number, number + 100))
        store.fold_message(LogLines(lines), START)
    _, busy = told("busy", seconds=60.0)
    assert len(store.board(START).logs) == LOG_LINES
    assert len(busy.steps) == STEPS


def test_log_lines_known_already_are_passed_over() -> None:
    store = Store("/run/here")
    lines = tuple(LogLine(n, START + n, "router", "INFO", "x") for n in range(5))
    store.fold_message(LogLines(lines), START)
    store.fold_message(LogLines(lines[3:]), START)
    assert [line.number for line in store.board(START).logs] == [0, 1, 2, 3, 4]


def test_a_snapshots_older_lines_go_before_those_that_were_heard_meanwhile() -> None:
    scenario = Scenario("busy", start=START, logs_per_second=20)
    late = Store("/run/here")
    scenario.advance(START + 5)
    for _, message in scenario.advance(START + 6):
        late.fold_message(message, START + 6)
    heard = len(late.board(START + 6).logs)
    late.fold_snapshot(scenario.snapshot(), START + 6)
    numbers = [line.number for line in late.board(START + 6).logs]
    assert 0 < heard < len(numbers)
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_snapshot_tells_a_late_console_everything_that_still_holds() -> None:
    scenario = Scenario("busy", rows=16, start=START)
    scenario.advance(START + 5)
    late = Store("/run/here")
    late.fold_snapshot(scenario.snapshot(), START + 5)
    board = late.board(START + 5)
    assert board.condition.word == "READY"
    assert len(board.requests) == 16
    assert [row.name for row in board.adapters[1:]] == list(ADAPTERS[:4])
    assert board.server and board.router and board.workers and board.logs and board.events
    assert late.drain_events() == []  # history is not news


def test_a_late_console_judges_the_last_minute_and_not_all_since_the_server_began() -> None:
    zeros = (0,) * (len(LATENCY_BUCKETS_MS) + 1)
    slow = (*zeros[:-1], 500)  # long ago

    def stats(at: float, requests: int, ttft: tuple[int, ...]) -> ServerStats:
        known = {"open_streams": 0, "errors": 0, "prompt_tokens": 0, "output_tokens": 0}
        return ServerStats(at=at, url="", requests=requests, ttft=ttft, inter_token=zeros, **known)

    cache = SnapshotCache(MetricsHistory(Path("/dev/null/none"), START))
    scenario = Scenario("busy", start=START)
    scenario.advance(START + 200)

    def known() -> Snapshot:
        return cache.snapshot(AskSnapshot("console-1"), START, scenario._process_table(), ())

    for second in range(200):
        cache.fold_message(stats(START + second, 500, slow))
    cache.fold_message(stats(START + 200, 501, (1, *slow[1:])))
    newest, before = known().server, known().server_before
    assert newest is not None and before is not None and before.at == START + 140
    snapshot = msgspec.structs.replace(scenario.snapshot(), server=newest, server_before=before)
    for heard_before in (False, True):  # a console that listened before it asked
        late = Store("/run/here")
        if heard_before:
            late.fold_message(newest, START + 200)
        late.fold_snapshot(snapshot, START + 200)
        assert late.board(START + 200).ttft == (1, *zeros[1:])
    cache.fold_message(stats(START + 201, 0, zeros))  # another server
    assert known().server_before is None and known().server is not None


def test_a_snapshots_ages_are_reckoned_on_the_pipelines_own_clock() -> None:
    scenario = Scenario("busy", start=START)
    scenario.advance(START + 5)
    elsewhere = Store("/run/here")
    now = START + 9_000.0  # this machine's clock is hours ahead
    elsewhere.fold_snapshot(scenario.snapshot(), now)
    board = elsewhere.board(now)
    assert board.condition.word == "READY"
    assert all(row.age_s is None or row.age_s < 1.0 for row in board.processes)


def test_events_are_news_once() -> None:
    store = Store("/run/here")
    store.fold_message(Event(START, "info", "router", "adapter loaded"), START)
    assert [event.text for event in store.drain_events()] == ["adapter loaded"]
    assert store.drain_events() == []
    assert len(store.board(START).events) == 1


def test_beats_alone_do_not_move_the_picture() -> None:
    store, _ = told("empty", seconds=2.0)
    before = store.moves
    scenario = Scenario("empty", start=START, logs_per_second=0)
    for _, message in scenario.advance(START + 8):
        if not isinstance(message, Event | Progress | LogLines):
            store.fold_message(message, START + 8)
    assert store.moves == before


def test_an_adapters_tint_follows_from_its_name_and_stays() -> None:
    _, few = told("busy", adapters=2)
    _, many = told("busy", adapters=8)
    assert all(many.color_of(name) == few.color_of(name) for name in ADAPTERS[:2])
    assert len({many.color_of(name) for name in ADAPTERS}) == 8  # as long as there are colours
    assert many.color_of(None) == "base"


def test_a_new_router_empties_the_batch_until_it_speaks() -> None:
    store, board = told("busy", rows=8)
    beat = next(row for row in board.processes if row.name == "router")
    assert len(board.requests) == 8
    reborn = Heartbeat(
        name="router",
        pid=beat.pid + 1,
        incarnation=999_999,
        at=board.now,
        state=ProcessState.STARTING,
        reason="",
        cpu_seconds=0.0,
        rss_bytes=1,
        loop_lag_ms=0.0,
        hops=(),
    )
    store.fold_message(reborn, board.now)
    assert store.board(board.now).requests == ()


def second_supervisor(store: Store, started_at: float) -> Board:
    """The board after another supervisor has said what pipeline it has, with its first log line."""
    beat = Heartbeat(
        name="supervisor",
        pid=999,
        incarnation=999_999,
        at=START + 8,
        state=ProcessState.READY,
        reason="",
        cpu_seconds=0.0,
        rss_bytes=1,
        loop_lag_ms=0.0,
        hops=(),
    )
    table = store.board(START + 8).table
    assert table is not None
    mine = msgspec.structs.replace(table, started_at=started_at, supervisor_restarts=1)
    line = LogLine(1, START + 8, "supervisor", "WARNING", "supervisor restarted")
    for message in (beat, mine, LogLines((line,))):
        store.fold_message(message, START + 8)
    return store.board(START + 8)


def test_a_supervisor_that_adopts_the_ring_changes_nothing_on_the_screen() -> None:
    store, _ = told("busy", rows=8)
    scenario = Scenario("busy", rows=8)
    snapshot = scenario.snapshot()
    line = LogLine(70, START, "router", "INFO", "of the first supervisor")
    store.fold_snapshot(msgspec.structs.replace(snapshot, logs=(line,)), START + 8)
    board = store.board(START + 8)
    assert board.started_at is not None
    after = second_supervisor(store, board.started_at)
    assert (after.requests, after.steps) == (board.requests, board.steps)
    assert after.logs[:-1] == board.logs and after.logs[-1].text == "supervisor restarted"
    assert after.processes[0].restarts == 1 and after.processes[1:] == tuple(
        msgspec.structs.replace(row, age_s=new.age_s)
        for row, new in zip(board.processes[1:], after.processes[1:], strict=True)
    )
    # Its snapshot has the lines from the files, numbered from 1.
    lines = (LogLine(1, START, "router", "INFO", "first"), after.logs[-1])
    lines = (lines[0], msgspec.structs.replace(lines[1], number=2))
    known = msgspec.structs.replace(snapshot, started_at=board.started_at, logs=lines)
    store.fold_snapshot(known, START + 8)
    assert store.board(START + 8).logs == lines


def test_a_supervisor_of_another_pipeline_makes_the_last_one_forgotten() -> None:
    store, _ = told("busy", rows=8)
    store.fold_snapshot(Scenario("busy", rows=8).snapshot(), START + 8)
    board = store.board(START + 8)
    assert board.requests and board.started_at is not None
    after = second_supervisor(store, board.started_at + 60)
    assert not after.requests and not after.steps
    assert [line.text for line in after.logs] == ["supervisor restarted"]


# --- the machine in a word ----------------------------------------------------------------------


def test_nothing_heard_is_connecting() -> None:
    board = Store("/run/here").board(START)
    assert board.condition.word == "CONNECTING"
    assert "/run/here" in board.condition.detail
    assert board.processes == ()


@pytest.mark.parametrize(
    ("scenario", "word", "level"),
    [
        ("busy", "READY", "good"),
        ("empty", "READY", "good"),
        ("loading", "STARTING", "warn"),
        ("failed", "FAILED", "bad"),
    ],
)
def test_the_condition_is_the_supervisors_word(
    scenario: ScenarioKind, word: str, level: str
) -> None:
    _, board = told(scenario)
    assert (board.condition.word, board.condition.level) == (word, level)


def test_bars_of_a_life_that_is_over_are_not_shown_as_if_they_were_of_this_one() -> None:
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    cache = SnapshotCache(MetricsHistory(Path("/dev/null/none"), START))

    def hear(now: float) -> list[str]:
        for _, message in scenario.advance(now):
            store.fold_message(message, now)
            cache.fold_message(message)
        late = Store("/run/here")
        asked = cache.snapshot(AskSnapshot("console-1"), START, scenario._process_table(), ())
        late.fold_snapshot(asked, now)
        stages = [bar.stage for bar in store.board(now).stages]
        assert stages == [bar.stage for bar in late.board(now).stages]
        return stages

    verify = scenario._bar("worker-0", "verify", "verify sql", 30, 30, "layer", 12.2)
    store.fold_message(verify, START)
    cache.fold_message(verify)
    assert hear(START + 1) == ["fetch", "weights", "adapters", "warm-up"]
    scenario._set("worker-0", ProcessState.BACKOFF, "killed by SIGKILL")
    assert hear(START + 2) == ["fetch"]
    assert all(bar.stage != "verify" for bar in store.board(START + 2).progress)
    scenario._set("worker-0", ProcessState.READY)
    scenario._incarnations["worker-0"] += 1
    store.fold_message(verify, START + 2.1)
    assert hear(START + 3) == ["fetch"]
    assert store.board(START + 3).progress == store.board(START + 3).stages


def test_a_start_says_which_stage_and_how_far() -> None:
    _, board = told("loading")
    assert board.condition.detail == "weights 61 %"
    assert board.is_starting


def test_a_failure_says_who_and_why() -> None:
    _, board = told("failed")
    assert "worker-0: out of memory" in board.condition.detail
    reason = board.process("worker-0").reason  # type: ignore[union-attr]
    found = findings(board, AlertLimits())
    assert found[0][:2] == ("bad", f"worker-0 failed: {reason}")


def test_silence_is_told_apart_by_who_is_silent() -> None:
    store, board = told("busy")
    assert findings(board, AlertLimits()) == ()
    late = store.board(board.now + 4.2)
    assert late.condition.word == "NO SUPERVISOR"
    assert late.process("router").is_stale  # type: ignore[union-attr]
    store.fold_message(
        msgspec.structs.replace(_beat(store, "supervisor"), at=board.now + 4), board.now + 4
    )
    late = store.board(board.now + 4.2)
    assert late.condition.word == "STALLED"
    assert "router silent for 4 s" in [alert.text for alert in findings(late, AlertLimits())]


@pytest.mark.parametrize(
    ("silent_s", "word", "alerts"),
    [(3.0, "READY", []), (7.0, "UNSUPERVISED", ["supervisor silent for 7 s"])],
)
def test_a_ring_that_is_heard_has_some_time_to_start_its_next_supervisor(
    silent_s: float, word: str, alerts: list[str]
) -> None:
    store, board = told("busy")
    now = board.now + silent_s
    for name in ("worker-0", "detokenizer", "router", "server"):
        store.fold_message(msgspec.structs.replace(_beat(store, name), at=now), now)
    late = store.board(now)
    assert late.condition.word == word and not late.is_down  # S would start nothing
    assert [alert.text for alert in findings(late, AlertLimits())] == alerts


def _beat(store: Store, name: str) -> Heartbeat:
    beat = store._pulses[name].beat
    assert beat is not None
    return beat


def test_refused_frames_and_a_late_loop_are_alerts() -> None:
    store, board = told("busy")
    hops = (msgspec.structs.replace(_beat(store, "router").hops[0], refused=3),)
    beat = msgspec.structs.replace(_beat(store, "router"), hops=hops, loop_lag_ms=800.0)
    store.fold_message(beat, board.now)
    texts = [alert.text for alert in findings(store.board(board.now), AlertLimits())]
    assert "router refused 3 frames" in texts
    assert "router loop lag is 800 ms" in texts


def test_another_protocol_is_an_alert() -> None:
    store, board = told("busy")
    store.fold_message(msgspec.structs.replace(_beat(store, "router"), protocol=99), board.now)
    said = [alert[:2] for alert in findings(store.board(board.now), AlertLimits())]
    assert ("bad", f"router speaks protocol 99, this console {PROTOCOL}") in said


# --- latency ------------------------------------------------------------------------------------


def test_latency_by_phase_part_and_synchronize_point() -> None:
    _, board = told("busy", seconds=20.0)
    phases = {quantiles.name: quantiles for quantiles in board.phase_quantiles}
    assert phases["decode"].count > 300 and phases["prefill"].count > 0
    assert phases["decode"].p50 == pytest.approx(25, abs=5)
    assert set(board.part_quantiles) == set(PARTS)
    points = {quantiles.name: quantiles for quantiles in board.sync_quantiles}
    assert set(points) == {"step", "prefill", "merge"}
    assert points["step"].most and points["step"].p50 and points["step"].most > points["step"].p50
    assert board.ttft_quantiles.count > 0 and board.inter_token_quantiles.p50 is not None


def test_percentiles_are_of_the_last_minute_and_gone_after_it() -> None:
    store, board = told("busy", rows=8)
    assert all(quantiles.count for quantiles in board.part_quantiles.values())
    assert board.idle_s < 1 and board.recent_steps == board.steps
    later = store.board(board.now + 61)
    assert later.steps and not later.recent_steps and later.idle_s > 60
    known = (*later.phase_quantiles, *later.sync_quantiles, *later.part_quantiles.values())
    assert not any(quantiles.count for quantiles in known)
    assert (later.ttft_quantiles.p99, later.inter_token_quantiles.p99) == (None, None)
    half = store.board(board.steps[len(board.steps) // 2].at + 60)
    assert 0 < len(half.recent_steps) < len(half.steps)


def test_a_step_counts_the_hosts_wait_and_the_devices_work_once() -> None:
    """On a CPU both are the same time: 2 + 1 ms, then 30 ms of computing while the host waits."""
    _, board = told("busy", seconds=2.0)
    step = msgspec.structs.replace(
        board.steps[-1], host_us=2000, launch_us=1000, copy_us=0, busy_us=30_000, sync_us=29_000
    )
    assert step_us(step) == 33_000
    assert step_us(msgspec.structs.replace(step, sync_us=40_000)) == 43_000  # it also queued


def test_quantiles_of_nothing_are_none() -> None:
    assert Quantiles.of_microseconds("x", ()) == Quantiles("x", 0, None, None, None, None)


def test_what_is_left_of_a_stage_follows_from_its_pace() -> None:
    bar = Progress(
        source="w", stage="weights", label="", current=25, total=100, unit="B", elapsed_s=2.0
    )
    assert seconds_left(bar) == pytest.approx(6.0)
    assert seconds_left(msgspec.structs.replace(bar, total=None)) is None
    assert seconds_left(msgspec.structs.replace(bar, done=True)) is None


# --- words, filters, shapes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (units.count(7), "7"),
        (units.count(1204), "1 204"),
        (units.count(12_345), "12.3k"),
        (units.rate(0.01), "0"),
        (units.rate(2.14), "2.1"),
        (units.rate(99.97), "100"),
        (units.size(512), "512 B"),
        (units.size(98_362_432), "93.8 MiB"),
        (units.size(15 << 30), "15.00 GiB"),
        (units.duration(0.42), "0.42 s"),
        (units.duration(192), "3 m 12 s"),
        (units.age(7500), "2 h 05 m"),
        (units.uptime(754), "12 m"),
        (units.milliseconds(0.424), "0.42 ms"),
        (units.milliseconds(1240), "1.24 s"),
        (units.milliseconds(None), "—"),
        (units.percent(0.999), "99 %"),
        (units.percent(1.0), "100 %"),
    ],
)
def test_numbers_read_well(made: str, text: str) -> None:
    assert made == text


def test_text_from_outside_cannot_command_the_terminal() -> None:
    assert units.clean("\x1b[31mred\x1b[0m \x1b]0;title\x07bell\x07\ttab") == "red bell    tab"


@given(st.text(max_size=80), st.integers(1, 40))
def test_fitted_text_has_its_width(text: str, width: int) -> None:
    from rich.cells import cell_len

    assert cell_len(units.fit(units.clean(text), width)) == width


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C",)), max_size=200))
def test_wrapped_lines_fit_and_lose_no_word(text: str) -> None:
    from rich.cells import cell_len

    lines = units.wrap(text, 20)
    assert all(cell_len(line) <= 20 for line in lines)
    assert "".join("".join(lines).split()) == "".join(units.clean(text).split())


def test_a_filter_keeps_inverts_and_says_what_is_wrong() -> None:
    assert Filter.parse("pirate").keeps("Pirate ship")
    assert not Filter.parse("Pirate").keeps("pirate ship")  # capitals are meant
    assert not Filter.parse("!sql").keeps("an sql row")
    assert Filter.parse("r[0-9]+").keeps("r12")
    broken = Filter.parse("a[")
    assert broken.error and broken.keeps("anything")
    assert not Filter.parse("") and not Filter.parse("!")


@given(st.floats(0, 1), st.integers(0, 30))
def test_bars_fill_their_width(fraction: float, width: int) -> None:
    for make in (plot.bar, plot.gauge):
        filled, rest = make(fraction, width)
        assert len(filled) + len(rest) == width


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.integers(1, 60))
def test_shares_never_exceed_the_line(parts: list[float], width: int) -> None:
    cells = plot.shares(parts, sum(parts), width)
    assert sum(cells) <= width and all(cell >= 0 for cell in cells)
    if sum(parts) > 0 and len([part for part in parts if part > 0]) <= width:
        assert sum(cells) == width


def test_an_area_rises_and_hangs() -> None:
    assert plot.area((4.0, 4.0), 2, 4.0) == ("⣿", "⣿")
    assert plot.area((1.0, 0.0), 1, 4.0, down=True) == ("⠁",)
    assert plot.area((math.nan, math.nan), 1, 4.0) == ("⣀",)  # the axis
    assert plot.area((1.0, 1.0), 1, 4.0, dots=(4.0, 4.0)) == ("⣉",)


def test_an_axis_is_a_round_number() -> None:
    tops = [plot.top_of(value) for value in (0, 0.3, 7, 18, 42, 140, 637)]
    assert tops == pytest.approx([1, 0.3, 8, 20, 50, 150, 800])


# --- a request's words --------------------------------------------------------------------------


def test_a_requests_words_grow_and_answers_that_crossed_are_passed_over() -> None:
    store = Store("/run/here")
    store.fold_text(RequestText(request_id="a", prompt="why?", text="Because"))
    store.fold_text(RequestText(request_id="a", offset=7, text=" so"))
    store.fold_text(RequestText(request_id="a", offset=7, text=" so it"))  # asked before " so"
    store.fold_text(RequestText(request_id="a", offset=10, ended=True))
    opened = store.board(START).opened
    assert opened == RequestText(request_id="a", prompt="why?", text="Because so", ended=True)
    store.fold_text(RequestText(request_id="b", offset=3, text="late"))  # its head is missing
    assert store.board(START).opened == opened
    store.fold_text(RequestText(request_id="b", prompt="who?", text="Me"))
    assert store.board(START).opened == RequestText(request_id="b", prompt="who?", text="Me")


def decode_step(number: int) -> Step:
    """120 MB read in 10 ms; 8 ms without its adapters."""
    return Step(
        rank=0,
        step=number,
        at=1000.0 + number / 100,
        phase="decode",
        rows=8,
        tokens=8,
        adapters=2,
        host_us=1,
        copy_us=1,
        launch_us=1,
        busy_us=10_000,
        sync_us=1,
        weight_bytes=100_000_000,
        adapter_bytes=4_000_000,
        kv_bytes=16_000_000,
        base_us=8_000,
    )


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
    store.fold_message(stats, 1000.0)
    for number in range(10):
        store.fold_message(decode_step(number), 1000.0)
    board = store.board(1000.1)
    assert board.read_share == pytest.approx(0.25)
    assert board.read_rate.means[-1] == pytest.approx(12e9)
    assert board.lora_overhead.means[-1] == pytest.approx(0.25)


def test_a_window_keeps_what_is_in_it_and_one_sample_before() -> None:
    window: SlidingWindow[str] = SlidingWindow(10.0)
    assert (len(window), window.oldest, window.newest, window.span_s) == (0, None, None, 0.0)
    for at in (0.0, 4.0, 8.0, 12.0, 16.0):
        window.add(at, f"at {at:g}")
    assert (window.oldest, window.newest, window.span_s) == ("at 4", "at 16", 12.0)
    window.add(100.0, "late")
    assert (len(window), window.oldest) == (2, "at 16")
    window.clear()
    assert len(window) == 0


# --- a process that fell ------------------------------------------------------------------------


def test_a_fall_is_said_until_the_pipeline_is_ready_again() -> None:
    """Down, starting again and back before the router has taken it in are one state to a reader."""
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    words: list[tuple[str, str, bool]] = []

    def hear(until: float) -> Board:
        while scenario._now < until:
            now = scenario._now + 0.25
            for _, message in scenario.advance(now):
                store.fold_message(message, now)
            board = store.board(now)
            down = [f.text for f in findings(board, AlertLimits()) if f.rule == "process down"]
            words.append((board.condition.word, board.condition.level, bool(down)))
        return board

    hear(START + 10)
    assert set(words) == {("READY", "good", False)}
    words.clear()
    scenario.fall("worker-0", "killed by SIGKILL", 6.0)
    board = hear(START + 10.75)
    (worker,) = [p for p in board.processes if p.name == "worker-0"]
    assert board.recovery(worker).startswith(
        "worker-0 died 0 s ago (killed by SIGKILL), restarts in"
    )
    board = hear(START + 14.5)
    (worker,) = [p for p in board.processes if p.name == "worker-0"]
    assert board.recovery(worker) == (
        "worker-0 died 4 s ago (killed by SIGKILL), restarting: weights 58 %"
    )
    assert board.condition.detail == ("24 requests wait 4 s for worker-0 (weights 58 %)")
    assert board.stall == "worker-0 restarting, 58 %"
    assert board.is_restarting and not board.is_starting
    hear(START + 16.75)
    assert set(words[1:-2]) == {("RECOVERING", "bad", True)}
    words.clear()
    board = hear(START + 20)
    assert set(words[2:]) == {("READY", "good", False)} and board.stall == ""
    (restarted,) = findings(board, AlertLimits())
    assert restarted.rule == "process restarted"
    assert "(killed by SIGKILL), restarted" in restarted.text


def test_a_restart_by_an_order_is_no_start_and_no_alert() -> None:
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    for tick in range(40):
        if tick == 32:
            scenario.restart("worker-0")
        for _, message in scenario.advance(START + tick / 4):
            store.fold_message(message, START + tick / 4)
        board = store.board(START + tick / 4)
        assert board.condition.word in ("READY", "RESTARTING")
        assert findings(board, AlertLimits()) == ()
        if tick == 35:
            assert board.condition.word == "RESTARTING" and board.condition.level == "warn"
            assert board.condition.detail.startswith("24 requests wait 0 s for worker-0 (")
    assert board.condition.word == "READY"


def test_a_process_that_starts_again_has_no_memory_nor_beat_of_the_dead_one() -> None:
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    for _, message in scenario.advance(START + 5):
        store.fold_message(message, START + 5)
    before = store.board(START + 5).process("worker-0")
    assert before is not None and before.rss_bytes and before.age_s is not None
    table = scenario._process_table()
    views = tuple(
        msgspec.structs.replace(
            view, state=ProcessState.STARTING, pid=view.pid + 1, restarts=1, is_recovering=True
        )
        if view.name == "worker-0"
        else view
        for view in table.processes
    )
    table = msgspec.structs.replace(table, processes=views, state=ProcessState.STARTING)
    store.fold_message(table, START + 5)
    row = store.board(START + 7.4).process("worker-0")
    assert row is not None
    assert (row.rss_bytes, row.age_s, row.cpu_fraction) == (0, None, 0.0)
    assert not row.is_stale and row.word == "restarting" and row.level == "bad"


def test_only_what_computes_stalls_the_batch() -> None:
    _, board = told("busy")

    def with_state(name: str, **fields: object) -> Board:
        rows = tuple(
            msgspec.structs.replace(row, **fields) if row.name == name else row
            for row in board.processes
        )
        return msgspec.structs.replace(board, processes=rows)

    assert board.stall == ""
    down = {"state": ProcessState.BACKOFF, "is_recovering": True, "retry_at": board.now + 0.5}
    assert with_state("worker-0", **down).stall == "worker-0 down, restarts in 1 s"
    assert with_state("router", age_s=5.0).stall == "router silent for 5 s"
    held = {"state": ProcessState.STOPPED, "held": True}
    assert with_state("worker-0", **held).stall == "worker-0 stopped by an operator"
    failed = with_state("worker-0", state=ProcessState.FAILED, reason="no memory")
    assert failed.stall == "worker-0 failed"
    assert with_state("detokenizer", **down).stall == with_state("server", **down).stall == ""


def test_a_rate_that_is_not_measured_yet_is_a_dash_and_no_nought() -> None:
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    scenario.advance(START + 30)
    store.fold_snapshot(scenario.snapshot(), START + 30)
    board = store.board(START + 30)
    assert board.adapters and board.router is not None and board.router.running
    assert {row.rate_text for row in board.adapters} == {units.NOTHING}
    assert board.decode_text == units.NOTHING
    for tick in range(1, 26):
        for _, message in scenario.advance(START + 30 + tick / 5):
            store.fold_message(message, START + 30 + tick / 5)
    board = store.board(START + 35)
    assert all(float(row.rate_text) > 0 for row in board.adapters if row.view.running)
    assert board.decode_text == units.rate(board.decode_rate) != units.NOTHING
