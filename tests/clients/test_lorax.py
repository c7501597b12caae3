"""lorax-client, LoRAX's own client: `POST /` with adapter_id."""

from __future__ import annotations

import asyncio
import json

import pytest
from conftest import BASE, WEATHER, Server, is_weather
from lorax import AsyncClient, Client
from lorax.errors import NotFoundError

PROMPT = "Once upon a time"


@pytest.mark.parametrize("adapter", [None, "pirate", "haiku"])
def test_generate_names_the_adapter(server: Server, adapter: str | None) -> None:
    made = Client(server.url).generate(PROMPT, adapter_id=adapter, max_new_tokens=8)
    assert made.generated_text == server.complete(adapter or BASE, PROMPT, 8)
    assert made.details and made.details.generated_tokens <= 8
    text = "".join(token.text for token in made.details.tokens if not token.special)
    assert text == made.generated_text


def test_generate_stream_joins_to_the_text(server: Server) -> None:
    parts = Client(server.url).generate_stream(PROMPT, adapter_id="pirate", max_new_tokens=8)
    text = "".join(part.token.text for part in parts if not part.token.special)
    assert text == server.complete("pirate", PROMPT, 8)


def test_a_schema(server: Server) -> None:
    form = {"type": "json_object", "schema": WEATHER["parameters"]}
    made = Client(server.url).generate("Weather: ", response_format=form, max_new_tokens=80)
    assert is_weather(json.loads(made.generated_text))


def test_a_missing_adapter_is_an_error_of_the_client(server: Server) -> None:
    with pytest.raises(NotFoundError):
        Client(server.url).generate(PROMPT, adapter_id="absent", max_new_tokens=8)


def test_the_async_client(server: Server) -> None:
    async def ask() -> str:
        client = AsyncClient(server.url)
        return (await client.generate(PROMPT, adapter_id="haiku", max_new_tokens=8)).generated_text

    assert asyncio.run(ask()) == server.complete("haiku", PROMPT, 8)
