"""The scheduler of the running ring: changed while requests run, merged, aborted, guarded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ring import ADAPTERS, Ring

pytestmark = pytest.mark.processes

QUESTION = "Tell me about the sea."


@pytest.fixture(autouse=True)
def _by_default_again(ring: Ring) -> Iterator[None]:
    yield
    body = {"policy": "fcfs", "weights": {}, "max_per_adapter": 0, "slo_seconds": 6}
    assert ring.http.put("/v1/scheduler", json=body).status_code == 200
    ring.wait_idle()


def test_the_policy_is_shown_and_changed_over_http_and_the_command_line(ring: Ring) -> None:
    assert ring.http.get("/v1/scheduler").json()["policy"] == "fcfs"
    body = {"policy": "vtc_fair", "weights": {"pirate": 2, "SmolLM2-135M-Instruct": 0.5}}
    answer = ring.http.put("/v1/scheduler", json=body).json()
    assert answer["message"] == "scheduler policy set to vtc_fair"
    shown = ring.http.get("/v1/scheduler").json()
    assert shown == answer["scheduler"]
    assert shown["weights"] == body["weights"] and shown["slo_seconds"] == 6.0
    done = ring.cli("scheduler", "slora", "--max-per-adapter", "3", "--json")
    assert json.loads(done.stdout)["policy"] == "fcfs"
    shown = json.loads(ring.cli("scheduler", "--json").stdout)
    assert shown["max_per_adapter"] == 3 and shown["weights"] == body["weights"]
    assert ring.snapshot()["router"]["scheduling"]["max_per_adapter"] == 3


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"policy": "best"}, "no policy 'best'; known: fcfs"),
        ({"weights": {"pirate": 0}}, "weight 0 of 'pirate' is not above 0"),
        ({"weights": 3}, "weights"),
        ({"polic": "fcfs"}, "polic"),
    ],
)
def test_a_bad_setting_is_refused_and_changes_nothing(
    ring: Ring, body: dict[str, Any], what: str
) -> None:
    before = ring.http.get("/v1/scheduler").json()
    refused = ring.http.put("/v1/scheduler", json=body)
    assert refused.status_code == 400 and what in refused.json()["error"]["message"]
    assert ring.http.get("/v1/scheduler").json() == before
    wrong = ring.cli("scheduler", "best", check=False)
    assert wrong.returncode == 1 and "known: fcfs" in wrong.stderr


def test_a_policy_changes_under_load_and_no_request_is_lost(ring: Ring) -> None:
    expected = {
        name: ring.answer(name, QUESTION, max_tokens=12, ignore_eos=True) for name in ADAPTERS
    }
    got: list[tuple[str, str]] = []

    def ask(name: str) -> None:
        got.append((name, ring.answer(name, QUESTION, max_tokens=12, ignore_eos=True)))

    threads = [threading.Thread(target=ask, args=(name,)) for name in [*ADAPTERS] * 5]
    for thread in threads:
        thread.start()
    for policy in ("merged", "vtc_fair", "cluster", "pets", "credit", "lifo", "abort", "fcfs"):
        # Of abort only the order: no request is late yet.
        ring.http.put("/v1/scheduler", json={"policy": policy, "slo_seconds": 600})
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert len(got) == len(threads)
    assert all(answer == expected[name] for name, answer in got)


def test_merged_has_the_workers_merge_whom_it_serves(ring: Ring) -> None:
    expected = {n: ring.answer(n, QUESTION, max_tokens=24, ignore_eos=True) for n in ADAPTERS[:2]}
    ring.http.put("/v1/scheduler", json={"policy": "merged"})
    for name in ADAPTERS[:2]:
        deadline = time.monotonic() + 30
        while True:
            answer = ring.answer(name, QUESTION, max_tokens=24, ignore_eos=True)
            assert answer == expected[name]
            views = ring.http.get("/v1/adapters").json()["adapters"]
            if [view["name"] for view in views if view["merged"]] == [name]:
                break
            assert time.monotonic() < deadline, views
    assert ring.answer(name, QUESTION, max_tokens=24, ignore_eos=True) == expected[name]
    ring.http.put("/v1/scheduler", json={"policy": "fcfs"})
    deadline = time.monotonic() + 30
    while any(v["merged"] for v in ring.http.get("/v1/adapters").json()["adapters"]):
        assert time.monotonic() < deadline, "the copy that no policy wants is kept"
        time.sleep(0.1)


def test_who_would_be_late_under_abort_is_told_so(ring: Ring) -> None:
    body = {"policy": "abort", "slo_seconds": 0.6, "max_per_adapter": 1}
    ring.http.put("/v1/scheduler", json=body)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(ring.chat("pirate", QUESTION, max_tokens=60, ignore_eos=True))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and len(refused) < len(answers)
    for answer in refused:
        assert answer.json()["error"]["message"].startswith("aborted: would start after ")
