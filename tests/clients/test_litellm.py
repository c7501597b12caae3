"""litellm: its providers for servers of OpenAI's kind, and the errors that fallbacks need."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather
from pydantic import BaseModel

ASK = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": WEATHER}


class Verdict(BaseModel):
    """What a structured answer holds."""

    is_capital: bool


@pytest.fixture
def call(server: Server) -> dict[str, Any]:
    return {"api_base": server.v1, "api_key": "none", "num_retries": 0}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "custom_openai", "litellm_proxy"])
def test_each_provider_reaches_base_and_adapter(
    server: Server, call: dict[str, Any], provider: str
) -> None:
    for model in (BASE, "pirate"):
        answer = litellm.completion(
            f"{provider}/{model}", messages=ASK, temperature=0, max_tokens=12, **call
        )
        assert answer.choices[0].message.content == server.chat(model)
        assert answer.usage.completion_tokens <= 12


def test_a_stream_joins_to_the_answer(server: Server, call: dict[str, Any]) -> None:
    chunks = list(
        litellm.completion(
            "hosted_vllm/pirate",
            messages=ASK,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            **call,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == server.chat("pirate")
    assert any(getattr(chunk, "usage", None) for chunk in chunks)


def test_async_and_text_completions(server: Server, call: dict[str, Any]) -> None:
    answer = asyncio.run(
        litellm.acompletion(f"openai/{BASE}", messages=ASK, temperature=0, max_tokens=12, **call)
    )
    assert answer.choices[0].message.content == server.chat(BASE)
    text = litellm.text_completion(
        model=f"text-completion-openai/{BASE}",
        prompt="Once upon a time",
        temperature=0,
        max_tokens=8,
        **call,
    )
    assert text.choices[0].text == server.complete(BASE, "Once upon a time", 8)


def test_tools_and_a_schema(call: dict[str, Any]) -> None:
    answer = litellm.completion(
        f"hosted_vllm/{BASE}",
        messages=ASK,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
        **call,
    )
    (made,) = answer.choices[0].message.tool_calls
    assert made.function.name == "get_weather" and is_weather(made.function.arguments)
    answer = litellm.completion(
        f"hosted_vllm/{BASE}", messages=ASK, response_format=Verdict, max_tokens=40, **call
    )
    Verdict.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_too_long_a_prompt_is_its_context_window_error(call: dict[str, Any], provider: str) -> None:
    messages = [{"role": "user", "content": "a " * 20_000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(f"{provider}/{BASE}", messages=messages, max_tokens=1, **call)


def test_embeddings(call: dict[str, Any]) -> None:
    for provider in ("openai", "hosted_vllm"):
        made = litellm.embedding(f"{provider}/{BASE}", input=["a", "b"], **call)
        assert len(made.data) == 2 and len(made.data[0]["embedding"]) > 100


def test_responses(server: Server, call: dict[str, Any]) -> None:
    answer = litellm.responses(
        model=f"openai/{BASE}", input=QUESTION, temperature=0, max_output_tokens=16, **call
    )
    assert answer.output[0].content[0].text == server.chat(BASE, max_tokens=16)
