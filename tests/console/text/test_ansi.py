"""Colours of a line of a log are kept; whatever else it would do to the terminal is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.text import ansi, units
from loraconsole.console.text.lines import broken
from loraconsole.console.ui.panels.logs import LogPane, log_line, wrapped_line
from loraconsole.pipeline.messages import LogLine, LogLines


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("plain", (("plain", "text"),)),
        ("\x1b[31mred\x1b[0m and \x1b[1;32mgreen", (("red", "bad"), (" and ", "text"))),
        ("\x1b[1mbold\x1b[m not", (("bold", "title"), (" not", "text"))),
        ("\x1b[38;5;1mone of 256", (("one of 256", "text"),)),
        ("\x1b[2J\x1b[31m\x1b]0;title\x07a\x1b[Hb\x9b1mc", (("ab1mc", "bad"),)),
    ],
)
def test_colours_become_inks(text: str, spans: tuple[tuple[str, str], ...]) -> None:
    assert ansi.styled_spans(text, "text")[: len(spans)] == spans


@given(st.lists(st.sampled_from(["\x1b", "[", "31", "m", "]0;", "\x07", "2J", "a ", "日", "\x9b"])))
def test_no_command_is_left_in_spans(pieces: list[str]) -> None:
    spans = ansi.styled_spans("".join(pieces), "text")
    said = "".join(text for text, _ in spans)
    assert said.isprintable()
    for width in (4, 17):
        lines = broken(spans, units.wrap(said, width))
        whole = "".join(text for line in lines for text, _ in line.spans)
        assert "".join(whole.split()) == "".join(said.split())


def test_a_wrapped_line_keeps_them() -> None:
    text = "one \x1b[31m" + "red " * 30 + "\x1b[0mlast"
    entry = LogLine(1, 0.0, "router", "INFO", text)
    assert {ink for said, ink in log_line(entry, 80).spans if "red" in said} == {"bad"}
    first, *_, last = wrapped_line(entry, 80)
    assert ("one ", "text") in first.spans and first.spans[-1][1] == "bad"
    assert last.spans[-1] == ("last", "text")


def test_they_are_seen_and_searched_as_what_they_say() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        number = app.board.logs[-1].number + 1
        line = LogLine(number, app.now, "router", "INFO", "all \x1b[31mis\x1b[0m lost\x1b[2J")
        app.store.fold_message(LogLines((line,)), app.now)
        app.show()
        await pilot.pause()
        assert "all is lost" in screen_text(app)
        await pilot.press("slash", *"all", "space", *"is", "space", *"lost", "enter")
        assert app.active_panel.query_one(LogPane)._kept == [line]

    on_stage(act, panel="Logs")
