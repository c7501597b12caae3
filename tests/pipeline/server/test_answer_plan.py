"""How an answer is read, and what constrains it, follows from the tools and the chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_tokenizers import byte_level

from loraconsole.pipeline.grammar.wanted_grammar import WantedGrammar
from loraconsole.pipeline.server.bodies.tool_fields import ChatTools, read_tools
from loraconsole.pipeline.server.chat.answer_plan import (
    PLAIN,
    AnswerPlan,
    ChatFormats,
    find_formats,
    plan_answer,
)
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.text.chat_template import ChatTemplate
from loraconsole.pipeline.text.tokenizer import Tokenizer

MISTRAL = "[TOOL_CALLS][THINK][/THINK]{{ tools }}"
SPECIAL = ["<unk>", "</s>", "[TOOL_CALLS]", "[THINK]"]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {}, "here")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    byte_level(SPECIAL).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text("{}")
    return Tokenizer(directory)


def tools(choice: str = "auto", *, strict: bool = False) -> ChatTools:
    function = {"name": "f", "parameters": PARAMETERS, "strict": strict}
    found = read_tools([{"type": "function", "function": function}], choice)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("source", "flags", "formats"),
    [
        (MISTRAL, ("auto", "auto"), ("mistral", "mistral")),
        (MISTRAL, ("llama3", "none"), ("llama3", "")),
        ("<tool_call></think>{{ tools }}", ("auto", "auto"), ("hermes", "think")),
        ("{{ tools }}", ("auto", "auto"), ("hermes", "")),
        # Without the variable, the tools become a text in the form of hermes.
        ("[TOOL_CALLS]", ("auto", "auto"), ("hermes", "")),
        ("[TOOL_CALLS]", ("mistral", "deepseek_r1"), ("hermes", "deepseek_r1")),
    ],
)
def test_formats_are_the_flags_or_the_templates(
    source: str, flags: tuple[str, str], formats: tuple[str, str]
) -> None:
    assert find_formats(template(source), *flags) == ChatFormats(*formats)


def test_a_template_that_refuses_several_calls_gets_one(tokenizer: Tokenizer) -> None:
    source = (
        "{{ tools }}<|python_tag|>{{ raise_exception('only supports single tool-calls at once!') }}"
    )
    formats = find_formats(template(source), "auto", "auto")
    plan = plan_answer(tokenizer, "x", tools("required"), formats)
    assert plan.reading is not None
    assert not plan.reading.is_parallel
    assert plan.shape is not None
    assert not plan.shape.is_parallel


def test_text_alone_needs_no_plan(tokenizer: Tokenizer) -> None:
    nothing = ChatFormats("hermes", "")
    assert plan_answer(tokenizer, "x", None, nothing) == PLAIN
    wanted = WantedGrammar("regex", "a", "regex")
    assert PLAIN.whole_grammar(wanted) is wanted
    assert PLAIN.whole_grammar(None) is None
    kept = plan_answer(tokenizer, "x", tools("none"), nothing)
    assert kept == PLAIN


def test_marks_that_are_special_tokens_are_shown(tokenizer: Tokenizer) -> None:
    formats = ChatFormats("mistral", "mistral")
    with_calls = plan_answer(tokenizer, "x", tools(), formats)
    assert set(with_calls.shown_special_ids) == {2, 3}
    without = plan_answer(tokenizer, "x", None, formats)
    assert without.shown_special_ids == (3,)
    assert without.reading is not None
    assert without.reading.tool_format == ""


def test_the_prompt_says_whether_the_answer_begins_inside_the_reasoning(
    tokenizer: Tokenizer,
) -> None:
    formats = ChatFormats("hermes", "think")
    for prompt, is_open in (("…<think>\n", True), ("…<think>\n\n</think>\n\n", False)):
        plan = plan_answer(tokenizer, prompt, None, formats)
        assert plan.reading is not None
        assert plan.reading.is_reasoning_open == is_open


def test_an_answer_that_must_call_has_no_content_but_reasoning(tokenizer: Tokenizer) -> None:
    plain, thinks = ChatFormats("hermes", ""), ChatFormats("hermes", "think")
    for choice, formats, separates, expected in (
        ("required", plain, True, True),
        ("required", plain, False, True),
        ("required", thinks, True, True),
        ("required", thinks, False, False),
        ("auto", plain, True, False),
    ):
        plan = plan_answer(tokenizer, "x", tools(choice), formats, separates_reasoning=separates)
        assert plan.reading is not None
        assert plan.reading.has_no_content == expected


def grammar(plan: AnswerPlan) -> str:
    found = plan.whole_grammar(None)
    return found.text(frozenset()) if found else ""


def test_calls_are_constrained_where_they_must_come_or_are_strict(tokenizer: Tokenizer) -> None:
    hermes, llama = ChatFormats("hermes", ""), ChatFormats("llama3", "")
    assert grammar(plan_answer(tokenizer, "x", tools(), hermes)) == ""
    assert "TAIL" not in grammar(plan_answer(tokenizer, "x", tools("required"), hermes))
    strict = grammar(plan_answer(tokenizer, "x", tools(strict=True), hermes))
    assert "TAIL" in strict
    assert '"properties": {"a"' in strict
    assert grammar(plan_answer(tokenizer, "x", tools(strict=True), llama)) == ""
    assert grammar(plan_answer(tokenizer, "x", tools("required"), llama)) != ""


def test_a_form_of_the_content_gives_way_to_calls_and_comes_after_reasoning(
    tokenizer: Tokenizer,
) -> None:
    plan = plan_answer(tokenizer, "<think>", tools(), ChatFormats("hermes", "think"))
    found = plan.whole_grammar(WantedGrammar("choice", ["yes"], "guided_choice"))
    assert found is not None
    text = found.text(frozenset())
    assert text.startswith("start: thought GAP? (")
    assert "| content)" in text
    reading = plan.reading_of(found)
    assert reading is not None and reading.ends_with_calls
    own = WantedGrammar("grammar", 'start: "a"', "guided_grammar")
    assert plan.reading_of(own) == plan.reading_of(None) == plan.reading
    assert plan.whole_grammar(own) is own
    must = plan_answer(tokenizer, "x", tools("required"), ChatFormats("hermes", ""))
    with pytest.raises(BadRequest) as refused:
        must.whole_grammar(own)
    assert refused.value.param == "guided_grammar"
