"""/v1/responses: from items to a chat's messages, from a chat's answer to items and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loraconsole.pipeline.messages import Refused, Request, SamplingParams, TextDelta
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.response_store import ResponseStore
from loraconsole.pipeline.server.answers.responses_answer import (
    ResponseEvents,
    answer_messages,
    response_object,
)
from loraconsole.pipeline.server.answers.responses_form import ResponsesForm
from loraconsole.pipeline.server.answers.streams import AnswerStreams
from loraconsole.pipeline.server.bodies.body import decode_body
from loraconsole.pipeline.server.bodies.renamed import renamed
from loraconsole.pipeline.server.bodies.responses_body import CHAT_NAMES, ResponsesBody
from loraconsole.pipeline.server.chat.instructions import with_instructions
from loraconsole.pipeline.server.chat.responses_input import read_input
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.tool_calls.answer_parser import Reading

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "42"}
THOUGHT = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]}


def no_item(item_id: str) -> None:
    return None


def messages_of(*items: Any) -> list[dict[str, Any]]:
    return read_input(list(items), no_item)


def answer_of(
    text: list[str],
    finish_reason: str | None = "stop",
    owner: bytes = b"me",
    answer_id: str = "resp_1",
    reading: Reading | None = None,
) -> AnswerStreams:
    """An answer, a token for each part of the text; it has ended if it has a finish reason."""
    form = Format(
        kind="responses",
        answer_id=answer_id,
        model="m",
        created=1,
        is_streamed=True,
        reading=reading,
        responses=ResponsesForm(
            repeated={"store": True},
            conversation=[{"role": "user", "content": "hi"}],
            is_kept=True,
        ),
    )
    request = Request(
        request_id="r",
        adapter=None,
        prompt_ids=(1, 2, 3),
        params=SamplingParams(),
        arrived_at=0.0,
    )
    answer = AnswerStreams(form, owner, [request])
    offset = 0
    for number, part in enumerate(text, start=1):
        is_last = number == len(text)
        reason = finish_reason if is_last else None
        answer.streams[0].put(TextDelta("r", offset, part, number, (number,), finish_reason=reason))
        offset += len(part)
    return answer


# --- input


def test_a_text_is_a_users_message() -> None:
    assert read_input("hi", no_item) == [{"role": "user", "content": "hi"}]


def test_items_of_one_answer_become_one_message() -> None:
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    found = messages_of({"role": "user", "content": "?"}, THOUGHT, said, CALL, OUTPUT, said)
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert found == [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "assistant", "content": "I look."},
    ]


def test_two_answers_in_a_row_stay_two() -> None:
    said = {"role": "assistant", "content": "a"}
    assert messages_of(said, said) == [said, said]
    assert [m.get("reasoning_content") for m in messages_of(said, THOUGHT, said)] == [None, "hm"]


def test_system_messages_at_the_start_become_one() -> None:
    conversation = messages_of(
        {"role": "developer", "content": "b"},
        {"role": "system", "content": [{"type": "input_text", "text": "c"}]},
        {"role": "user", "content": "d"},
        {"role": "system", "content": "e"},
    )
    assert with_instructions("a", conversation) == [
        {"role": "system", "content": "a\n\nb\n\nc"},
        {"role": "user", "content": "d"},
        {"role": "system", "content": "e"},
    ]
    assert with_instructions(None, [{"role": "user", "content": "d"}])[0]["role"] == "user"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (3, "input[0]"),
        ({"type": "computer_call"}, "input[0]"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": "x", "zz": 1}, "input[0].zz"),
        ({**CALL, "zz": 1}, "input[0].zz"),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x", "zz": 1}]},
            "input[0].content[0].zz",
        ),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0]"),
        ({**CALL, "arguments": {}}, "input[0].arguments"),
        ({**OUTPUT, "call_id": None}, "input[0].call_id"),
        ({"type": "item_reference", "id": "msg_9"}, "input[0]"),
    ],
)
def test_a_wrong_item_is_named(item: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        messages_of(item)
    assert refused.value.param == param
    assert refused.value.reason.lstrip("'").startswith("input[0]")


def test_what_clients_repeat_of_an_answer_is_accepted() -> None:
    part = {"type": "output_text", "text": "x", "annotations": [], "logprobs": [], "parsed": None}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    call = {**CALL, "id": "fc_1", "status": "completed", "parsed_arguments": {}}
    (answer,) = messages_of(message, call)
    assert answer["content"] == "x"
    assert len(answer["tool_calls"]) == 1


# --- the chat of a body


def body(**fields: Any) -> ResponsesBody:
    return decode_body(json.dumps({"input": "hi", **fields}).encode(), ResponsesBody)


def test_a_body_is_a_chat() -> None:
    given = body(max_output_tokens=9, top_logprobs=3, seed=4, model="a", stream=True)
    chat = given.chat([{"role": "user", "content": "hi"}])
    assert (chat.max_completion_tokens, chat.top_logprobs, chat.logprobs) == (9, 3, True)
    assert (chat.seed, chat.model, chat.stream) == (4, "a", True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "f", "paramters": {}}]}, "tools[0].paramters"),
        (
            {
                "tools": [{"type": "function", "name": "f"}],
                "tool_choice": {"type": "function", "name": "f", "x": 1},
            },
            "tool_choice.x",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp"}},
            "tool_choice",
        ),
        ({"include": ["everything"]}, "include"),
        ({"text": {"format": {"type": "yaml"}}}, "text"),
    ],
)
def test_a_refusal_names_the_field_of_this_body(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused, renamed(CHAT_NAMES):
        given = body(**fields)
        given.check()
        given.chat([{"role": "user", "content": "hi"}]).check()
    assert (refused.value.param or "").startswith(param)


# --- the answer


def events_of(answer: AnswerStreams) -> list[tuple[str, dict[str, Any]]]:
    response = ResponseEvents(answer)
    events = response.begin()
    for delta in answer.streams[0].deltas():
        events += response.put(delta)
    return events


def test_events_come_in_order_and_say_what_the_whole_says() -> None:
    answer = answer_of(["Hel", "", "lo"])
    events = events_of(answer)
    assert [name.removeprefix("response.") for name, _ in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(10))
    assert [data["delta"] for name, data in events if name.endswith("delta")] == ["Hel", "lo"]
    whole = response_object(answer)
    last = events[-1][1]["response"]
    assert {**last, "completed_at": 0} == {**whole, "completed_at": 0}
    assert whole["output"][0]["content"][0]["text"] == "Hello"
    assert whole["usage"]["input_tokens"] == 3 and whole["usage"]["output_tokens"] == 3
    assert answer_messages(whole) == [{"role": "assistant", "content": "Hello"}]


def test_an_answer_cut_off_is_incomplete() -> None:
    whole = response_object(answer_of(["Hel", "lo"], finish_reason="length"))
    assert whole["status"] == whole["output"][0]["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_answer_that_is_cancelled_or_fails_has_what_came_before(is_cancelled: bool) -> None:
    answer = answer_of(["Hel", "lo"], finish_reason=None)
    answer.is_cancelled = is_cancelled
    response = ResponseEvents(answer)
    for delta in answer.streams[0].deltas():
        response.put(delta)
    answer.streams[0].refuse(Refused("r", 503, "why"))
    *before, (name, last) = response.fail(BadRequest("why", status=503))
    assert name == "response.failed"
    assert before[-1][0] == "response.output_item.done"
    whole = response_object(answer)
    assert last["response"] == whole
    assert whole["output"][0]["content"][0]["text"] == "Hello"
    assert (whole["output"][0]["status"], whole["usage"]["output_tokens"]) == ("incomplete", 2)
    failed = {"code": "server_error", "message": "why"}
    expected = ("cancelled", None) if is_cancelled else ("failed", failed)
    assert (whole["status"], whole["error"]) == expected


def test_text_that_was_held_back_is_in_a_cancelled_answer() -> None:
    answer = answer_of(["So <tool"], finish_reason=None, reading=Reading("hermes"))
    answer.is_cancelled = True
    answer.streams[0].refuse(Refused("r", 409, "cancelled"))
    assert response_object(answer)["output"][0]["content"][0]["text"] == "So <tool"


def test_a_call_that_a_stop_string_cut_does_not_look_complete() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"'
    answer = answer_of([text], reading=Reading("hermes"))
    assert events_of(answer)[-1][0] == "response.incomplete"
    whole = response_object(answer)
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", None)
    assert [item["status"] for item in whole["output"]] == ["incomplete"]
    done = response_object(answer_of([text + 'a": 1}'], reading=Reading("hermes")))
    assert (done["status"], done["output"][0]["status"]) == ("completed", "completed")


def test_an_empty_answer_has_an_empty_text() -> None:
    whole = response_object(answer_of([""]))
    assert [part["text"] for part in whole["output"][0]["content"]] == [""]


# --- what is kept


def test_the_oldest_are_given_up_for_newer_ones() -> None:
    store = ResponseStore(3000)
    for number in range(20):
        store.put(answer_of(["x" * 100], answer_id=f"resp_{number}"))
        assert store.num_bytes <= 3000
    assert store.find("resp_19", b"me", "id").response
    with pytest.raises(BadRequest, match="given up"):
        store.find("resp_0", b"me", "id")


def test_a_response_is_its_keys_own() -> None:
    store = ResponseStore(1 << 20)
    store.put(answer_of(["x"]))
    item_id = response_object(answer_of(["x"]))["output"][0]["id"]
    assert store.find_item(item_id, b"me") is not None
    assert store.find_item(item_id, b"you") is None
    for take in (store.find, store.remove):
        with pytest.raises(BadRequest) as refused:
            take(*(("resp_1", b"you", "id") if take == store.find else ("resp_1", b"you")))
        assert refused.value.status == 404
    store.remove("resp_1", b"me")
    assert store.num_bytes == 0 and store.find_item(item_id, b"me") is None


def test_a_kept_id_is_taken_for_every_key() -> None:
    store = ResponseStore(1 << 20)
    first = answer_of(["x"], answer_id="a")
    store.put(first)
    with pytest.raises(BadRequest, match="is taken") as refused:
        store.check_new(first.form)
    assert (refused.value.status, refused.value.param) == (409, "X-Request-Id")
    store.check_new(answer_of(["x"], answer_id="b").form)
    item_id = response_object(first)["output"][0]["id"]
    other = answer_of(["y"], owner=b"you", answer_id="resp_a")  # whose items have the same ids
    store.put(other)
    found = [store.find_item(item_id, owner) for owner in (b"me", b"you")]
    assert [item["content"][0]["text"] for item in found if item] == ["x", "y"]
    store.remove("resp_a", b"you")
    assert store.find_item(item_id, b"me") == found[0]


def test_what_is_longer_than_all_the_room_is_not_kept() -> None:
    store = ResponseStore(1000)
    assert store.has_room_for(["x" * 400], {"a": "x" * 400})
    assert not store.has_room_for(["x" * 500], {"a": "x" * 500})
    assert not ResponseStore(0).has_room_for([])


def test_nothing_is_kept_without_room() -> None:
    store = ResponseStore(0)
    store.put(answer_of(["x"]))
    with pytest.raises(BadRequest, match="--response-store-mib"):
        store.find("resp_1", b"me", "id")
