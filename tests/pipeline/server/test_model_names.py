"""The names under which requests find the base model and adapters, and what a server says of
itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ring import ADAPTERS, Ring, shipped, tiny_model

from loraconsole import __version__

pytestmark = pytest.mark.processes

NAMES = ("alpha", "house/beta:7b")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    options = ("--dtype", "float32", "--served-model-name", *NAMES)
    with Ring(tmp_path_factory.mktemp("names") / "r", *options) as ring:
        yield ring


def retrieve(ring: Ring, name: str) -> dict[str, Any]:
    response = ring.http.get(f"/v1/models/{name}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_each_served_name_is_the_base_model(ring: Ring) -> None:
    listed = [model["id"] for model in ring.http.get("/v1/models").json()["data"]]
    assert listed == [*NAMES, *ADAPTERS]
    said = {ring.answer(name, "Name a sea.") for name in NAMES}
    assert len(said) == 1
    for name in NAMES:
        model = retrieve(ring, name)
        assert (model["id"], model["parent"], model["max_model_len"]) == (name, None, 8192)
        assert ring.answer(f"{name}:pirate", "Name a sea.") == ring.answer("pirate", "Name a sea.")
    assert ring.answer("", "Name a sea.") in said
    metrics = ring.http.get("/metrics").text
    assert 'vllm:prompt_tokens_total{engine="0",model_name="alpha"}' in metrics


def test_every_name_that_a_request_may_use_can_be_retrieved(ring: Ring) -> None:
    for name in ("pirate", *(f"{base}:pirate" for base in NAMES)):
        model = retrieve(ring, name)
        assert (model["id"], model["root"]) == (name, str(shipped("pirate")))
        assert (model["parent"], model["max_model_len"]) == (NAMES[0], 8192)


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "absent", "alpha:absent", "x" * 300])
def test_an_unknown_name_is_refused_with_those_that_are_served(ring: Ring, name: str) -> None:
    for response in (ring.chat(name, "Hi"), ring.http.get(f"/v1/models/{name}")):
        assert response.status_code == 404, name
        error = response.json()["error"]
        assert error["code"] == "model_not_found" and len(error["message"]) < 400
        if len(name) < 100:
            assert "alpha" in error["message"] and "pirate" in error["message"]


def test_no_adapter_takes_a_served_name(ring: Ring) -> None:
    body = {"name": "alpha", "path": str(shipped("pirate"))}
    refused = ring.http.post("/v1/adapters", json=body)
    assert refused.status_code == 400 and "it means the base model" in refused.text


def test_the_command_line_prompts_by_the_served_name(ring: Ring) -> None:
    assert ring.cli("prompt", "--max-tokens", "2", "Hi").stdout.strip()
    assert "alpha" in ring.cli("status").stdout


def test_a_directory_is_also_called_by_its_last_part(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tiny_model(tmp_path_factory.mktemp("tiny"))
    with Ring(tmp_path_factory.mktemp("r"), "--dummy", "--model", str(directory)) as ring:
        for name in (str(directory), directory.name):
            body = {"model": name, "prompt": "ab", "max_tokens": 2}
            assert ring.http.post("/v1/completions", json=body).status_code == 200, name
            assert retrieve(ring, name)["root"] == str(directory)
        listed = ring.http.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == [str(directory)]


def test_what_other_servers_clients_ask_is_answered(ring: Ring) -> None:
    get = ring.http.get
    assert get("/version").json() == {"version": __version__}
    assert get("/load").json() == {"server_load": 0}
    for path in ("/ping", "/healthz", "/health"):
        assert get(path).json()["status"] == "ok"
    assert ring.http.post("/ping").status_code == 200
    assert get("/health_generate").status_code == 200
    assert get("/model_info").json() == get("/get_model_info").json()
    info = get("/get_server_info").json()
    assert info["served_model_name"] == "alpha" and info["model_path"] == "SmolLM2-135M-Instruct"
    assert (info["context_length"], info["tp_size"]) == (8192, 1)
    ring.answer("alpha", "Count to ten.", max_tokens=8, ignore_eos=True)
    assert get("/server_info").json()["internal_states"][0]["last_gen_throughput"] > 0


def test_a_name_that_is_too_long_is_refused_as_any_other_unknown_one(ring: Ring) -> None:
    long = "m" * 201
    for field in ("model", "adapter_id", "lora_path"):
        body = {"prompt": "ab", "max_tokens": 2, field: long}
        response = ring.http.post("/v1/completions", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (404, field)
        assert "known: " in error["message"] and "the base model is" in error["message"]
