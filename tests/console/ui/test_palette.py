"""The palette finds actions and things by parts of their names, and carries out what is chosen."""

import time
from pathlib import Path

import msgspec
import pytest
from stage import StagedApp, on_stage, screen_text, wait
from textual.pilot import Pilot

from loraconsole.console.text.fuzzy import Fuzzy
from loraconsole.console.text.near_words import did_you_mean, near_words
from loraconsole.console.ui.palette import PaletteDialog, PalettePane, Search
from loraconsole.console.ui.palette_entries import all_entries
from loraconsole.console.ui.panels.command_line import CommandLine
from loraconsole.console.ui.panels.settings import SettingTable
from loraconsole.console.ui.widgets.dialogs import LiveDialog
from loraconsole.pipeline.messages import Abort, AdapterTable


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def found(app: StagedApp) -> list[str]:
    """The titles that the palette lists."""
    return [entry.title for entry in app.screen.query_one(PalettePane).found]


def search(app: StagedApp, text: str) -> list[str]:
    return [entry.title for entry in Search(all_entries(app)).find(text)]


# --- matching -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "better", "worse"),
    [
        ("sql", "unload sql", "unload mysql"),  # a word before a part of one
        ("unload", "unload sql", "unloaded sql"),
        ("tok", "token", "stoked"),
        ("sql unload", "unload sql", "load sql"),  # in any order
        ("wrk0", "signal worker-0", "signal worker-1"),  # letters in order
        ("gtb", "go to batch", "go to prompt"),  # first letters of words
    ],
)
def test_a_title_is_found_by_parts_of_its_words(typed: str, better: str, worse: str) -> None:
    query = Fuzzy(typed)
    assert query.score(better) > query.score(worse)


def test_what_is_not_in_a_title_does_not_match_it() -> None:
    assert not Fuzzy("sql x").score("unload sql")
    assert not Fuzzy("lqs").score("unload sql")
    assert Fuzzy("screen").score("go to batch", "screen") < Fuzzy("batch").score("go to batch")


@pytest.mark.parametrize("typed", ["un sql", "sgnl", "wrk0", "gtb", "ql"])
def test_the_letters_that_match_are_marked(typed: str) -> None:
    name = {"sgnl": "Signal router", "wrk0": "Signal worker-0"}.get(typed, "Unload sql")
    marked = "".join(name[at] for at in sorted(Fuzzy(typed).places(name))).lower()
    assert marked == ("" if typed == "gtb" else typed.replace(" ", ""))


def test_a_misspelt_word_leads_to_the_nearest() -> None:
    known = ["unload", "reload", "load", "page-up", "pause"]
    assert near_words("unlaod", known)[0] == "unload"
    assert near_words("pa", known) == ["pause", "page-up"]  # what it starts, the shortest first
    assert near_words("xyzzy", known) == []
    assert did_you_mean("paus", known) == "did you mean pause?"
    assert did_you_mean("pa", known) == "did you mean pause or page-up?"
    assert did_you_mean("xyzzy", known) == ""


# --- what it finds ------------------------------------------------------------------------------


def test_a_name_finds_what_can_be_done_to_the_thing() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for verb in ("Open", "Unload", "Reload", "Pin", "Verify", "Unmerge"):
            assert f"{verb} sql" in search(app, "sql")[:6]
        assert search(app, "unload sql")[0] == "Unload sql"
        assert search(app, "pirate")[0] == "Open pirate"
        (opens,) = [entry for entry in all_entries(app) if entry.title == "Open pirate"]
        assert opens.help == "on device"
        assert search(app, "screen")[:2] == ["Go to Overview", "Go to Batch"]
        assert search(app, "worker")[0] == "Open worker-0"
        assert "Signal worker-0" in search(app, "worker")
        assert search(app, "fps")[0] == "Setting fps"
        assert search(app, "merge")[0] == "Merge"  # of the row under the cursor, before others
        assert search(app, "doctor")[0] == ": doctor"
        request = app.board.requests[0].view.request_id[-10:]
        assert search(app, request)[:2] == [f"Open request {request}", f"Abort request {request}"]
        assert not search(app, "zzzz")

    on_stage(act, panel="Adapters")


def test_typing_on_finds_what_typing_at_once_does() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        entries = all_entries(app)
        for text in ("unload sql", "worker", "go b", "re w"):
            step = Search(entries)
            for end in range(1, len(text) + 1):
                last = step.find(text[:end])
            assert last == Search(entries).find(text)
            assert step.find(text[:2]) == Search(entries).find(text[:2])  # and back

    on_stage(act)


def test_what_cannot_be_found_is_searched_as_it_was_meant() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+p", *"unlaod pirat")
        await pilot.pause()
        assert found(app)[0] == "Unload pirate"
        assert "no match for unlaod pirat; these match unload pirat" in screen_text(app)
        await pilot.press("ctrl+u", *"xyzzy")
        await pilot.pause()
        assert found(app) == [] and "no match" in screen_text(app)
        await pilot.press("enter")
        assert not isinstance(app.screen, PaletteDialog)

    on_stage(act)


def test_the_palette_has_every_action() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+p")
        await pilot.pause()
        titles = found(app)
        for wanted in (
            *("Go to Latency", "Pause", "Help", "Quit", "Sort", "Abort", "Filter"),
            *("Theme light", "Restart worker-0", "Stop the pipeline", "Save a picture"),
        ):
            assert wanted in titles

    on_stage(act, panel="Batch")


def test_every_action_on_adapters_is_in_the_palette_and_the_footer_shows_it() -> None:
    verbs = ("Load", "Unload", "Reload", "Pin", "Verify", "Merge", "Plan")

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        footer = screen_text(app).splitlines()[-1]
        assert all(verb in footer for verb in (*verbs, "Help", "Quit"))
        await pilot.press("ctrl+p", *"merge", "enter")
        # The base is not merged, and says so.
        await wait(lambda: any("merge" in note.message for note in app.notices))
        assert set(verbs) <= {entry.title for entry in all_entries(app)}

    on_stage(act, panel="Adapters", size=(80, 24))


# --- what it does -------------------------------------------------------------------------------


def test_a_thing_is_opened_wherever_it_is_listed() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        request = app.board.requests[3].view.request_id
        for typed, screen, name in (
            ("open pirate", "Adapters", "pirate"),
            ("open worker", "Processes", "worker-0"),
            (f"open {request[-10:]}", "Batch", f"request {request[-10:]}"),
        ):
            await pilot.press("ctrl+p", *typed, "enter")
            await pilot.pause()
            assert screen == app.active_panel.NAME
            assert isinstance(app.screen, LiveDialog) and app.screen._pane._title == name
            await pilot.press("escape")
        await pilot.press("ctrl+p", *"setting bell", "enter")
        await pilot.pause()
        row = app.active_panel.query_one(SettingTable).selected
        assert row is not None and row.name == "bell"

    on_stage(act)


def test_a_thing_that_a_filter_hides_is_shown() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.filter_panel("pirate")
        await pilot.press("ctrl+p", *"open sql", "enter")
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog) and app.screen._pane._title == "sql"

    on_stage(act, panel="Adapters")


def test_orders_about_things_are_given_after_a_yes() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        request = app.board.requests[0].view.request_id
        await pilot.press("ctrl+p", *f"abort {request[-10:]}", "enter")
        await pilot.pause()
        assert app.told == []
        await pilot.press("y")
        assert [o.request_id for o in app.told if isinstance(o, Abort)] == [request]
        await pilot.press("ctrl+p", *"pin sql", "enter")
        await pilot.pause()
        assert [type(order).__name__ for order in app.ordered] == ["PinAdapter"]
        await pilot.press("ctrl+p", *": trans", "enter")
        await pilot.pause()
        assert app.query_one(CommandLine).input.value == "transcripts "

    on_stage(act)


def test_a_theme_under_the_cursor_is_worn_until_the_palette_closes() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+p", *"theme paper")
        await wait(lambda: app.theme == "paper")
        await pilot.press("escape")
        assert app.theme == "dark" and app.ui_state.theme != "paper"
        await pilot.press("ctrl+p", *"theme paper", "enter")
        await wait(lambda: app.theme == "paper" == app.ui_state.theme)

    on_stage(act)


def test_the_palette_changes_the_policy_and_the_batch_shows_it() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert "policy fcfs" in screen_text(app)
        await pilot.press("ctrl+p", *"policy vtc", "enter")
        await wait(lambda: bool(app.ordered))
        assert [getattr(order, "policy", "") for order in app.ordered] == ["vtc_fair"]
        assert any("vtc_fair" in note.message for note in app.notices)
        app.advance(1.0)
        app.show()
        await pilot.pause()
        assert "policy vtc_fair" in screen_text(app)

    on_stage(act, panel="Batch")


def test_a_letter_is_answered_at_once_with_a_thousand_adapters() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        one = next(row.view for row in app.board.adapters if not row.is_base)
        names = [f"customer-support-{at}-formal-v2.17-rc{at}" for at in range(1000)]
        views = tuple(msgspec.structs.replace(one, name=name) for name in names)
        app.store.fold_message(AdapterTable(app.now, "base", views, one), app.now)
        app.show()
        began = time.process_time()
        searched = Search(all_entries(app))
        opened = time.process_time()
        assert len(searched.find("u")) > 1000
        answered = time.process_time()
        assert searched.find("unload 917")[0].title == f"Unload {names[917]}"
        assert opened - began < 0.5 and answered - opened < 0.5  # 19 and 8 ms measured

    on_stage(act)
