"""Every answer that a grammar of calls allows is read as calls that follow the schemas."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import fastjsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from loraconsole.pipeline.tool_calls.answer_parser import Reading, parse_answer
from loraconsole.pipeline.tool_calls.call_shape import CallShape
from loraconsole.pipeline.tool_calls.constraint import AnswerShape, closed_schema
from loraconsole.pipeline.tool_calls.formats import TOOL_FORMATS
from loraconsole.pipeline.tool_calls.pieces import Piece
from loraconsole.pipeline.tool_calls.reasoning import REASONING_FORMATS
from loraconsole.pipeline.tool_calls.tool import Tool

TOOLS = (
    Tool(
        "find",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 6},
                "days": {"type": "integer", "minimum": 0, "maximum": 99},
                "kind": {"enum": ["sun", "rain"]},
                "place": {"$ref": "#/$defs/place"},
                "unit": {"$ref": "#/$defs/unit"},
            },
            "required": ["city", "place", "unit"],
            "$defs": {
                "unit": {"enum": ["C", "F"]},
                "place": {
                    "type": "object",
                    "properties": {"x": {"type": "boolean"}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
            },
        },
    ),
    Tool("ping"),
    Tool("log", {"type": "object", "properties": {"level": {"type": "null"}}}),
)
MARKS = sorted({mark for form in TOOL_FORMATS.values() for mark in form.markers})
END = 256
IDS = {mark: END + 1 + number for number, mark in enumerate(MARKS)}


class Bytes:
    """A vocabulary of bytes, an end, and every mark as a special token."""

    bos_token_id, eos_token_id = None, END
    tokens = [*(bytes([i]) for i in range(256)), b"<end>", *(mark.encode() for mark in MARKS)]  # noqa: RUF012
    special_token_ids = list(range(END, END + 1 + len(MARKS)))  # noqa: RUF012

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


TEXT_END = list(b"\n</parameter>\n")
VOCABULARY = LLTokenizer(TokenizerWrapper(Bytes()), eos_token=END)


def call_grammar(
    shape: CallShape,
    tools: tuple[Tool, ...],
    *,
    must_call: bool = True,
    form: str = "",
    **more: Any,
) -> str:
    more["token_ids"] = more.get("token_ids") or {}
    return AnswerShape(shape, tools, must_call=must_call, **more).grammar(form)


def matcher(grammar: str) -> LLMatcher:
    found = LLMatcher(VOCABULARY, '%llguidance {"no_forcing": true}\n' + grammar)
    assert not found.is_error(), found.get_error()
    return found


def walk(grammar: str, seed: int, most: int = 3000) -> str:
    """A text that the grammar allows: a token at random where several may come, and the end, or a
    character that ends something, with some preference."""
    rng, found, tokens = random.Random(seed), matcher(grammar), []
    while len(tokens) < most:
        bits = found.compute_bitmask()
        allowed = [i for i in range(END + 1 + len(MARKS)) if bits[i // 8] >> i % 8 & 1]
        if len(allowed) > 60 and rng.random() < 0.3:  # free text, which a mark ends
            tokens += TEXT_END[: found.try_consume_tokens(TEXT_END)]
            continue
        closing = [i for i in allowed if i == END or chr(i % 256) in '"}])\n' or i > END]
        ascii_ones = [i for i in allowed if i >= END or 0x20 <= i < 0x7F or i == 0x0A]
        token = rng.choice(closing if closing and rng.random() < 0.7 else ascii_ones or allowed)
        if token == END:
            return b"".join(Bytes.tokens[i] for i in tokens).decode()
        tokens.append(token)
        assert found.consume_token(token)
    raise AssertionError("no end")


def allows(grammar: str, text: str, ids: Mapping[str, int] | None = None) -> bool:
    """Whether the grammar allows exactly this text."""
    found, tokens, ids = matcher(grammar), [], ids or {}
    while text:
        at, mark = min(((text.find(m), m) for m in ids if m in text), default=(len(text), ""))
        tokens += [*text[:at].encode(), *([ids[mark]] if mark else [])]
        text = text[at + len(mark) :]
    return bool(found.try_consume_tokens(tokens) == len(tokens) and found.is_accepting())


def calls(pieces: list[Piece]) -> list[tuple[str, Any]]:
    names = [piece.text for piece in pieces if piece.kind == "call"]
    return [
        (name, json.loads("".join(p.text for p in pieces if p.kind == "arguments" and p.call == i)))
        for i, name in enumerate(names)
    ]


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_what_must_be_a_call_is_read_as_calls_by_the_schemas(name: str, is_special: bool) -> None:
    form = TOOL_FORMATS[name]
    ids = IDS if is_special else {}
    checks = {tool.name: fastjsonschema.compile(closed_schema(tool.parameters)) for tool in TOOLS}
    many = call_grammar(form.shape, TOOLS, is_parallel=True, token_ids=ids)
    one = call_grammar(form.shape, TOOLS, is_parallel=False, token_ids=ids)
    seen: set[str] = set()
    for seed in range(25):
        for grammar in (one, many):
            text = walk(grammar, seed)
            pieces = parse_answer(text, Reading(name, TOOLS))
            found = calls(pieces)
            assert found, text
            assert len(found) == 1 or grammar is many
            assert not [piece for piece in pieces if piece.kind == "content"], text
            for called, arguments in found:
                if name == "qwen_xml" and called == "find":
                    arguments["city"] = "any"  # texts in elements have no bounds
                checks[called](arguments)
            seen |= {called for called, _ in found}
    assert seen == {tool.name for tool in TOOLS}


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_reasoning_may_come_before_a_call(name: str) -> None:
    form, think = TOOL_FORMATS[name], REASONING_FORMATS["think"]
    call = walk(call_grammar(form.shape, TOOLS, is_parallel=False), 3)
    closed = call_grammar(form.shape, TOOLS, is_parallel=False, reasoning=think)
    assert allows(closed, call)
    assert allows(closed, f"<think>\nSo <b>.\n</think>\n\n{call}")
    assert not allows(closed, f"So.\n</think>\n\n{call}")
    opened = call_grammar(
        form.shape, TOOLS, is_parallel=False, reasoning=think, is_reasoning_open=True
    )
    assert allows(opened, f"So.\n</think>\n\n{call}")
    assert not allows(opened, call)
    ids = {"</think>": IDS[MARKS[0]]}
    special = call_grammar(
        form.shape,
        TOOLS,
        is_parallel=False,
        reasoning=think,
        is_reasoning_open=True,
        token_ids=ids,
    )
    assert allows(special, f"So.\n</think>\n\n{call}", ids)


@pytest.mark.parametrize(
    "name", [name for name, form in TOOL_FORMATS.items() if form.shape.trigger]
)
def test_text_is_free_until_a_call_begins(name: str) -> None:
    shape = TOOL_FORMATS[name].shape
    call = walk(call_grammar(shape, TOOLS, is_parallel=False), 3)
    for ids in ({}, IDS):
        grammar = call_grammar(shape, TOOLS, is_parallel=True, must_call=False, token_ids=ids)
        for text in ("", "No <call> [here].", call, f"I look. {call}", f"A{call}\nB{call}\nC"):
            assert allows(grammar, text, ids), text
        assert not allows(grammar, f"I look. {shape.trigger}nothing", ids)
        single = call_grammar(shape, TOOLS, is_parallel=False, must_call=False, token_ids=ids)
        assert allows(single, f"I look. {call}", ids)
        assert allows(single, "No.", ids)
        assert not allows(single, f"I look. {call}{call}", ids)


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_form_of_the_content_comes_after_reasoning_or_gives_way_to_calls(name: str) -> None:
    shape, think = TOOL_FORMATS[name].shape, REASONING_FORMATS["think"]
    call = walk(call_grammar(shape, TOOLS, is_parallel=False), 3)
    form = 'start: CHOICE\nCHOICE: "yes" | "no"\n'
    grammar = call_grammar(shape, TOOLS, must_call=False, form=form, reasoning=think)
    for text in ("yes", call, f"<think>So.</think>\n{call}", "<think>So.</think>\n\nno"):
        assert allows(grammar, text), text
    for text in ("maybe", f"yes{call}", "", "<think>So."):
        assert not allows(grammar, text), text
    alone = AnswerShape(reasoning=think, is_reasoning_open=True).grammar(form)
    assert allows(alone, "So.</think>\n\nyes")
    assert not allows(alone, "yes")


def test_a_function_without_parameters_takes_none() -> None:
    assert closed_schema({}) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert closed_schema({"type": "object"}) == {"type": "object"}
    given = {"type": "object", "properties": {}, "additionalProperties": True}
    assert closed_schema(given) == given
