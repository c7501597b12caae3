"""A light terminal gets the light theme, without a wait and without a lost key."""

import codecs
import sys
from pathlib import Path

import pytest
from pseudo_terminal import PseudoTerminal

from loraconsole.console.terminal import background
from loraconsole.console.terminal.background import BackgroundReader, is_light

WHITE = b"\x1b]11;rgb:ffff/ffff/ffff\x07"


def reader() -> tuple[BackgroundReader, list[bool]]:
    found: list[bool] = []
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return BackgroundReader(decoder, found.append), found


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("ffff", "ffff", "ffff"), True),
        (("ff", "ff", "ff"), True),
        (("f", "f", "e"), True),
        (("fdf6", "e3e3", "c0c0"), True),  # paper
        (("0000", "0000", "0000"), False),
        (("00", "2b", "36"), False),
        (("0000", "0000", "ffff"), False),  # blue is dark
    ],
)
def test_light_is_what_the_eye_calls_light(parts: tuple[str, str, str], expected: bool) -> None:
    assert is_light(*parts) is expected


@pytest.mark.parametrize("end", [b"\x07", b"\x1b\\"])
@pytest.mark.parametrize("cut", range(2, 27))
def test_a_reply_in_two_pieces_among_keys_is_taken_out(cut: int, end: bytes) -> None:
    decoder, found = reader()
    reply = b"\x1b]11;rgb:ffff/ffff/ffff" + end
    data = b"a\xc3\xa4" + reply + b"z"
    first, second = data[: 3 + min(cut, len(reply))], data[3 + min(cut, len(reply)) :]
    assert decoder.decode(first) + decoder.decode(second) == "aäz"
    assert found == [True]


def test_a_terminal_that_does_not_reply_keeps_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, found = reader()
    assert decoder.decode(b"\x1b") == "\x1b"  # escape is not held
    assert decoder.decode(b"\x1b[A") == "\x1b[A"
    held = decoder.decode(b"\x1b]")  # alt+], or the begin of a reply
    assert held + decoder.decode(b"x") == "\x1b]x"
    monkeypatch.setattr(background.time, "monotonic", lambda: decoder._until + 1.0)
    assert decoder.decode(b"\x1b]") == "\x1b]"
    assert decoder.decode(WHITE) == WHITE.decode()
    assert found == []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("says", "options", "origin"),
    [
        ("rgb:ffff/ffff/ffff", (), "light terminal"),
        ("rgb:1e1e/1e1e/1e1e", (), "default"),
        ("", (), "default"),
        ("rgb:ffff/ffff/ffff", ("--theme", "ember"), "--theme"),
    ],
)
def test_the_theme_follows_the_terminal_unless_one_is_chosen(
    says: str, options: tuple[str, ...], origin: str, home: Path
) -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "--mock", *options]
    terminal = PseudoTerminal(command, (140, 40), background=says)
    try:
        terminal.wait_for("q Quit")
        terminal.pump(0.5)
        terminal.send(",")
        terminal.wait_for("low_bandwidth")
        terminal.pump(0.5)
        row = next(row for row in terminal.text.splitlines() if row.startswith("│ theme"))
        assert origin in row
        assert ("light" in row) == (origin == "light terminal")
        terminal.send("q")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()
