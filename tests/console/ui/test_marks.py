"""Marked rows: `space` marks, actions take all marked rows after one question, escape clears."""

import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.client.telemetry import ABORTED
from loraconsole.console.ui.panels.adapters import AdapterTablePane
from loraconsole.console.ui.panels.alerts import AlertTable
from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.panels.processes import ProcessTablePane
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog
from loraconsole.console.ui.widgets.filter_input import FilterInput
from loraconsole.pipeline.messages import (
    Abort,
    PinAdapter,
    RestartProcess,
    SignalProcess,
    UnloadAdapter,
)

pytestmark = pytest.mark.slow


def test_a_swarm_is_aborted_with_its_marks_after_one_question() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("slash", *"pirate", "enter", "ctrl+a")
        await pilot.pause()
        swarm = [r.view.request_id for r in app.board.requests if r.view.adapter == "pirate"]
        assert table.marked == set(swarm) and len(swarm) > 1
        await pilot.press("x")
        assert isinstance(app.screen, ChoiceDialog) and not app.told
        await pilot.pause()
        shown = screen_text(app)
        assert f"Abort {len(swarm)} requests?" in shown and f"Abort all {len(swarm)}" in shown
        await pilot.press("n")
        assert not app.told and table.marked == set(swarm), "no: nothing sent, marks kept"
        await pilot.press("x", "y")
        await pilot.pause()
        assert app.told == [Abort(request, ABORTED) for request in swarm]
        assert not table.marked

    on_stage(act, panel="Batch", seconds=2.0)


def test_space_marks_the_row_goes_on_and_is_seen() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        first, second, third = (table.row_key(row) for row in table._rows[:3])
        await pilot.press("space", "down", "space")
        assert table.marked == {first, third} and not app.is_paused
        await pilot.pause()
        lines = screen_text(app).splitlines()
        top = table.region.y
        assert "2 marked" in lines[top]
        assert [lines[top + at][1] for at in (2, 3, 4)] == ["▌", " ", "▌"]
        await pilot.press("up", "space")
        assert table.marked == {first}
        assert [table.row_key(row) for row in table.subjects] == [first]
        await pilot.press("g", "space")
        assert not table.marked
        assert [table.row_key(row) for row in table.subjects] == [second], "the cursor's row"
        await pilot.press("p")
        assert app.is_paused, "pause keeps a key beside a table"

    on_stage(act, panel="Batch", seconds=2.0)


def test_a_marked_row_that_goes_is_no_longer_marked() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("ctrl+a")
        marked = set(table.marked)
        app.advance(20.0)
        app.show()
        live = {row.view.request_id for row in app.board.requests}
        assert marked - live, "some have ended"
        assert table.marked == marked & live
        await pilot.press("ctrl+a")
        assert table.marked == live
        await pilot.press("ctrl+a")
        assert not table.marked

    on_stage(act, panel="Batch", seconds=2.0)


def test_escape_clears_the_marks_then_the_filter_then_the_zoom() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        await pilot.press("z", "slash", *"sql", "enter", "space")
        await pilot.pause()
        assert table.marked and table.filter and app.active_panel.zoomed
        await pilot.press("escape")
        assert not table.marked and table.filter
        await pilot.press("escape")
        assert not table.filter and app.active_panel.zoomed
        await pilot.press("escape")
        assert not app.active_panel.zoomed

    on_stage(act, panel="Adapters")


def test_adapters_are_unloaded_together_and_counted_in_one_toast() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        await pilot.press("home", "space", "space", "space")  # the base among them
        names = [row.name for row in table.subjects if not row.is_base]
        assert len(names) == 2
        await pilot.press("u")
        await pilot.pause()
        shown = screen_text(app)
        assert "Unload 2 adapters?" in shown and all(f"{name}: " in shown for name in names)
        await pilot.press("y")
        await pilot.pause()
        assert [order.name for order in app.ordered if isinstance(order, UnloadAdapter)] == names
        for _ in range(5):
            app.advance(1.0)
            app.show()
            await pilot.pause()
        texts = [toast.message for toast in app.notices]
        assert texts == ["2 of 2 adapters done"]

    on_stage(act, panel="Adapters")


def test_a_pin_pins_what_is_not_pinned_and_unpins_only_if_all_are() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        for wanted in (True, False):
            await pilot.press("ctrl+a", "p")
            await pilot.pause()
            pins = [order for order in app.ordered if isinstance(order, PinAdapter)]
            assert len(pins) > 1 and all(order.pinned is wanted for order in pins)
            assert not table.marked
            app.ordered.clear()
            app.advance(3.0)
            app.show()

    on_stage(act, panel="Adapters")


def test_processes_are_restarted_or_signalled_together() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(ProcessTablePane)
        await pilot.press("slash", *"server|router", "enter", "ctrl+a", "r")
        await pilot.pause()
        shown = screen_text(app)
        assert "Restart 2 processes?" in shown
        assert "router: " in shown and "server: " in shown
        await pilot.press("y")
        await pilot.pause()
        assert {order.name for order in app.told if isinstance(order, RestartProcess)} == {
            "router",
            "server",
        }
        app.told.clear()
        assert not table.marked
        await pilot.press("ctrl+a", "K")
        await pilot.pause()
        assert "Signal 2 processes" in screen_text(app)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert len([order for order in app.told if isinstance(order, SignalProcess)]) == 2

    on_stage(act, panel="Processes")


def test_marked_alerts_are_acknowledged_together() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.watch_alerts(app.board)
        await pilot.press("9")
        await pilot.pause()
        table = app.active_panel.query_one(AlertTable)
        assert table._rows
        await pilot.press("ctrl+a", "a")
        await pilot.pause()
        assert not table.marked
        assert not [row for row in table._rows if row.state.value == "firing"]

    on_stage(act, scenario="failed")


# --- the line of the filter ---------------------------------------------------------------------


def test_a_filter_line_opened_by_the_mouse_closes_when_its_screen_is_left() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        footer = screen_text(app).splitlines()[-1]
        await pilot.click("Footer", (footer.index("/ Filter"), 0))
        await pilot.pause()
        assert isinstance(app.focused, FilterInput)
        await pilot.press(*"sql")
        header = screen_text(app).splitlines()[1]
        await pilot.click("Header", (header.index("Overview"), 1))
        await pilot.pause()
        assert not app.query(FilterInput)
        await pilot.press("4")
        await pilot.pause()
        table = app.active_panel.query_one(AdapterTablePane)
        assert table.has_focus and table.filter.text == "sql"
        await pilot.press("escape")
        assert not table.filter

    on_stage(act, panel="Adapters")


def test_escape_in_the_list_closes_a_filter_line_that_lost_the_focus() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        await pilot.press("slash", *"sql")
        await pilot.click(AdapterTablePane, (20, 2))
        await pilot.pause()
        assert table.has_focus and app.query(FilterInput)
        await pilot.press("escape")
        await pilot.pause()
        assert not app.query(FilterInput) and not table.filter

    on_stage(act, panel="Adapters")
