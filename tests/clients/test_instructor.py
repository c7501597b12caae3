"""instructor: each of its modes for servers of OpenAI's kind."""

from __future__ import annotations

from typing import Literal

import instructor
import openai
import pytest
from conftest import BASE, QUESTION, Server
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel, ConfigDict


class Place(BaseModel):
    """A place."""

    # Otherwise the schema allows more properties, and a model this small adds them to the end.
    model_config = ConfigDict(extra="forbid")
    city: Literal["Madrid", "Lisbon"]
    is_capital: bool


def client(server: Server, mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=server.v1, max_retries=0), mode=mode)


@pytest.mark.parametrize(
    "mode", [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA]
)
@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_a_mode_with_a_schema_returns_the_model(
    server: Server, mode: instructor.Mode, model: str
) -> None:
    made = client(server, mode).chat.completions.create(
        model=model,
        response_model=Place,
        messages=[{"role": "user", "content": QUESTION}],
        max_retries=0,
        max_tokens=80,
        temperature=0,
    )
    assert isinstance(made, Place)


@pytest.mark.parametrize("mode", [instructor.Mode.JSON, instructor.Mode.MD_JSON])
def test_a_mode_without_a_schema_reaches_the_model(server: Server, mode: instructor.Mode) -> None:
    """Its fields are then the model's to choose: what comes back is JSON or its own complaint."""
    made = client(server, mode)
    try:
        made.chat.completions.create(
            model=BASE,
            response_model=Place,
            messages=[{"role": "user", "content": QUESTION}],
            max_retries=0,
            max_tokens=80,
            temperature=0,
        )
    except (InstructorRetryException, IncompleteOutputException) as failed:
        assert "Error code" not in str(failed), failed


def test_partial_results_of_a_stream(server: Server) -> None:
    parts = list(
        client(server, instructor.Mode.TOOLS).chat.completions.create_partial(
            model=BASE,
            response_model=Place,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=80,
            temperature=0,
        )
    )
    assert Place.model_validate(parts[-1].model_dump())
