"""What `y` and `Y` copy: names, reasons, whole rows, the text of dialogs; and records for files."""

import csv
import io
import json
from pathlib import Path

import pytest
from stage import StagedApp, on_stage, screen_text, wait
from textual.pilot import Pilot

from loraconsole.console.state.board import Board
from loraconsole.console.text import units
from loraconsole.console.text.records import as_csv, as_json, as_text
from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.panels.events import EventPane
from loraconsole.console.ui.panels.processes import ProcessTablePane
from loraconsole.console.ui.widgets.dialogs import LiveDialog
from loraconsole.console.ui.widgets.save_dialog import SaveDialog
from loraconsole.console.ui.widgets.table import TablePane
from loraconsole.pipeline.messages import Event

SCREENS = {"2": "Batch", "4": "Adapters", "8": "Processes", "9": "Alerts", "comma": "Settings"}


@pytest.mark.slow
@pytest.mark.parametrize("key", SCREENS, ids=SCREENS.values())
def test_y_copies_the_name_of_a_row_and_of_every_marked_row(key: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.watch_alerts(app.board)
        await pilot.press(key)
        await pilot.pause()
        table = app.active_panel.query_one(TablePane)
        await pilot.press("y")
        assert app.clipboard == table.name_of(table._rows[0]) and app.clipboard
        await pilot.press("ctrl+a", "y")
        names = [table.name_of(row) for row in table.rows(app.board)]
        if key == "comma":  # settings are edited one by one: none is marked
            names = names[:1]
        assert app.clipboard.splitlines() == names

    on_stage(act, scenario="failed" if key == "9" else "busy")


@pytest.mark.slow
def test_capital_y_offers_the_reason_and_the_whole_row() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("slash", *"waiting", "enter", "Y")
        await pilot.pause()
        row = table.selected
        assert row is not None and row.view.reason
        shown = screen_text(app)
        assert "w  why" in shown and "r  row" in shown and row.view.reason[:30] in shown
        await pilot.press("w")
        assert app.clipboard == row.view.reason
        await pilot.press("Y", "r")
        assert f"request: {row.view.request_id}" in app.clipboard.splitlines()
        assert f"reason: {row.view.reason}" in app.clipboard.splitlines()

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.slow
def test_the_row_of_a_process_has_its_figures_with_units_and_no_drawing() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(ProcessTablePane)
        (record,) = [r for r in table.records(table._rows) if r["process"] == "router"]
        row = app.board.process("router")
        assert row is not None and record["pid"] == row.pid and record["state"] == "ready"
        assert record["rss_bytes"] == row.rss_bytes and record["cpu_cores"] == row.cpu_fraction
        await pilot.press("Y", "p")
        assert app.clipboard == str(app.board.processes[0].pid)

    on_stage(act, panel="Processes")


@pytest.mark.slow
def test_any_dialog_of_text_is_copied_whole() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("question_mark")
        dialog = app.screen
        assert isinstance(dialog, LiveDialog)
        await pilot.press("y")
        lines = app.clipboard.splitlines()
        assert len(lines) == dialog._pane._total > dialog._pane.size.height
        assert any("row-yank" in line for line in lines)
        await pilot.press("escape", "enter", "Y")
        assert "timeline" in app.clipboard and app.clipboard.startswith("state")

    on_stage(act, panel="Batch", size=(120, 40), seconds=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["2", "4", "6", "8", "9", "comma"])
def test_every_column_has_a_value_and_a_name_of_its_own(key: str) -> None:
    """No two values of a record have one name, and none is a drawing."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.watch_alerts(app.board)
        await pilot.press(key)
        table = app.active_panel.query_one(TablePane)
        names = [column.name for column in table.columns if column.name]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() and name.islower() for name in names), names
        rows = table.rows(app.board)
        assert rows or key == "6"
        for record in table.records(rows):
            assert not {c for value in record.values() for c in f"{value}"} & set("━─█▌●◌▲△✓▾▴")

    on_stage(act, scenario="failed" if key == "9" else "busy")


RECORDS = [
    {"name": "a, b", "size_bytes": 12, "is_on": True, "why": None},
    {"name": 'c "d"', "size_bytes": 0, "is_on": False, "why": "x"},
]


def test_records_are_read_back_from_csv_and_json() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(RECORDS)))
    assert first == {"name": "a, b", "size_bytes": "12", "is_on": "true", "why": ""}
    assert second["name"] == 'c "d"'
    assert json.loads(as_json(RECORDS)) == RECORDS
    assert as_text(RECORDS[:1]).splitlines()[:2] == ["name: a, b", "size_bytes: 12"]
    assert as_text(RECORDS).splitlines()[0] == "name\tsize_bytes\tis_on\twhy"
    assert as_csv([]) == "\n" and Board(now=0.0, run="/").requests == ()


def test_a_glimpse_of_a_text_fits_and_says_how_much_more_there_is() -> None:
    assert units.glimpse("short") == "short"
    assert units.glimpse("one\ntwo\nthree", 20) == "one  +2 lines"
    assert units.glimpse("x" * 30 + "\ny", 20) == "x" * 10 + "…  +1 line"
    assert units.glimpse("") == ""


@pytest.mark.slow
def test_an_event_is_chosen_by_a_click_and_copied_with_its_time_and_process() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(EventPane)
        row = pane._owners.index(2)
        await pilot.click(EventPane, (5, row + 1))
        assert pane._cursor == 2
        await pilot.press("y")
        event = pane._sources[2]
        assert isinstance(event, Event)
        assert app.clipboard == f"{units.clock(event.at)} {event.source} {event.text}"

    on_stage(act, size=(120, 40), seconds=30.0)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_e_exports_what_the_table_shows_as_csv_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(BatchTable)
        await pilot.press("slash", *"pirate", "enter", "s", "g")
        await pilot.press("e", "enter")
        await pilot.pause()
        rows = list(csv.DictReader((tmp_path / "live-batch.csv").open()))
        assert [row["request"] for row in rows] == [r.view.request_id for r in table._rows]
        ages = [float(row["age_s"]) for row in rows]
        assert len(ages) > 1 and ages == sorted(ages, reverse=True)
        assert {row["adapter"] for row in rows} == {"pirate"}
        await pilot.press("g", "space", "e", *"marked.json", "enter")
        await pilot.pause()
        (record,) = json.loads((tmp_path / "marked.json").read_text())
        assert record["request"] == rows[0]["request"] and isinstance(record["age_s"], float)

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.slow
def test_another_ending_is_refused_in_the_dialog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("e", *"rows.xlsx", "enter")
        await pilot.pause()
        assert isinstance(app.screen, SaveDialog)
        assert "the name must end in .csv or .json" in screen_text(app)
        assert not list(tmp_path.iterdir())

    on_stage(act, panel="Batch", seconds=2.0)


@pytest.mark.slow
def test_a_screenshot_goes_where_it_is_told_and_has_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("colon", *"screenshot now.svg", "enter")
        await pilot.pause()
        await wait(lambda: (tmp_path / "now.svg").read_text() != "")
        picture = (tmp_path / "now.svg").read_text()
        assert picture.startswith("<svg") and "pirate" in picture and "now.svg" not in picture
        await pilot.press("colon", *"screenshot /nowhere/x.svg", "enter")
        await pilot.pause()
        assert "No such file or directory" in screen_text(app)

    on_stage(act, panel="Batch", seconds=2.0)
