"""/v1/messages: from Anthropic's blocks to a chat's messages, and from a chat's answer back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from loraconsole.pipeline.messages import Request, SamplingParams, TextDelta
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.anthropic_answer import MessageEvents, message_object
from loraconsole.pipeline.server.answers.streams import AnswerStreams
from loraconsole.pipeline.server.bodies.anthropic_body import CHAT_NAMES, MessagesBody
from loraconsole.pipeline.server.bodies.body import decode_body
from loraconsole.pipeline.server.bodies.renamed import renamed
from loraconsole.pipeline.server.chat.anthropic_messages import read_messages
from loraconsole.pipeline.server.http.anthropic_error import anthropic_error_body
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.server.routes.errors import answer_no_route
from loraconsole.pipeline.tool_calls.answer_parser import Reading

HI = [{"role": "user", "content": "hi"}]
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}


def test_blocks_become_a_chats_messages() -> None:
    answer = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "I look."},
        USE,
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
        {"type": "tool_result", "tool_use_id": "t2"},
        {"type": "text", "text": "So?"},
        {"type": "text", "text": "Well?"},
    ]
    system = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = [*HI, {"role": "assistant", "content": answer}, {"role": "user", "content": results}]
    calls = [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert read_messages(system, asked) == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "So?\nWell?"},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (3, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [USE]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "content": [{**USE, "id": 3}]}, "messages[0].content[0].id"),
        (
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}
                ],
            },
            "messages[0].content[0].content[0]",
        ),
    ],
)
def test_a_wrong_block_is_named(message: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_messages(None, [message])
    assert refused.value.param == param


def body(**fields: Any) -> MessagesBody:
    return decode_body(json.dumps({"messages": HI, **fields}).encode(), MessagesBody)


def test_a_body_is_a_chat() -> None:
    chat = body(max_tokens=9, stop_sequences=["x"], top_k=3, stream=True).chat(HI)
    assert (chat.max_completion_tokens, chat.stop, chat.top_k) == (9, ["x"], 3)
    assert chat.stream and not chat.continue_final_message
    assert body().chat([*HI, {"role": "assistant", "content": "I"}]).continue_final_message
    for kind, is_on in (("enabled", True), ("adaptive", None), ("disabled", False)):
        chat = body(thinking={"type": kind}, chat_template_kwargs={"a": 1}).chat(HI)
        assert (chat.enable_thinking, chat.chat_template_kwargs) == (is_on, {"a": 1})
    shown = {"type": "enabled", "budget_tokens": 1024, "display": "summarized"}
    assert body(thinking=shown).chat(HI).include_reasoning
    assert not body(thinking={**shown, "display": "omitted"}).chat(HI).include_reasoning
    cached = {"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}, "zz": None}
    assert body(tools=[cached]).chat(HI).tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "deep"}}, "thinking"),
        ({"thinking": {"type": "enabled", "budget": 1}}, "thinking.budget"),
        ({"thinking": {"type": "enabled", "display": "no"}}, "thinking.display"),
        ({"output_config": {"zz": 1}}, "output_config.zz"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {}, "zz": 1}}},
            "output_config.format.zz",
        ),
        ({"tools": [{"name": "f", "input_schema": {}, "zz": 1}]}, "tools[0].zz"),
        (
            {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any", "x": 1}},
            "tool_choice.x",
        ),
        (
            {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool"}},
            "tool_choice",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        (
            {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "some"}},
            "tool_choice",
        ),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format.type"),
    ],
)
def test_a_refusal_names_the_field_of_this_body(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused, renamed(CHAT_NAMES):
        chat = body(**fields).chat(HI)
        chat.check()
        chat.params(16, None, 0)
    assert refused.value.param == param
    shown = anthropic_error_body(refused.value)
    assert shown["error"]["type"] == "invalid_request_error"
    assert param in shown["error"]["message"]


def answer_of(
    text: list[str],
    reason: str = "stop",
    by: str | int | None = 2,
    reading: Reading | None = None,
) -> AnswerStreams:
    """An answer that has ended, a token for each part of the text."""
    form = Format(
        kind="messages",
        answer_id="msg_1",
        model="m",
        created=1,
        is_streamed=True,
        reading=reading,
    )
    request = Request(
        request_id="r",
        adapter=None,
        prompt_ids=(1, 2, 3),
        params=SamplingParams(),
        arrived_at=0.0,
    )
    answer, offset = AnswerStreams(form, b"", [request]), 0
    for number, part in enumerate(text, start=1):
        more = (reason, by) if number == len(text) else (None, None)
        answer.streams[0].put(TextDelta("r", offset, part, number, (number,), (), *more))
        offset += len(part)
    return answer


def test_events_come_in_order_and_say_what_the_whole_says() -> None:
    answer = answer_of(["Hel", "", "lo"])
    message = MessageEvents(answer)
    events = message.begin()
    for delta in answer.streams[0].deltas():
        events += message.put(delta)
    assert [name for name, _ in events] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert all(data["type"] == name for name, data in events)
    whole = message_object(answer)
    assert whole["content"] == [{"type": "text", "text": "Hello"}]
    assert whole["usage"]["input_tokens"] == whole["usage"]["output_tokens"] == 3
    assert events[-2][1]["usage"] == whole["usage"]
    assert events[-2][1]["delta"]["stop_reason"] == whole["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("reason", "by", "stop_reason", "stop_sequence"),
    [
        ("length", None, "max_tokens", None),
        ("stop", "END", "stop_sequence", "END"),
        ("stop", 7, "end_turn", None),
    ],
)
def test_the_stop_reason_says_what_ended_it(
    reason: str, by: str | int | None, stop_reason: str, stop_sequence: str | None
) -> None:
    whole = message_object(answer_of(["a"], reason, by))
    assert (whole["stop_reason"], whole["stop_sequence"]) == (stop_reason, stop_sequence)


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ('<tool_call>{"name": "f", "arguments": {"', ("stop_sequence", "a")),
        ('<tool_call>{"name": "f", "arguments": {"b": 1}', ("tool_use", None)),
    ],
)
def test_a_call_that_a_stop_sequence_cut_does_not_look_complete(
    text: str, stop: tuple[str, str | None]
) -> None:
    whole = message_object(answer_of([text], "stop", "a", Reading("hermes")))
    assert [block["type"] for block in whole["content"]] == ["tool_use"]
    assert (whole["stop_reason"], whole["stop_sequence"]) == stop


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("POST", "/v1/messages_of_others", 404, None),
    ],
)
def test_a_wrong_method_or_path_has_anthropics_error(
    method: str, path: str, status: int, kind: str | None
) -> None:
    async def create(request: HttpRequest) -> Response:
        return Response()

    app = Starlette(
        routes=[Route("/v1/messages", create, methods=["POST"])],
        exception_handlers={HTTPException: answer_no_route},
    )
    response = TestClient(app).request(method, path)
    assert response.status_code == status
    answer = response.json()
    assert path in answer["error"]["message"]
    assert answer.get("type") == ("error" if kind else None)
    assert not kind or answer["error"]["type"] == kind
