"""The whole ring with `--tp 2`: real ranks, over HTTP, and what happens when one dies."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from driver import save_adapter
from ring import Ring, tiny_model

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        torch.cuda.device_count() == 1, reason="each rank takes a GPU where there is one"
    ),
]

ASKED = [("", "ab"), ("one", "ab"), ("two", "ab"), ("one", "the sea"), ("", "x")]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(root)
    adapters = []
    for seed, (name, rank) in enumerate({"one": 4, "two": 13}.items()):
        adapters += ["--adapter", f"{name}={save_adapter(root / name, model, seed, r=rank)}"]
    return ("--dummy", "--dtype", "float32", "--model", str(model), *adapters)


@pytest.fixture(scope="module")
def one_rank(
    options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[tuple[str, str], str], str]:
    """What one rank says, and what it says in a form."""
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        return {ask: complete(ring, *ask) for ask in ASKED}, constrained(ring)


@pytest.fixture(scope="module")
def alone(one_rank: tuple[dict[tuple[str, str], str], str]) -> dict[tuple[str, str], str]:
    return one_rank[0]


@pytest.fixture(scope="module")
def ring(options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("r"), *options, "--tp", "2") as ring:
        yield ring


def constrained(ring: Ring) -> str:
    """An answer in a form, without an end token: it ends where its form does."""
    body = {"model": "two", "prompt": "ab", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    form = {"regex": "[a-f]{3}-([0-9]{2} ){2,4}!"}
    response = ring.http.post("/v1/completions", json=body | form, timeout=90)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def complete(ring: Ring, model: str, prompt: str, max_tokens: int = 24) -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens}
    more = {"temperature": 0, "ignore_eos": True}
    response = ring.http.post("/v1/completions", json=body | more, timeout=90)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def all_at_once(ring: Ring, max_tokens: int = 24) -> dict[tuple[str, str], str]:
    with ThreadPoolExecutor(len(ASKED)) as pool:
        said = pool.map(lambda ask: complete(ring, *ask, max_tokens), ASKED)
        return dict(zip(ASKED, said, strict=True))


def test_two_ranks_answer_as_one(ring: Ring, alone: dict[tuple[str, str], str]) -> None:
    assert all_at_once(ring) == alone
    assert len(set(alone.values())) == len(ASKED)


def test_two_ranks_constrain_an_answer_alike(
    ring: Ring, one_rank: tuple[dict[tuple[str, str], str], str]
) -> None:
    answer = constrained(ring)
    assert answer == one_rank[1]
    assert re.fullmatch("[a-f]{3}-([0-9]{2} ){2,4}!", answer)
    assert "chose other tokens" not in ring.cli("logs", "-n", "200").stdout


def test_adapters_are_verified_merged_and_reloaded_on_all_ranks(
    ring: Ring, alone: dict[tuple[str, str], str]
) -> None:
    """While a stream runs, so that all of it happens between steps."""
    running = threading.Thread(target=complete, args=(ring, "", "y", 300))
    running.start()
    verified = ring.http.post("/v1/adapters/one/verify")
    assert verified.status_code == 200 and "matches its merged weights" in verified.text
    assert ring.http.post("/v1/adapters/one/merge").status_code == 200
    assert ring.http.post("/v1/adapters/two/reload").status_code == 200
    assert all_at_once(ring) == alone
    running.join()
    assert complete(ring, "one", "ab") == alone["one", "ab"]  # alone, over the merged copy
    assert ring.http.request("DELETE", "/v1/adapters/one/merge").status_code == 200
    assert complete(ring, "one", "ab") == alone["one", "ab"]


@pytest.mark.parametrize("victim", [1, 0])
def test_streams_survive_a_killed_rank(ring: Ring, victim: int) -> None:
    """All ranks start again together, and the streams go on with the KV that they have."""
    undisturbed = all_at_once(ring, max_tokens=400)
    before = [ring.process(f"worker-{rank}")["pid"] for rank in range(2)]
    said: dict[tuple[str, str], str] = {}
    asking = threading.Thread(target=lambda: said.update(all_at_once(ring, max_tokens=400)))
    while "loraconsole_requests_running 0.0" not in ring.http.get("/metrics").text:
        time.sleep(0.05)  # the figure is of the requests before
    asking.start()
    running = f"loraconsole_requests_running {len(ASKED)}.0"
    while running not in ring.http.get("/metrics").text:
        assert asking.is_alive(), "they never ran together"
        time.sleep(0.01)
    os.kill(before[victim], signal.SIGKILL)  # not `ring.kill`, which asks for the pid: a second
    asking.join()
    assert said == undisturbed
    ring.wait_ready()
    after = [ring.process(f"worker-{rank}")["pid"] for rank in range(2)]
    assert not set(before) & set(after)
    assert re.search("requests? continues? with kept KV", ring.cli("logs", "router").stdout)
    assert len(list(ring.run.glob("ranks-*"))) == 1


def test_ranks_are_stopped_and_started_together(ring: Ring) -> None:
    before = complete(ring, "one", "ab")
    ring.cli("stop", "worker-1")
    ranks = [ring.process(f"worker-{rank}") for rank in range(2)]
    assert [(row["state"], row["held"], row["pid"]) for row in ranks] == [("stopped", True, 0)] * 2
    ring.cli("start", "worker-0")
    ring.wait_ready()
    assert complete(ring, "one", "ab") == before


def test_a_model_that_cannot_be_cut_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not divide this model's 9 heads"):
        Ring(tmp_path / "r", "--tp", "2").__enter__()
    Ring(tmp_path / "r").cli("down", "--now", check=False)
