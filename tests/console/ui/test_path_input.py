"""Paths are completed wherever one is typed into a form."""

import os
from pathlib import Path

import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot
from textual.widgets import Checkbox

from loraconsole.console.ui.widgets.path_input import (
    DIRECTORIES,
    PathInput,
    PathKind,
    paths_like,
)
from loraconsole.pipeline.messages import LoadAdapter


def test_a_path_is_completed_in_a_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sql-1", "sql-2", "tax"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "mine" / "sql-2" / "adapter_config.json").touch()
    (tmp_path / "mine" / "sql.jsonl").touch()

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("l", "tab", *"mi", "tab")
        given = app.screen.query_one("#path", PathInput)
        assert given.value == "mine/"  # the only one
        assert [each.word for each in given.candidates.found] == [
            f"mine/{name}/" for name in ("sql-1", "sql-2", "tax")
        ]
        await pilot.press("s", "tab")
        assert given.value == "mine/sql-"  # what they share
        await pilot.press("tab", "tab")
        assert given.value == "mine/sql-2/"
        await pilot.pause()
        assert "mine/sql-2/  adapter" in screen_text(app)
        await pilot.press("tab", "shift+tab", "shift+tab", "shift+tab")  # around
        assert given.value == "mine/sql-2/"
        await pilot.press("enter")
        (order,) = app.ordered
        assert isinstance(order, LoadAdapter) and order.path == str(tmp_path / "mine/sql-2")

    on_stage(act, panel="Adapters", size=(80, 24))


def test_tab_leaves_a_path_that_has_no_completion() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for text in ("", "/no/such"):
            await pilot.press("l", "tab", *text, "tab")
            assert isinstance(app.focused, Checkbox)
            await pilot.press("escape")

    on_stage(act, panel="Adapters")


def test_paths_are_found_by_their_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("Alpha", "beta", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / "beta" / name).touch()
    (tmp_path / "loop").symlink_to("loop")

    def words(begin: str, kind: PathKind) -> list[str]:
        return [each.word for each in paths_like(begin, kind)]

    assert words("~", DIRECTORIES) == words("~/", DIRECTORIES) == ["~/Alpha/", "~/beta/"]
    assert words("al", DIRECTORIES) == ["Alpha/"]
    assert words(".h", DIRECTORIES) == [".hidden/"]
    assert words("beta/", DIRECTORIES) == []
    assert words("beta/", PathKind(suffixes=(".jsonl",))) == ["beta/a.jsonl"]
    assert words(f"{tmp_path}/b", DIRECTORIES) == [f"{tmp_path}/beta/"]
    assert words("/no/such/x", DIRECTORIES) == []
    (tmp_path / "gamma").mkdir()  # read again, as the directory has changed
    os.utime(tmp_path, ns=(1, 1))
    assert words("g", DIRECTORIES) == ["gamma/"]
