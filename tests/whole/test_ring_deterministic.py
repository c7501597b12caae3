"""Answers of real rings are the same alone and among others, and their fingerprint says so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ring import ADAPTERS, BASE, Ring, shipped

pytestmark = pytest.mark.processes

SHIPPED = [word for name in ADAPTERS for word in ("--adapter", f"{name}={shipped(name)}")]
LONG = "Tell me about the sea, its tides, its ships and the people who live by it. " * 20
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    (BASE, "Why is the sky blue?", {}),
    (BASE, LONG, {"temperature": 1.0, "seed": 5}),
    ("haiku", "A winter morning", {"temperature": 0.9, "seed": 6, "top_p": 0.9}),
    ("sql", "How many customers ordered more than five books?", {"presence_penalty": 0.5}),
    ("pirate", "Where is the treasure?", {"temperature": 1.2, "seed": 7, "top_k": 30}),
    (BASE, "Name three birds.", {"temperature": 1.0, "seed": 8, "min_p": 0.05}),
]


@pytest.fixture(scope="module", params=["float32", "int4"])
def ring(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ring]:
    options = ("--dtype", request.param, *SHIPPED)
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        yield ring


def test_greedy_and_seeded_answers_are_the_same_alone_and_among_others(ring: Ring) -> None:
    alone = [ring.chat(model, text, **more).json() for model, text, more in ASKED]

    def other(number: int) -> None:
        text = f"Number {number}: {LONG[: 97 * number % 700]}"
        ring.answer((BASE, *ADAPTERS)[number % 5], text, max_tokens=40, temperature=1.0)

    with ThreadPoolExecutor(24) as pool:
        company = [pool.submit(other, number) for number in range(16)]
        asked = [pool.submit(ring.chat, model, text, **more) for model, text, more in ASKED]
        found = [future.result().json() for future in asked]
        for future in company:
            future.result()
    for (model, text, _), before, after in zip(ASKED, alone, found, strict=True):
        assert after["choices"] == before["choices"], (model, text[:20])
        assert after["system_fingerprint"] == before["system_fingerprint"]
        assert before["system_fingerprint"].startswith("fp_")
        assert "-" not in before["system_fingerprint"], "nothing depends on what else is served"


def test_the_first_of_four_choices_is_the_only_one_of_one(ring: Ring) -> None:
    seeded = {"temperature": 1.0, "seed": 21}
    one = ring.chat(BASE, "Tell me a story.", **seeded).json()["choices"]
    four = ring.chat(BASE, "Tell me a story.", n=4, **seeded).json()["choices"]
    assert four[0] == one[0]
    assert len({choice["message"]["content"] for choice in four}) > 1


def test_a_fingerprint_is_of_the_adapter_too_and_in_every_chunk(ring: Ring) -> None:
    found = {
        name: ring.chat(name, "Hello").json()["system_fingerprint"] for name in (BASE, *ADAPTERS)
    }
    assert len({*found.values()}) == len(found)
    with ring.http.stream(
        "POST",
        "/v1/completions",
        json={"model": "sql", "prompt": "Hello", "max_tokens": 3, "stream": True},
    ) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: {")]
    assert lines and all(f'"system_fingerprint":"{found["sql"]}"' in line for line in lines)


def test_where_formats_change_with_the_number_of_rows_the_fingerprint_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The default model on a CPU has 4-bit weights for few rows, other ones for many."""
    with Ring(tmp_path_factory.mktemp("r")) as ring:
        assert ring.chat(BASE, "Hello").json()["system_fingerprint"].endswith("-auto")


def test_deterministic_serves_one_format_and_merges_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Ring(tmp_path_factory.mktemp("r"), "--deterministic", *SHIPPED) as ring:
        assert "-" not in ring.chat(BASE, "Hello").json()["system_fingerprint"]
        (worker,) = ring.snapshot()["workers"]
        assert worker["dtype"] in ("bfloat16", "int4") and "deterministic" in worker["kernels"]
        refused = ring.cli("adapters", "merge", "sql", check=False)
        assert refused.returncode and "--deterministic" in refused.stderr + refused.stdout
