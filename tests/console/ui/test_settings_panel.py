"""Settings are edited on their screen: the file is written, and the change applies."""

from pathlib import Path

import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.settings.settings import settings_path
from loraconsole.console.ui.panels.settings import SettingLine, SettingTable

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return settings_path()


async def go_to(app: StagedApp, pilot: Pilot[str], name: str) -> SettingTable:
    if app.active_panel.NAME != "Settings":
        await pilot.press("comma")
        await pilot.pause()
    table = app.active_panel.query_one(SettingTable)
    table.go_to(name)
    await pilot.pause()
    return table


def test_a_number_is_edited_over_its_row(file: Path) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = await go_to(app, pilot, "fps")
        await pilot.press("enter")
        await pilot.pause()
        edited = app.query_one(SettingLine)
        row = screen_text(app).splitlines()[edited.region.y]
        assert "fps" in row and "a number, 0.5 to 30" in row  # over the row, the limits beside it
        assert edited.given.value == "5"
        await pilot.press("ctrl+u", *"99", "enter")
        await pilot.pause()
        row = screen_text(app).splitlines()[edited.region.y]
        assert "99 is not a number, 0.5 to 30" in row and not file.exists()
        await pilot.press("ctrl+u", *"2", "enter")
        await pilot.pause()
        assert file.read_text() == "fps = 2\n" and app.pace.fps == 2.0
        assert not app.query(SettingLine) and app.focused is table
        assert "console.toml:1" in screen_text(app)

    on_stage(act)


def test_escape_leaves_everything_as_it_is(file: Path) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = await go_to(app, pilot, "alerts.queue")
        await pilot.press("enter", *"7", "escape")
        await pilot.pause()
        assert not file.exists() and app.focused is table and not app.query(SettingLine)

    on_stage(act)


def test_switches_and_enumerations_take_the_next_value(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# mine\n\n[alerts]\nqueue = 9  # few\n")

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await go_to(app, pilot, "bell")
        for value in ("bell", "osc9", "off"):
            await pilot.press("enter")
            await pilot.pause()
            assert app.chosen.settings.bell == value
        await go_to(app, pilot, "ascii")
        await pilot.press("enter")
        await pilot.pause()
        assert app.is_ascii
        assert all(letter.isascii() for letter in screen_text(app))  # what did not change as well
        assert "queue = 9  # few" in file.read_text() and file.read_text().startswith("# mine\n")
        await pilot.press("backspace")
        await pilot.pause()
        assert not app.is_ascii and "ascii" not in file.read_text()

    on_stage(act)


def test_a_theme_is_completed_and_worn() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app._read = lambda: type(app)._choose.__globals__["choose"]()  # no --theme
        await go_to(app, pilot, "theme")
        await pilot.press("enter", "ctrl+u", *"pap")
        await pilot.pause(0.1)
        await pilot.press("right", "enter")
        await pilot.pause()
        assert app.theme == "paper"

    on_stage(act)


def test_a_flag_that_comes_before_the_file_is_named(file: Path) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await go_to(app, pilot, "theme")  # the stage has --theme dark
        await pilot.press("enter", "ctrl+u", *"paper", "enter")
        await pilot.pause()
        assert file.read_text() == 'theme = "paper"\n' and app.theme == "dark"
        assert any("--theme overrides it" in note.message for note in app.notices)

    on_stage(act)


def test_a_file_with_a_mistake_is_not_written_to(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("fps 3\n")

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await go_to(app, pilot, "ascii")
        await pilot.press("enter")
        await pilot.pause()
        assert file.read_text() == "fps 3\n" and not app.is_ascii
        assert any("console.toml:1" in (note.title or "") for note in app.notices)

    on_stage(act)


def test_a_long_name_stands_apart_from_what_it_is() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await go_to(app, pilot, "alerts.sync_wait_p99_ms")
        assert "sync_wait_p99_ms p99 of the host's wait" in screen_text(app)
        await go_to(app, pilot, "theme")
        text = " ".join(screen_text(app).replace("│", " ").split())
        assert "one of dark, colour-blind-light" in text and "terminal default dark" in text

    on_stage(act, size=(80, 24))
