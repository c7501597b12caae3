"""Tool calls and reasoning are found in an answer's text, wherever its parts end."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.tool_calls import deepseek
from loraconsole.pipeline.tool_calls.answer_parser import AnswerParser, Reading, parse_answer
from loraconsole.pipeline.tool_calls.formats import TOOL_FORMATS
from loraconsole.pipeline.tool_calls.pieces import Piece, joined
from loraconsole.pipeline.tool_calls.tool import Tool

TOOLS = (
    Tool(
        "find",
        {"properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"]}}},
    ),
    Tool("ping"),
)
ARGUMENTS = {"city": 'Rome, "Italia" }<', "days": 3}
TEXT = json.dumps(ARGUMENTS)
BEGIN, SEP, END = deepseek.CALL_BEGIN, deepseek.SEPARATOR, deepseek.CALL_END
ANSWERS = {
    "hermes": '<tool_call>\n{"name": "find", "arguments": %s}\n</tool_call>\n'
    '<tool_call>{"arguments": {}, "name": "ping"}</tool_call>',
    "llama3": '{"name": "find", "parameters": %s}; {"name": "ping", "parameters": {}}',
    "mistral": '[TOOL_CALLS] [{"name": "find", "arguments": %s}, {"name":"ping","arguments":{}}]',
    "mistral_args": "[TOOL_CALLS]find[ARGS]%s[TOOL_CALLS]ping[ARGS]{}",
    "pythonic": "[find(city='Rome, \"Italia\" }<', days=3), ping()]",
    "qwen_xml": "<tool_call>\n<function=find>\n<parameter=city>\n"
    + ARGUMENTS["city"]
    + "\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=ping>\n</function>\n</tool_call>",
    "deepseek_v3": f"{deepseek.CALLS_BEGIN}{BEGIN}function{SEP}find\n```json\n%s\n```{END}\n"
    f"{BEGIN}function{SEP}ping\n```json\n{{}}\n```{END}{deepseek.CALLS_END}",
    "deepseek_v31": f"{deepseek.CALLS_BEGIN}{BEGIN}find{SEP}%s{END}{BEGIN}ping{SEP}{{}}{END}"
    + deepseek.CALLS_END,
}
"""The same two calls as models of each format write them."""


def answer(name: str) -> str:
    return ANSWERS[name].replace("%s", TEXT)


def reading(name: str, reasoning: str = "", *, is_open: bool = False) -> Reading:
    return Reading(name, TOOLS, reasoning, is_open)


def calls(pieces: list[Piece]) -> list[tuple[str, Any]]:
    """(name, arguments) of each call."""
    names = [piece.text for piece in pieces if piece.kind == "call"]
    return [
        (name, json.loads("".join(p.text for p in pieces if p.kind == "arguments" and p.call == i)))
        for i, name in enumerate(names)
    ]


def text_of(pieces: list[Piece], kind: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)


def read_in_parts(parts: list[str], how: Reading) -> list[Piece]:
    parser = AnswerParser(how)
    found = [piece for part in parts for piece in parser.push(part)]
    return joined([*found, *parser.finish()])


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def test_every_format_has_an_answer_here() -> None:
    assert ANSWERS.keys() == TOOL_FORMATS.keys()


@pytest.mark.parametrize("name", ANSWERS)
def test_two_calls_of_each_format_are_read(name: str) -> None:
    pieces = parse_answer(answer(name), reading(name))
    assert calls(pieces) == [("find", ARGUMENTS), ("ping", {})]
    assert text_of(pieces, "content") == ""


@pytest.mark.parametrize("name", sorted(ANSWERS.keys() - {"llama3", "pythonic"}))
def test_text_before_and_after_calls_is_content(name: str) -> None:
    pieces = parse_answer(f"I look.\n\n{answer(name)}\nDone.", reading(name))
    assert calls(pieces) == [("find", ARGUMENTS), ("ping", {})]
    assert text_of(pieces, "content") == "I look.\nDone."


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 400), max_size=40))
def test_the_pieces_do_not_depend_on_where_the_text_is_cut(name: str, places: list[int]) -> None:
    text = f"<think>\nLook.\n</think>\n\n{answer(name)}\n"
    whole = parse_answer(text, reading(name, "think"))
    assert read_in_parts(cut(text, places), reading(name, "think")) == whole
    assert text_of(whole, "reasoning") == "Look."


LOOP = {"$ref": "#/$defs/loop"}
FRAGMENTS = st.sampled_from(
    [
        *(marker for form in TOOL_FORMATS.values() for marker in form.markers),
        *("<think>", "</think>", "{", "}", "[", "]", '"', "'", "\\", ":", ",", ";", "(", ")", "="),
        *(
            '"name"',
            '"find"',
            "find",
            "ping",
            '"arguments"',
            '"parameters"',
            " ",
            "\n",
            "1",
            "null",
        ),
        *("<function=", "<parameter=", "</function>", "</parameter>", ">", "<", "é", "```json"),
    ]
)


@given(
    st.sampled_from(sorted(ANSWERS)),
    st.lists(FRAGMENTS, max_size=30),
    st.lists(st.integers(0, 400), max_size=20),
    st.booleans(),
)
def test_any_text_is_read_alike_in_any_parts(
    name: str, fragments: list[str], places: list[int], is_open: bool
) -> None:
    text = "".join(fragments)
    how = reading(name, "think", is_open=is_open)
    assert read_in_parts(cut(text, places), how) == parse_answer(text, how)


@given(st.sampled_from(sorted(ANSWERS)), st.text(alphabet='ab <>{[("\n', max_size=40))
def test_text_without_a_call_is_content_unchanged(name: str, text: str) -> None:
    assert text_of(parse_answer(text, reading(name)), "content") == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>no json</tool_call>"),
        ("hermes", '<tool_call>{"nam": "find"}</tool_call>'),
        ("llama3", '{"name": "unknown", "parameters": {}}'),
        ("llama3", '{"answer": {"name": "find"}}'),
        ("pythonic", "[find(city=Rome)]"),
        ("pythonic", "[unknown(a=1)]"),
        ("pythonic", "[1, 2, 3]"),
        ("mistral", "[TOOL_CALLS] sorry"),
        ("qwen_xml", "<tool_call>\nfind\n</tool_call>"),
        ("deepseek_v31", f"{BEGIN}find{SEP}none{END}"),
    ],
)
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    pieces = parse_answer(text, reading(name))
    assert [piece.kind for piece in pieces] == ["content"]
    assert pieces[0].text == text


@pytest.mark.parametrize("name", ANSWERS)
def test_a_call_that_is_cut_off_keeps_its_beginning(name: str) -> None:
    text = answer(name)
    pieces = parse_answer(text[: text.index("Italia") + 3], reading(name))
    if name == "pythonic":  # a call is read once it is complete
        assert text_of(pieces, "content").endswith("Ita")
        return
    assert text_of(pieces, "call") == "find"
    assert TEXT.startswith(text_of(pieces, "arguments"))
    assert text_of(pieces, "arguments").endswith("Ita")


def test_arguments_stream_as_they_come() -> None:
    parser = AnswerParser(reading("hermes"))
    assert parser.push('<tool_call>{"name": "find"') == [Piece("call", "find")]
    assert parser.push(', "arguments": {"city": "Ro') == [Piece("arguments", '{"city": "Ro')]
    assert parser.push('me"') == [Piece("arguments", 'me"')]


def test_plain_text_is_held_back_only_while_a_marker_may_begin() -> None:
    parser = AnswerParser(reading("hermes", "think"))
    assert parser.push("a <") == [Piece("content", "a")]
    assert parser.push("b") == [Piece("content", " <b")]
    assert AnswerParser(reading("pythonic")).push("[see") == []
    assert AnswerParser(reading("pythonic")).push("[see ") == [Piece("content", "[see")]
    assert AnswerParser(reading("llama3")).push('{"a') == []
    assert AnswerParser(reading("llama3")).push('{"a"') == [Piece("content", '{"a"')]


@pytest.mark.parametrize(("opening", "closing"), [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_reasoning_is_split_from_the_answer(opening: str, closing: str) -> None:
    name = "think" if opening == "<think>" else "mistral"
    text = f"{opening}\nHm.\n{closing}\n\nFour."
    assert parse_answer(text, Reading(reasoning_format=name)) == [
        Piece("reasoning", "Hm."),
        Piece("content", "Four."),
    ]
    inside = Reading(reasoning_format=name, is_reasoning_open=True)
    assert parse_answer(f"Hm.\n{closing}\nFour.", inside) == [
        Piece("reasoning", "Hm."),
        Piece("content", "Four."),
    ]
    assert parse_answer("Hm", inside) == [Piece("reasoning", "Hm")]
    plain = Reading(reasoning_format=name)
    assert parse_answer("\n Four.", plain) == [Piece("content", "\n Four.")]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "integer"}, "12", 12),
        ({"type": "boolean"}, "True", True),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "twelve", "twelve"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "12", 12),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({}, "text", "text"),
        ({"$ref": "#/$defs/n"}, "12", 12),
        ({"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}, "null", None),
        (LOOP, "x", "x"),
        ({"type": ["string", "null"]}, '"x"', '"x"'),
        (None, "3", 3),
    ],
)
def test_an_argument_that_is_an_element_gets_its_schemas_type(
    schema: Any, text: str, value: Any
) -> None:
    definitions = {"n": {"type": "integer"}, "loop": {"anyOf": [LOOP] * 40}}
    tool = Tool("f", {"properties": {"a": schema}, "$defs": definitions})
    pieces = parse_answer(
        f"<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>",
        Reading("qwen_xml", (tool,)),
    )
    assert calls(pieces) == [("f", {"a": value})]
