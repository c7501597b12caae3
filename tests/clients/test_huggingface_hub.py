"""huggingface_hub's InferenceClient: chat, and TGI's text generation."""

from __future__ import annotations

import json

import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather
from huggingface_hub import InferenceClient

ASK = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_chat_and_its_stream(server: Server, model: str) -> None:
    client = InferenceClient(base_url=server.v1, api_key="none")
    asked = {"messages": ASK, "model": model, "temperature": 0, "max_tokens": 12}
    assert client.chat_completion(**asked).choices[0].message.content == server.chat(model)
    chunks = list(client.chat_completion(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == server.chat(model)


def test_chat_without_a_model(server: Server) -> None:
    """The client then sends the name "dummy"."""
    client = InferenceClient(server.url)
    answer = client.chat_completion(ASK, temperature=0, max_tokens=12)
    assert answer.choices[0].message.content == server.chat(BASE)


def test_a_tool_and_a_schema(server: Server) -> None:
    client = InferenceClient(base_url=server.v1, api_key="none")
    answer = client.chat_completion(
        ASK,
        model=BASE,
        tools=[{"type": "function", "function": WEATHER}],
        tool_choice={"function": {"name": "get_weather"}, "type": "function"},
        max_tokens=100,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert is_weather(call.function.arguments)
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "schema": WEATHER["parameters"]},
    }
    answer = client.chat_completion(ASK, model=BASE, response_format=schema, max_tokens=100)
    assert is_weather(answer.choices[0].message.content or "")


def test_text_generation_with_details_and_stop(server: Server) -> None:
    client = InferenceClient(f"{server.url}/generate")
    expected = server.complete(BASE, "Once upon a time", 8)
    assert client.text_generation("Once upon a time", max_new_tokens=8) == expected
    made = client.text_generation("Once upon a time", max_new_tokens=8, details=True)
    assert made.generated_text == expected and made.details.generated_tokens == 8
    words = expected.split()
    stopped = client.text_generation("Once upon a time", max_new_tokens=8, stop=[words[2]])
    assert words[1] in stopped and len(stopped) < len(expected)


def test_text_generation_streamed(server: Server) -> None:
    client = InferenceClient(f"{server.url}/generate_stream")
    parts = client.text_generation("Once upon a time", max_new_tokens=8, stream=True)
    assert "".join(parts) == server.complete(BASE, "Once upon a time", 8)


def test_text_generation_of_a_server_with_one_route(server: Server) -> None:
    """TGI takes both at `POST /`."""
    client = InferenceClient(server.url)
    expected = server.complete(BASE, "Once upon a time", 8)
    assert client.text_generation("Once upon a time", max_new_tokens=8) == expected
    parts = client.text_generation("Once upon a time", max_new_tokens=8, stream=True)
    assert "".join(parts) == expected
    grammar = {"type": "json", "value": WEATHER["parameters"]}
    made = client.text_generation("Weather: ", max_new_tokens=80, grammar=grammar)
    assert is_weather(json.loads(made))
