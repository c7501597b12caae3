"""The panes about what adapters cost: the list of the first screen and the stacked plot."""

from __future__ import annotations

import re

import msgspec
import pytest
from rich.cells import cell_len
from stage import StagedApp, on_stage, screen_text, wait
from textual.pilot import Pilot

from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.state.board import Board
from loraconsole.console.state.store import Store
from loraconsole.console.text.lines import TextLine, length
from loraconsole.console.ui.panels.adapters import SPARED, AdapterTablePane
from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.panels.events import MOST_ROWS, WITH_SOURCE, EventPane
from loraconsole.console.ui.plots.adapter_plot import AdapterPlotPane
from loraconsole.console.ui.widgets.adapter_list import NUMBERS, AdapterListPane
from loraconsole.pipeline.messages import AdapterState, AdapterTable, AdapterView, Event

pytestmark = pytest.mark.slow

LONG = "customer-support-german-formal-v2.17-rc1-final"


def texts(lines: list[TextLine]) -> list[str]:
    return ["".join(text for text, _ in line.spans) for line in lines]


def board_with(app: StagedApp, *more: AdapterView) -> Board:
    """The stage's board with further adapters."""
    table = app.store._latest.adapters
    assert table is not None
    new = msgspec.structs.replace(table, at=app.now, adapters=(*table.adapters, *more))
    app.store.fold_message(new, app.now)
    app.show()
    return app.board


def another(app: StagedApp, name: str, **fields: object) -> AdapterView:
    row = app.board.adapters[1]
    idle = dict.fromkeys(
        ("recent_device_us", "recent_tokens", "device_us", "running", "waiting"), 0
    )
    made: AdapterView = msgspec.structs.replace(row.view, name=name, **(idle | fields))
    return made


def numbers(row: str) -> list[str]:
    """Those of the columns that a list of any width has: a wide one may have more, or not, as the
    names leave room."""
    _, _, after = row[2:].partition(" ")
    return re.sub("[━╸╺─]", "", after).split()[: len(NUMBERS) + 1]  # "15 %" is two


@pytest.mark.parametrize("width", [20, 28, 36, 44, 60, 90])
def test_a_long_name_takes_nothing_from_the_other_rows(width: int) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.query_one(AdapterListPane)
        before = texts(list(pane.draw_lines(app.board, width, 9)))
        board = board_with(app, another(app, LONG, recent_device_us=1, waiting=3))
        lines = list(pane.draw_lines(board, width, 9))
        after = texts(lines)
        assert all(length(line.spans) <= width for line in lines)
        [mine] = [text for text in after if "● cus" in text]
        assert LONG in mine or ("…" in mine and "nal " in mine)
        for name in ("pirate", "sql", "json", "haiku"):
            [old], [new] = ([t for t in found if f"● {name} " in t] for found in (before, after))
            assert numbers(old) == numbers(new), "a number of the row is lost"
            assert ("━" in new) == ("━" in old)

    on_stage(act)


def test_the_list_says_how_many_it_does_not_show_and_what_they_wait_for() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.query_one(AdapterListPane)
        failed = another(app, "trunc", state=AdapterState.FAILED, reason="cut off")
        more = [another(app, f"tenant-{number:02}") for number in range(40)]
        waiting = msgspec.structs.replace(more[-1], waiting=7)
        board = board_with(app, *more[:-1], waiting, failed)
        lines = texts(list(pane.draw_lines(board, 44, 9)))
        assert len(lines) == 9 and "base" in lines[1]
        assert lines[-1] == "39 more, 7 wait, 1 failed"
        assert len(board.adapters) == 46 == 39 + 7
        whole = texts(list(pane.draw_lines(board, 44, 60)))
        assert len(whole) == 47 and any("✗ trunc cut off" in text for text in whole)
        low = texts(list(pane.draw_lines(board, 44, 4)))
        assert len(low) == 4 and "base" in low[1] and "more" not in low[3]
        [first, _] = texts(list(pane.draw_lines(board, 44, 2)))
        assert "base" in first
        await pilot.resize_terminal(80, 24)
        app.now += 1.0
        app.show()
        await pilot.pause()
        height = pane.size.height - 3
        assert height < 5 and f" {46 - height} more, 7 wait, 1 failed " in screen_text(app)

    on_stage(act)


def test_the_reason_of_a_failure_stands_before_its_path() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        path = "/home/me/some/where/adapters/trunc"
        reason = f"{path}/adapter_model.safetensors: the file is cut off"
        view = another(app, "trunc", state=AdapterState.FAILED, reason=reason, path=path)
        board_with(app, view)
        await pilot.press("4")
        app.show()
        await pilot.pause()
        [row] = [text for text in screen_text(app).splitlines() if "✗ trunc" in text]
        assert "the file is cut off (…/trunc/adapter_model" in row and "/home" not in row

    on_stage(act, size=(80, 24))


def test_layers_add_up_to_the_whole_and_keep_their_order() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(AdapterPlotPane)
        lines = list(pane.draw_lines(app.board, 80, 10))
        assert all(length(line.spans) <= 80 for line in lines) and len(lines) == 10
        seen = {style for line in lines[:8] for _, style in line.spans}
        shown = {row.color for row in app.board.adapters}
        assert shown <= seen, "an adapter has no layer"
        assert "● base" in screen_text(app) and "● pirate" in screen_text(app)

    on_stage(act, panel="Adapters", seconds=20.0)


def test_the_timeline_shows_loads_evictions_and_generations_where_they_happened() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        def fold(**changes: int) -> None:
            table = app.store._latest.adapters
            assert table is not None
            first, *rest = table.adapters
            view = msgspec.structs.replace(first, **changes)
            app.store.fold_message(
                AdapterTable(app.now, "base", (view, *rest), table.base), app.now
            )

        first = app.board.adapters[1].view
        await pilot.press("down")
        fold(evictions=first.evictions + 1)
        app.now += 8.0
        fold(placements=first.placements + 1)
        app.now += 8.0
        fold(generation=2)
        app.now += 8.0
        app.show()
        pane = app.active_panel.query_one(AdapterPlotPane)
        *_, mine, every = texts(list(pane.draw_lines(app.board, 60, 10)))
        assert mine.startswith("pi…te ")
        assert "↓" in mine and mine.index("↓") < mine.index("↑") < mine.index("◆")
        assert mine.index("↑") - mine.index("↓") == 2, "four seconds a cell"
        assert every.startswith("  all") and every.index("◆") == mine.index("◆")
        assert "·" not in every
        await pilot.press("enter")
        await pilot.pause()
        shown = screen_text(app)
        words = [shown.index(word) for word in ("◆ new generation", "↑ loaded", "↓ evicted")]
        assert words == sorted(words), "the newest is not first"
        await pilot.press("escape", "g")
        *_, none, _ = texts(list(pane.draw_lines(app.board, 60, 10)))
        assert "base always resident" in none

    on_stage(act, panel="Adapters")


@pytest.mark.parametrize(("width", "height"), [(26, 8), (38, 6), (60, 10), (120, 3), (38, 1)])
def test_events_are_wrapped_and_the_cause_stands_first(width: int, height: int) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        path = "/home/me/adapters/trunc/adapter_model.safetensors"
        for text in (
            "adapter sql is evicted for adapter customer-support-german: 128 pages",
            f"adapter trunc failed: {path}: the file ends before its last tensor",
        ):
            app.store.fold_message(Event(app.now, "info", "router", text), app.now)
        app.show()
        pane = app.query_one(EventPane)
        lines = list(pane.draw_lines(app.board, width, height))
        assert len(lines) <= height and all(length(line.spans) <= width for line in lines)
        shown = " ".join("".join(text for text, _ in line.spans).strip() for line in lines)
        assert ("router" in shown) == (width >= WITH_SOURCE)
        if height > 3 and width > 30:
            assert "failed: the file ends before its last tensor" in " ".join(shown.split())
            assert "/home" not in shown

    on_stage(act)


def test_the_cursor_of_the_events_takes_whole_events() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        long = "adapter sql is evicted for adapter customer-support-german-formal: 128 pages"
        for number in range(3):
            event = Event(app.now, "info", "router", f"{long} ({number})")
            app.store.fold_message(event, app.now)
        app.show()
        pane = app.query_one(EventPane)
        pane.focus()
        await pilot.pause()
        await pilot.press("down")
        lines = list(pane.draw_lines(app.board, 38, 10))
        lit = [line for line in lines if line.ground == "cursor"]
        assert 1 < len(lit) <= MOST_ROWS
        source = pane._sources[pane._cursor]
        assert isinstance(source, Event) and source.text.endswith("(1)")

    on_stage(act)


@pytest.mark.parametrize("width", [60, 76, 100, 116, 140, 196])
def test_names_take_the_cells_of_lesser_columns_and_of_no_other(width: int) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(AdapterTablePane)
        few = pane._fitting(width, app.board.costliest)
        board = board_with(app, another(app, LONG))
        many = pane._fitting(width, board.costliest)
        for found in (few, many):
            assert sum(cells + 1 for _, cells in found) - 1 <= width
        kept = {column.title for column, _ in many}
        lost = [column for column, _ in few if column.title not in kept]
        assert all(column.rank >= SPARED for column in lost)
        assert many[0][1] >= few[0][1]
        if width == 196:
            assert many[0][1] >= len(LONG) + 2

    on_stage(act, panel="Adapters")


@pytest.mark.parametrize("width", [76, 116, 196])
def test_tenants_whose_names_begin_alike_are_told_apart_in_the_batch(width: int) -> None:
    scenario, store = Scenario("busy", rows=48, adapters=60), Store("/run/here")
    now = 1_790_000_000.0
    for _ in range(50):
        now += 0.2
        for _, message in scenario.advance(now):
            store.fold_message(message, now)
    board = store.board(now)
    names = {row.view.adapter for row in board.requests}
    assert sum((name or "").startswith("tenant-") for name in names) > 30

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        rows = texts(list(app.query_one(BatchTable).draw_lines(board, width, 60)))
        for name in names:
            assert sum(f" {name or 'base'} " in row for row in rows) == sum(
                row.view.adapter == name for row in board.requests
            )

    on_stage(act, panel="Batch")


@pytest.mark.parametrize("width", [76, 116])
def test_a_long_name_in_the_batch_leaves_room_for_the_reason(width: int) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        reason = "prompt tokens of this step are spent"
        waiting = next(r for r in app.board.requests if r.view.phase == "waiting")
        view = msgspec.structs.replace(waiting.view, adapter=LONG, reason=reason, place=1)
        rows = (msgspec.structs.replace(waiting, view=view),)
        board = msgspec.structs.replace(app.board, requests=rows)
        text = texts(list(app.query_one(BatchTable).draw_lines(board, width, 3)))[1]
        assert "● customer" in text or "…" in text.split("●")[1][:14]
        assert "#1 prompt tokens" in text and (width < 100 or reason in text)

    on_stage(act, panel="Batch")


def test_a_wide_first_screen_shows_throughput_by_adapter_and_more_columns() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        panel = app.active_panel
        assert not panel.query(AdapterPlotPane), "a smaller screen does not make it"
        await pilot.resize_terminal(200, 60)
        await pilot.pause()
        app.advance(2.0)
        app.show()
        await pilot.pause()
        [stack] = panel.query(AdapterPlotPane)
        assert stack.display and "by adapter" in screen_text(app)
        [head] = [row for row in screen_text(app).splitlines() if "last minute" in row]
        assert "TTFT p99" in head and "KV pages" in head and "requests" in head

        def is_covered() -> bool:
            shown = (pane.region.area for pane in panel.panes if pane.display)
            return sum(shown) == panel.region.area

        assert is_covered()
        low = panel.query_one(AdapterListPane).size.height
        board_with(app, *(another(app, f"tenant-{number:02}") for number in range(40)))
        await pilot.pause()
        assert panel.query_one(AdapterListPane).size.height > low
        await pilot.resize_terminal(120, 40)
        await wait(lambda: not stack.display and is_covered())

    on_stage(act)


def test_names_that_differ_at_their_end_stay_different_in_the_batch() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        [column] = [column for column in table.columns if column.title == "adapter"]
        row = app.board.requests[0]
        shown = set()
        for number in range(20):
            view = msgspec.structs.replace(row.view, adapter=f"customer-support-{number:04}")
            [(text, _)] = column.cell(msgspec.structs.replace(row, view=view), app.board, 12)
            assert cell_len(text) <= 12
            shown.add(text)
        assert len(shown) == 20

    on_stage(act, panel="Batch", seconds=2.0)
