"""What a run keeps of its past: bounded, torn or not, disk full or not; and how plots get it."""

import math
import os
import resource
import signal
from pathlib import Path

import msgspec
import pytest
from stage import START

from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.state.store import Store
from loraconsole.console.state.time_series import Series
from loraconsole.console.supervisor import metrics_history
from loraconsole.console.supervisor.metrics_history import JsonLinesFile, MetricsHistory
from loraconsole.pipeline.messages import Event, Moment, RouterStats, Step, Telemetry


def told(scenario: Scenario, until: float) -> list[Telemetry]:
    return [message for _, message in scenario.advance(until)]  # type: ignore[misc]


def live(book: MetricsHistory, seconds: int, start: float = START) -> float:
    """A busy pipeline, heard for so many seconds; the time it is then."""
    scenario = Scenario("busy", rows=8, start=start)
    for second in range(1, seconds + 1):
        for message in told(scenario, start + second):
            book.take(message)
        book.tick(start + second)
    return start + seconds


def test_a_second_says_what_its_steps_and_counters_did(tmp_path: Path) -> None:
    book = MetricsHistory(tmp_path / "history", START)
    now = live(book, 10)
    moments = book.moments(0.0)
    assert [moment.at for moment in moments] == [START + second for second in range(2, 11)]
    last = moments[-1]
    assert last.running == 7 and last.waiting == 1 and 29 <= last.steps <= 31
    assert last.decode_tokens_s == pytest.approx(7 * 30.3, rel=0.1)
    assert last.busy_ms and 20 < last.busy_ms < 40
    assert last.most_sync_ms and last.sync_ms and last.most_sync_ms >= last.sync_ms
    assert last.lora_overhead and last.read_bytes_s
    assert book.moments(now - 3.5) == moments[-4:]


def test_seconds_in_which_a_step_ends_and_others_have_the_same_throughput() -> None:
    """Steps of 0.7 s end once in some seconds and twice in others."""
    book = MetricsHistory(Path("/dev/null/none"), START)
    scenario = Scenario("busy", rows=8, start=START)
    router, step = (
        next(m for m in told(scenario, START + 1.0 + second) if isinstance(m, kind))
        for second, kind in enumerate((RouterStats, Step))
    )
    step = msgspec.structs.replace(
        step, phase="decode", tokens=64, prompt_tokens=0, host_us=0, launch_us=0, sync_us=690_000
    )
    done, ends_at = 0, START + 0.7
    for second in range(1, 30):
        while ends_at <= START + second:
            book.take(msgspec.structs.replace(step, at=ends_at, copy_us=0, busy_us=690_000))
            ends_at, done = ends_at + 0.7, done + 1
        at = START + second
        book.take(msgspec.structs.replace(router, at=at, steps=done, decode_tokens=64 * done))
        book.tick(at)
    rates = [moment.decode_tokens_s for moment in book.moments(START + 2)]
    assert len(rates) > 20
    assert rates == pytest.approx([64 / 0.7] * len(rates), rel=0.02)


def test_a_supervisor_that_starts_again_knows_the_past(tmp_path: Path) -> None:
    first = MetricsHistory(tmp_path / "history", START)
    now = live(first, 5)
    first.close()
    again = MetricsHistory(tmp_path / "history", now + 60.0)
    assert again.moments(0.0) == first.moments(0.0)
    assert list(again.events) == list(first.events)
    late = MetricsHistory(tmp_path / "history", now + 7200.0)
    assert late.moments(0.0) == () and len(late.events) == len(first.events)
    assert not MetricsHistory(tmp_path / "history", now + 2 * 86_400.0).events


def test_a_torn_tail_costs_one_line(tmp_path: Path) -> None:
    directory = tmp_path / "history"
    book = MetricsHistory(directory, START)
    now = live(book, 5)
    book.close()
    path = directory / "moments.jsonl"
    os.truncate(path, path.stat().st_size - 7)
    again = MetricsHistory(directory, now)
    assert again.moments(0.0) == book.moments(0.0)[:-1]
    now = live(again, 5, now)  # what is written behind the torn line can be read
    again.close()
    assert MetricsHistory(directory, now).moments(0.0) == again.moments(0.0)


def test_an_hour_and_a_day_are_bounded_on_disk_and_in_memory(tmp_path: Path) -> None:
    journal = JsonLinesFile(tmp_path / "events.jsonl", Event, 4096)
    for number in range(1000):
        journal.append(Event(START + number, "info", "router", f"event {number:05}"))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 4096
    kept = [event.at - START for event in journal.read()]
    assert kept == list(range(1000 - len(kept), 1000)) and len(kept) > 60
    widest = Moment(
        1.79e9,
        *[999] * 2,
        *[99999.99] * 3,
        *[99999] * 2,
        999,
        *[9999.999] * 6,
        9e12,
        0.1234,
        (0, 0, 99, 0, 0, 900),
        *[999999.99] * 4,
    )
    line = len(msgspec.json.encode(widest)) + 1
    assert line * metrics_history.HOUR_SECONDS < metrics_history.MOMENTS_BYTES


def test_a_full_disk_is_told_once_and_costs_no_moment(tmp_path: Path) -> None:
    """The limit on a file's size stands for a disk that is full: a write comes back short."""
    said: list[tuple[str, str]] = []
    book = MetricsHistory(
        tmp_path / "history", START, lambda level, text: said.append((level, text))
    )
    now = live(book, 3)
    path = tmp_path / "history" / "moments.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, limits[1]))
        now = live(book, 20, now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [level for level, _ in said] == ["warning"] and "memory only" in said[0][1]
    assert len(book.moments(0.0)) > 20
    live(book, 40, now)
    assert [level for level, _ in said] == ["warning", "info"]
    book.close()
    lines = path.read_bytes().splitlines()
    assert all(msgspec.json.decode(line, type=Moment) for line in lines)


def test_plots_of_a_console_that_comes_late_are_filled(tmp_path: Path) -> None:
    book = MetricsHistory(tmp_path / "history", START)
    scenario = Scenario("busy", rows=8, start=START)
    store = Store("/run")
    for tenth in range(1, 601):
        now = START + tenth / 10
        heard = told(scenario, now)
        for message in heard:
            book.take(message)
            if tenth > 550:  # the console is there for the last five seconds
                store.fold_message(message, now)
        if tenth % 10 == 0:
            book.tick(now)
    seen = store.board(now).decode.window(now, 120)
    assert sum(not math.isnan(value) for value in seen.means) < 14
    snapshot = msgspec.structs.replace(scenario.snapshot(), moments=book.moments(0.0))
    store.fold_snapshot(snapshot, now)
    board = store.board(now)
    for track in (board.decode, board.running, board.parts["busy"], board.lora_overhead):
        assert not any(math.isnan(value) for value in track.means[-110:])
    means = board.decode.window(now, 120).means
    assert means[-8:-2] == seen.means[-8:-2]  # what was seen stays
    assert board.first_token.means and board.inter_token_gap.means
    assert sum(map(sum, board.limits.counts)) > 1000
    store.shows_hour = True
    assert store.board(now).decode.bucket_s == 30.0
    assert store.board(now).decode.window(now, 4).highest > 0


def test_a_hole_in_a_series_is_filled_and_nothing_else(tmp_path: Path) -> None:
    series = Series(1.0, 10)
    for at, value in ((100.0, 1.0), (101.0, 2.0), (105.0, 6.0)):
        series.add(at, value)
    series.fill(
        [
            (at, value, value)
            for at, value in ((99.0, 10.0), (101.0, 20.0), (103.0, 30.0), (107.0, 40.0))
        ]
    )
    track = series.track
    assert track.last == 107
    nan = float("nan")
    wanted = (10.0, 1.0, 2.0, nan, 30.0, nan, 6.0, nan, 40.0)
    assert str(tuple(track.means)) == str(wanted)
    series.add(107.5, 60.0)
    assert series.track.means[-1] == 50.0
    series.fill([(80.0, 1.0, 1.0)])  # before what is kept
    assert len(series.track.means) == 10
