"""openai for Python: the Responses API."""

from __future__ import annotations

import openai
import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather
from pydantic import BaseModel

TOOL = {"type": "function", "strict": True, **WEATHER}


class Verdict(BaseModel):
    """What a structured answer holds."""

    is_capital: bool


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.v1, max_retries=0, _strict_response_validation=True)


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_a_response_is_the_answer_of_a_chat(
    client: openai.OpenAI, server: Server, model: str
) -> None:
    answer = client.responses.create(
        model=model, input=QUESTION, temperature=0, max_output_tokens=12
    )
    assert answer.output_text == server.chat(model)
    assert answer.usage and answer.usage.output_tokens <= 12
    assert answer.status in ("completed", "incomplete")


def test_instructions_are_the_systems_message(client: openai.OpenAI, server: Server) -> None:
    messages = [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": QUESTION},
    ]
    limits = {"model": BASE, "temperature": 0, "max_tokens": 12}
    chat = server.post("/v1/chat/completions", {"messages": messages, **limits})
    answer = client.responses.create(
        model=BASE,
        instructions="Answer in French.",
        input=QUESTION,
        temperature=0,
        max_output_tokens=12,
    )
    assert answer.output_text == chat["choices"][0]["message"]["content"]


def test_events_of_a_stream_join_to_the_answer(client: openai.OpenAI, server: Server) -> None:
    events = list(
        client.responses.create(
            model="pirate", input=QUESTION, temperature=0, max_output_tokens=12, stream=True
        )
    )
    final = events[-1].response
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == server.chat("pirate")
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))


def test_a_conversation_goes_on_from_an_earlier_response(
    client: openai.OpenAI, server: Server
) -> None:
    first = client.responses.create(model=BASE, input=QUESTION, temperature=0, max_output_tokens=12)
    second = client.responses.create(
        model=BASE,
        input="And of France?",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=12,
    )
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of France?"},
    ]
    limits = {"model": BASE, "temperature": 0, "max_tokens": 12}
    chat = server.post("/v1/chat/completions", {"messages": messages, **limits})
    assert second.output_text == chat["choices"][0]["message"]["content"]
    assert second.previous_response_id == first.id


def test_an_earlier_response_that_is_unknown_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.responses.create(model=BASE, input="x", previous_response_id="resp_absent")


def test_parse_returns_the_model_of_the_schema(client: openai.OpenAI) -> None:
    answer = client.responses.parse(
        model=BASE, input=QUESTION, text_format=Verdict, max_output_tokens=40
    )
    assert isinstance(answer.output_parsed, Verdict)


@pytest.mark.parametrize("stream", [False, True])
def test_a_loop_of_call_result_and_answer(client: openai.OpenAI, stream: bool) -> None:
    asked = {"model": BASE, "input": QUESTION, "tools": [TOOL], "tool_choice": "required"}
    asked |= {"parallel_tool_calls": False}
    if stream:
        with client.responses.stream(**asked, max_output_tokens=100) as events:
            kinds = [event.type for event in events]
            first = events.get_final_response()
        assert "response.function_call_arguments.delta" in kinds
        assert "response.function_call_arguments.done" in kinds
    else:
        first = client.responses.create(**asked, max_output_tokens=100)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and is_weather(call.arguments)
    second = client.responses.create(
        model=BASE,
        input=[
            {"role": "user", "content": QUESTION},
            {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
            },
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": '{"degrees": 21}',
            },
        ],
        tools=[TOOL],
        tool_choice="none",
        max_output_tokens=20,
    )
    assert second.output_text
