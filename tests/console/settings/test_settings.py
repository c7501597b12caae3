"""The settings' file: what is right in it holds, what is wrong is named with its line."""

import asyncio
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import pytest
from msgspec import Meta
from stage import StagedApp, screen_text, staged, wait

from loraconsole.console.settings.keymap import check_key_map, key_name, with_known_keys
from loraconsole.console.settings.settings import (
    Settings,
    choose,
    example,
    read_settings,
    setting_fields,
    settings_path,
    words_for,
)
from loraconsole.console.settings.toml_document import Document, DocumentError
from loraconsole.console.state.alerts import AlertLimits
from loraconsole.console.ui.bindings import catalogue
from loraconsole.pipeline.errors import UsageError


@pytest.fixture
def file(home: None) -> Path:
    settings_path().parent.mkdir(parents=True)
    return settings_path()


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "settings", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


# --- lines --------------------------------------------------------------------------------------


def test_a_documents_keys_know_their_lines() -> None:
    text = "\n".join(
        [
            "a = 1",
            "# b = 2",
            'text = """',
            "c = 3",
            '"""',
            "[table]",
            'd = "[no]"',
            "[table.inner]",
            '"e.f" = [',
            "  1,",
            "]",
            "g = { h = 1, i = 2 }",
            "x.y = 4",
        ]
    )
    lines = Document.parse(text, "x.toml").lines
    assert lines == {
        ("a",): 1,
        ("text",): 3,
        ("table",): 6,
        ("table", "d"): 7,
        ("table", "inner"): 8,
        ("table", "inner", "e.f"): 9,
        ("table", "inner", "g"): 12,
        ("table", "inner", "g", "h"): 12,
        ("table", "inner", "g", "i"): 12,
        ("table", "inner", "x", "y"): 13,
    }


@pytest.mark.parametrize(("text", "line"), [("a = 1\nb = = 2\n", 2), ('a = 1\nb = "x\n', 2)])
def test_what_is_not_toml_is_named_with_its_line(text: str, line: int) -> None:
    with pytest.raises(DocumentError) as error:
        Document.parse(text, "x.toml")
    assert error.value.problem.line == line
    assert str(error.value).startswith(f"x.toml:{line}: ")


# --- the file -----------------------------------------------------------------------------------


def test_without_a_file_the_defaults_hold(home: None) -> None:
    chosen = choose()
    assert chosen.settings == Settings() and chosen.problems == ()
    assert {row.origin for row in chosen.table} == {"default"}


def test_the_file_then_the_environment_then_flags(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('theme = "paper"\nfps = 8\n\n[alerts]\nqueue = 3\n\n[keys]\npause = "p"\n')
    chosen = choose()
    assert (chosen.settings.theme, chosen.settings.fps) == ("paper", 8.0)
    assert chosen.settings.alerts == AlertLimits(queue=3)
    assert chosen.settings.keys == {"pause": "p"}
    origins = {row.name: row.origin for row in chosen.table}
    assert origins["theme"] == "console.toml:1" and origins["alerts.queue"] == "console.toml:5"
    assert origins["keys.pause"] == "console.toml:8" and origins["bell"] == "default"
    monkeypatch.setenv("NO_COLOR", "")
    assert choose().settings.theme == "monochrome"
    chosen = choose(theme="ember", fps=2.0, ascii=True)
    assert (chosen.settings.theme, chosen.settings.fps, chosen.settings.ascii) == ("ember", 2, True)
    assert chosen.origins["theme"] == "--theme" and chosen.origins["ascii"] == "--ascii"


@pytest.mark.parametrize(
    ("term", "colorterm", "theme"),
    [
        *(("linux", "", "terminal"), ("xterm", "", "terminal"), ("xterm-16color", "", "terminal")),
        *(("xterm-256color", "", "dark"), ("xterm-kitty", "", "dark"), ("", "", "terminal")),
        ("screen", "truecolor", "dark"),
    ],
)
def test_a_terminal_of_sixteen_colours_shows_its_own(
    term: str, colorterm: str, theme: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLORTERM", colorterm)
    assert choose().settings.theme == theme
    file.write_text('theme = "ember"')
    assert choose().settings.theme == "ember"  # who has chosen has chosen
    assert choose(theme="paper").settings.theme == "paper"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('fps = "fast"\n', 1, "fps: 'fast' is not a number, 0.5 to 30"),
        ("\nfps = 99\n", 2, "fps: 99 is not a number, 0.5 to 30"),
        ("ascii = 1\n", 1, "ascii: 1 is not true or false"),
        ('bell = "loud"\n', 1, """bell: 'loud' is not one of "off", "bell", "osc9\""""),
        (
            "font = 3\n",
            1,
            "font: no such setting; there are theme, fps, low_bandwidth, ascii, mouse, ",
        ),
        ("fsp = 3\n", 1, "fsp: no such setting; did you mean fps? there are theme, fps"),
        ("[alerts]\n\nqueue = -1\n", 3, "alerts.queue: -1 is not a number, 0 or more"),
        ("[alerts]\nqueues = 1\n", 2, "alerts.queues: no such setting; did you mean queue? "),
        ("alerts = 3\n", 1, "alerts: is a table"),
        ("keys = 3\n", 1, "keys: is a table"),
        ('[keys]\npaus = "p"\n', 2, "keys.paus: no binding 'paus'; did you mean pause?"),
        ('[keys]\npause = "hyperspace"\n', 2, "'hyperspace' is no key; keys are like x, ?"),
        ("[keys]\npause = 3\n", 2, "keys.pause: is a key or a list of keys, as text"),
        ('[keys]\nredraw = "r"\n', 2, "'r' is typed in lines of text too"),
        ('[keys]\npause = "t"\n', 2, "t is next-theme's already where both work"),
        ('[keys]\nsort = "x"\n', 2, "x is abort's already where both work"),
        ("fps 3\n", 1, "Expected '='"),
    ],
)
def test_a_wrong_entry_is_named_and_the_rest_holds(
    file: Path, text: str, line: int, what: str
) -> None:
    file.write_text(text)
    chosen = with_known_keys(read_settings(), catalogue())
    (problem,) = chosen.problems
    assert what in problem.what and problem.line == line
    assert chosen.settings == Settings()


@pytest.mark.parametrize("fps", [0.0, -1.0, 1000.0, float("nan")])
def test_a_flag_that_is_not_allowed_is_wrong_usage(fps: float, home: None) -> None:
    with pytest.raises(UsageError, match=r"--fps: .* is not a number, 0\.5 to 30"):
        choose(fps=fps)


def test_what_is_right_beside_what_is_wrong_holds(file: Path) -> None:
    file.write_text('theme = "ember"\nfps = "no"\n[keys]\npause = ["p", "f5"]\nnone = "x"\n')
    chosen = with_known_keys(read_settings(), catalogue())
    assert chosen.settings == Settings(theme="ember", keys={"pause": "p,f5"})
    assert [problem.line for problem in chosen.problems] == [2, 5]


def test_the_example_is_the_defaults_and_every_setting_is_in_it(file: Path) -> None:
    file.write_text(example())
    chosen = read_settings()
    assert chosen.settings == Settings() and chosen.problems == ()
    values = tomllib.loads(example())
    for name in setting_fields():
        table, _, key = name.rpartition(".")
        assert key in (values[table] if table else values)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Annotated[int, Meta(ge=1)], "a whole number, 1 or more"),
        (Annotated[int, Meta(ge=1, le=9)], "a whole number, 1 to 9"),
        (Annotated[float, Meta(ge=0.5, le=30)], "a number, 0.5 to 30"),
        (Annotated[float, Meta(description="any")], "a number"),
        (Annotated[bool, Meta()], "true or false"),
        (Annotated[Literal["a", "b"], Meta()], 'one of "a", "b"'),
    ],
)
def test_what_is_allowed_is_said_of_each_type(kind: Any, words: str) -> None:
    assert words_for(kind, get_args(kind)[1]) == words


def test_every_setting_says_what_it_is_and_what_is_allowed() -> None:
    names = {field.name for field in msgspec.structs.fields(Settings)} - {"keys", "alerts"}
    names |= {f"alerts.{field.name}" for field in msgspec.structs.fields(AlertLimits)}
    assert set(setting_fields()) == names
    assert all(help and allowed for _, _, help, allowed in setting_fields().values())


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(("?", "question_mark"), ("x", "x"), ("X", "X"), ("ctrl+x", "ctrl+x"), ("F5", "f5")),
        *(("Ctrl+PageUp", "ctrl+pageup"), ("comma", "comma"), ("space", "space")),
        *(("ctrl+shift+left", "ctrl+shift+left"), ("nokey", None), ("mega+x", None)),
    ],
)
def test_keys_may_be_written_as_people_write_them(written: str, name: str | None) -> None:
    assert key_name(written) == name


def test_two_bindings_may_change_places() -> None:
    good, wrong = check_key_map({"pause": "t", "next-theme": "space"}, catalogue())
    assert wrong == {} and good == {"pause": "t", "next-theme": "space"}


def test_every_binding_has_an_id_a_description_and_one_meaning() -> None:
    meanings: dict[str, tuple[str, str]] = {}
    for key in catalogue():
        at = f"{key.node.__name__}: {key.action}"
        assert key.id, f"{at} has no id"
        assert key.description, f"{at} has no description"
        assert meanings.setdefault(key.id, (key.action, key.group)) == (key.action, key.group), at


def test_a_key_map_is_what_works_and_what_is_shown(file: Path) -> None:
    file.write_text('[keys]\npause = "p"\n"show-batch" = ["b", "2"]\nabort = "ctrl+x"\n')

    async def act() -> None:
        async with staged() as (app, pilot):
            assert " p Pause" in screen_text(app)
            await pilot.press("space")
            assert not app.is_paused
            await pilot.press("p")
            assert app.is_paused
            await pilot.press("b")
            await pilot.pause()
            assert app.active_panel.NAME == "Batch"
            assert "^x Abort" in screen_text(app)
            await pilot.press("question_mark")
            await pilot.pause()
            (row,) = [
                row for row in screen_text(app).splitlines() if "Abort" in row and "abort" in row
            ]
            assert "^x* Abort" in row

    asyncio.run(act())


# --- on the screen ------------------------------------------------------------------------------


def test_comma_shows_what_holds_and_what_is_wrong(file: Path) -> None:
    file.write_text('bell = "bell"\nfps = 100\n')

    async def act() -> None:
        async with staged() as (app, pilot):
            mistake = "console.toml:2: fps: 100 is not a number"
            await wait(lambda: any(mistake in note.message for note in app.notices))
            await pilot.press("comma")
            await pilot.pause()
            text = screen_text(app)
            assert "console.toml:1" in text and "bell" in text and "1 error" in text
            assert "console.toml:2: fps" in " ".join(text.split())

    asyncio.run(act())


def test_a_change_of_the_file_holds_at_once(file: Path) -> None:
    async def act() -> None:
        app = StagedApp(theme=None)
        async with app.run_test(size=(100, 30)) as pilot:
            assert app.theme == "dark"
            file.write_text('theme = "paper"\nascii = true\n[keys]\npause = "p"\n')
            app._look_around()
            await pilot.pause()
            assert app.theme == "paper" and "p Pause" in screen_text(app)
            await pilot.press("t")
            assert any(f"theme {app.theme} (" in notice.message for notice in app.notices)
            worn = app.theme
            file.write_text('theme = "paper"\n[alerts]\nqueue = 5\n')
            app._look_around()
            assert app.theme == worn  # the key has the last word until the file names another
            assert app.alert_book.limits.queue == 5
            assert not app.is_ascii

    asyncio.run(act())


# --- the verb -----------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_verb_shows_checks_and_explains(file: Path) -> None:
    file.write_text('theme = "paper"\n')
    shown = cli()
    assert shown.returncode == 0 and "paper" in shown.stdout and "console.toml:1" in shown.stdout
    document = json.loads(cli("--json").stdout)
    assert document["settings"]["theme"] == {"value": "paper", "from": "console.toml:1"}
    assert document["problems"] == [] and document["path"] == str(file)
    assert cli("--path").stdout.strip() == str(file)
    assert cli("--check").returncode == 0
    file.write_text('theme = "neon"\nfps = 0\n')
    wrong = cli("--check", "--json")
    assert wrong.returncode == 1
    problems = json.loads(wrong.stdout)["problems"]
    assert [problem["line"] for problem in problems] == [2, 1]
    assert "no theme 'neon'; there are dark" in problems[1]["what"]
    assert problems[0]["path"] == problems[1]["path"] != "console.toml"
    file.write_text("theme = 7\n")
    (problem,) = json.loads(cli("--check", "--json").stdout)["problems"]
    assert (
        problem["what"].startswith("theme: 7 is not one of dark, ") and "ember" in problem["what"]
    )
    keys = json.loads(cli("--keys", "--json").stdout)["keys"]
    assert {
        "id": "pause",
        "keys": ["space", "p", "P"],
        "does": "Pause",
        "where": "everywhere",
    } in keys
