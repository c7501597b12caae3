"""Prompt with many models: the picker, pages of answers, parameters, differences, the export."""

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stage import StagedApp, on_stage, screen_text, wait, with_a_ring
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from loraconsole.console.client.answer import Answer
from loraconsole.console.client.transcripts import open_default
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.text.lines import length
from loraconsole.console.text.word_diff import word_difference
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.chat.editor import PromptEditor
from loraconsole.console.ui.chat.model_picker import MANY, ModelPicker, PickerList
from loraconsole.console.ui.chat.parameters import ParameterForm, SystemEditor
from loraconsole.console.ui.panels.answer import AnswerPane, answer_captions, difference_hint
from loraconsole.console.ui.panels.answer_grid import ANSWER_LINES, AnswerGrid
from loraconsole.console.ui.panels.models import ModelsPane
from loraconsole.console.ui.panels.prompt import PromptPanel
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog
from loraconsole.console.ui.widgets.save_dialog import SaveDialog
from loraconsole.pipeline.messages import AdapterTable

pytestmark = pytest.mark.slow

THOUSAND = 1000
SIZES = [(80, 24), (120, 40), (200, 60)]
LONG = "customer-support-german-formal-v2.17-rc1-final"


def panel(app: ConsoleApp) -> PromptPanel:
    assert isinstance(app.active_panel, PromptPanel)
    return app.active_panel


def models(app: ConsoleApp) -> ModelsPane:
    return app.active_panel.query_one(ModelsPane)


def editor(app: ConsoleApp) -> PromptEditor:
    return app.active_panel.query_one(PromptEditor)


def grid(app: ConsoleApp) -> AnswerGrid:
    return app.active_panel.query_one(AnswerGrid)


def serve(app: StagedApp, adapters: int) -> None:
    """Makes the scenario one of this many adapters."""
    app.scenario = Scenario("busy", start=app.now, adapters=adapters)
    app.advance(1.0)
    app.show()


async def whole(app: ConsoleApp, pilot: Pilot[str]) -> None:
    """Waits until every answer is complete and shown."""
    await wait(lambda: bool(panel(app)._answers) and not panel(app).is_live)
    await wait(lambda: bool(grid(app).panes))
    await pilot.pause()


# --- the picker ---------------------------------------------------------------------------------


def test_one_of_a_thousand_models_is_found_by_letters_of_its_name_and_marked() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        serve(app, THOUSAND)
        await pilot.press("escape", "slash", *"0742", "space")
        await pilot.pause()
        assert "3 of 1 001 marked" in screen_text(app) and "1 match" in screen_text(app)
        await pilot.press(*"haiku", "space", "enter")  # typing begins another search
        await pilot.pause()
        assert models(app).marked[2:] == ["haiku", "tenant-0742"]
        assert editor(app).has_focus
        shown = screen_text(app)
        assert "4 of 1 001" in shown and "ctrl+g finds one" in shown
        first = shown.splitlines()[3]
        assert all(name in first for name in ("pirate", "[x] ● haiku", "[x] ● tenant-0742"))

    on_stage(act, panel="Prompt")


def test_a_letter_in_the_picker_of_a_thousand_takes_few_milliseconds() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        serve(app, THOUSAND)
        await pilot.press("ctrl+g")
        await pilot.pause()
        found = app.screen.query_one(PickerList)
        took = []
        for query in ("t", "te", "te4", "te42", "zz", "support"):
            began = time.process_time()
            found.search(query)
            took.append(1e3 * (time.process_time() - began))
        print(", ".join(f"{ms:.1f}" for ms in took), "ms")
        assert sorted(took)[-2] < 25.0

    on_stage(act, panel="Prompt")


def test_escape_leaves_the_marks_as_they_were() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        before = set(models(app).chosen)
        await pilot.press("ctrl+g", "space", "down", "space", "escape")
        await pilot.pause()
        assert models(app).chosen == before
        await pilot.press("ctrl+g", "space", "enter")
        await pilot.pause()
        assert len(models(app).chosen) == len(before) - 1  # the same keys do take marks away

    on_stage(act, panel="Prompt")


def test_the_picker_lists_marked_models_first_and_scrolls_to_the_last() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        serve(app, THOUSAND)
        models(app).choose(frozenset({"tenant-0900", "json"}))
        await pilot.press("ctrl+g")
        await pilot.pause()
        found = app.screen.query_one(PickerList)
        assert found.found[:3] == ["json", "tenant-0900", "SmolLM2-135M-Instruct"]
        await pilot.press(*["pagedown"] * 101)
        assert found.cursor == THOUSAND and "tenant-0991" in screen_text(app)
        await pilot.press("q", "q", "q")
        await pilot.pause()
        assert "no model matches" in screen_text(app)
        await pilot.press("down", "space", "enter")
        assert models(app).chosen == {"tenant-0900", "json"}

    on_stage(act, panel="Prompt", size=(80, 24))


def test_the_picker_opened_before_the_first_frame_has_the_marks_of_the_pane() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("5", "ctrl+g")  # as fast hands do
        await pilot.pause()
        picked = app.screen.query_one(PickerList)
        assert picked.chosen == models(app).chosen == {row.name for row in app.board.adapters[:2]}

    on_stage(act)


def test_a_click_marks_the_model_under_the_mouse() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+g")
        await pilot.pause()
        found = app.screen.query_one(PickerList)
        await pilot.click(PickerList, offset=(6, 4))
        assert found.found[3] in found.chosen

    on_stage(act, panel="Prompt")


def test_marking_all_asks_first_if_they_are_many() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        serve(app, THOUSAND)
        await pilot.press("escape", "a")
        await pilot.pause()
        assert isinstance(app.screen, ChoiceDialog) and "Mark 1 001 models?" in screen_text(app)
        await pilot.press("enter")  # enter alone is no
        assert len(models(app).chosen) == 2
        await pilot.press("slash", *"tenant-00", "ctrl+a")
        await pilot.pause()
        assert "Mark 100 models?" in screen_text(app)
        await pilot.press("y", "enter")
        await pilot.pause()
        assert len(models(app).chosen) == 102

    on_stage(act, panel="Prompt")


def test_the_pane_shows_marked_models_first_and_keeps_its_order_under_the_cursor() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        serve(app, THOUSAND)
        pane = models(app)
        await pilot.press("escape", "down", "down", "down", "down", "down")
        at = pane._places[pane._cursor].name
        await pilot.press("space")
        assert at in pane.chosen and pane._places[pane._cursor].name == at
        assert pane.size.height <= 6 and at in screen_text(app)  # it scrolls with the cursor
        await pilot.press("enter")
        app.show()
        await pilot.pause()
        assert pane._places[2].name == at

    on_stage(act, panel="Prompt")


def test_a_long_name_is_cut_and_the_others_stay() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        base, known = app.board.adapters[0].view, app.board.adapters[1].view
        names = ("a" * 190, LONG, "sql")
        views = tuple(msgspec.structs.replace(known, name=name) for name in names)
        app.store.fold_message(AdapterTable(app.now, "base", views, base), app.now)
        app.show()
        await pilot.pause()
        app.show()
        await pilot.pause()
        await pilot.press("ctrl+g")
        await pilot.pause()
        rows = screen_text(app).splitlines()
        assert any(LONG in row for row in rows) and any("aaa…" in row for row in rows)
        assert all(len(row) <= 80 for row in rows)

    on_stage(act, panel="Prompt", size=(80, 24))


# --- many answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_answer_is_on_a_page_and_has_six_lines(size: tuple[int, int]) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        names = [row.name for row in app.board.adapters]
        models(app).choose(frozenset(names))
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        await pilot.press("y")
        await whole(app, pilot)
        seen: list[str] = []
        for page in range(grid(app).num_pages):
            panes = grid(app).panes
            seen += [pane.answer.model for pane in panes]
            for pane in panes:
                assert pane.size.height - 2 >= ANSWER_LINES and pane.size.width >= 38
                assert pane.region in grid(app).region and pane.frames
            assert f"page {page + 1} of {grid(app).num_pages}" in screen_text(app)
            await pilot.press("pagedown")
            await pilot.pause()
        assert seen == names and grid(app).num_pages > 1
        await pilot.press("pageup", "escape", "left_square_bracket")
        assert grid(app).page == max(0, grid(app).num_pages - 3)

    with_a_ring(act, pace=2000.0, size=size, adapters=60)


def test_more_than_a_few_requests_are_sent_only_after_a_question() -> None:
    asked: list[dict[str, Any]] = []

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        names = [row.name for row in app.board.adapters]
        models(app).choose(frozenset(names[: MANY + 1]))
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        assert f"Send {MANY + 1} requests?" in screen_text(app)
        await pilot.press("n")
        await pilot.pause()
        assert editor(app).text == "Hello" and not asked
        models(app).choose(frozenset(names[:MANY]))
        await pilot.press("enter")
        await whole(app, pilot)
        assert len(asked) == MANY and editor(app).text == ""

    with_a_ring(act, pace=2000.0, asked=asked, adapters=20)


def test_zoom_shows_one_answer_after_the_other_alone() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("z")  # typed
        await pilot.press(*"oom", "enter")
        await whole(app, pilot)
        await pilot.press("escape", "tab", "z")
        await pilot.pause()
        assert [pane.answer.model for pane in grid(app).panes] == ["SmolLM2-135M-Instruct"]
        assert grid(app).panes[0].size.height > 18 and not editor(app).display
        await pilot.press("z")
        await pilot.pause()
        assert [pane.answer.model for pane in grid(app).panes] == ["pirate"]
        await pilot.press("escape")
        await pilot.pause()
        assert len(grid(app).panes) == 2 and editor(app).display

    with_a_ring(act, pace=2000.0, size=(80, 24))


def test_the_caption_has_first_token_and_count_beside_the_reason() -> None:
    answer = Answer("sql", "● sql", asked_at=0.0)
    for _ in range(60):
        answer.add("x")
    answer.first_at = 0.25
    answer.end("length")
    answer.ended_at = 2.25
    for above in (60, 30, 18, 0):
        shown = answer_captions(answer, above, 38 - 5)
        text = "".join(part for part, _ in (*shown[0], *shown[1]))
        assert length(shown[0]) <= above and length(shown[1]) <= 38 - 5
        assert all(fact in text for fact in ("first 0.25 s", "60 tokens", "length"))
        assert ("tok/s" in text) is (above > 0)  # the first to give way


def test_two_answers_are_compared_word_by_word() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        base, pirate = grid(app).panes
        pirate.focus()
        await pilot.press("d")
        await pilot.pause()
        styles = {style for row in pirate._drawn for _, style in row.spans}
        assert {"insert", "delete"} <= styles
        assert "words  against ○ SmolLM2" in screen_text(app)
        assert "First, a thought." in _text_of(pirate, "delete")
        assert "hoist the colours" in _text_of(pirate, "insert")
        await pilot.press("d")
        assert not _text_of(pirate, "delete")
        base.focus()
        await pilot.press("d")
        await pilot.pause()
        assert "hoist the colours" in _text_of(base, "delete")  # the first against the second

    with_a_ring(act, pace=2000.0)


def test_the_size_of_a_difference_is_shown_in_any_width() -> None:
    against = Answer("base", "○ SmolLM2-135M-Instruct")
    difference = word_difference("one two", "one three four")
    texts = []
    for room in (60, 30, 16):
        found = difference_hint(difference, against, room)
        assert length(found) <= room
        texts.append("".join(text for text, _ in found))
    assert texts[0] == "+2 -1 words  against ○ SmolLM2-135M-Instruct"
    assert texts[1].startswith("+2 -1 words  against ○ SmolLM") or texts[1] == "+2 -1 words"
    assert texts[2] == "+2 -1 words"
    same = difference_hint(word_difference("one", "one"), against, 60)
    assert same[0] == ("no differences", "dim")


def test_without_colours_the_differing_words_have_marks() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        grid(app).panes[1].focus()
        await pilot.press("d")
        await pilot.pause()
        assert "[-" in screen_text(app) and "{+" in screen_text(app)

    with_a_ring(act, pace=2000.0, ascii=True)


def test_one_answer_alone_says_that_there_is_nothing_to_compare() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        models(app).choose(frozenset({"sql"}))
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        grid(app).panes[0].focus()
        await pilot.press("d")
        await pilot.pause()
        assert "only one answer" in screen_text(app)

    with_a_ring(act, pace=2000.0)


def _text_of(pane: AnswerPane, style: str) -> str:
    return " ".join(text for row in pane._drawn for text, other in row.spans if other == style)


# --- parameters ---------------------------------------------------------------------------------


def test_typing_replaces_a_parameter_and_nine_keys_ask_the_base_and_three_adapters() -> None:
    """Keys beside the typed text: `5` was pressed, then tab / space space tab tab enter enter."""
    asked: list[dict[str, Any]] = []

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("tab", "slash", *"sql", "space", *"json", "space", "tab")
        await pilot.press(*"0.2", "tab", *"60", "enter", *"Hello", "enter")
        await whole(app, pilot)
        assert [body["model"] for body in asked] == [
            *("SmolLM2-135M-Instruct", "pirate", "sql", "json"),
        ]
        assert all(body["temperature"] == 0.2 and body["max_tokens"] == 60 for body in asked)

    with_a_ring(act, pace=2000.0, asked=asked)


def test_a_wrong_parameter_is_marked_with_its_reason_until_it_is_mended() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        top_p = app.active_panel.query_one("#top_p", Input)
        top_p.focus()
        await pilot.press("3", "tab")
        await pilot.pause()
        reason = "top p: '3' is not a number above 0, at most 1"
        assert top_p.has_class("-wrong") and reason in screen_text(app)
        await pilot.press("shift+tab", "0", ".")
        await pilot.pause()
        assert reason not in screen_text(app) and "top p: '0.'" in screen_text(app)
        await pilot.press("9")
        await pilot.pause()
        assert not top_p.has_class("-wrong") and "top p: " not in screen_text(app)

    on_stage(act, panel="Prompt", size=(80, 24))


def test_enter_does_not_send_while_a_hidden_parameter_is_wrong_and_shows_it() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        app.active_panel.query_one("#presence_penalty", Input).value = "-7"
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        field = app.active_panel.query_one("#presence_penalty", Input)
        assert field.has_focus and field.region.height == 1 and editor(app).text == "Hello"
        assert "presence: '-7' is not a number from -2 to 2" in screen_text(app)

    with_a_ring(act, size=(80, 24))


def test_system_prompt_stop_strings_and_penalties_are_sent() -> None:
    asked: list[dict[str, Any]] = []

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        models(app).choose(frozenset({"sql"}))
        form = app.active_panel.query_one(ParameterForm)
        assert not form.query_one(SystemEditor).region  # hidden on a short screen
        await pilot.press("f2", *"Be", "ctrl+j", *"brief.", "tab", *"end|\\n", "enter")
        for name, text in {"min_p": "0.1", "presence_penalty": "-1", "logprobs": "0"}.items():
            form.query_one(f"#{name}", Input).value = text
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        (body,) = asked
        assert body["messages"][0] == {"role": "system", "content": "Be\nbrief."}
        assert body["stop"] == ["end", "\n"] and body["logprobs"]
        assert body["min_p"] == 0.1 and body["presence_penalty"] == -1.0
        assert "repetition_penalty" not in body
        assert form.query_one(SystemEditor).region  # it stays to be seen while it counts

    with_a_ring(act, pace=2000.0, asked=asked, size=(80, 24))


def test_further_parameters_hide_again_on_a_short_screen_if_none_is_set() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        form = app.active_panel.query_one(ParameterForm)
        height = form.size.height
        await pilot.press("f2")
        await wait(lambda: form.size.height == height + 2)
        await pilot.press("enter")
        await wait(lambda: form.size.height == height)
        assert editor(app).has_focus

    on_stage(act, panel="Prompt", size=(80, 24))


def test_a_pasted_system_prompt_keeps_its_lines() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("f2")
        app.post_message(events.Paste("You are a poet.\nAnswer in verse."))
        await pilot.pause()
        await wait(lambda: "verse" in app.active_panel.query_one(ParameterForm).system)
        assert app.active_panel.query_one(ParameterForm).system.count("\n") == 1

    on_stage(act, panel="Prompt")


# --- the conversation ---------------------------------------------------------------------------


def test_two_keys_export_the_conversation_whose_id_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not isinstance(app.screen, SaveDialog)  # nothing was said yet
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        await pilot.press("ctrl+s", "enter")
        await pilot.pause()
        name = panel(app)._conversation.name
        assert f"conversation {name}" in screen_text(app)
        text = (tmp_path / f"conversation-{name}.md").read_text()
        assert "> Hello" in text and "hoist the colours" in text and "SmolLM2" in text
        kept = open_default()
        assert kept is not None and len(kept.turns(name)) == 2
        kept.close()
        await pilot.press("ctrl+s", "enter")
        await pilot.pause()
        assert "this file exists: enter again replaces it" in screen_text(app)
        Path(os.listdir(tmp_path)[0]).write_text("older")
        await pilot.press("enter")
        await pilot.pause()
        assert (tmp_path / f"conversation-{name}.md").read_text() == text

    with_a_ring(act, pace=2000.0)


def test_what_prevents_the_export_is_said_at_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"Hello", "enter")
        await whole(app, pilot)
        await pilot.press("ctrl+s")
        await pilot.pause()
        for path, reason in (
            ("", "file required"),
            (f"{tmp_path}", "this is a directory"),
            ("missing/talk.md", "cannot be written: No such file or directory"),
        ):
            app.screen.query_one(Input).value = path
            await pilot.press("enter")
            await pilot.pause()
            assert reason in screen_text(app) and isinstance(app.screen, SaveDialog)
        await pilot.press("escape")
        assert not list(tmp_path.iterdir())

    with_a_ring(act, pace=2000.0)


def test_a_cancelled_prompt_comes_back_selected_and_a_new_conversation_removes_it() -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        async def cancelled() -> None:
            await wait(lambda: "And so" in screen_text(app))
            await pilot.press("escape")
            await wait(lambda: not panel(app).is_live and editor(app).text == "Hello")

        await pilot.press(*"Hello", "enter")
        await cancelled()
        await pilot.press("ctrl+t")  # asked again: it is not left in the editor as well
        await wait(lambda: editor(app).text == "")
        await cancelled()
        before = panel(app)._conversation.id
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert editor(app).text == "" and panel(app)._conversation.id != before
        await pilot.press("up")
        assert editor(app).text == "Hello"  # it can be recalled
        await pilot.press("enter")
        await cancelled()
        await pilot.press(*"Other")
        assert editor(app).text == "Other"

    with_a_ring(act, pace=12.0)


def test_what_was_typed_stays_when_a_new_conversation_begins() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press(*"draft", "ctrl+n")
        await pilot.pause()
        assert editor(app).text == "draft"

    on_stage(act, panel="Prompt")


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "no supervisor"])
def test_a_pipeline_that_is_down_is_named_and_so_is_the_key_that_starts_it(
    is_stopped: bool,
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert app.scenario is not None
        app.starter = lambda: None
        if is_stopped:
            app.scenario.stop()
            app.advance(20.0)
        app.now += 20.0  # nothing is heard meanwhile
        app.show()
        assert app.board.is_down and app.board.is_stopped is is_stopped
        await pilot.press(*"Hello", "enter")
        await pilot.pause()
        assert editor(app).text == "Hello"
        reason = "The pipeline is stopped" if is_stopped else "No supervisor answers"
        assert f"{reason} esc, then S starts it; the prompt is kept" in toasts(app)
        app.store.note_start(True)
        app.show()
        await pilot.press("enter")
        assert "The pipeline is starting" in toasts(app)[-1]

    on_stage(act, panel="Prompt")


def toasts(app: ConsoleApp) -> list[str]:
    return [f"{note.title} {note.message}" for note in app.notices]


def test_the_picker_shows_adapters_that_arrive_while_it_is_open() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("ctrl+g", *"tenant-0030")
        await pilot.pause()
        assert isinstance(app.screen, ModelPicker) and "0 match" in screen_text(app)
        serve(app, 60)
        await pilot.pause()
        assert "1 match" in screen_text(app)

    on_stage(act, panel="Prompt")
