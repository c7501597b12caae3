"""Constrained answers of a real ring: beside others, streamed, cut, and over deaths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastjsonschema
import openai
import pytest
from ring import ADAPTERS, BASE, Ring, shipped
from waiting import wait_for

pytestmark = pytest.mark.processes

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall", "old"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
is_person = fastjsonschema.compile(PERSON)
ASK = "Describe a person as JSON."


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    adapters = [word for name in ADAPTERS for word in ("--adapter", f"{name}={shipped(name)}")]
    with Ring(tmp_path_factory.mktemp("r"), "--dtype", "float32", *adapters) as ring:
        yield ring


def client(ring: Ring) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{ring.url}/v1", api_key="-", max_retries=0, timeout=120)


def person(ring: Ring, model: str = BASE, **more: Any) -> str:
    given: dict[str, Any] = {"temperature": 0.8, "max_tokens": 150, "response_format": FORMAT}
    return ring.answer(model, ASK, **given | more)


def test_a_mixed_batch_with_adapters_is_answered_each_in_its_form(ring: Ring) -> None:
    forms: list[tuple[dict[str, Any], Any]] = [
        ({"response_format": FORMAT}, lambda text: is_person(json.loads(text))),
        (
            {"response_format": {"type": "json_object"}, "max_tokens": 8},
            lambda text: text[0] == "{",
        ),
        ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[0-9]{3}-[a-f]{2}"}, lambda text: len(text) == 6 and text[3] == "-"),
        ({"max_tokens": 12}, lambda text: text),
    ]
    models = [BASE, *ADAPTERS]

    def ask(number: int) -> str:
        more, _ = forms[number % len(forms)]
        model = models[number // 3 % len(models)]
        return ring.answer(model, ASK, temperature=0.8, seed=number, **{"max_tokens": 150} | more)

    with ThreadPoolExecutor(16) as pool:
        for number, text in enumerate(pool.map(ask, range(16))):
            assert forms[number % len(forms)][1](text), (number, text)


def test_a_plain_answer_is_the_same_beside_constrained_ones(ring: Ring) -> None:
    alone = ring.answer("pirate", "Tell me about ships.", max_tokens=24)
    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(person, ring, seed=number) for number in range(3)]
        assert ring.answer("pirate", "Tell me about ships.", max_tokens=24) == alone
        for one in beside:
            is_person(json.loads(one.result()))


def test_streams_choices_and_logprobs_are_constrained(ring: Ring) -> None:
    with client(ring) as asked:
        ask: dict[str, Any] = {
            "model": "json",
            "messages": [{"role": "user", "content": ASK}],
            "response_format": FORMAT,
            "max_tokens": 150,
            "temperature": 0.9,
            "seed": 4,
        }
        whole = asked.chat.completions.create(**ask, n=3, logprobs=True, top_logprobs=2)
        for choice in whole.choices:
            assert choice.finish_reason == "stop" and choice.message.content
            is_person(json.loads(choice.message.content))
            assert choice.logprobs and choice.logprobs.content
            spelt = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
            assert spelt.decode() == choice.message.content
        stream = asked.chat.completions.create(**ask, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content


def test_logprobs_are_of_the_distribution_that_the_request_names(ring: Ring) -> None:
    ask = {"prompt": "A letter:", "regex": "[ab]", "logprobs": 2, "max_tokens": 4, "temperature": 0}

    def first(mode: str | None) -> dict[str, float]:
        body = ask | ({"logprobs_mode": mode} if mode else {})
        answer = ring.http.post("/v1/completions", json=body).json()["choices"][0]
        assert answer["text"] in ("a", "b") and answer["finish_reason"] == "stop"
        found: dict[str, float] = answer["logprobs"]["top_logprobs"][0]
        return found

    raw, masked = first("raw_logprobs"), first("processed_logprobs")
    assert raw == first(None)
    assert set(masked) == {"a", "b"}
    assert sum(2.718281828**value for value in masked.values()) == pytest.approx(1, abs=1e-4)
    assert set(raw) != {"a", "b"}  # what the model would rather have said is there


def test_a_stop_string_and_the_length_end_an_answer_inside_its_form(ring: Ring) -> None:
    answer = ring.chat(BASE, ASK, response_format=FORMAT, max_tokens=150, stop=["age"]).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"].endswith('"')
    answer = ring.chat(BASE, ASK, response_format=FORMAT, max_tokens=5).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_without_end_tokens_an_answer_ends_where_its_form_does(ring: Ring) -> None:
    for more in ({}, {"include_stop_str_in_output": True}, {"logprobs": True}):
        answer = ring.chat(BASE, ASK, guided_choice=["yes", "no"], ignore_eos=True, **more).json()
        choice = answer["choices"][0]
        assert choice["message"]["content"] in ("yes", "no")
        assert choice["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] < 4
    parameters = {"grammar": {"type": "regex", "value": "[0-9]{2}"}, "ignore_eos": True}
    streamed = ring.http.post(
        "/generate_stream", json={"inputs": "A number:", "parameters": parameters}
    )
    events = [json.loads(line[5:]) for line in streamed.text.splitlines() if line]
    assert "".join(event["token"]["text"] for event in events).isdecimal()
    assert events[-1]["finished"]


def test_a_form_without_a_next_token_is_no_fault_of_the_prompt(ring: Ring) -> None:
    """At the first token it is a refusal; later the request has failed, and counts."""

    def failures() -> int:
        found = re.search(
            r'^vllm:request_success_total.*"error".* (\d+)\.0$',
            ring.http.get("/metrics").text,
            re.M,
        )
        assert found
        return int(found[1])

    (letter,) = ring.http.post(
        "/tokenize", json={"prompt": "a", "add_special_tokens": False}
    ).json()["tokens"]
    before = failures()
    for form, more in (("1", 0), ("a{8}1", 1)):
        body = {"prompt": "x", "regex": form, "allowed_token_ids": [letter], "max_tokens": 20}
        refused = ring.http.post("/v1/completions", json=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, None)
        assert "allowed_token_ids" in error["message"]
        assert failures() == before + more


@pytest.mark.parametrize("name", ["worker-0", "router", "detokenizer"])
def test_an_answer_goes_on_in_its_form_after_a_death(ring: Ring, name: str) -> None:
    grammar = r'root ::= "[" ([0-9]+ ", "){40} "0]"'
    given = {"ebnf": grammar, "max_tokens": 300, "temperature": 0.7, "seed": 3}
    expected = ring.answer("sql", ASK, **given)
    assert len(json.loads(expected)) == 41
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(ring.answer, "sql", ASK, **given)
        wait_for(lambda: ring.snapshot()["router"]["running"] > 0)
        ring.kill(name)
        assert answering.result() == expected
    ring.wait_ready()
