"""text-generation, TGI's own client: `POST /`, and a chat with the model name "tgi"."""

from __future__ import annotations

import asyncio
import json

from conftest import BASE, QUESTION, WEATHER, Server, is_weather
from text_generation import AsyncClient, Client
from text_generation.types import Grammar, GrammarType, Message

PROMPT = "Once upon a time"


def test_generate_has_text_and_details(server: Server) -> None:
    made = Client(server.url).generate(PROMPT, max_new_tokens=8)
    assert made.generated_text == server.complete(BASE, PROMPT, 8)
    assert made.details.generated_tokens == 8
    assert "".join(token.text for token in made.details.tokens) == made.generated_text


def test_generate_stream_joins_to_the_text(server: Server) -> None:
    parts = list(Client(server.url).generate_stream(PROMPT, max_new_tokens=8))
    assert "".join(part.token.text for part in parts) == server.complete(BASE, PROMPT, 8)
    assert parts[-1].generated_text == server.complete(BASE, PROMPT, 8)
    assert parts[-1].details.generated_tokens == 8


def test_stop_sequences(server: Server) -> None:
    whole = server.complete(BASE, PROMPT, 8)
    made = Client(server.url).generate(PROMPT, max_new_tokens=8, stop_sequences=[whole.split()[2]])
    assert len(made.generated_text) < len(whole)


def test_a_grammar(server: Server) -> None:
    grammar = Grammar(type=GrammarType.Json, value=WEATHER["parameters"])
    made = Client(server.url).generate("Weather: ", max_new_tokens=80, grammar=grammar)
    assert is_weather(json.loads(made.generated_text))


def test_chat(server: Server) -> None:
    """Whole: a streamed chat fails in the client, which wants tool_calls in every chunk."""
    messages = [Message(role="user", content=QUESTION)]
    made = Client(server.url).chat(messages, temperature=0, max_tokens=12)
    assert made.choices[0].message.content == server.chat(BASE)


def test_the_async_client(server: Server) -> None:
    async def ask() -> str:
        return (await AsyncClient(server.url).generate(PROMPT, max_new_tokens=8)).generated_text

    assert asyncio.run(ask()) == server.complete(BASE, PROMPT, 8)
