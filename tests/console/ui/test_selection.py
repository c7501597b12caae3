"""Text selected with the mouse: which cells, what is copied, and what stands still meanwhile."""

import pytest
from rich.segment import Segment
from rich.style import Style
from stage import StagedApp, on_stage, screen_text
from textual import events
from textual.pilot import Pilot
from textual.strip import Strip

from loraconsole.console.text.selection import Selection, shown_selected
from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.panels.processes import TailPane
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, LiveDialog, ScrollPane
from loraconsole.console.ui.widgets.pane import Pane


def test_a_selection_runs_from_cell_to_cell_over_whole_lines_between() -> None:
    inside = range(2, 20)
    for selection in (Selection((1, 5), (3, 7)), Selection((3, 7), (1, 5))):
        assert list(selection.lines) == [1, 2, 3]
        assert selection.cells(1, inside) == range(5, 20)
        assert selection.cells(2, inside) == range(2, 20)
        assert selection.cells(3, inside) == range(2, 8)
        assert not selection.cells(4, inside)
    assert Selection((1, 9), (1, 4)).cells(1, inside) == range(4, 10)
    assert not Selection((1, 0), (1, 1)).cells(1, inside), "the frame is no text"


def test_selected_cells_are_in_reverse_and_the_text_stays() -> None:
    strip = Strip([Segment("abc日本", Style(bold=True))])
    shown = shown_selected(strip, range(1, 5), Style())
    assert shown.text == strip.text and shown.cell_length == strip.cell_length
    reversed_text = "".join(s.text for s in shown if s.style and s.style.reverse)
    assert reversed_text == "bc日"
    assert shown_selected(strip, range(0), Style()) is strip


async def _drag(pilot: Pilot[str], pane: Pane, *way: tuple[int, int]) -> None:
    """Presses the button at the first `(x, y)` of the pane and lets it go at the last."""
    app, corner = pilot.app, pane.region.offset
    kinds = [events.MouseDown, *[events.MouseMove] * (len(way) - 1), events.MouseUp]
    for kind, (x, y) in zip(kinds, (*way, way[-1]), strict=True):
        at = (corner.x + x, corner.y + y)
        event = kind(pane, *at, 0, 0, 1, False, False, False, *at)
        app.screen._forward_event(event)
        await pilot.pause()


@pytest.mark.slow
def test_a_drag_over_a_table_copies_its_text_and_moves_no_cursor() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        cursor = table.selected
        lines = [row[2:-2] for row in screen_text(app).splitlines()[table.region.y :][:6]]
        await _drag(pilot, table, (13, 3), (20, 4), (20, 5))
        first, middle, last = app.clipboard.splitlines()
        assert first == lines[3][11:].rstrip()
        assert middle == lines[4].rstrip() and last == lines[5][:19].rstrip()
        assert cursor is not None and table.selected is not None
        assert table.row_key(table.selected) == table.row_key(cursor)
        await pilot.click(BatchTable, (13, 4))
        assert table.selected is table._rows[2], "a click still chooses its row"

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.slow
def test_a_pane_stands_still_while_its_text_is_selected() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table, corner = app.active_panel.query_one(BatchTable), (3, 3)
        at = (table.region.x + corner[0], table.region.y + corner[1])
        for kind, x in ((events.MouseDown, 0), (events.MouseMove, 20)):
            event = kind(table, at[0] + x, at[1], 0, 0, 1, False, False, False, at[0] + x, at[1])
            app.screen._forward_event(event)
            await pilot.pause()
        before = screen_text(app).splitlines()[table.region.y :]
        drawn = table.frames
        app.advance(5.0)
        app.show()
        await pilot.pause()
        assert table.frames == drawn
        assert screen_text(app).splitlines()[table.region.y :] == before
        up = events.MouseUp(table, *at, 0, 0, 1, False, False, False, *at)
        app.screen._forward_event(up)
        await pilot.pause()
        assert table.frames > drawn and app.mouse_captured is None
        assert app.clipboard == before[3][3:24].rstrip()

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.slow
def test_text_of_other_panes_and_of_dialogs_is_copied_too() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        tail = app.active_panel.query_one(TailPane)
        shown = screen_text(app).splitlines()[tail.region.y + 1]
        await _drag(pilot, tail, (2, 1), (60, 1))
        assert app.clipboard and shown[2:61].rstrip() == app.clipboard
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog)
        pane = app.screen.query_one(ScrollPane)
        await _drag(pilot, pane, (2, 1), (40, 1))
        assert app.clipboard.startswith("state")
        await pilot.press("escape", "down", "down", "r")
        await pilot.pause()
        assert isinstance(app.screen, ChoiceDialog)
        body = app.screen.query_one(".body")
        x, y = body.region.offset
        for kind, at in (
            (events.MouseDown, (x, y)),
            (events.MouseMove, (x + 8, y)),
            (events.MouseUp, (x + 8, y)),
        ):
            app.screen._forward_event(kind(body, *at, 0, 0, 1, False, False, False, *at))
            await pilot.pause()
        assert app.clipboard in app.screen._body and app.clipboard != ""

    on_stage(act, panel="Processes")
