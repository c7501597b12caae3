"""Spans on the screen: the ends of the files that real processes write."""

import time
from itertools import pairwise
from pathlib import Path

from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.state.span_tail import SpanTail
from loraconsole.console.supervisor.span_files import TAIL_BYTES, span_ends
from loraconsole.console.ui.panels.latency import FlamePane
from loraconsole.pipeline.messages import StartSpans, StopSpans
from loraconsole.pipeline.runtime.spans import Spans


def record(run: Path, recording: str, steps: int, name: str = "router") -> None:
    """Nested spans as a process writes them."""
    spans = Spans()
    spans.start(run / "spans" / recording / f"{name}.jsonl")
    for step in range(steps):
        with spans.span("_decode_batch", step=step), spans.span("model_rpcs.decode_batch"):
            with spans.span("launch_{}", step):
                time.sleep(0.001)
            with spans.span("wait"):
                time.sleep(0.001)
    spans.stop()


def read(run: Path) -> SpanTail:
    tail = SpanTail()
    tail.fold_ends(span_ends(run))
    return tail


def test_spans_stand_below_those_that_hold_them(tmp_path: Path) -> None:
    record(tmp_path, "20260101-000000", 1)
    record(tmp_path, "20260102-000000", 3)
    tail = read(tmp_path)
    assert tail.recording == "20260102-000000"
    rows = tail.rows(0.0, tail.end, 10)
    assert [{span.name for span in row.spans} for row in rows] == [
        {"_decode_batch"},
        {"model_rpcs.decode_batch"},
        {"launch_0", "launch_1", "launch_2", "wait"},
    ]
    for row in rows:
        assert all(one.end <= following.ts for one, following in pairwise(row.spans))
    last = rows[0].spans[-1]
    (only,) = tail.rows(last.ts, tail.end, 1)
    assert only.spans == (last,)


def test_what_processes_have_not_written_yet_is_not_shown_of_others(tmp_path: Path) -> None:
    record(tmp_path, "20260101-000000", 2)
    early = read(tmp_path)
    record(tmp_path, "20260101-000000", 2, "worker-0")
    both = read(tmp_path)
    assert both.end == early.end


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    record(tmp_path, "20260101-000000", 1)
    path = tmp_path / "spans" / "20260101-000000" / "router.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole * (3 * TAIL_BYTES // len(whole)) + b'{"torn')
    tail = read(tmp_path)
    events = tail._seen["router"]
    assert 0 < len(events) * 100 < TAIL_BYTES
    stamp = tail.stamp
    path.unlink()  # its process has gone and taken it away
    tail.fold_ends(span_ends(tmp_path))
    assert tail.stamp != stamp
    assert tail.rows(0.0, 1e18, 10) == [] and tail.end == 0.0


def test_r_records_and_f_shows_spans_instead_of_steps(tmp_path: Path) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        given = app.told
        app.store._run = str(tmp_path)
        app.show()
        assert "last steps" in screen_text(app)
        await pilot.press("f")
        await pilot.pause()
        assert "r records spans of every process" in screen_text(app)
        await pilot.press("f", "r")
        assert isinstance(given[0], StartSpans)
        record(tmp_path, given[0].recording, 40)
        assert app.scenario is not None
        app.scenario.is_recording = True
        app.advance(1.2)
        app.show()  # asks
        app.advance(1.2)
        app.show()
        await pilot.pause()
        text = screen_text(app)
        assert "spans of the last steps" in text and text.count("▏_") > 9
        assert given[0].recording in text
        await pilot.press("r", "f")
        await pilot.pause()
        assert isinstance(given[1], StopSpans)
        assert app.active_panel.query_one(FlamePane).tail is None

    on_stage(act, panel="Latency", seconds=5.0)
