"""The server is killed under every kind of answer, and the clients come back for the rest."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from ring import BASE, Ring
from waiting import wait_for

from loraconsole.console.client.answer import Answer
from loraconsole.console.client.chat import ChatParams
from loraconsole.console.client.http_client import Http

pytestmark = pytest.mark.processes

SEA = [{"role": "user", "content": "Tell me about the sea."}]
LONG: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
LOOK = {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]}
GREEDY = {"max_new_tokens": 40, "temperature": 0, "ignore_eos": True}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "pirate", "messages": SEA, "stream_options": {"include_usage": True}, **LONG},
    ),
    "chat-of-two": (
        "/v1/chat/completions",
        {
            **{"model": BASE, "messages": SEA, **LONG, "temperature": 1.1, "seed": 5},
            **{"n": 2, "logprobs": True, "top_logprobs": 2},
        },
    ),
    "calls": (
        "/v1/chat/completions",
        {
            **{"model": BASE, "messages": SEA, "max_tokens": 40, "n": 2, "logprobs": True},
            **{"temperature": 1.1, "seed": 7, "tool_choice": "required"},
            "tools": [{"type": "function", "function": {"name": "look", "parameters": LOOK}}],
        },
    ),
    "completions": (
        "/v1/completions",
        {
            **{"model": "sql", "prompt": ["Once upon", "The sky"], **LONG, "logprobs": 1},
            **{"stop": ["zebra", "nowhere to be seen"]},
        },
    ),
    "counted": (
        "/v1/completions",
        {
            **{"model": BASE, "prompt": "The sea", **LONG},
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ),
    "slora": ("/generate_stream", {"inputs": "The sea", "parameters": GREEDY}),
}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "whole-chat": (
        "/v1/chat/completions",
        {
            **{"model": "haiku", "messages": SEA, **LONG, "n": 2, "temperature": 0.9, "seed": 3},
            **{"logprobs": True, "top_logprobs": 1},
        },
    ),
    "whole-completions": ("/v1/completions", {"model": BASE, "prompt": "The sea", **LONG}),
    "whole-slora": ("/generate", {"inputs": "The sky", "parameters": GREEDY}),
}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("r"), "--dtype", "float32", "--api-key", "secret") as ring:
        ring.http.headers["authorization"] = "Bearer secret"
        yield ring


@dataclass
class Reading:
    """What one client has of an answer, over its connections."""

    events: list[Any] = field(default_factory=list)
    last_id: str = ""
    body: Any = None
    broke: bool = False

    def read(self, response: httpx.Response) -> None:
        event_id = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                self.events.append(value if value == "[DONE]" else json.loads(value))
                self.last_id = event_id or self.last_id

    def by_choice(self) -> dict[object, list[Any]]:
        """The events of each choice in their order, without what differs between two answers;
        choices of one answer come in any order."""
        found: dict[object, list[Any]] = defaultdict(list)
        for event in self.events:
            if not isinstance(event, dict):
                found["end"].append(event)
                continue
            choices = event.get("choices")
            found[choices[0]["index"] if choices else "none"].append(plain(event))
        return dict(found)


def post(ring: Ring, path: str, body: dict[str, Any], request_id: str, reading: Reading) -> None:
    """Sends a request and reads its answer until it ends or the connection breaks."""
    headers = {"x-request-id": request_id}
    try:
        with ring.http.stream("POST", path, json=body, headers=headers) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["x-request-id"] == request_id
            if body.get("stream") or path == "/generate_stream":
                reading.read(response)
            else:
                reading.body = json.loads(response.read())
    except httpx.TransportError:
        reading.broke = True


def resume(ring: Ring, request_id: str, reading: Reading) -> None:
    """Comes back for the rest."""
    headers = {"last-event-id": reading.last_id} if reading.last_id else {}
    with ring.http.stream("GET", f"/v1/requests/{request_id}", headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["x-request-id"] == request_id
        if response.headers["content-type"].startswith("text/event-stream"):
            reading.read(response)
        else:
            reading.body = json.loads(response.read())


def plain(value: Any) -> Any:
    """An answer or an event without what differs between two: its name, and the last digits of
    logprobs, which depend on the other rows of a step."""
    if isinstance(value, dict):
        # "id" of an S-LoRA token is a number.
        return {
            k: plain(v) for k, v in value.items() if k != "created" and (k, type(v)) != ("id", str)
        }
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return round(value, 2) if isinstance(value, float) else value


def bodies() -> dict[str, tuple[str, dict[str, Any]]]:
    streamed = {
        name: (path, body if "inputs" in body else body | {"stream": True})
        for name, (path, body) in STREAMS.items()
    }
    return streamed | WHOLE


@pytest.fixture(scope="module")
def undisturbed(ring: Ring) -> dict[str, Reading]:
    readings = {name: Reading() for name in bodies()}
    for name, (path, body) in bodies().items():
        post(ring, path, body, f"calm-{name}", readings[name])
    return readings


def begin(ring: Ring, suffix: str) -> tuple[dict[str, Reading], list[threading.Thread]]:
    """Sends all kinds of requests; returns once each streamed answer has some events."""
    readings = {name: Reading() for name in bodies()}
    threads = [
        threading.Thread(target=post, args=(ring, path, body, f"{name}{suffix}", readings[name]))
        for name, (path, body) in bodies().items()
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(len(readings[name].events) > 3 for name in STREAMS), 60, every=0.02)
    return readings, threads


def finish(
    ring: Ring, suffix: str, readings: dict[str, Reading], undisturbed: dict[str, Reading]
) -> None:
    """Comes back for every answer, and compares it with the undisturbed one."""
    broken = [name for name, reading in readings.items() if reading.broke]
    assert broken, "the server died after all answers"
    for name in broken:
        resume(ring, f"{name}{suffix}", readings[name])
    for name in STREAMS:
        assert readings[name].by_choice() == undisturbed[name].by_choice(), name
    for name in WHOLE:
        assert plain(readings[name].body) == plain(undisturbed[name].body), name
    ring.wait_idle()


@pytest.mark.parametrize("also", [(), ("router",), ("detokenizer",)])
def test_every_kind_of_answer_goes_on_after_a_kill_of_the_server(
    ring: Ring, undisturbed: dict[str, Reading], also: tuple[str, ...]
) -> None:
    suffix = "-".join(("", "killed", *also))
    readings, threads = begin(ring, suffix)
    for name in ("server", *also):
        ring.kill(name)
    for thread in threads:
        thread.join(60)
    ring.wait_ready()
    finish(ring, suffix, readings, undisturbed)


def test_a_restart_of_the_server_alone_breaks_connections_and_no_request(
    ring: Ring, undisturbed: dict[str, Reading]
) -> None:
    readings, threads = begin(ring, "-restarted")
    ring.cli("restart", "server")
    for thread in threads:
        thread.join(60)
    assert not any(
        isinstance(e, dict) and "error" in e for r in readings.values() for e in r.events
    )
    finish(ring, "-restarted", readings, undisturbed)


def test_a_response_in_the_background_outlives_the_server(ring: Ring) -> None:
    asked = {"model": BASE, "input": "Tell me about the sea.", "max_output_tokens": 200}
    more = {"ignore_eos": True, "temperature": 0, "background": True}
    begun = ring.http.post("/v1/responses", json={**asked, **more}).json()
    path = f"/v1/responses/{begun['id']}"
    wait_for(lambda: ring.http.get(path).json()["status"] == "in_progress", 60)
    ring.kill("server")
    ring.wait_ready()
    wait_for(lambda: ring.http.get(path).json()["status"] == "incomplete", 60)
    assert ring.http.get(path).json()["usage"]["output_tokens"] == 200
    ring.wait_idle()


def test_connections_wait_for_the_next_server(ring: Ring) -> None:
    ring.kill("server")
    for _ in range(5):
        with httpx.Client(base_url=ring.url, timeout=60, trust_env=False) as fresh:
            assert fresh.get("/health").status_code == 200


def new_id(name: str) -> str:
    """An id that no earlier try of a test has used: its request may still run."""
    return f"{name}-{secrets.token_hex(4)}"


def open_stream(ring: Ring, request_id: str) -> tuple[threading.Thread, Reading]:
    path, body = bodies()["chat"]
    reading = Reading()
    body = body | {"max_tokens": 300}
    thread = threading.Thread(target=post, args=(ring, path, body, request_id, reading))
    thread.start()
    wait_for(lambda: len(reading.events) > 2, 60, every=0.02)
    return thread, reading


def test_an_id_that_runs_is_taken_and_only_its_key_gets_the_answer(ring: Ring) -> None:
    mine = f"{new_id('mine')}/1"
    thread, _ = open_stream(ring, mine)
    again = ring.http.post(
        "/v1/completions", json={"model": BASE, "prompt": "a"}, headers={"x-request-id": mine}
    )
    assert again.status_code == 409
    error = again.json()["error"]
    assert error["param"] == "X-Request-Id" and f"GET /v1/requests/{mine}" in error["message"]
    for key, status in (("Bearer other", 401), (None, 401)):
        with httpx.Client(base_url=ring.url, trust_env=False) as stranger:
            headers = {"authorization": key} if key else {}
            answer = stranger.get(f"/v1/requests/{mine}", headers=headers)
            assert answer.status_code == status
    for after in ("mine/2:3", "3,4", "x", "9" * 20):
        refused = ring.http.get(f"/v1/requests/{mine}", params={"after": after})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "after"
    assert ring.http.head(f"/v1/requests/{mine}").status_code == 200
    assert thread.is_alive(), "a refused look ended the answer"
    ring.kill("server")
    thread.join(60)
    ring.wait_ready()
    ring.http.get(f"/v1/requests/{mine}", params={"after": "290"})
    ring.wait_idle()
    gone = ring.http.get(f"/v1/requests/{mine}")
    assert gone.status_code == 404 and gone.json()["error"]["param"] == "id"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "caf\u00e9"])
def test_an_id_that_fits_no_path_is_refused(ring: Ring, request_id: str) -> None:
    headers = [(b"X-Request-Id", request_id.encode())]
    body = {"model": BASE, "prompt": "a", "max_tokens": 1}
    response = ring.http.post("/v1/completions", json=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "X-Request-Id"


def test_the_openai_client_reads_streams_with_ids_and_finds_its_request(ring: Ring) -> None:
    with openai.OpenAI(base_url=f"{ring.url}/v1", api_key="secret", max_retries=0) as client:
        ask: dict[str, Any] = {"model": BASE, "messages": SEA, "temperature": 0, "max_tokens": 12}
        whole = client.chat.completions.create(**ask)
        named = {"X-Request-Id": new_id("openai")}
        parts = list(client.chat.completions.create(**ask, stream=True, n=1, extra_headers=named))
        said = "".join(part.choices[0].delta.content or "" for part in parts)
        assert said == whole.choices[0].message.content
        assert whole._request_id == whole.id


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/generate_stream", "inputs"),
    ],
)
def test_events_are_data_alone_unless_the_client_has_chosen_the_id(
    ring: Ring, path: str, field: str
) -> None:
    """Programs that take all of an event behind `data: ` for JSON must read it."""
    text: Any = [{"role": "user", "content": "Hi"}] if field == "messages" else "Hi"
    limits = {"parameters": {"max_new_tokens": 4}} if field == "inputs" else {"max_tokens": 4}
    body = {field: text, **limits} | ({} if field == "inputs" else {"stream": True})

    def events(headers: dict[str, str]) -> list[str]:
        answer = ring.http.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return [event for event in answer.text.split("\n\n") if event and "[DONE]" not in event]

    assert all(json.loads(event.removeprefix("data: ")) for event in events({}))
    named = events({"x-request-id": new_id("named")})
    assert named and all(event.startswith("id: ") for event in named)


def test_an_answer_in_the_console_goes_on(ring: Ring) -> None:
    http = Http(ring.url, "secret")
    messages, params = [*SEA], ChatParams(max_tokens=40, temperature=0)

    async def read(on_text: Callable[[int], None]) -> Answer:
        answer = Answer("pirate", "pirate")
        await answer.stream(http, messages, params, lambda: on_text(answer.num_pieces))
        return answer

    server = ring.process("server")["pid"]

    def kill(num_pieces: int) -> None:
        if num_pieces == 5:
            os.kill(server, signal.SIGKILL)

    expected, found = (asyncio.run(read(on_text)) for on_text in (lambda _: None, kill))
    assert (found.error, found.text) == ("", expected.text)
    assert (found.finish_reason, found.num_tokens) == (
        expected.finish_reason,
        expected.num_tokens,
    )


def forgive_deaths(ring: Ring) -> None:
    """A restart forgives the server's deaths of the last minute, of which five are the most."""
    before = ring.process("server")["pid"]
    ring.cli("restart", "server")
    wait_for(lambda: ring.process("server")["pid"] not in (0, before), seconds=60)
    ring.wait_ready()


def test_the_example_of_the_documentation_reads_on(ring: Ring) -> None:
    """It is run as it stands, with the key of this pipeline put in."""
    forgive_deaths(ring)
    text = (Path(__file__).parents[2] / "docs" / "resuming.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example = example.replace("httpx.Client(", "httpx.Client(headers=KEY, trust_env=False, ")
    names: dict[str, Any] = {"KEY": {"authorization": "Bearer secret"}}
    exec(compile(example, "resuming.md", "exec"), names)
    body = bodies()["chat"][1]

    def read(request_id: str, killed_after: int = -1) -> Reading:
        reading = Reading()
        for event in names["stream_chat"](ring.url, body, request_id):
            reading.events.append(event)
            if len(reading.events) == killed_after:
                ring.kill("server")
        return reading

    broken, whole = new_id("broken"), new_id("whole")
    assert read(broken, killed_after=5).by_choice() == read(whole).by_choice()


def test_what_no_client_comes_back_for_is_ended(ring: Ring) -> None:
    forgive_deaths(ring)
    left = new_id("left")
    thread, _ = open_stream(ring, left)
    before = ring.snapshot()["server"]["abandoned"]
    ring.kill("server")
    thread.join(60)
    ring.wait_ready()
    assert ring.http.get("/health").json()["without_client"] == 1
    wait_for(lambda: ring.snapshot()["server"]["abandoned"] == before + 1, 90, every=1)
    assert ring.http.get(f"/v1/requests/{left}").status_code == 404
    ring.wait_idle()
    logs = ring.cli("logs", "-n", "200").stdout
    assert "no client came back" in logs


def test_the_journal_ends_with_the_pipeline(tmp_path: Path) -> None:
    run = tmp_path / "r"
    with Ring(run, "--dtype", "float32") as own:
        journal = run / "requests" / "journal"
        assert journal.stat().st_mode & 0o777 == 0o600
        own.answer(BASE, "Hello", max_tokens=2)
    assert not journal.parent.exists()
