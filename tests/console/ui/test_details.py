"""Details beside a list: those of the row under its cursor, on a wide screen alone."""

from typing import Any

import pytest
from stage import StagedApp, on_stage, screen_text, wait
from textual.pilot import Pilot

from loraconsole.console.ui.panels.logs import LogPane
from loraconsole.console.ui.widgets.details import DetailsPane
from loraconsole.console.ui.widgets.table import TablePane

pytestmark = pytest.mark.slow


def _beside(app: StagedApp, pane: DetailsPane) -> list[str]:
    region = pane.region
    rows = screen_text(app).splitlines()[region.y : region.bottom]
    return [row[region.x : region.right] for row in rows]


@pytest.mark.parametrize("panel", ["Batch", "Adapters", "Processes"])
def test_a_wide_screen_shows_the_details_of_the_row_under_the_cursor(panel: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table: TablePane[Any] = app.active_panel.query_one(TablePane)
        pane = app.active_panel.query_one(DetailsPane)
        assert pane.region.x == table.region.right and pane.region.y == table.region.y
        assert pane.region.height == app.active_panel.size.height
        for _ in range(3):
            row = table.selected
            await pilot.pause()
            shown = _beside(app, pane)
            assert f" {table.name_of(row)} " in shown[0]
            wanted = table.lines_of(row)(app.board, pane.size.width - 4)
            for line, drawn in zip(wanted[:4], shown[1:], strict=False):
                text = "".join(part for part, _ in line.spans).strip()
                assert text[:40] in drawn
            await pilot.press("down")

    on_stage(act, panel=panel, size=(200, 60), seconds=2.0)


def test_the_line_under_the_cursor_of_the_logs_is_shown_whole() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane, log = app.active_panel.query_one(DetailsPane), app.active_panel.query_one(LogPane)
        await pilot.press("up", "up")
        app.advance(1.0)
        app.show()
        await pilot.pause()
        shown = "\n".join(_beside(app, pane))
        assert f"line {log._cursor}" in shown and log._kept[log._at()].text[:60] in shown

    on_stage(act, panel="Logs", size=(200, 60), seconds=5.0)


@pytest.mark.parametrize("panel", ["Batch", "Adapters", "Processes", "Logs"])
@pytest.mark.parametrize(("size", "is_beside"), [((120, 40), False), ((200, 60), True)])
def test_a_zoomed_list_keeps_the_details_of_its_row(
    panel: str, size: tuple[int, int], is_beside: bool
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(DetailsPane)
        await pilot.press("z")
        await pilot.pause()
        zoomed = app.active_panel.zoomed
        assert zoomed is not None
        room = app.active_panel.region
        assert [other for other in app.active_panel.panes if other.display] in (
            [zoomed, pane],
            [pane, zoomed],
        )
        if is_beside:
            assert zoomed.region.height == pane.region.height == room.height
            assert zoomed.region.right == pane.region.x and pane.region.right == room.right
        else:
            assert zoomed.region.width == pane.region.width == room.width
            assert zoomed.region.bottom == pane.region.y and pane.region.bottom == room.bottom
        assert "".join(_beside(app, pane)[1:]).strip(" │─╯╰")
        await pilot.resize_terminal(80, 24)
        await wait(lambda: not pane.display)
        await wait(lambda: zoomed.size == app.active_panel.size)
        await pilot.press("escape")
        await pilot.pause()
        assert not pane.display and app.active_panel.zoomed is None

    on_stage(act, panel=panel, size=size, seconds=2.0)


@pytest.mark.parametrize("panel", ["Batch", "Adapters", "Processes", "Logs"])
def test_details_cost_nothing_where_they_are_hidden(panel: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(DetailsPane)
        app.advance(5.0)
        app.show()
        await pilot.press("down")
        await pilot.pause()
        assert not pane.display and pane.frames == 0
        await pilot.resize_terminal(200, 50)
        await wait(lambda: pane.display and bool(pane.size))
        app.advance(1.0)
        app.show()
        assert pane.display and pane.frames > 0
        await pilot.resize_terminal(179, 50)
        await wait(lambda: not pane.display)
        drawn = pane.frames
        app.advance(5.0)
        app.show()
        assert not pane.display and pane.frames == drawn

    on_stage(act, panel=panel, size=(120, 40), seconds=2.0)
