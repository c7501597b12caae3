"""A console that was opened with --read-only sees everything and changes nothing."""

from typing import Any

import pytest
from stage import screen_text, wait, with_a_ring
from textual.pilot import Pilot

from loraconsole.console.commands.read_only import CHANGES, CHANGING_KEYS, READ_ONLY
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.bindings import catalogue
from loraconsole.console.ui.help import HelpDialog
from loraconsole.console.ui.line_commands import all_commands
from loraconsole.console.ui.widgets.command_syntax import candidates
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog
from loraconsole.console.ui.widgets.styles import MainScreen
from loraconsole.pipeline.messages import AskSnapshot, AskSpanEnds, AskText, Message, PlanAdapters

QUESTIONS = (AskSnapshot, AskText, AskSpanEnds, PlanAdapters)
KEYS = {
    "Batch": "2 x y",
    "Latency": "3 r",
    "Adapters, load": "4 down u",
    "Adapters, pin": "4 down p",
    "Adapters, verify": "4 down v",
    "Processes, restart": "8 j j r",
    "Processes, stop": "8 j j x",
    "Processes, drain": "8 d",
    "Processes, stop all": "8 X",
    "Prompt": "1 5 h i enter",
    "Bench": "6 n enter",
    "bench": "colon b e n c h space minus minus r o u n d s space 1 enter",
    "drain": "colon d r a i n enter",
    "scheduler": "colon s c h e d u l e r space l i f o enter",
    "profile": "colon p r o f i l e space s t a r t enter",
}
WORDS = ("Abort", "Record", "Load", "Unload", "Pin", "Verify", "Merge", "Send", "New run", "Drain")
"""As the footer shows such keys."""


@pytest.mark.slow
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_nothing_is_changed_and_it_says_why(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Message] = []
    asked: list[dict[str, Any]] = []

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        send = app.telemetry._send
        monkeypatch.setattr(
            app.telemetry,
            "_send",
            lambda name, message: (sent.append(message), send(name, message)),
        )
        await pilot.press("escape", *keys.split())
        why = "".join(READ_ONLY.split()).removeprefix("This")[:20]
        await wait(lambda: why in "".join(screen_text(app).split()))
        assert "READ-ONLY" in screen_text(app)

    with_a_ring(act, asked=asked, is_read_only=True)
    assert not asked
    assert [message for message in sent if not isinstance(message, QUESTIONS)] == []


def test_q_leaves_at_once() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("escape", "q")
        assert app.return_value == "leave"

    with_a_ring(act, is_read_only=True)


def test_what_it_refuses_is_not_offered() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        offered: set[str] = set()
        await pilot.press("escape")
        for key in "2345678":
            await pilot.press(key)
            await pilot.pause()
            found = candidates("", all_commands(app), app.board)
            offered |= {each.word for each in found}
            footer = screen_text(app).splitlines()[-1]
            assert not any(f" {word} " in f"{footer} " for word in WORDS), footer
            await pilot.press("escape", "question_mark")
            assert isinstance(app.screen, HelpDialog)
            rows = app.screen._lines(app.board, 100)
            keys = {row.spans[-1][0].strip() for row in rows if row.spans}
            assert "help" in keys and not keys & CHANGING_KEYS
            await pilot.press("escape")
        assert not offered & (set(CHANGES) | CHANGING_KEYS - {"record"})
        assert {"plan", "adapters", "scheduler", "logs", "record"} <= offered

    with_a_ring(act, is_read_only=True)


def test_every_key_that_gives_an_order_is_among_those_it_refuses() -> None:
    for key in catalogue():
        if key.node.__name__ in ("AdapterTable", "ProcessTable"):
            assert (key.id in CHANGING_KEYS) is (key.id != "plan")
    assert {key.id for key in catalogue()} >= CHANGING_KEYS


def test_no_form_opens_whose_answer_would_be_refused() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("escape")
        for keys in ("6 n", "4 l"):
            await pilot.press(*keys.split())
            await pilot.pause()
            assert isinstance(app.screen, MainScreen)

    with_a_ring(act, is_read_only=True)


def test_what_is_the_operators_own_is_still_asked_for_before_it_is_deleted() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await app.action_command("transcripts delete --all")
        await pilot.press("enter")
        await wait(lambda: isinstance(app.screen, ChoiceDialog))
        assert "will be deleted" in screen_text(app)
        await pilot.press("n")

    with_a_ring(act, is_read_only=True)
