"""langchain-openai: chat, completions, embeddings, tools, structured output, agents."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather
from langchain.agents import create_agent
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Verdict(BaseModel):
    """Whether the city is a capital."""

    is_capital: bool


@tool
def get_weather(city: Literal["Madrid", "Lisbon", "Oslo"], unit: Literal["celsius"]) -> str:
    """The weather in a city."""
    return f"21 degrees {unit} in {city}"


def chat(server: Server, model: str = BASE, **options: Any) -> ChatOpenAI:
    settings = {"temperature": 0, "max_tokens": 12, "max_retries": 0} | options
    return ChatOpenAI(base_url=server.v1, model=model, **settings)


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_invoke_batch_and_stream(server: Server, model: str) -> None:
    client = chat(server, model, stream_usage=True)
    expected = server.chat(model)
    assert client.invoke(QUESTION).content == expected
    assert [answer.content for answer in client.batch([QUESTION] * 3)] == [expected] * 3
    chunks = list(client.stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == expected
    assert any(chunk.usage_metadata for chunk in chunks)


def test_astream(server: Server) -> None:
    async def text() -> str:
        return "".join([str(chunk.content) async for chunk in chat(server).astream(QUESTION)])

    assert asyncio.run(text()) == server.chat(BASE)


def test_logprobs(server: Server) -> None:
    answer = chat(server, logprobs=True, top_logprobs=2).invoke(QUESTION)
    entries = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == answer.content


def test_completions(server: Server) -> None:
    client = OpenAI(base_url=server.v1, model=BASE, temperature=0, max_tokens=8, max_retries=0)
    expected = server.complete(BASE, "Once upon a time", 8)
    assert client.invoke("Once upon a time") == expected
    assert "".join(client.stream("Once upon a time")) == expected


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_by_each_method(server: Server, method: str) -> None:
    client = chat(server, max_tokens=60).with_structured_output(
        Verdict, method=method, include_raw=True
    )
    made = client.invoke(f"{QUESTION} Answer in JSON.")
    if method == "json_mode":  # any object; this model does not choose the fields asked for
        assert str(made["raw"].content).lstrip().startswith("{")
    else:
        assert isinstance(made["parsed"], Verdict), made


def test_a_bound_tool_is_called_and_answered(server: Server) -> None:
    client = chat(server, max_tokens=100)
    tools = [{"type": "function", "function": WEATHER}]
    bound = client.bind_tools(tools, tool_choice="any", parallel_tool_calls=False)
    asked = HumanMessage(QUESTION)
    called = bound.invoke([asked])
    (made,) = called.tool_calls
    assert made["name"] == "get_weather" and is_weather(made["args"])
    result = ToolMessage("21 degrees", tool_call_id=made["id"])
    assert client.invoke([asked, called, result]).content


def test_an_agent_completes_its_loop(scripted_server: Server) -> None:
    client = chat(scripted_server, scripted_server.base, max_tokens=80)
    agent = create_agent(client, tools=[get_weather])
    messages = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[2].content == "21 degrees celsius in Madrid"
    assert "21 degrees" in messages[3].content


def test_responses_api(server: Server) -> None:
    client = chat(server, use_responses_api=True, max_tokens=None, max_completion_tokens=16)
    assert client.invoke(QUESTION).text


def test_embeddings(server: Server) -> None:
    client = OpenAIEmbeddings(
        base_url=server.v1, model=BASE, max_retries=0, check_embedding_ctx_length=False
    )
    assert len(client.embed_documents(["a", "b"])) == 2


def test_too_long_a_prompt_is_its_overflow_error(server: Server) -> None:
    with pytest.raises(ContextOverflowError):
        chat(server).invoke("a " * 20_000)
