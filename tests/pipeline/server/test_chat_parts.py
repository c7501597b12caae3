"""Reasoning and calls in OpenAI's messages and deltas, which join to the message."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming._deltas import accumulate_delta

from loraconsole.pipeline.messages import TextDelta
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.chat_parts import ParsedChunks, parsed_choice
from loraconsole.pipeline.tool_calls.answer_parser import Reading
from loraconsole.pipeline.tool_calls.tool import Tool

TOOLS = (Tool("f"), Tool("g"))
TEXT = (
    "<think>\nHm.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "f", "arguments": {"a": [1, 2]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)


def form(**more: Any) -> Format:
    reading = more.pop("reading", Reading("hermes", TOOLS, "think"))
    return Format(
        kind="chat",
        answer_id="chatcmpl-1",
        model="m",
        created=7,
        is_streamed=True,
        reading=reading,
        **more,
    )


def streamed(how: Format, parts: list[str], finish: str = "stop") -> list[dict[str, Any]]:
    chunks, offset = ParsedChunks(how, 1), 0
    found = []
    for number, part in enumerate(parts, start=1):
        delta = TextDelta(
            request_id="r",
            offset=offset,
            text=part,
            num_tokens=number,
            token_ids=(1,),
            finish_reason=finish if number == len(parts) else None,
        )
        offset += len(part)
        if chunk := chunks.chunk(delta, []):
            (choice,) = msgspec.to_builtins(chunk)["choices"]
            assert choice["index"] == 1
            found.append(choice)
    return found


def message_of(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The deltas put together by openai's own client, as a whole message."""
    message: dict[str, Any] = {}
    for choice in choices:
        message = dict(accumulate_delta(message, choice["delta"]))
    for call in message.get("tool_calls", ()):
        call.pop("index")
    return {"content": None, "refusal": None, **message}


def test_a_message_has_reasoning_content_and_calls() -> None:
    choice = parsed_choice(form(), 0, TEXT, "stop", [])
    message = choice["message"]
    assert message["content"] == "I look."
    assert message["reasoning_content"] == message["reasoning"] == "Hm."
    functions = [call["function"] for call in message["tool_calls"]]
    assert functions == [
        {"name": "f", "arguments": '{"a": [1, 2]}'},
        {"name": "g", "arguments": "{}"},
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") for one in ids)
    assert choice["finish_reason"] == "tool_calls"


@given(st.lists(st.integers(0, len(TEXT)), max_size=60))
def test_the_deltas_join_to_the_message(places: list[int]) -> None:
    ends = sorted({*places, 0, len(TEXT)})
    parts = [TEXT[a:b] for a, b in itertools.pairwise(ends)]
    choices = streamed(form(), parts)
    whole = parsed_choice(form(), 1, TEXT, "stop", [])
    assert message_of(choices) == whole["message"]
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])


def test_a_call_begins_with_its_name_and_its_arguments_follow() -> None:
    calls = [
        choice["delta"]["tool_calls"]
        for choice in streamed(form(), list(TEXT))
        if "tool_calls" in choice["delta"]
    ]
    (first,) = calls[0]
    assert (first["index"], first["type"]) == (0, "function")
    assert first["function"] == {"name": "f", "arguments": ""}
    assert [call["function"]["arguments"] for (call,) in calls[1:7]] == list('{"a": ')
    assert all("id" not in call for (call,) in calls[1:7])


def test_one_event_has_all_that_one_token_completes() -> None:
    (choice,) = streamed(form(), [TEXT])
    assert choice["delta"]["content"] == "I look."
    assert [call["index"] for call in choice["delta"]["tool_calls"]] == [0, 1]
    assert choice["delta"]["tool_calls"][0]["function"]["arguments"] == '{"a": [1, 2]}'


def test_a_function_of_old_is_answered_in_the_old_form() -> None:
    old = form(reading=Reading("hermes", TOOLS, is_parallel=False), is_function_call=True)
    text = TEXT[TEXT.index("<tool_call>") :]
    choice = parsed_choice(old, 1, text, "stop", [])
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a": [1, 2]}'}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    choices = streamed(old, list(text))
    assert message_of(choices) == choice["message"]


@pytest.mark.parametrize(
    ("more", "finish", "expected"),
    [
        ({}, "length", "length"),
        ({"is_named_call": True}, "stop", "stop"),
        ({}, "stop", "tool_calls"),
    ],
)
def test_the_finish_reason_says_that_calls_follow(
    more: dict[str, Any], finish: str, expected: str
) -> None:
    assert parsed_choice(form(**more), 0, TEXT, finish, [])["finish_reason"] == expected
    assert streamed(form(**more), [TEXT], finish)[-1]["finish_reason"] == expected


@pytest.mark.parametrize("text", ["", '\n<tool_call>\n{"name', TEXT[TEXT.index("\n<tool") :][:-30]])
def test_an_answer_that_must_call_has_no_content(text: str) -> None:
    must = form(reading=Reading("hermes", TOOLS, has_no_content=True))
    choice = parsed_choice(must, 1, text, "length", [])
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "length"
    choices = streamed(must, list(text) or [""], "length")
    assert all("content" not in one["delta"] for one in choices)
    assert message_of(choices) == choice["message"]


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n<", TEXT[:-3], TEXT[: TEXT.index("</tool") + 4]])
def test_a_call_in_place_of_a_form_has_no_content_after_it(text: str) -> None:
    text = text[text.index("<tool_call>") :]
    reading = Reading("hermes", TOOLS, ends_with_calls=True)
    choice = parsed_choice(form(reading=reading), 1, text, "length", [])
    assert choice["message"]["content"] is None and choice["message"]["tool_calls"]
    choices = streamed(form(reading=reading), list(text), "length")
    assert message_of(choices) == choice["message"]
    instead = parsed_choice(form(reading=reading), 1, '{"a": true}', "stop", [])
    assert instead["message"]["content"] == '{"a": true}'


CUTS = ('"arguments": {"a": [1, 2]', '"arguments": {"', '"arguments": ', '{"name": "f"')


@pytest.mark.parametrize("end", CUTS)
def test_a_call_that_a_stop_string_cut_does_not_look_complete(end: str) -> None:
    text = TEXT[: TEXT.index(end) + len(end)]
    whole = parsed_choice(form(), 1, text, "stop", [])
    choices = streamed(form(), list(text))
    assert whole["finish_reason"] == choices[-1]["finish_reason"] == "stop"
    assert message_of(choices) == whole["message"]


def test_a_stop_string_after_the_arguments_leaves_the_call_whole() -> None:
    text = TEXT[: TEXT.index("}}") + 1]
    for arguments in ("{}", "null", "[1]"):
        done = text[: text.index('{"a"')] + arguments
        assert parsed_choice(form(), 0, done, "stop", [])["finish_reason"] == "tool_calls"
    two = TEXT.removesuffix("{}}\n</tool_call>")
    assert parsed_choice(form(), 0, two, "stop", [])["finish_reason"] == "stop"


def test_an_answer_without_calls_is_text() -> None:
    choice = parsed_choice(form(), 0, "Four. \n", "stop", [])
    assert choice["message"] == {"role": "assistant", "content": "Four. \n", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert message_of(streamed(form(), ["Fo", "ur.", " \n"]))["content"] == "Four. \n"


def test_reasoning_can_be_left_out() -> None:
    hidden = form(reading=Reading(reasoning_format="think", hides_reasoning=True))
    message = parsed_choice(hidden, 0, "<think>Hm.</think>Four.", "stop", [])["message"]
    assert message == {"role": "assistant", "content": "Four.", "refusal": None}


def test_mistrals_ids_are_nine_letters_and_every_id_is_made_again() -> None:
    mistral = form(reading=Reading("mistral", TOOLS))
    text = '[TOOL_CALLS][{"name": "f", "arguments": {}}]'
    ids = [
        parsed_choice(mistral, index, text, "stop", [])["message"]["tool_calls"][0]["id"]
        for index in (0, 0, 1)
    ]
    assert len(ids[0]) == 9
    assert ids[0].isalnum()
    assert ids[0] == ids[1] != ids[2]


def test_a_journal_keeps_the_form() -> None:
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(form()), type=Format)
    assert kept == form()
    assert json.dumps(parsed_choice(kept, 0, TEXT, "stop", [])) == json.dumps(
        parsed_choice(form(), 0, TEXT, "stop", [])
    )
