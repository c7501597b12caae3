"""A setting is written into the file as a person would: its line changes, everything else stays."""

from pathlib import Path
from typing import Any

import pytest

from loraconsole.console.settings.setting_file import choices_of, parse_setting, write_setting
from loraconsole.console.settings.settings import read_settings, setting_fields, settings_path
from loraconsole.console.settings.toml_document import Document, DocumentError
from loraconsole.console.settings.toml_edit import drop_value, set_value, toml_value
from loraconsole.pipeline.errors import OperatorError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def edited(text: str, name: str, value: Any) -> str:
    document, names = Document.parse(text, "c.toml"), name.split(".", 1)
    return drop_value(document, names) if value is None else set_value(document, names, value)


@pytest.mark.parametrize(
    ("text", "name", "value", "wanted"),
    [
        ("", "fps", 4.0, "fps = 4\n"),
        ("# mine\nfps = 5  # slow # link\n", "fps", 2.5, "# mine\nfps = 2.5  # slow # link\n"),
        ('theme = "a#b" # x\n', "theme", 'p"q', 'theme = "p\\"q" # x\n'),
        ("  fps=5\n", "fps", 6.0, "  fps=6\n"),
        ("ascii = false\n", "ascii", True, "ascii = true\n"),
        ('"fps" = 5\n', "fps", 6.0, '"fps" = 6\n'),
        # a key that is not there yet
        ("mouse = true\n", "fps", 6.0, "mouse = true\nfps = 6\n"),
        (
            "[alerts]\nqueue = 3 # q\n\n[keys]\npause = 'p'\n",
            "alerts.disk_gib",
            0.5,
            "[alerts]\nqueue = 3 # q\ndisk_gib = 0.5\n\n[keys]\npause = 'p'\n",
        ),
        ("[alerts]  # none yet\n", "alerts.queue", 7, "[alerts]  # none yet\nqueue = 7\n"),
        ("mouse = true\n", "alerts.queue", 7, "mouse = true\n\n[alerts]\nqueue = 7\n"),
        ("alerts.queue = 3\n", "alerts.disk_gib", 7.0, "alerts.queue = 3\nalerts.disk_gib = 7\n"),
        (
            "# limits\n[alerts]\nqueue = 3\n",
            "fps",
            3.0,
            "# limits\nfps = 3\n\n[alerts]\nqueue = 3\n",
        ),
        (
            "# mine\n\n# limits\n[alerts]\nqueue = 3\n",
            "fps",
            3.0,
            "# mine\n\nfps = 3\n\n# limits\n[alerts]\nqueue = 3\n",
        ),
        ("# fps = 9\n", "fps", 3.0, "# fps = 9\nfps = 3\n"),
        # the default again
        ("fps = 3 # slow\nascii = true\n", "fps", None, "ascii = true\n"),
        ("[alerts]\nqueue = 3\n", "alerts.queue", None, "[alerts]\n"),
        ("ascii = true\n", "fps", None, "ascii = true\n"),
        ('[keys]\npause = ["p", "x"] # two\n', "keys.pause", "x", '[keys]\npause = "x" # two\n'),
    ],
)
def test_one_line_changes_and_everything_else_stays(
    text: str, name: str, value: Any, wanted: str
) -> None:
    assert edited(text, name, value) == wanted


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("alerts = {queue = 3}\n", "alerts.queue", 7),
        ("alerts = {queue = 3}\n", "alerts.disk_gib", 7.0),
        ('theme = """\nx"""\n', "theme", "dark"),
        ('[keys]\npause = ["p",\n "x"]\n', "keys.pause", "y"),
        ('[keys]\npause = ["p",\n "x"]\n', "keys.pause", None),
    ],
)
def test_what_would_have_to_be_rewritten_is_refused(text: str, name: str, value: Any) -> None:
    with pytest.raises(DocumentError, match="by hand"):
        edited(text, name, value)


def test_values_are_written_as_toml_reads_them() -> None:
    for value in (True, False, 5, 5.0, 0.1, 1e300, "dark", 'a"b\\c', "ümlaut"):
        document = Document.parse(f"x = {toml_value(value)}", "c.toml")
        assert document.values["x"] == value


def test_the_file_is_made_and_kept_from_others() -> None:
    assert write_setting("fps", 4.0) == settings_path()
    assert settings_path().stat().st_mode & 0o777 == 0o600
    assert settings_path().parent.stat().st_mode & 0o777 == 0o700
    assert read_settings().settings.fps == 4.0
    settings_path().chmod(0o644)
    write_setting("alerts.queue", 7)
    assert settings_path().stat().st_mode & 0o777 == 0o644  # as its owner left it
    assert read_settings().settings.alerts.queue == 7
    assert [path.name for path in settings_path().parent.iterdir()] == ["console.toml"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles.toml"
    dotfiles.write_text("fps = 3\n")
    settings_path().parent.mkdir(parents=True)
    settings_path().symlink_to(dotfiles)
    write_setting("fps", 4.0)
    assert settings_path().is_symlink() and dotfiles.read_text() == "fps = 4\n"


def test_a_file_that_cannot_be_read_or_written_is_left_as_it_is(tmp_path: Path) -> None:
    settings_path().parent.mkdir(parents=True)
    settings_path().write_text("fps 3\n")
    with pytest.raises(OperatorError, match=r"console\.toml:1"):
        write_setting("fps", 4.0)
    assert settings_path().read_text() == "fps 3\n"
    settings_path().unlink()
    settings_path().mkdir()
    with pytest.raises(OperatorError, match=r"console\.toml"):
        write_setting("fps", 4.0)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("fps", " 2.5 ", 2.5),
        ("ascii", "on", True),
        ("ascii", "No", False),
        ("bell", "osc9", "osc9"),
        ("theme", "paper", "paper"),
        ("alerts.queue", "3", 3.0),
    ],
)
def test_a_value_is_read_as_its_type(name: str, text: str, value: Any) -> None:
    assert parse_setting(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("fps", "99", "99 is not a number, 0.5 to 30"),
        ("fps", "fast", "fast is not a number, 0.5 to 30"),
        ("fps", "", "nothing is not a number"),
        ("fps", "nan", "nan is not a number"),
        ("ascii", "maybe", "maybe is not true or false"),
        ("bell", "loud", 'loud is not one of "off"'),
        ("theme", "papr", "no theme papr; did you mean paper? there are dark"),
        ("alerts.queue", "-1", "-1 is not a"),
    ],
)
def test_a_wrong_value_is_refused_with_those_allowed(name: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match="") as refused:
        parse_setting(name, text)
    assert str(refused.value).startswith(why)


def test_switches_and_enumerations_have_choices() -> None:
    assert choices_of("ascii") == (False, True) and choices_of("bell") == ("off", "bell", "osc9")
    assert all(choices_of(name) == () for name in ("fps", "theme", "alerts.queue", "keys.pause"))
    assert set(choices_of("mouse")) <= {False, True} and "mouse" in setting_fields()
