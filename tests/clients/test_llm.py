"""llm, the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import BASE, QUESTION, Server

Run = Callable[..., str]


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    models = [
        {"model_id": name, "model_name": name, "api_base": server.v1, "api_key_name": "local"}
        | {"supports_schema": True, "supports_tools": True}
        for name in (BASE, "pirate")
    ]
    models.append(
        {"model_id": "text", "model_name": BASE, "api_base": server.v1, "completion": True}
    )
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    (tmp_path / "keys.json").write_text('{"local": "none", "openai": "none"}')
    program = Path(sys.executable).parent / "llm"

    def llm(*words: str) -> str:
        done = subprocess.run(
            [program, *words],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return llm


GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "12")


@pytest.mark.parametrize("stream", [(), ("--no-stream",)])
def test_a_prompt_gets_the_models_answer(run: Run, server: Server, stream: tuple[str, ...]) -> None:
    for model in (BASE, "pirate"):
        assert run("-m", model, *GREEDY, *stream, QUESTION) == server.chat(model).strip()


def test_a_system_prompt_and_a_conversation(run: Run) -> None:
    first = run("-m", BASE, *GREEDY, "-s", "Answer in French.", QUESTION)
    second = run("-c", *GREEDY, "And of France?")
    assert first and second


def test_a_completion_model(run: Run, server: Server) -> None:
    expected = server.complete(BASE, "Once upon a time", 12).strip()
    assert run("-m", "text", *GREEDY, "Once upon a time") == expected


def test_a_schema(run: Run) -> None:
    schema = {
        "type": "object",
        "properties": {"is_capital": {"type": "boolean"}},
        "required": ["is_capital"],
        "additionalProperties": False,
    }
    text = run("-m", BASE, "-o", "max_tokens", "40", "--schema", json.dumps(schema), QUESTION)
    assert set(json.loads(text)) == {"is_capital"}


def test_json_object(run: Run) -> None:
    text = run("-m", BASE, *GREEDY, "-o", "json_object", "1", "Spain as JSON")
    assert text.startswith("{")


def test_a_tool_is_offered(run: Run) -> None:
    """The tool is the model's to choose, and this model may not."""
    assert run("-m", BASE, *GREEDY, "-T", "llm_version", "Which version of llm is this?")
