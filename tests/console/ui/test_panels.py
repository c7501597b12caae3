"""Each panel: what it shows of the board, and what its own keys do."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stage import START, StagedApp, on_stage, screen_text, wait, with_a_ring
from textual import events
from textual.pilot import Pilot
from textual.widgets import Button, Input

from loraconsole.console.client.answer import Answer, WrappedText
from loraconsole.console.client.telemetry import ABORTED
from loraconsole.console.client.transcripts import open_default
from loraconsole.console.mock.scenario import Scenario, ScenarioKind
from loraconsole.console.state.board import Board, RequestRow
from loraconsole.console.state.playback import PlaybackView
from loraconsole.console.state.store import Store
from loraconsole.console.supervisor.metrics_history import MetricsHistory
from loraconsole.console.text import units
from loraconsole.console.text.lines import TextLine, crop, length
from loraconsole.console.text.lora_tax import tax_figure
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.chat.editor import PromptEditor
from loraconsole.console.ui.panels.adapters import AdapterTablePane
from loraconsole.console.ui.panels.answer import AnswerPane
from loraconsole.console.ui.panels.batch import BatchTable, stages
from loraconsole.console.ui.panels.latency import FlamePane, HistogramPane
from loraconsole.console.ui.panels.logs import LogPane, plain_line
from loraconsole.console.ui.panels.models import ModelsPane
from loraconsole.console.ui.panels.processes import ProcessTablePane, TailPane
from loraconsole.console.ui.panels.ring import RingPane
from loraconsole.console.ui.plots.load_plots import ThroughputPane
from loraconsole.console.ui.plots.step_plots import NAMES, PartsPane
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, LiveDialog
from loraconsole.console.ui.widgets.filter_input import FilterInput
from loraconsole.console.ui.widgets.form_field import FormField
from loraconsole.console.ui.widgets.pane import Pane
from loraconsole.console.ui.widgets.styles import STYLE_NAMES, MainScreen
from loraconsole.console.ui.widgets.table import TablePane
from loraconsole.pipeline.messages import (
    Abort,
    AdapterState,
    AdapterTable,
    BatchView,
    LoadAdapter,
    LogLine,
    LogLines,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    ProcessState,
    Progress,
    ReloadAdapter,
    RequestView,
    StartSpans,
    StopSpans,
    UnloadAdapter,
    VerifyAdapter,
)

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 40), (200, 60), (40, 10)]
STATES: list[ScenarioKind | None] = ["empty", "loading", "failed", None]


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "size"),
    [*(("busy", size) for size in SIZES), *((state, SIZES[0]) for state in STATES)],
    ids=str,
)
def test_every_pane_draws_lines_that_fit(scenario: Any, size: tuple[int, int]) -> None:
    """At any size, even a hopeless one, no line is wider or taller than its pane."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key in "12345678":
            await pilot.press("escape", key)
            await pilot.pause()
            app.show()
            for pane in app.active_panel.panes:
                width, height = pane.size.width - 4, pane.size.height - 2
                if not pane.display or width < 1 or height < 1:
                    continue
                for line in pane.draw_lines(app.board, width, height):
                    assert isinstance(line, TextLine)
                    assert all(ink in STYLE_NAMES for _, ink in line.spans)
                for spans, _ in pane._drawn:
                    assert length(spans) <= pane.size.width, (pane, spans)
            assert all(strip.cell_length == size[0] for strip in _strips(app))

    on_stage(act, scenario=scenario, size=size)


def _strips(app: ConsoleApp) -> list[Any]:
    return app.screen._compositor.render_strips()


def test_cropped_spans_have_their_width() -> None:
    spans = (("abc", "text"), ("日本語", "dim"))
    for width in range(1, 14):
        assert length(crop(spans, width, pad=True)) == width


# --- batch --------------------------------------------------------------------------------------


def test_the_batch_shows_every_request_with_its_adapter_and_why_it_waits() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        waiting = [row for row in app.board.requests if row.view.phase == "waiting"]
        assert waiting and all(
            f"#{row.view.place} {row.view.reason[:20]}" in text for row in waiting
        )
        assert [row.view.place for row in waiting] == list(range(1, len(waiting) + 1))
        assert all(name in text for name in ("pirate", "sql", "json", "haiku", "base"))
        assert f"{len(app.board.requests)} live" in text

    on_stage(act, panel="Batch", seconds=2.0)


def test_w_goes_from_one_waiting_request_to_the_next_and_its_details_say_why() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        views = [row.view for row in app.board.requests]
        for place, at in enumerate((5, 9, 11), 1):
            late = {"phase": "waiting", "reason": "batch is full", "place": place}
            views[at] = msgspec.structs.replace(views[at], **late)
        app.store.fold_message(BatchView(app.now, tuple(views[:20])), app.now)
        app.show()
        waiting = [r.view.request_id for r in app.board.requests if r.view.phase == "waiting"]
        assert len(waiting) >= 3
        for wanted in (*waiting, waiting[0]):
            await pilot.press("w")
            assert table.selected is not None and table.selected.view.request_id == wanted
        await pilot.press("enter")
        await pilot.pause()
        app.show()
        await pilot.pause()
        assert f"#1 of {len(waiting)} waiting" in screen_text(app)

    on_stage(act, panel="Batch", seconds=2.0)


def test_an_empty_batch_says_how_to_send_one_only_where_somebody_would_answer() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        async def text() -> str:
            app.show()
            await pilot.pause()
            return screen_text(app)

        assert "no request is live; 5 sends one" in await text()
        app.store.playback = lambda: PlaybackView(1.0, 2.0)
        assert "no request is live" in (shown := await text()) and "5 sends one" not in shown
        app.store.playback = None
        app.scenario.hold("worker-0")  # type: ignore[union-attr]
        app.advance(1.0)
        assert "no request is live" in (shown := await text()) and "5 sends one" not in shown

    on_stage(act, scenario="empty", panel="Batch")


def _values(table: TablePane[Any]) -> list[Any]:
    """What the rows are sorted by, from top to bottom."""
    assert table.sort_column is not None and table.sort_column.order is not None
    return [table.sort_column.order(row) for row in table._rows]


def _head(app: ConsoleApp, table: TablePane[Any]) -> str:
    return screen_text(app).splitlines()[table.region.y + 1]


@pytest.mark.parametrize(
    ("panel", "size"), [("Batch", (120, 40)), ("Adapters", (200, 60)), ("Processes", (80, 24))]
)
def test_two_keys_sort_by_any_column_and_the_arrow_is_seen(
    panel: str, size: tuple[int, int]
) -> None:
    """`s` shows a letter in each title. The letter sorts, the same again reverses, and every time
    the title is whole and its arrow beside it, also of a column that had no room before."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(TablePane)
        natural = [table.row_key(row) for row in table._rows]
        letters = table._letters()
        assert len(set(letters.values())) == len(letters) >= 5
        for column, letter in letters.items():
            await pilot.press("s", letter)
            assert table.sort_column is column
            assert _values(table) == sorted(_values(table), reverse=column.descends)
            await pilot.pause()
            assert f"{column.title}{'▾' if column.descends else '▴'}" in _head(app, table)
            await pilot.press("s", letter)
            assert _values(table) == sorted(_values(table), reverse=not column.descends)
            await pilot.press("S")
            assert _values(table) == sorted(_values(table), reverse=column.descends)
        await pilot.press("s", "0")
        assert [table.row_key(row) for row in table._rows] == natural

    on_stage(act, panel=panel, size=size, seconds=2.0)


def test_ss_goes_through_the_columns_that_are_seen_and_back() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        natural = [row.name for row in table._rows]
        seen = [column for column, _ in table._drawn_columns if column.order]
        assert len(seen) < len([column for column in table.columns if column.order])
        await pilot.press("s")
        for column in seen:
            await pilot.press("s")
            assert table.sort_column is column
        await pilot.press("s")
        assert table.sort_column is None and [row.name for row in table._rows] == natural
        await pilot.press("escape", "down")
        assert table.selected is table._rows[1]

    on_stage(act, panel="Adapters", size=(80, 24), seconds=2.0)


def test_a_key_that_is_no_letter_of_a_column_ends_the_choice_and_does_nothing_else() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("s", "x")
        assert app.screen is app.screen_stack[0] and table.sort_column is None
        await pilot.press("s", "down")
        assert table.selected is table._rows[1], "a key without a letter acts as ever"
        await pilot.press("x")
        assert isinstance(app.screen, ChoiceDialog)

    on_stage(act, panel="Batch", seconds=2.0)


def test_a_click_on_a_title_sorts_and_a_second_one_reverses() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        cursor = table.selected
        at = _head(app, table).index("tok/s")
        await pilot.click(BatchTable, (at, 1))
        assert table.sort_column is table.columns[-1] and table.reversed
        assert _values(table) == sorted(_values(table), reverse=True)
        await pilot.click(BatchTable, (at, 1))
        assert not table.reversed and _values(table) == sorted(_values(table))
        await pilot.click(BatchTable, (3, 1))
        assert table.sort_column is table.columns[-1], "ids make no order"
        assert cursor is not None and table.selected is not None
        assert table.row_key(table.selected) == table.row_key(cursor)

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.parametrize("key", ["2", "4", "6", "8", "9", "comma"])
def test_a_title_fits_its_column_and_begins_where_its_cells_begin(key: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press(key)
        table = app.active_panel.query_one(TablePane)
        for column in table.columns:
            assert column.title == column.title.strip()
            assert len(column.title) <= (column.least or column.width)

    on_stage(act)


def test_the_cursor_stays_on_its_request_while_rows_come_and_go() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("down", "down", "down")
        chosen = table.selected
        assert chosen is not None
        await pilot.press("s", "a", "s", "g")
        assert table.selected is not None
        assert table.selected.view.request_id == chosen.view.request_id
        await pilot.press("G")
        assert table.selected is table._rows[-1]
        await pilot.press("g", "pagedown", "k")
        assert table.selected is not None

    on_stage(act, panel="Batch", size=(80, 24), seconds=2.0)


def test_the_filter_narrows_while_typing_and_escape_clears_it() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        everything = len(table._rows)
        await pilot.press("slash", *"pirate")
        assert {row.view.adapter for row in table._rows} == {"pirate"}
        await pilot.press("enter")
        await pilot.pause()
        assert not app.query(FilterInput) and table.has_focus
        assert f"{len(table._rows)} of {everything}" in screen_text(app)
        await pilot.press("slash", "home", "exclamation_mark")
        assert {row.view.adapter for row in table._rows} == {None, "sql", "json", "haiku"}
        await pilot.press("end", "left_square_bracket")
        assert "unterminated" in screen_text(app)
        await pilot.press("escape")
        await pilot.pause()
        assert len(table._rows) == everything

    on_stage(act, panel="Batch", seconds=2.0)


def test_a_letter_replaces_the_filter_that_was_kept() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("slash", *"pirate", "enter", "slash", *"sql")
        assert table.filter.text == "sql"
        assert {row.view.adapter for row in table._rows} == {"sql"}

    on_stage(act, panel="Batch", seconds=2.0)


def test_a_request_opens_with_all_its_details_and_goes_on_living() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        app.show()
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog)
        view = app.board.requests[0].view
        text = screen_text(app)
        for wanted in (
            *(view.request_id, f"{view.num_prompt} tokens", "timeline"),
            *("load", "queue", "prefill", "decode", "capital of Spain", "You asked:"),
        ):
            assert wanted in text
        assert "x abort  y copy" in text and "pages       given back" not in text
        before = len(app.board.opened.text)  # type: ignore[union-attr]
        app.advance(1.0)
        app.screen._ask()  # type: ignore[attr-defined]  # its timer's turn
        assert len(app.store.board(app.now).opened.text) > before  # type: ignore[union-attr]
        app.scenario.abort(view.request_id)  # type: ignore[union-attr]
        app.advance(1.0)
        app.show()
        await pilot.pause()
        text = screen_text(app)
        assert "no longer live" in text and "last known values" in text
        # How many tokens it ended with nobody tells, and there is nothing to abort.
        assert f"tokens or more  of at most {view.max_tokens}" in text and "freed" in text
        assert "y copy" in text and "x abort" not in text
        await pilot.press("x")
        assert app.told == [] and isinstance(app.screen, LiveDialog)
        await pilot.press("escape")
        assert isinstance(app.screen, MainScreen)

    on_stage(act, panel="Batch", seconds=2.0)


def test_an_open_request_is_copied_and_aborted_from_its_dialog() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        app.show()
        await pilot.press("y")
        assert app.clipboard == app.board.opened.text != ""  # type: ignore[union-attr]
        await pilot.press("x", "y")
        await pilot.pause()
        assert app.told == [Abort(app.board.requests[0].view.request_id, ABORTED)]
        assert isinstance(app.screen, LiveDialog)

    on_stage(act, panel="Batch", seconds=2.0)


def test_the_parts_of_a_requests_life_add_up_to_its_age() -> None:
    view = RequestView("r-1", "sql", "waiting", "", START, None, 9, 0, 0, 64, 0)

    def parts(age_s: float, **changes: float) -> dict[str, float]:
        row = RequestRow(msgspec.structs.replace(view, **changes), age_s, 0.0)
        found = {stage.name: round(stage.seconds, 3) for stage in stages(row, "base")}
        assert sum(found.values()) == pytest.approx(age_s)
        return found

    assert parts(3.0) == {"load": 0, "queue": 3, "prefill": 0, "decode": 0}
    placed = {"adapter_at": START + 1.0, "admitted_at": START + 1.5}
    assert parts(2.0, **placed) == {"load": 1, "queue": 0.5, "prefill": 0.5, "decode": 0}
    placed["first_token_at"] = START + 2.5
    assert parts(9.0, **placed) == {"load": 1, "queue": 0.5, "prefill": 1, "decode": 6.5}


# --- latency ------------------------------------------------------------------------------------


def test_latency_shows_parts_percentiles_and_synchronize_points() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        for wanted in (
            *("host", "copy", "launch", "busy", "sync wait", "histogram of sync wait"),
            *("TTFT", "inter-token", "decode step", "sync prefill", "sync merge"),
            *("p50", "p90", "p99", "last steps"),
        ):
            assert wanted in text

    on_stage(act, panel="Latency", seconds=20.0)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_latency_shows_what_a_step_reads_and_what_adapters_cost(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text, reads = screen_text(app), app.board.decode_statistics
        for wanted in (
            *("reads", "GB/s", "LoRA tax", "7.2 MiB"),
            units.speed(reads.bytes_s),
            tax_figure(reads.lora_tax),
        ):
            assert wanted in text

    on_stage(act, panel="Latency", seconds=20.0, size=size)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_what_is_not_timed_says_that_it_is_off(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        told = msgspec.structs.replace(app.board.workers[0], times_steps=False, copy_bytes_s=0.0)
        app.store.fold_message(told, app.now)
        app.now += 0.5  # the next frame
        app.show()
        await pilot.pause()
        rows = screen_text(app).splitlines()
        for name in ("busy", "copy", "reads", "LoRA tax"):
            assert any(name in row and "off" in row for row in rows), name

    on_stage(act, panel="Latency", seconds=2.0, size=size)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_the_overview_names_the_tax_and_the_rate_while_it_decodes(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        tax, rate = (
            app.board.decode_statistics.lora_tax,
            units.speed(app.board.decode_statistics.bytes_s),
        )
        shown = f"LoRA tax {units.change(tax.value)} ± {units.share(tax.spread)}"
        assert tax.value and shown in screen_text(app)
        pane = app.query_one(ThroughputPane)
        wide = (
            "".join(text for text, _ in row.spans) for row in pane.draw_lines(app.board, 120, 20)
        )
        assert any(f"{shown}  reads {rate}" in row for row in wide)  # as zoomed

    on_stage(act, seconds=20.0, size=size)


@pytest.mark.parametrize("panel", ["Overview", "Latency", "Adapters"])
def test_a_plot_over_time_says_how_old_its_left_edge_is(panel: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for size in ((120, 40), (200, 60)):
            await pilot.resize_terminal(*size)
            app.now += 1.0
            app.show()
            await pilot.pause()
            pane = next(p for p in app.active_panel.panes if p.display and p.origin(app.board))
            bottom = "".join(text for text, _ in pane._drawn[-1].spans)
            before, age_s, _ = pane.origin(app.board)  # type: ignore[misc]
            ages = (240, 160, 80) if panel == "Adapters" else (60, 40, 20)
            assert age_s == ages[0]
            cells = pane.size.width - 4 - before
            hint = pane.hint(app.board)
            room = pane.size.width - 2 - (length(hint) + 2 if hint else 0)
            for tick, age in enumerate(ages):
                label = f"-{units.ago(age)} "
                at = before + cells * tick // 3 + 2
                if at + len(label) <= room:
                    assert bottom[at : at + len(label)] == label, bottom

    on_stage(act, panel=panel, seconds=20.0)


def test_one_slow_step_does_not_flatten_the_tax_of_all_others() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        parts = app.active_panel.query_one(PartsPane)
        usual = parts._tax(app.board, 30)
        app.store._minute.lora_overhead.add(app.now + 0.5, 4.7)
        app.now += 1.0
        curve = parts._tax(app.store.board(app.now), 30)
        assert curve.top == usual.top < 1.0
        assert dict(usual.more)["axis"] == units.share(usual.top)
        assert dict(curve.more)["axis"] == f"{units.share(usual.top)} cut"

    on_stage(act, panel="Latency", seconds=20.0)


def test_r_stops_a_recording_that_another_console_started() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert app.scenario is not None
        for is_recording, kind in ((True, StopSpans), (True, StopSpans), (False, StartSpans)):
            app.scenario.is_recording = is_recording
            app.advance(1.0)
            app.show()
            app.active_panel.query_one(PartsPane).focus()
            await pilot.press("r")
            await pilot.pause()
            assert isinstance(app.told[-1], kind)

    on_stage(act, panel="Latency", seconds=2.0)


def test_arrows_scrub_back_in_time_and_zero_returns() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        parts = app.active_panel.query_one(PartsPane)
        flame = app.active_panel.query_one(FlamePane)
        now = flame._drawn
        await pilot.press("left", "shift+left")
        at = parts.cursor_at
        assert at is not None and 8 < app.now - at < 20 and flame.until == at
        assert f"{units.clock(at)}, {units.age(app.now - at)} ago" in screen_text(app)
        assert flame._drawn != now
        app.now += 5.0
        app.show()
        await pilot.pause()
        assert parts.cursor_at == at  # it stays with what it reads
        await pilot.press("0")
        assert parts.cursor_at is None and flame.until is None

    on_stage(act, panel="Latency", seconds=20.0)


@pytest.mark.parametrize("key", ["3", "H"], ids=["minutes", "hour"])
@pytest.mark.parametrize("has_steps", [True, False])
def test_a_console_that_comes_late_to_an_idle_pipeline_sees_what_was(
    tmp_path: Path, key: str, has_steps: bool
) -> None:
    """Also where the supervisor knows no step any more, only moments."""
    book, scenario = MetricsHistory(tmp_path / "history", START), Scenario("busy", start=START)
    for second in range(1, 31):
        for _, message in scenario.advance(START + second):
            book.take(message)
        book.tick(START + second)
    snapshot = msgspec.structs.replace(scenario.snapshot(), moments=book.moments(0.0))
    book.close()

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        known = snapshot if has_steps else msgspec.structs.replace(snapshot, steps=())
        app.now = START + 40
        app.store.fold_snapshot(known, app.now)
        await pilot.press(key)
        app.show()
        await pilot.pause()
        lines = app.active_panel.query_one(PartsPane)._drawn
        busy = next(line for line in lines if ("█ ", "part-busy") in line.spans)
        drawn = "".join(t for line in lines for t, ink in line.spans if ink == "part-busy")
        assert set(drawn) - set("█ ⣀busy")  # more than the axis
        assert any(text.endswith("ms ") for text, _ in busy.spans) == has_steps
        assert ("no steps yet" in screen_text(app)) != has_steps  # the histogram, of steps
        app.store.fold_snapshot(known, app.now)  # asked again: nothing is entered twice
        assert len(app.store.board(app.now).steps) == len(known.steps)
        await pilot.press("left", "shift+left")
        assert (" m " if key == "H" else " s ago") in screen_text(app)
        assert units.clock(app.active_panel.query_one(PartsPane).cursor_at or 0) in screen_text(app)

    on_stage(act, scenario=None, panel="Latency")


def test_h_turns_the_histogram_to_the_next_part() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        histogram = app.active_panel.query_one(HistogramPane)
        for kind in (*HistogramPane.KINDS[1:], HistogramPane.KINDS[0]):
            await pilot.press("h")
            await pilot.pause()
            assert histogram.kind == kind

    on_stage(act, panel="Latency", seconds=5.0)


def test_h_shows_the_histogram_where_it_has_no_room_of_its_own_and_then_the_percentiles() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert "percentiles" in screen_text(app) and "h Histogram " in screen_text(app)
        for kind in (*HistogramPane.KINDS, ""):
            await pilot.press("h")
            await pilot.pause()
            app.show()
            await pilot.pause()
            text = screen_text(app)
            assert ("percentiles" in text) == (not kind)
            assert not kind or f"histogram of {NAMES[kind]}" in text
        await pilot.press("z", "h")  # zoomed: there it is as well
        await pilot.pause()
        assert "histogram of sync wait" in screen_text(app)

    on_stage(act, panel="Latency", size=(80, 24), seconds=5.0)


# --- adapters, processes ------------------------------------------------------------------------


def test_adapters_show_their_state_size_and_work() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        for wanted in (
            "base",
            "pirate",
            "on device",
            "costliest first, last minute",
            "TTFT p99",
            "KV pages",
            "throughput",
        ):
            assert wanted in text
        await pilot.press("down", "enter")
        await pilot.pause()
        row = app.board.adapters[1]
        assert row.view.digest[:32] in screen_text(app) and row.view.path in screen_text(app)
        shown = screen_text(app)
        for wanted in ("q k v o up", "928 KiB", "last minute", "since start"):
            assert wanted in shown
        await pilot.press("escape", "slash", *"sql", "enter")
        table = app.active_panel.query_one(AdapterTablePane)
        assert [row.name for row in table._rows] == ["sql"]

    on_stage(act, panel="Adapters")


def test_adapters_that_are_pinned_merged_or_odd_say_so() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        assert "pirate ⚑" in text and "sql ⊕" in text and "json △" in text
        await pilot.press("down", "down", "down")
        await pilot.pause()
        assert "△ its files are older than this base model" in screen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        text = screen_text(app)
        for wanted in ("warning", "json", "disk, host, device", "generation", "pinned", "merged"):
            assert wanted in text
        await pilot.press("escape", "slash", *"pinned", "enter")
        table = app.active_panel.query_one(AdapterTablePane)
        assert [row.name for row in table._rows] == ["pirate"]

    on_stage(act, panel="Adapters")


def test_names_of_adapters_get_the_cells_that_they_want_before_the_rest_is_shared() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert "base · Smol" in screen_text(app) and "135M-Instruct ●" not in screen_text(app)
        await pilot.resize_terminal(420, 40)  # beside the table are the details
        app.now += 1.0
        app.show()
        await pilot.pause()
        await wait(lambda: "base · SmolLM2-135M-Instruct" in screen_text(app))
        assert screen_text(app).count("q k v o up") == 3  # the fourth has a remark instead

    on_stage(act, panel="Adapters")


def test_the_head_names_the_types_and_not_where_each_is_used() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        stats = app.board.workers[0]
        dtype = "int4 to 8 tokens, bfloat16 above"
        app.store.fold_message(msgspec.structs.replace(stats, dtype=dtype), app.now)
        app.show()
        await pilot.pause()
        assert "cpu int4/bfloat16  " in screen_text(app).splitlines()[0]

    on_stage(act)


def test_a_failed_adapter_is_told_from_the_others_without_a_colour_and_not_marked_by_a() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.store._latest.adapters
        assert table is not None
        failed = msgspec.structs.replace(
            table.adapters[0], state=AdapterState.FAILED, reason="no adapter_config.json"
        )
        rest = table.adapters[1:]
        app.store.fold_message(msgspec.structs.replace(table, adapters=(failed, *rest)), app.now)
        app.now += 1.0
        app.show()
        await pilot.pause()
        assert "✗ pirate no adapter_config.json" in " ".join(screen_text(app).split())
        await pilot.press("5", "tab", "tab")
        app.show()
        models = app.active_panel.query_one(ModelsPane)
        models.focus()
        models.chosen = set()
        await pilot.press("a")
        assert models.chosen == {app.board.base_model, "sql", "json", "haiku"}
        assert "[ ] ✗ pirate" in screen_text(app)
        await pilot.press("a")
        assert models.chosen == {app.board.base_model}

    on_stage(act, size=(200, 60))


def test_two_generations_of_an_adapter_are_two_rows() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        rows = app.board.adapters[1:]
        new = msgspec.structs.replace(rows[0].view, generation=2, state=AdapterState.LOADING)
        views = (new, *(row.view for row in rows))
        table = AdapterTable(app.now, "base", views, app.board.adapters[0].view)
        app.store.fold_message(table, app.now)
        app.show()
        pane = app.active_panel.query_one(AdapterTablePane)
        seen = []
        for _ in range(len(views)):
            await pilot.press("down")
            assert pane.selected is not None
            seen.append((pane.selected.name, pane.selected.view.generation))
        assert seen[:3] == [("pirate", 2), ("pirate", 1), ("sql", 1)]
        # The new one has taken over, at the end of the list: what `u` would mean has not changed.
        await pilot.press("g", "down", "down")
        table = AdapterTable(app.now, "base", (*views[2:], new), app.board.adapters[0].view)
        app.store.fold_message(table, app.now)
        app.show()
        assert (pane.selected.name, pane.selected.view.generation) == ("pirate", 2)

    on_stage(act, panel="Adapters")


# --- adapters: orders ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind", "fields"),
    [
        ("r", ReloadAdapter, {}),
        ("p", PinAdapter, {"pinned": False}),  # it was pinned
        ("m", MergeAdapter, {"name": "pirate"}),
        ("v", VerifyAdapter, {}),
    ],
)
def test_a_key_orders_what_it_says(key: str, kind: Any, fields: dict[str, Any]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("down", key)
        await pilot.pause()
        if key == "m":
            assert app.ordered == []  # it asks
            await pilot.press("y")
            await pilot.pause()
        (order,) = app.ordered
        assert isinstance(order, kind) and order.reply_to == app.telemetry.inbox_name
        assert order.name == "pirate"
        assert all(getattr(order, name) == value for name, value in fields.items())
        if key != "v":
            assert any("adapter pirate" in note.message for note in app.notices)

    on_stage(act, panel="Adapters")


def test_pins_and_merges_are_turned_around_by_the_same_key() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("down", "down", "m", "p")
        await pilot.pause()
        app.show()
        unmerge, pin = app.ordered
        assert isinstance(unmerge, MergeAdapter) and unmerge.name == ""
        assert isinstance(pin, PinAdapter) and pin.pinned and pin.name == "sql"
        await pilot.pause()
        assert "sql ⚑" in screen_text(app)
        await pilot.press("p")
        await pilot.pause()
        assert isinstance(app.ordered[2], PinAdapter) and not app.ordered[2].pinned

    on_stage(act, panel="Adapters")


def test_unloading_asks_first_and_says_what_will_be_lost() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        view = app.board.adapters[1].view
        await pilot.press("down", "u")
        await pilot.pause()
        text = " ".join(screen_text(app).replace("│", " ").split())
        assert f"{view.running} running and {view.waiting} waiting requests finish" in text
        assert "Then 32 pages (928 KiB) are freed." in text
        await pilot.press("n")
        assert app.ordered == []
        await pilot.press("u", "y")
        await pilot.pause()
        assert [type(order) for order in app.ordered] == [UnloadAdapter]
        app.show()
        assert "pirate" not in [row.name for row in app.board.adapters]

    on_stage(act, panel="Adapters")


def test_the_base_cannot_be_ordered_about_and_says_so_politely() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key in "urpvm":
            app.clear_notifications()
            await pilot.press(key)
            await pilot.pause()
            assert len(app.notices) == 1 and isinstance(app.screen, MainScreen)
        assert app.ordered == []

    on_stage(act, panel="Adapters")


def test_a_verdict_is_shown_as_a_table_and_stays_in_the_details() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for downs, word in ((1, "✓ passed"), (3, "✗ FAILED")):
            await pilot.press(*["down"] * downs, "v")
            await pilot.pause()
            assert isinstance(app.screen, LiveDialog)
            text = screen_text(app)
            assert word in text and "largest" in text and "alone" in text
            assert "✓ mixed" in text and "15 of 16" in text  # which is no reason to fail
            assert "0.021" in text and "is within its limit" in " ".join(
                text.replace("│", " ").split()
            )
            assert ("✗ alone" in text) is ("FAILED" in word)
            await pilot.press("escape")
        app.show()
        await pilot.press("enter", "pagedown", "pagedown")
        await pilot.pause()
        assert "FAILED" in screen_text(app) and "haiku" in screen_text(app)

    on_stage(act, panel="Adapters", size=(80, 24))


def test_a_verdict_does_not_come_between_somebody_and_what_they_type() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.telemetry.send_order = app.ordered.append  # type: ignore[method-assign]
        await pilot.press("down", "v", "v")
        await pilot.pause()
        assert len(app.ordered) == 1  # it is being verified already
        app.show()
        await pilot.pause()
        assert "▸ verifying" in screen_text(app)
        await pilot.press("5", *"Ahoy")
        reply = app.scenario.obey(app.ordered[0])  # type: ignore[union-attr]
        assert reply is not None
        app.orders.answered(reply)
        await pilot.pause()
        assert isinstance(app.screen, MainScreen)
        assert any("matches its merged" in note.message for note in app.notices)
        assert app.active_panel.query_one(PromptEditor).text == "Ahoy"

    on_stage(act, panel="Adapters")


def test_a_verification_shows_how_far_it_is_and_a_worker_that_fell_does_not() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        bar = Progress(
            source="worker-0",
            stage="verify",
            label="verify pirate",
            current=3,
            total=8,
            unit="sequence",
            elapsed_s=1.0,
        )
        app.store.fold_message(bar, app.now)
        app.show()
        await pilot.pause()
        assert "verify pirate ━━━" in screen_text(app) and "3/8" in screen_text(app)
        app.scenario.restart("worker-0")  # type: ignore[union-attr]
        app.advance(3.0)
        app.show()
        await pilot.pause()
        assert "verify pirate" not in screen_text(app)

    on_stage(act, panel="Adapters")


# --- adapters: dialogs --------------------------------------------------------------------------


def test_an_adapter_is_planned_and_loaded_from_one_dialog() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("l", *"mine", "enter", *"/large/one", "ctrl+n")
        await pilot.pause()
        text = screen_text(app)
        for wanted in ("109 MiB", "3 840 pages", "61.4k tokens of KV", "sql, json", "no room now"):
            assert wanted in text
        await pilot.press("x")  # another path: the plan is not its own
        await pilot.pause()
        assert "109 MiB" not in screen_text(app)
        await pilot.press("tab", "space", "shift+tab", "enter")
        await pilot.pause()
        assert isinstance(app.screen, MainScreen)
        plan, load = app.ordered
        assert isinstance(plan, PlanAdapters) and plan.paths == ("/large/one",)
        assert isinstance(load, LoadAdapter) and load.pinned
        assert (load.name, load.path) == ("mine", "/large/onex")
        assert any("mine on device" in note.message for note in app.notices)
        app.show()
        await pilot.pause()
        assert "mine ⚑" in screen_text(app)

    on_stage(act, panel="Adapters")


def test_a_path_given_in_the_field_of_the_name_goes_to_its_own() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("l", *"/adapters/tax", "enter")
        await pilot.pause()
        assert app.screen.query_one("#path", Input).value == "/adapters/tax"
        assert app.screen.query_one("#name", Input).value == "" and app.ordered == []
        await pilot.press("enter")
        await pilot.pause()
        (order,) = app.ordered
        assert isinstance(order, LoadAdapter)
        assert (order.name, order.path) == ("tax", "/adapters/tax")

    on_stage(act, panel="Adapters")


def test_a_refused_load_loses_nothing_that_was_typed() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("l", "enter", "enter")
        await pilot.pause()
        field = app.screen.query_one("#path", Input).query_ancestor(FormField)
        assert "path required" in field.complaint and app.ordered == []
        assert "path required" in screen_text(app)
        await pilot.press(*"/missing/sql-2", "enter")
        await pilot.pause()
        assert not field.complaint  # it went with the first letter
        assert "no adapter_config.json in /missing/sql-2" in screen_text(app)
        assert app.screen.query_one("#path", Input).value == "/missing/sql-2"
        (order,) = app.ordered
        assert isinstance(order, LoadAdapter) and order.name == "sql-2"  # its directory's name
        await pilot.press("home", *["delete"] * 8, "enter")
        await pilot.pause()
        assert isinstance(app.screen, MainScreen) and len(app.ordered) == 2

    on_stage(act, panel="Adapters")


def test_a_load_that_is_never_answered_holds_nobody() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("l", *"silent", "enter", *"/x", "enter", "enter", "enter")
        await pilot.pause()
        assert len(app.ordered) == 1  # one enter is enough
        assert "loading silent …" in screen_text(app)
        app.scenario.restart("router")  # type: ignore[union-attr]
        for _ in range(10):
            app.advance(1.0)
            app.show()
        await pilot.pause()
        assert len({order.order for order in app.ordered}) == 1 < len(app.ordered)
        assert "loading silent …" in screen_text(app)
        app.now += 3600
        app.show()
        await pilot.pause()
        assert "the router has not answered for 1800 s" in screen_text(app)
        assert app.screen.query_one("#path", Input).value == "/x"
        app.advance(1.0)
        app.show()
        await pilot.press("enter")  # once more, and then away
        await pilot.press("escape")
        assert isinstance(app.screen, MainScreen)
        app.now += 3600
        app.show()
        await pilot.pause()
        notes = [note for note in app.notices if "not answered" in note.message]
        assert len(notes) == 1 and notes[0].severity == "error"
        app.show()
        assert app.board.orders == {}

    on_stage(act, panel="Adapters")


def test_an_answer_whose_dialog_was_closed_is_told_as_a_toast() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.telemetry.send_order = app.ordered.append  # type: ignore[method-assign]
        await pilot.press("l", *"a", "enter", *"/missing", "enter", "escape")
        await pilot.press("w", *"/a", "enter", "escape")
        for order in app.ordered:
            reply = app.scenario.obey(order)  # type: ignore[union-attr]
            assert reply is not None
            app.orders.answered(reply)
        await pilot.pause()
        (note,) = app.notices  # a plan that nobody waits for is no news
        assert "no adapter_config.json" in note.message
        assert note.severity == "error" and note.timeout > 20

    on_stage(act, panel="Adapters")


def test_several_paths_are_planned_and_one_leads_to_loading() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("w", *"/a '/large b' /missing", "enter")
        await pilot.pause()
        (order,) = app.ordered
        assert isinstance(order, PlanAdapters) and order.paths == ("/a", "/large b", "/missing")
        text = screen_text(app)
        assert "✓ fits now" in text and "✗ refused" in text and "evicts" in text
        assert app.screen.query_one("#load", Button).disabled
        await pilot.press("ctrl+u", *"/mine/a", "enter")
        await pilot.pause()
        assert not app.screen.query_one("#load", Button).disabled
        await pilot.press("tab", "tab", "enter")
        await pilot.pause()
        assert app.screen.query_one("#path", Input).value == "/mine/a"
        assert app.screen.query_one("#name", Input).has_focus
        await pilot.pause()
        assert "✓ fits now" in screen_text(app)

    on_stage(act, panel="Adapters", size=(80, 24))


def test_processes_show_how_they_are_and_what_they_said_last() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        for wanted in ("supervisor", "worker-0", "failed", "out of memory", "exit 1"):
            assert wanted in text or wanted == "exit 1"
        table = app.active_panel.query_one(ProcessTablePane)
        await pilot.press("down", "down")
        await pilot.pause()
        assert table.selected is not None and table.selected.name == "worker-0"
        assert "last lines of worker-0" in screen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert "restarts    5  died 5 times, last: exit status 1" in screen_text(app)
        assert "events" in screen_text(app)
        assert "worker-0 died; restarting in 4 s" in screen_text(app)

    on_stage(act, panel="Processes", scenario="failed")


def test_a_process_is_up_since_its_start_and_falls_are_what_nobody_ordered() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.store.fold_snapshot(app.scenario.snapshot(), app.now)  # type: ignore[union-attr]
        app.scenario.restart("worker-0")  # type: ignore[union-attr]
        app.scenario._set("router", ProcessState.READY)  # type: ignore[union-attr]
        app.advance(3.0)
        app.show()
        await pilot.pause()
        words = (row.split() for row in screen_text(app).splitlines())
        rows = {row[1]: row for row in words if len(row) > 8}
        assert rows["router"][5:7] == ["12", "m"] and rows["worker-0"][5:7] == ["0", "m"]
        assert rows["supervisor"][5:7] == ["12", "m"]
        worker = app.board.process("worker-0")
        assert worker and (worker.restarts, worker.falls) == (1, 0)

    on_stage(act, panel="Processes")


def test_a_worker_names_its_kernels() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert "plain PyTorch (no GPU)" in screen_text(app)
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert "kernels     plain PyTorch (no GPU)" in screen_text(app)

    on_stage(act, panel="Processes")


def test_the_tail_follows_the_selected_process() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        tail = app.active_panel.query_one(TailPane)
        first = tail._drawn
        await pilot.press("down", "down", "down")
        await pilot.pause()
        assert tail._drawn != first

    on_stage(act, panel="Processes", seconds=20.0)


# --- logs ---------------------------------------------------------------------------------------


def test_logs_follow_until_somebody_scrolls_and_then_count_what_is_new() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert "following" in screen_text(app)
        await pilot.press("pageup")
        held = screen_text(app).splitlines()[3:10]
        app.advance(2.0)
        app.show()
        await pilot.pause()
        assert screen_text(app).splitlines()[3:10] == held
        assert "new" in screen_text(app).splitlines()[2]
        await pilot.press("f")
        assert "following" in screen_text(app)
        await pilot.press("g")
        assert "finished request 00000006" in screen_text(app)

    on_stage(act, panel="Logs", seconds=30.0)


def _fold_lines(app: StagedApp, *texts: str, source: str = "router") -> None:
    """Adds log lines and draws a frame."""
    number = app.board.logs[-1].number + 1 if app.board.logs else 0
    lines = tuple(
        LogLine(number + at, app.now, source, "INFO", text) for at, text in enumerate(texts)
    )
    app.store.fold_message(LogLines(lines), app.now)
    app.show()


def test_logs_count_as_new_only_what_came_since() -> None:
    """Lines below the view that were seen before are not new."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("k", "k")
        await pilot.pause()
        assert "+0 new" in screen_text(app).splitlines()[2]
        await pilot.press("pageup", "pageup")
        await pilot.pause()
        assert "+0 new" in screen_text(app).splitlines()[2]
        _fold_lines(app, "one", "two")
        await pilot.pause()
        assert "+2 new" in screen_text(app).splitlines()[2]
        await pilot.press("pagedown", "pagedown", "pagedown")
        await pilot.pause()
        assert "following" in screen_text(app).splitlines()[2]

    on_stage(act, panel="Logs", seconds=30.0)


@pytest.mark.parametrize("wraps", [False, True])
def test_the_cursor_of_the_logs_is_a_line_that_keys_and_clicks_choose(wraps: bool) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        pane.wraps = wraps
        _fold_lines(app, *(f"line {n} " + "long " * (n % 5) * 10 for n in range(60)))

        def marked() -> int:
            (number,) = {
                n
                for n, row in zip(pane._numbers, pane._drawn[1:], strict=False)
                if row.ground == "cursor"
            }
            return number

        last = pane._kept[-1].number
        for step in range(1, 59):
            await pilot.press("up")
            assert pane._cursor == marked() == last - step
        await pilot.press("y")
        assert "router line 1 " in app.clipboard, app.clipboard
        await pilot.press("down", "y")
        assert " router line 2 " in app.clipboard
        row = pane._numbers.index(marked() + 2)
        await pilot.click(LogPane, (30, row + 1))
        assert pane._cursor == marked() == last - 58 + 3
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog)
        await pilot.press("escape", "f", "y")
        assert " router line 59 " in app.clipboard
        assert not [row for row in pane._drawn if row.ground], "following shows no cursor"

    on_stage(act, panel="Logs", size=(80, 24), seconds=5.0)


def test_a_copied_line_names_its_process_once() -> None:
    entry = LogLine(1, START, "router", "INFO", "router: adapter sql on device")
    assert plain_line(entry).endswith(" INFO router adapter sql on device")


def test_one_line_is_one_line() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        await pilot.press("c")
        _fold_lines(app, "alone", source="worker-0")
        caption = "".join(text for text, _ in pane.caption(app.board))
        assert caption.startswith("1 line  ")
        pane.process = "worker-0"
        caption = "".join(text for text, _ in pane.caption(app.board))
        assert caption.startswith("1 line of worker-0")

    on_stage(act, panel="Logs", seconds=5.0)


def test_escape_clears_the_search_then_the_filter_of_the_logs() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        await pilot.press("slash", *"router", "enter", "s", *"a", "enter")
        await pilot.pause()
        assert pane.filter and pane.search
        await pilot.press("escape")
        assert pane.filter and not pane.search
        await pilot.press("escape")
        assert not pane.filter

    on_stage(act, panel="Logs", seconds=5.0)


def test_logs_can_be_filtered_and_cut_off_below_a_level() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        everything = len(pane._kept)
        await pilot.press("l", "l")
        assert {line.level for line in pane._kept} == {"WARNING", "ERROR"}
        await pilot.press("l", "l")
        assert len(pane._kept) == everything
        await pilot.press("slash", *"router", "enter")
        assert {line.source for line in pane._kept} == {"router"}
        app.advance(5.0)
        app.show()
        assert {line.source for line in pane._kept} == {"router"}
        assert len(pane._kept) == sum(line.source == "router" for line in app.board.logs)

    on_stage(act, panel="Logs", seconds=30.0)


def test_lines_that_were_never_heard_leave_a_mark() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        last = app.board.logs[-1]
        line = LogLine(last.number + 1205, app.now, "router", "INFO", "back again")
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        await pilot.pause()
        assert "1 204 lines were not heard" in screen_text(app)

    on_stage(act, panel="Logs")


def test_a_search_goes_from_hit_to_hit_and_marks_them() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        hits = [entry.number for entry in pane._kept if "swept" in entry.text]
        assert len(hits) > 20  # more than a screenful, with what lies between
        await pilot.press("s", *"swept", "enter")
        await pilot.pause()
        assert pane.has_focus and pane._cursor == hits[-1]
        assert f"search swept  {len(hits)} matching lines" in screen_text(app)
        for wanted in reversed(hits[:-1]):
            await pilot.press("n")
            assert pane._cursor == wanted
            (drawn,) = [line for line in pane._drawn if line.ground == "cursor"]
            assert ("swept", "badge-warn") in drawn.spans
        await pilot.press("n")  # there is no older one
        assert pane._cursor == hits[0]
        await pilot.press("N", "y")
        assert pane._cursor == hits[1] and "swept 3 idle streams" in app.clipboard
        await pilot.press("s", "left_square_bracket")
        await pilot.pause()
        assert "unterminated" in screen_text(app)
        await pilot.press("escape")
        await pilot.pause()
        assert not pane.search and "search" not in screen_text(app).splitlines()[-2]

    on_stage(act, panel="Logs", seconds=60.0)


def test_logs_leap_through_time_and_show_one_process() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        newest = pane._kept[-1].at
        await pilot.press("m")
        assert pane._kept[pane._at()].at == pytest.approx(newest - 60, abs=0.5)
        await pilot.press("m", "M")
        assert pane._kept[pane._at()].at == pytest.approx(newest - 60, abs=0.5)
        await pilot.press("h")  # before all of them: the oldest page
        assert pane._at() == 0 and pane._end() == pane._page
        await pilot.press("H")
        assert pane._cursor is None and "following" in screen_text(app)
        await pilot.press("p", "p", "p")
        assert {entry.source for entry in pane._kept} == {pane.process} == {"worker-0"}
        assert "of worker-0" in screen_text(app)
        await pilot.press("p", "p", "p", "p")
        assert pane.process == "" and len(pane._kept) == len(app.board.logs)

    on_stage(act, panel="Logs", seconds=200.0)


def test_logs_are_wrapped_cleared_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LogPane)
        text = " ".join(f"word{n}" for n in range(30))
        number = app.board.logs[-1].number + 1
        line = LogLine(number, app.now, "router", "WARNING", f"router: {text}")  # named by itself
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        assert "word29" not in screen_text(app)
        await pilot.press("w")
        await pilot.pause()
        assert "word29" in screen_text(app)
        await pilot.press("l", "l", "e", "enter")  # warnings and above
        await pilot.pause()
        (exported,) = tmp_path.glob("logs-*.log")
        lines = exported.read_text().splitlines()
        assert len(lines) == len(pane._kept) and lines[-1].endswith(f"WARNING router {text}")
        await pilot.press("e", *"logs.json", "enter")
        await pilot.pause()
        records = json.loads((tmp_path / "logs.json").read_text())
        assert len(records) == len(lines) and records[-1]["text"] == text
        await pilot.press("c")
        assert pane._kept == []
        await pilot.press("c")
        assert len(pane._kept) == len(lines)

    on_stage(act, panel="Logs", size=(80, 24))


def test_json_in_a_line_is_set_out_when_it_is_opened() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        number = app.board.logs[-1].number + 1
        line = LogLine(number, app.now, "router", "INFO", 'decided {"free": 3, "why": "no room"}')
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        await pilot.press("enter")
        await pilot.pause()
        assert '"free": 3,\n' not in screen_text(app) and '  "free": 3,' in screen_text(app)
        assert '  "why": "no room"' in screen_text(app)

    on_stage(act, panel="Logs")


def test_a_log_line_cannot_command_the_terminal() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\n"
        line = LogLine(app.board.logs[-1].number + 1, app.now, "router", "INFO", text)
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        await pilot.pause()
        shown = screen_text(app)
        assert "\x1b" not in shown and "owned" not in shown and "red" in shown

    on_stage(act, panel="Logs")


def test_the_logs_keep_what_the_books_keep() -> None:
    store = Store("/run/here")
    pane = LogPane()
    for start in range(0, 12_000, 500):
        lines = tuple(LogLine(n, START, "router", "INFO", "x") for n in range(start, start + 500))
        store.fold_message(LogLines(lines), START)
        pane._gather(store.board(START).logs)
    assert pane._kept == list(store.board(START).logs)


def test_enter_shows_a_long_line_whole() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = " ".join(f"word{n}" for n in range(60))
        line = LogLine(app.board.logs[-1].number + 1, app.now, "router", "ERROR", text)
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        await pilot.press("enter")
        await pilot.pause()
        assert "word59" in screen_text(app)

    on_stage(act, panel="Logs", size=(80, 24))


# --- prompt -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_models_answer_side_by_side_and_become_markdown() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        models = app.active_panel.query_one(ModelsPane)
        models.chosen = {"pirate", "haiku"}
        await pilot.press(*"Ahoy", "enter")
        await wait(
            lambda: "tok/s  first" in screen_text(app) and "And so it goes" in screen_text(app)
        )
        panes = list(app.active_panel.query(AnswerPane))
        assert [pane.answer.model for pane in panes] == ["pirate", "haiku"]
        assert panes[0].region.y == panes[1].region.y and panes[0].region.x < panes[1].region.x
        assert app.active_panel.is_live
        assert app.active_panel.query_one(PromptEditor).text == ""
        await wait(lambda: all(pane.is_rendered for pane in panes))
        answers = [pane.answer for pane in panes]
        assert all(answer.finish_reason == "stop" and answer.num_tokens for answer in answers)
        assert all(answer.ttft_s and answer.tokens_s > 0 for answer in answers)
        await pilot.pause()
        assert "Ahoy" in screen_text(app) and "tokens" in screen_text(app)
        await pilot.press("up")  # what was asked before
        assert app.active_panel.query_one(PromptEditor).text == "Ahoy"
        await pilot.press("down")
        assert app.active_panel.query_one(PromptEditor).text == ""

    with_a_ring(act, pace=15.0)


@pytest.mark.slow
def test_a_conversation_goes_on_is_retried_kept_recalled_and_begun_anew() -> None:
    asked: list[dict[str, Any]] = []

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        panel = app.active_panel
        editor = panel.query_one(PromptEditor)
        panel.query_one(ModelsPane).chosen = {"haiku"}
        panel.query_one("#logprobs", Input).value = "2"

        async def whole(turns: int) -> None:
            await wait(lambda: len(asked) == turns and not panel.is_live)
            await pilot.pause()

        await pilot.press(*"Who", "enter")
        await whole(1)
        await pilot.press(*"Why", "enter")
        await whole(2)
        first, second = (body["messages"] for body in asked)
        assert [message["role"] for message in second] == ["user", "assistant", "user"]
        assert second[0] == first[0] and "one row lights up" in second[1]["content"]
        text = screen_text(app)
        assert "▸ Who" in text and "▸ Why" in text  # the whole conversation is to be seen
        await pilot.press("ctrl+t")
        await whole(3)
        assert asked[2]["messages"] == second  # what it said to "Why" is forgotten
        assert asked[2]["logprobs"] and asked[2]["top_logprobs"] == 2
        pane = panel.query_one(AnswerPane)
        pane.focus()
        await pilot.press("l")
        await pilot.pause()
        assert '90.5 %  "Quiet "' in screen_text(app) and '"or" 8.2 %' in screen_text(app)
        await pilot.press("l", "y")
        assert app.clipboard == pane.answer.text != ""
        editor.focus()
        await pilot.press("ctrl+n", *"Whom", "enter")
        await whole(4)
        assert [message["content"] for message in asked[3]["messages"]] == ["Whom"]
        await pilot.press("ctrl+r", *"lights", "down", "down", "enter")
        await pilot.pause()
        assert editor.text == "Who"
        kept = open_default()
        assert kept is not None
        assert [turn.prompt for turn in reversed(kept.search("haiku", 4))] == [
            *("Who", "Why", "Why", "Whom")
        ]
        assert len({turn.conversation for turn in kept.search("haiku", 4)}) == 2
        kept.close()

    with_a_ring(act, asked=asked)


def test_a_line_that_arrives_in_one_piece_is_sent_and_the_next_one_kept() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        for key in (*"Ahoy", "enter", *"next"):  # as a slow link delivers them
            app.post_message(events.Key(key, "\r" if key == "enter" else key))
        await wait(lambda: any(pane.answer.text for pane in app.query(AnswerPane)))
        editor = app.active_panel.query_one(PromptEditor)
        await wait(lambda: editor.text == "next")
        await pilot.press("ctrl+a", "ctrl+k", "up")
        assert editor.text == "Ahoy"

    with_a_ring(act)


def test_escape_cancels_and_what_was_said_stays() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"Hello", "enter")
        await wait(lambda: "And so" in screen_text(app))
        await pilot.press("enter", *"more", "enter")
        await pilot.pause()
        assert any("still streaming" in note.title for note in app.notices)
        await pilot.press("escape")
        await wait(lambda: not app.active_panel.is_live)
        await pilot.pause()
        assert app.active_panel.query_one(PromptEditor).text == "more"  # not written over
        await pilot.press("escape")  # nothing streams: escape leaves the editor
        assert app.active_panel.query_one(ModelsPane).has_focus

    with_a_ring(act, pace=12.0)


def test_a_refused_prompt_comes_back_and_says_why() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"please", "space", *"refuse", "enter")
        await wait(lambda: "the queue is full" in screen_text(app))
        await wait(lambda: app.active_panel.query_one(PromptEditor).text == "please refuse")

    with_a_ring(act)


def test_parameters_are_checked_before_anything_is_sent() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        app.active_panel.query_one("#temperature", Input).value = "700"
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        assert "temp: '700' is not a number from 0 to 100" in screen_text(app)
        assert app.active_panel.query_one(PromptEditor).text == "Hello"
        assert app.active_panel.query_one("#temperature", Input).has_focus

    with_a_ring(act)


def test_without_a_server_the_prompt_stays_and_says_so() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        assert app.active_panel.query_one(PromptEditor).text == "Hello"
        assert any("is not ready" in note.title for note in app.notices)

    on_stage(act, panel="Prompt", scenario="loading")


def test_models_are_marked_with_the_keyboard_and_the_mouse() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        models = app.active_panel.query_one(ModelsPane)
        assert models.chosen == {"SmolLM2-135M-Instruct", "pirate"}
        await pilot.press("escape", "right", "right", "space")
        assert "sql" in models.chosen and not app.is_paused
        await pilot.press("a")
        assert len(models.chosen) == 5
        await pilot.press("a")
        assert len(models.chosen) == 1
        start = models._places[3].start
        await pilot.click(ModelsPane, offset=(start + 4, 1))
        assert "json" in models.chosen

    on_stage(act, panel="Prompt")


def test_a_text_wrapped_as_it_grows_is_wrapped_as_if_it_were_whole() -> None:
    text = "One two three four five.\n\nSix seven eight nine ten eleven twelve\nend of it all. " * 8
    growing = WrappedText()
    for end in range(0, len(text) + 1, 7):
        lines = list(growing.lines(text[:end], 24))
        assert lines == list(WrappedText().lines(text[:end], 24))
    assert list(growing.lines(text, 30)) == list(WrappedText().lines(text, 30))


def test_an_answers_pace_does_not_count_the_wait_for_its_first_token() -> None:
    answer = Answer("pirate", "pirate", "adapter-1", asked_at=0.0)
    for _ in range(11):
        answer.add("x")
    answer.first_at, answer.ended_at = 5.0, 7.0
    assert answer.ttft_s == 5.0
    assert answer.tokens_s == pytest.approx(5.0)
    assert answer.text == "x" * 11


def test_a_pane_without_a_board_asks_the_app() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert isinstance(app.board, Board)
        for pane in app.query(Pane):
            pane.paint()

    on_stage(act)


@pytest.mark.parametrize("width", [56, 76, 116])
@pytest.mark.parametrize("kind", ["loading", "busy", "failed", "recovering"])
def test_the_badges_of_a_narrow_ring_name_every_process(kind: ScenarioKind, width: int) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        drawn = app.active_panel.query_one(RingPane).draw_lines(app.board, width, 1)[0]
        text = "".join(part for part, _ in crop(drawn.spans, width))
        for name in ("server", "router", "worker-0", "detok"):
            assert f" {name}" in text
        assert " supervisor" in text or ("…" not in text and "super" not in text and width < 76)
        worker = app.board.process("worker-0")
        assert worker is not None
        assert (worker.level != "bad") or f"worker-0 {worker.word.upper()}" in text

    on_stage(act, scenario=kind, seconds=40.0 if kind == "recovering" else 3.0)


@pytest.mark.parametrize("key", ["2", "4", "8", "comma"])
def test_a_table_obeys_keys_before_its_first_frame(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine, or typed at once: `8 j j r` restarts the third process."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        monkeypatch.setattr(Pane, "paint", lambda pane, board=None: None)
        await pilot.press(key, "j", "j")
        table = app.active_panel.query(TablePane).first()
        rows = table.rows(app.board)
        assert len(rows) > 2 and table.selected == rows[2]
        await pilot.press("G")
        assert table.selected == rows[-1]

    on_stage(act)


def test_the_log_obeys_keys_before_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        monkeypatch.setattr(Pane, "paint", lambda pane, board=None: None)
        await pilot.press("7", "k", "k")
        pane = app.active_panel.query_one(LogPane)
        assert pane._current == app.board.logs[-3]

    on_stage(act)
