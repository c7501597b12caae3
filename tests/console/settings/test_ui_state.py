"""What a person came to last time is there again, and gives way to what is said."""

import asyncio
from pathlib import Path

import pytest
from stage import RUN
from textual.pilot import Pilot

from loraconsole.console.paths import config_directory, state_directory
from loraconsole.console.settings.ui_state import UiState
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.widgets.table import TablePane
from loraconsole.pipeline.config import Config


def visit(*keys: str, theme: str | None = None) -> tuple[str, str, bool]:
    """The theme and the order of the live batch after these keys, in a console of its own."""

    async def main() -> tuple[str, str, bool]:
        app = ConsoleApp(Config(run=RUN), theme=theme, ui_state=UiState.remembered())
        async with app.run_test() as pilot:
            pilot: Pilot[str]
            await pilot.press("2", *keys)
            await pilot.pause()
            table = app.active_panel.query_one(TablePane)
            column = table.sort_column.title if table.sort_column else ""
            return app.theme, column, table.reversed

    return asyncio.run(main())


def test_theme_and_order_are_those_of_last_time() -> None:
    first = visit()
    assert first == ("dark", "", False)
    changed = visit("t", "s", "p", "S")
    assert changed[0] != "dark" and changed[1]
    assert visit() == changed
    assert visit("s", "a")[1] != changed[1]
    assert visit("t")[0] != changed[0]


def test_what_is_said_wins() -> None:
    worn, _, _ = visit("t")
    assert visit(theme="paper")[0] == "paper"
    config_directory().mkdir(parents=True)
    (config_directory() / "console.toml").write_text('theme = "paper"\n')
    assert visit()[0] == "paper"
    assert worn != "paper"


@pytest.mark.parametrize("broken", [b"", b"{", b'{"theme": 3}', b"\xff"])
def test_a_broken_file_is_none(broken: bytes) -> None:
    path = state_directory() / "habits.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(broken)
    assert visit() == ("dark", "", False)
    assert visit("t")[0] == visit()[0] != "dark"


def test_a_home_that_cannot_be_written_to_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert visit("t")[0] != "dark"
    assert visit()[0] == "dark"
