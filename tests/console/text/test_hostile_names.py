"""Names and reasons that would command a terminal: shown as escapes, sent nowhere as they are. What
is tried here sets a colour, and no more."""

import asyncio
import io
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.__main__ import report
from loraconsole.console.cli.inspect import _log_line
from loraconsole.console.cli.printing import say
from loraconsole.console.client.failed_adapters import describe_failure
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.text import units
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.messages import LogLine
from loraconsole.pipeline.runtime.text_output import json_text

HOSTILE = "pi\x1b[31mrate\x9b32m\u202e"
SHOWN = r"pi\x1b[31mrate\x9b32m\u202e"
COMMANDS = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e"}


def test_what_commands_is_shown_and_all_else_is_as_it_was() -> None:
    assert units.visible(HOSTILE) == SHOWN
    for text in ("名前", "é·─", "a\u3000b", "क्षि", "👩‍🚀", "one\N{NO-BREAK SPACE}word"):
        assert units.visible(text) == text
    assert units.visible("a\tb\nc") == r"a    b\x0ac"


def test_an_answer_loses_what_commands() -> None:
    answer = f"{HOSTILE}\x1b]0;t\x07 \u2067left\u2069\tright \ud800"
    assert units.clean(answer) == "pirate32m left    right "
    assert units.wrap(f"a {HOSTILE}", 40) == ["a pirate32m"]
    for text in ("名前 é·─", "क्षि 👩‍🚀", "one\N{NO-BREAK SPACE}word"):
        assert units.clean(text) == text


def test_no_verb_prints_it_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    report(OperatorError(f"no adapter {HOSTILE}", f"try {HOSTILE}"), False)
    say({}, f"adapter {HOSTILE} is loaded", False)
    _log_line(LogLine(1, 0.0, "INFO", "router", f"router: adapter {HOSTILE} failed"))
    said = "".join(capsys.readouterr())
    assert said.count(SHOWN) == 4
    assert not COMMANDS & set(said) - {"\n"}


def test_json_says_it_in_escapes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("utf-8", "latin-1"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        text = json_text(msgspec.json.encode([HOSTILE, "👩"]))
        assert json.loads(text) == [HOSTILE, "👩"]
        assert not COMMANDS & set(text) - set("\n")


class HostileStory(Scenario):
    """A scenario in which an adapter has that name."""

    def advance(self, now: float) -> Any:
        for at, message in super().advance(now):
            text = msgspec.json.encode(message).replace(
                b"pirate", json.dumps(HOSTILE)[1:-1].encode()
            )
            yield at, msgspec.json.decode(text, type=type(message))


def drawn(app: StagedApp) -> Iterator[str]:
    """What is written of every screen that is to be seen."""
    for screen in app.screen_stack:
        for strip in screen._compositor.render_strips():
            yield from (segment.text for segment in strip if not segment.control)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        *(("1",), ("2",), ("2", "enter"), ("3",), ("4",), ("4", "down", "enter"), ("4", "v")),
        *(("4", "down", "u"), ("4", "down", "r"), ("4", "down", "m"), ("5",), ("5", "escape")),
        *(("6", "b"), ("7",), ("7", "enter"), ("8",), ("9",), ("9", "enter"), ("ctrl+p",)),
        *(("4", "colon", *"unload pi", "tab"), ("1", "tab", "n", "n")),
    ],
    ids=" ".join,
)
def test_no_screen_sends_it_as_it_is(keys: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage.Scenario", HostileStory)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.notify(f"adapter {HOSTILE} failed", markup=False)
        await pilot.press(*keys)
        app.show()
        await pilot.pause()
        await asyncio.sleep(0.05)
        found = [text for text in drawn(app) if COMMANDS & set(text)]
        assert found == []
        if keys == ("4",):
            assert SHOWN[:10] in screen_text(app)

    on_stage(act)


def test_a_reason_is_one_line() -> None:
    class View:
        name, path, reason = HOSTILE, "/a", "one\ntwo"

    assert describe_failure(View()) == rf"adapter {SHOWN} failed: one\x0atwo (/a)"  # type: ignore[arg-type]
