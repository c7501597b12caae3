"""The HTTP side under limits: keys, full queues, small pools; a tiny random model behind it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ring import Ring
from tiny_llama import CONFIG
from waiting import wait_for

from loraconsole.pipeline.text.tokenizer import make_byte_tokenizer

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return str(directory)


@pytest.fixture(scope="module")
def ring(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(
        tmp_path_factory.mktemp("r"),
        *("--dummy", "--model", tiny, "--api-key", "secret"),
        *("--max-total-tokens", "256", "--max-waiting", "4", "--max-running", "2"),
    ) as ring:
        ring.http.headers["authorization"] = "Bearer secret"
        yield ring


def complete(ring: Ring, prompt: str = "ab", **more: object) -> httpx.Response:
    body = {"model": "", "prompt": prompt, "max_tokens": 8, "temperature": 0} | more
    return ring.http.post("/v1/completions", json=body)


def test_a_dummy_model_answers(ring: Ring) -> None:
    response = complete(ring, ignore_eos=True)
    assert response.json()["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Bearer", "secret2"])
def test_without_the_key_only_health_and_metrics_answer(ring: Ring, key: str | None) -> None:
    headers = {"authorization": key} if key else {}
    with httpx.Client(base_url=ring.url, headers=headers, trust_env=False) as stranger:
        for path in ("/v1/models", "/v1/models/x"):
            refused = stranger.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        for path in ("/v1/completions", "/v1/chat/completions", "/generate", "/generate_stream"):
            assert stranger.post(path, json={}).status_code == 401
        assert stranger.get("/health").status_code == 200
        assert stranger.get("/metrics").status_code == 200


def test_the_key_is_on_no_command_line(ring: Ring) -> None:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(ring.run).encode() in words:
            assert b"secret" not in words


def test_what_can_never_fit_is_refused_with_the_numbers(ring: Ring) -> None:
    response = complete(ring, max_tokens=400)
    assert response.status_code == 400
    error = response.json()["error"]
    assert "maximum context length is 256 tokens" in error["message"]
    assert error["message"].endswith("make 402")
    assert error["code"] == "context_length_exceeded"
    ring.wait_idle()


def test_a_full_queue_says_429_and_everybody_else_is_served(ring: Ring) -> None:
    """Two run, four wait; of twelve at once the others are told to come again."""
    statuses: list[int] = []

    def ask() -> None:
        response = complete(ring, max_tokens=100, ignore_eos=True)
        if response.status_code == 429:
            assert response.headers["retry-after"] == "1"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        statuses.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    ring.wait_idle()


def respond(ring: Ring, answer_id: str, **more: object) -> httpx.Response:
    """A response in the background."""
    body = {"input": "ab", "max_output_tokens": 8, "background": True, "ignore_eos": True} | more
    return ring.http.post("/v1/responses", json=body, headers={"x-request-id": answer_id})


def status_of(ring: Ring, answer_id: str) -> str | None:
    """The state of a response; None if it is not kept."""
    found = ring.http.get(f"/v1/responses/{answer_id}")
    assert found.status_code in (200, 404), found.text
    return found.json()["status"] if found.status_code == 200 else None


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_in_the_background_that_is_refused_is_not_kept(ring: Ring, stream: bool) -> None:
    name = f"long-{secrets.token_hex(4)}"
    response = respond(ring, name, stream=stream, max_output_tokens=400)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert status_of(ring, name) is None
    asked: dict[str, int] = {}

    def ask(number: int) -> None:
        one = f"{name}-{number}"
        asked[one] = respond(ring, one, stream=stream, max_output_tokens=150).status_code

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert set(asked.values()) == {200, 429}
    for one, status in asked.items():
        expected = "incomplete" if status == 200 else None
        wait_for(lambda one=one, expected=expected: status_of(ring, one) == expected, 60)


def test_the_id_of_a_kept_response_is_not_given_again(ring: Ring) -> None:
    assert respond(ring, "mine").status_code == 200
    wait_for(lambda: status_of(ring, "mine") == "incomplete")
    kept = ring.http.get("/v1/responses/mine").json()
    for more in (
        {},
        {"background": False},
        {"stream": True},
        {"store": False, "background": False},
    ):
        again = respond(ring, "mine", **more)
        assert again.status_code == 409
        error = again.json()["error"]
        assert error["param"] == "X-Request-Id" and "is taken" in error["message"]
    assert ring.http.get("/v1/responses/mine").json() == kept
    ring.http.delete("/v1/responses/mine")
    assert respond(ring, "mine").status_code == 200


@pytest.mark.parametrize("name", ["a/b", "/", ".", ".."])
def test_an_id_that_no_path_can_name_is_refused_for_a_response(ring: Ring, name: str) -> None:
    response = respond(ring, name)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "X-Request-Id"


def test_a_body_that_no_queue_would_hold_is_refused_for_good(ring: Ring) -> None:
    """OpenAI's clients send a 429 again, and it would never be accepted."""
    response = complete(ring, n=5)
    assert response.status_code == 400 and "retry-after" not in response.headers
    assert "makes 5 requests" in response.json()["error"]["message"]
    assert "at most 4 may wait" in response.json()["error"]["message"]


def test_a_clients_request_id_comes_back_with_every_answer(ring: Ring) -> None:
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/models/absent"),
        ("POST", "/v1/completions"),
    ):
        response = ring.http.request(method, path, headers={"X-Request-Id": "r-1"})
        assert response.headers["x-request-id"] == "r-1", path
    odd = ring.http.get("/v1/models", headers={"X-Request-Id": "two words"})
    assert odd.status_code == 200 and "x-request-id" not in odd.headers


def test_prompts_of_ids_are_checked_against_the_vocabulary(ring: Ring) -> None:
    body = {"model": "", "prompt": [1, 300], "max_tokens": 2}
    response = ring.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert "token id 300 is not in [0, 300)" in response.json()["error"]["message"]


def test_a_stop_token_that_the_model_cannot_say_is_refused(ring: Ring) -> None:
    response = complete(ring, stop_token_ids=[300])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stop_token_ids"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/absent", 404),
        ("POST", "/v1/moderations", 404),
        ("GET", "/v1/completions", 405),
        ("PUT", "/v1/responses/x", 405),
    ],
)
def test_unknown_routes_and_methods_have_openais_error(
    ring: Ring, method: str, path: str, status: int
) -> None:
    response = ring.http.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == status and path in error["message"]
    allowed = "POST" if path == "/v1/completions" else "DELETE, GET, HEAD"
    assert status == 404 or response.headers["allow"] == allowed
    assert status == 404 or error["message"].endswith(f"allowed: {allowed}")


def test_null_does_not_choose_whose_body_it_is(ring: Ring) -> None:
    body = {"prompt": "ab", "messages": None, "max_tokens": 2, "temperature": 0}
    answer = ring.http.post("/invocations", json=body)
    assert (
        answer.json()["choices"][0]["text"]
        == complete(ring, max_tokens=2).json()["choices"][0]["text"]
    )
    missing = ring.http.post("/invocations", json={"max_tokens": 2})
    assert missing.status_code == 400 and "messages" in missing.text and "prompt" in missing.text
    parameters = {"max_new_tokens": 2}
    asked = {"inputs": "ab", "text": None, "sampling_params": None, "parameters": parameters}
    assert "generated_text" in ring.http.post("/generate", json=asked).text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/generate"])
@pytest.mark.parametrize(
    "body", [b"[" * 1_000_000, b'{"x": %s}' % (b"9" * 5000), b'{"seed": %d}' % 2**70]
)
def test_deep_nesting_and_huge_numbers_are_refused(ring: Ring, path: str, body: bytes) -> None:
    response = ring.http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert "error" in response.json()


def test_a_model_with_no_name_is_the_base_and_two_adapters_are_refused(ring: Ring) -> None:
    body = {"prompt": "ab", "max_tokens": 2, "temperature": 0}
    response = ring.http.post("/v1/completions", json=body)
    assert response.json()["model"] == ring.http.get("/v1/models").json()["data"][0]["id"]
    response = ring.http.post("/v1/completions", json=body | {"lora_path": "absent"})
    assert response.status_code == 404 and "absent" in response.json()["error"]["message"]
    both = {"model": "one", "adapter_id": "two"}
    response = ring.http.post("/v1/completions", json=body | both)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "adapter_id"


def test_each_event_has_the_usage_where_that_is_asked_for(ring: Ring) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "ignore_eos": True, "stream": True}

    def usages(**options: bool) -> list[object]:
        text = ring.http.post("/v1/completions", json=body | {"stream_options": options}).text
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
        return [json.loads(line).get("usage", "absent") for line in lines]

    assert set(map(str, usages())) == {"absent"}
    *before, last = usages(include_usage=True)
    assert set(before) == {None} and last is not None
    *before, last = usages(include_usage=True, continuous_usage_stats=True)
    assert before[-1] == last


def test_an_empty_prompt_is_refused(ring: Ring) -> None:
    assert complete(ring, prompt="").status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "param", "reason"),
    [
        ("/v1/embeddings", {"input": ["a"] * 2049}, "input", "input has 2049 prompts; a body"),
        ("/v1/completions", {"prompt": ["a"] * 99, "n": 99}, "n", "99 prompts and n is 99; a body"),
        ("/generate", {"text": ["a"] * 2000}, "text", "text has 2000 prompts; a body"),
    ],
)
def test_too_many_requests_in_a_body_are_counted_by_their_fields(
    ring: Ring, path: str, body: dict[str, object], param: str, reason: str
) -> None:
    response = ring.http.post(path, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and reason in error["message"]


def test_adapters_of_a_model_without_any_are_unknown(ring: Ring) -> None:
    response = complete(ring, model="sql")
    assert response.status_code == 404
    assert "known: none" in response.json()["error"]["message"]


def test_several_prompts_and_choices_come_in_order(ring: Ring) -> None:
    body = {"model": "", "prompt": ["ab", "cd"], "n": 2, "seed": 1, "max_tokens": 4}
    response = ring.http.post("/v1/completions", json=body)
    assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2, 3]
    text = {}
    with ring.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    index = choice["index"]
                    text[index] = text.get(index, "") + choice["text"]
    assert text == {c["index"]: c["text"] for c in response.json()["choices"]}


def test_every_rank_gets_every_step(ring: Ring, tiny: str, tmp_path: Path) -> None:
    with Ring(tmp_path / "r", "--dummy", "--model", tiny, "--tp", "2") as two:
        alone, together = complete(ring, ignore_eos=True), complete(two, ignore_eos=True)
        assert together.json()["choices"] == alone.json()["choices"]

        def frames() -> list[int]:
            beats = two.snapshot()["beats"]
            workers = [beat for beat in beats if beat["name"].startswith("worker-")]
            return [worker["hops"][0]["frames"] for worker in workers]  # of its inbox, so far

        deadline = time.monotonic() + 30
        while len(set(frames())) > 1 or min(frames()) <= 8:  # beats come twice a second
            assert time.monotonic() < deadline, frames()
            time.sleep(0.3)
        assert len(frames()) == 2


def test_a_users_key_changes_no_adapter(ring: Ring) -> None:
    """This ring has an API key and no admin key: the operator's routes are closed."""
    assert ring.http.get("/v1/adapters").status_code == 200
    assert ring.http.get("/v1/scheduler").json()["policy"] == "fcfs"
    for method, path in (
        ("POST", "/v1/adapters"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/load_lora_adapter"),
        ("DELETE", "/v1/adapters/x"),
        ("POST", "/v1/adapters/x/reload"),
        ("PUT", "/v1/scheduler"),
    ):
        response = ring.http.request(method, path, json={"name": "x", "path": "/x"})
        assert response.status_code == 403, path
        assert "--admin-key" in response.json()["error"]["message"]


def test_the_admin_key_is_one_of_its_own(tiny: str, tmp_path: Path) -> None:
    with Ring(
        tmp_path / "r",
        *("--dummy", "--model", tiny, "--api-key", "user", "--admin-key", "operator"),
        *("--response-store-mib", "0"),
    ) as ring:
        body = {"name": "x", "path": "/nowhere"}
        for key, status in ((None, 401), ("user", 401), ("operator", 400)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            response = ring.http.post("/v1/adapters", json=body, headers=headers)
            assert response.status_code == status, key
        for key, status in ((None, 401), ("user", 200), ("operator", 200)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert ring.http.get("/v1/models", headers=headers).status_code == status
        for path, more, field in (  # a name that is too long is found in its field
            ("/v1/load_lora_adapter", {"lora_path": "/x"}, "lora_name"),
            ("/unload_lora_adapter", {}, "lora_name"),
            ("/v1/adapters", {"path": "/x"}, "name"),
        ):
            response = ring.http.post(path, json={**more, field: "x" * 300}, headers=headers)
            assert response.status_code == 400 and response.json()["error"]["param"] == field
        body = {"input": "ab", "max_output_tokens": 2}
        response = ring.http.post("/v1/responses", json=body, headers=headers)
        assert response.json()["store"] is False  # there is no room for any


def test_a_token_without_an_embedding_is_refused_for_its_request_alone(tmp_path: Path) -> None:
    """The tokenizer knows [PAD], and the model has no row for it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG | {"eos_token_id": None}))
    tokenizer = make_byte_tokenizer(300)
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(model / "tokenizer.json"))
    defaults = {"temperature": 0.6, "top_k": 1, "num_beams": 4}
    (model / "generation_config.json").write_text(json.dumps(defaults))
    with Ring(tmp_path / "r", "--dummy", "--model", str(model)) as ring:
        for prompt in ("hi [PAD]", [104, 300]):
            response = complete(ring, prompt=prompt)  # type: ignore[arg-type]
            assert response.status_code == 400
            assert "token id 300 ('[PAD]')" in response.json()["error"]["message"]
            assert response.json()["error"]["param"] == "prompt"
        generate = {"inputs": "hi [PAD]"}
        assert ring.http.post("/generate", json=generate).status_code == 400
        assert complete(ring).status_code == 200
        # The model's own defaults: top_k 1 leaves one answer.
        base = ring.http.get("/v1/models").json()["data"][0]
        assert base["default_sampling"] == {"temperature": 0.6, "top_k": 1}
        body = {"prompt": "ab", "max_tokens": 8}
        texts = {
            ring.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
            for _ in range(3)
        }
        assert len(texts) == 1
        log = ring.cli("logs", "-n", "200").stdout
        assert "num_beams 4" in log and "temperature 0.6" in log
