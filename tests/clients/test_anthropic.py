"""anthropic for Python: the Messages API."""

from __future__ import annotations

import anthropic
import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather

TOOL = {
    "name": WEATHER["name"],
    "description": WEATHER["description"],
    "input_schema": WEATHER["parameters"],
}

GREEDY = {"temperature": 0}
"""As extra fields: 2.14 has no parameter of that name."""


@pytest.fixture(scope="module")
def client(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, max_retries=0, _strict_response_validation=True)


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_a_message_is_the_answer_of_a_chat(
    client: anthropic.Anthropic, server: Server, model: str
) -> None:
    message = client.messages.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body=GREEDY,
        max_tokens=12,
    )
    assert "".join(part.text for part in message.content if part.type == "text") == server.chat(
        model
    )
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens > 0 and 0 < message.usage.output_tokens <= 12


def test_the_system_field_is_the_systems_message(
    client: anthropic.Anthropic, server: Server
) -> None:
    messages = [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": QUESTION},
    ]
    limits = {"model": BASE, "temperature": 0, "max_tokens": 12}
    chat = server.post("/v1/chat/completions", {"messages": messages, **limits})
    message = client.messages.create(
        model=BASE,
        system="Answer in French.",
        messages=[{"role": "user", "content": QUESTION}],
        extra_body=GREEDY,
        max_tokens=12,
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == chat["choices"][0]["message"]["content"]


def test_a_stream_joins_to_the_answer(client: anthropic.Anthropic, server: Server) -> None:
    with client.messages.stream(
        model="pirate",
        messages=[{"role": "user", "content": QUESTION}],
        extra_body=GREEDY,
        max_tokens=12,
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == server.chat("pirate")
    assert message.usage.output_tokens > 0


def test_stop_sequences_are_named(client: anthropic.Anthropic, server: Server) -> None:
    stop = server.chat(BASE).split()[2]
    message = client.messages.create(
        model=BASE,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body=GREEDY,
        max_tokens=30,
        stop_sequences=["@@", stop],
    )
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop
    assert stop not in "".join(part.text for part in message.content if part.type == "text")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_loop_of_call_result_and_answer(
    client: anthropic.Anthropic, choice: dict[str, object], stream: bool
) -> None:
    user = {"role": "user", "content": QUESTION}
    asked = {"model": BASE, "tools": [TOOL], "max_tokens": 100}
    choice = choice | {"disable_parallel_tool_use": True}
    if stream:
        with client.messages.stream(messages=[user], tool_choice=choice, **asked) as events:
            first = events.get_final_message()
    else:
        first = client.messages.create(messages=[user], tool_choice=choice, **asked)
    (call,) = [part for part in first.content if part.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert call.name == "get_weather" and is_weather(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"degrees": 21}'}
    messages = [
        user,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(
        messages=messages, **asked | {"max_tokens": 20}, tool_choice={"type": "none"}
    )
    assert second.content[0].type == "text" and second.content[0].text


def test_tokens_are_counted_as_the_answers_usage(client: anthropic.Anthropic) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    counted = client.messages.count_tokens(model=BASE, messages=messages)
    message = client.messages.create(model=BASE, messages=messages, max_tokens=1)
    assert counted.input_tokens == message.usage.input_tokens


def test_errors_have_anthropics_shape(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.messages.create(
            model="absent", messages=[{"role": "user", "content": "x"}], max_tokens=1
        )
    body = refused.value.body
    assert isinstance(body, dict) and body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
