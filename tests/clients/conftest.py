"""The pipelines that the clients talk to, and the answers that they must get.

These tests run in `.venv-clients/python` (`make test-clients`), which has the clients alone. A
pipeline is started by the command line of `.venv`, as a user would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when the clients are imported: no key of the user's, no request to anywhere else.
os.environ |= {
    "OPENAI_API_KEY": "none",
    "ANTHROPIC_API_KEY": "none",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "*",
    "no_proxy": "*",
}

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("LORACONSOLE", ROOT / ".venv/bin/loraconsole"))
"""What is tested; another checkout's by the variable LORACONSOLE."""
PYTHON = ROOT / ".venv/bin/python"

BASE = "SmolLM2-135M-Instruct"
ADAPTERS = ("pirate", "haiku")
QUESTION = "What is the capital of Spain?"

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Madrid", "Lisbon", "Oslo"]},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
"""A function all of whose arguments are of a list, so that any constrained answer ends."""


def is_weather(arguments: str | dict[str, Any]) -> bool:
    """Whether a call's arguments are what WEATHER's schema allows."""
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    fields = WEATHER["parameters"]["properties"]
    return set(values) == set(fields) and all(
        values[name] in fields[name]["enum"] for name in fields
    )


@dataclass
class Server:
    """A pipeline that runs: its address, and plain requests to it."""

    url: str
    base: str
    run: str
    _answers: dict[tuple[str, str, int], str] = field(default_factory=dict)

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer of a plain POST."""
        response = httpx.post(self.url + path, json=body, timeout=120, trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()

    def chat(self, model: str, text: str = QUESTION, max_tokens: int = 12) -> str:
        """The greedy answer as a plain request gets it, which every client has to get too."""
        if (model, text, max_tokens) not in self._answers:
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            limits = {"temperature": 0, "max_tokens": max_tokens}
            answer = self.post("/v1/chat/completions", body | limits)
            self._answers[model, text, max_tokens] = answer["choices"][0]["message"]["content"]
        return self._answers[model, text, max_tokens]

    def complete(self, model: str, text: str, max_tokens: int = 12) -> str:
        """The greedy continuation of a text."""
        body = {"model": model, "prompt": text, "temperature": 0, "max_tokens": max_tokens}
        return self.post("/v1/completions", body)["choices"][0]["text"]

    def running(self) -> int:
        """Requests in the batch."""
        text = httpx.get(f"{self.url}/metrics", timeout=60, trust_env=False).text
        lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines)


@contextmanager
def started(base: str, *options: str) -> Iterator[Server]:
    """A pipeline with these options; stopped at the end."""
    assert PROGRAM.exists(), f"{PROGRAM} is missing: make install"
    run = tempfile.mkdtemp(prefix="clients-")  # short: sockets lie in it

    def command(*words: str) -> str:
        done = subprocess.run([PROGRAM, *words, "--run", run], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        command("up", "--port", "0", "--dtype", "float32", *options)
        url = json.loads(command("status", "--json"))["server"]["url"]
        wait_for(lambda: httpx.get(f"{url}/health", trust_env=False).status_code == 200)
        yield Server(url, base, run)
    finally:
        subprocess.run([PROGRAM, "down", "--now", "--run", run], capture_output=True)
        shutil.rmtree(run, ignore_errors=True)


def wait_for(look: Callable[[], object], seconds: float = 120.0) -> None:
    """Returns once `look` is true; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The default model with its adapters."""
    with started(BASE) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def nothing_runs_on(server: Server) -> Iterator[None]:
    """Fails if a client's requests go on in the pipeline after its tests."""
    yield
    wait_for(lambda: server.running() == 0, seconds=30)


@pytest.fixture(scope="session")
def model_directory() -> Path:
    """The default model's files, as the product found or made them."""
    words = "from loraconsole.pipeline.config import Config; from loraconsole.pipeline.fetch.fetch"
    code = f"{words} import resolve; print(resolve(Config()))"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def scripted_server(
    model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The default model with the chat template scripted.jinja, by which it calls get_weather of its
    own choice, once, and says the result: what a larger model does untaught."""
    directory = tmp_path_factory.mktemp("scripted") / "scripted"
    directory.mkdir()
    for path in model_directory.iterdir():
        (directory / path.name).symlink_to(path)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").unlink()
    config["chat_template"] = (Path(__file__).parent / "scripted.jinja").read_text()
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    with started("", "--model", str(directory)) as server:
        models = httpx.get(f"{server.v1}/models", timeout=60, trust_env=False).json()
        server.base = models["data"][0]["id"]
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.clients)
