"""pydantic-ai: text, output types by each way, tools."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from conftest import BASE, QUESTION, Server
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput, UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

SETTINGS = ModelSettings(temperature=0, max_tokens=12)


class Verdict(BaseModel):
    """Whether the city is a capital."""

    is_capital: bool


class Degrees(BaseModel):
    """The temperature."""

    degrees: int


def chat_model(server: Server, name: str = BASE) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=server.v1, api_key="none"))


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_text_and_usage(server: Server, model: str) -> None:
    made = Agent(chat_model(server, model)).run_sync(QUESTION, model_settings=SETTINGS)
    assert made.output == server.chat(model)
    assert made.usage.output_tokens


def test_a_stream(server: Server) -> None:
    async def text() -> str:
        agent = Agent(chat_model(server))
        async with agent.run_stream(QUESTION, model_settings=SETTINGS) as made:
            return "".join([part async for part in made.stream_text(delta=True)])

    assert asyncio.run(text()) == server.chat(BASE)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
def test_an_output_type(server: Server, way: Any) -> None:
    agent = Agent(chat_model(server), output_type=way(Verdict), retries=0)
    made = agent.run_sync(QUESTION, model_settings=ModelSettings(temperature=0, max_tokens=60))
    assert isinstance(made.output, Verdict)


def test_a_prompted_output_reaches_the_model(server: Server) -> None:
    """The fields are then the model's to choose; this model may choose wrong ones."""
    agent = Agent(chat_model(server), output_type=PromptedOutput(Verdict), retries=0)
    try:
        made = agent.run_sync(QUESTION, model_settings=ModelSettings(temperature=0, max_tokens=60))
        assert isinstance(made.output, Verdict)
    except UnexpectedModelBehavior as failed:
        assert "retries" in str(failed)


@pytest.mark.parametrize("is_typed", [False, True])
def test_a_loop_with_a_tool(scripted_server: Server, is_typed: bool) -> None:
    calls = []
    output: Any = Degrees if is_typed else str
    agent = Agent(chat_model(scripted_server, scripted_server.base), output_type=output)

    @agent.tool_plain
    def get_weather(city: Literal["Madrid", "Lisbon", "Oslo"], unit: Literal["celsius"]) -> str:
        """The weather in a city."""
        calls.append((city, unit))
        return "21 degrees"

    made = agent.run_sync(QUESTION, model_settings=ModelSettings(temperature=0, max_tokens=80))
    assert calls == [("Madrid", "celsius")]
    assert made.output == Degrees(degrees=21) if is_typed else "21 degrees" in made.output


def test_the_responses_model(server: Server) -> None:
    provider = OpenAIProvider(base_url=server.v1, api_key="none")
    agent = Agent(OpenAIResponsesModel(BASE, provider=provider))
    made = agent.run_sync(QUESTION, model_settings=ModelSettings(temperature=0, max_tokens=16))
    assert made.output
