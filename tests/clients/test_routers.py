"""vllm-router and sglang-router in front of a pipeline: a client's requests through them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from conftest import BASE, QUESTION, Server, wait_for

PROGRAMS = ("vllm-router", "sglang-router")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=PROGRAMS)
def router(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The router's URL."""
    port, log = free_port(), tmp_path_factory.mktemp(request.param) / "log"
    launch = ["launch"] if request.param == "sglang-router" else []
    words = [Path(sys.executable).parent / request.param, *launch, "--worker-urls", server.url]
    words += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    with (
        log.open("w") as output,
        subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                return httpx.get(f"{url}/readiness", trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            wait_for(is_ready)
            yield url
        finally:
            process.terminate()


@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_chat_and_its_stream(router: str, server: Server, model: str) -> None:
    client = openai.OpenAI(base_url=f"{router}/v1", max_retries=0)
    asked = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    limits = {"temperature": 0, "max_tokens": 12}
    answer = client.chat.completions.create(**asked, **limits)
    assert answer.choices[0].message.content == server.chat(model)
    chunks = client.chat.completions.create(**asked, **limits, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == server.chat(model)


def test_completions(router: str, server: Server) -> None:
    client = openai.OpenAI(base_url=f"{router}/v1", max_retries=0)
    answer = client.completions.create(model=BASE, prompt="The", temperature=0, max_tokens=8)
    assert answer.choices[0].text == server.complete(BASE, "The", 8)


def test_models(router: str) -> None:
    client = openai.OpenAI(base_url=f"{router}/v1", max_retries=0)
    assert BASE in [model.id for model in client.models.list()]


def test_a_refusal_comes_through(router: str) -> None:
    client = openai.OpenAI(base_url=f"{router}/v1", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "x"}], temperature=-1
        )
    assert "temperature" in str(refused.value)
