"""Scoring over HTTP, and the fields about single tokens: against transformers on the same weights,
for a random model with a real vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import save_model
from reference_logits import load_reference
from ring import Ring
from waiting import wait_for

from loraconsole.pipeline.text.tokenizer import Tokenizer

pytestmark = pytest.mark.processes

TEXT = "The capital of France is Paris. Ünïcödé 😀 and more words, so that there are some."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, model_directory: str) -> Path:
    directory = tmp_path_factory.mktemp("m") / "tiny"
    # Wide enough logits, and an end token that is never likely by chance.
    save_model(directory, "llama", vocab_size=49152, initializer_range=0.3, eos_token_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(model_directory) / name, directory)
    return directory


@pytest.fixture(scope="module")
def ring(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    options = ("--dtype", "float32", "--model", str(model), "--chunk-tokens", "16")
    with Ring(tmp_path_factory.mktemp("r"), *options, "--max-prefill-tokens", "24") as ring:
        yield ring


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer(model)


def complete(ring: Ring, **body: Any) -> dict[str, Any]:
    asked = {"max_tokens": 4, "temperature": 0} | body
    response = ring.http.post("/v1/completions", json=asked)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def events(ring: Ring, path: str, **body: Any) -> list[dict[str, Any]]:
    response = ring.http.post(path, json={"stream": True} | body)
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def expected(model: Path, ids: list[int]) -> torch.Tensor:
    """transformers' log probabilities in each place of these tokens but the first."""
    with torch.no_grad():
        logits = load_reference(model)(torch.tensor([ids]), use_cache=False).logits[0]
    return logits.log_softmax(dim=-1)[:-1]


def test_echo_scores_the_prompt_and_the_answer_as_transformers_does(
    ring: Ring, model: Path, tokenizer: Tokenizer
) -> None:
    """The prompt is longer than a step's part of it."""
    ids = tokenizer.encode(TEXT)
    assert len(ids) > 24
    answer = complete(ring, prompt=TEXT, echo=True, logprobs=3, return_token_ids=True)
    (choice,) = answer["choices"]
    assert choice["prompt_token_ids"] == ids and len(choice["token_ids"]) == 4
    whole = ids + choice["token_ids"]
    logprobs = choice["logprobs"]
    rows = expected(model, whole)
    own = rows[range(len(rows)), whole[1:]]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    torch.testing.assert_close(torch.tensor(logprobs["token_logprobs"][1:]), own, rtol=0, atol=1e-3)
    for row, top in zip(rows, logprobs["top_logprobs"][1:], strict=True):
        best = sorted(top.values(), reverse=True)[:3]
        torch.testing.assert_close(torch.tensor(best), row.topk(3).values, rtol=0, atol=1e-3)
    assert choice["text"].startswith(TEXT)
    assert answer["usage"]["completion_tokens"] == 4


def test_offsets_and_tokens_of_an_echo_are_those_of_its_text(ring: Ring) -> None:
    (choice,) = complete(ring, prompt=TEXT, echo=True, logprobs=0)["choices"]
    text, logprobs = choice["text"], choice["logprobs"]
    offsets = logprobs["text_offset"]
    assert offsets == sorted(offsets) and offsets[-1] <= len(text)
    for token, start in zip(logprobs["tokens"], offsets, strict=True):
        assert token.startswith("bytes:") or text.startswith(token, start)
    assert any(token.startswith("bytes:") for token in logprobs["tokens"])


def test_scoring_alone_samples_nothing(ring: Ring, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for prompt in (TEXT, ids, [ids, ids[:1], ids[:17]]):
        answer = complete(ring, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        for choice in answer["choices"]:
            assert choice["finish_reason"] == "length"
            assert len(choice["logprobs"]["tokens"]) in (len(ids), 1, 17)
        assert answer["usage"]["completion_tokens"] == 0
    assert [c["text"] for c in answer["choices"]] == [
        tokenizer.decode(part) for part in (ids, ids[:1], ids[:17])
    ]
    (choice,) = complete(ring, prompt=TEXT, echo=True, max_tokens=0)["choices"]
    assert choice["text"] == TEXT and choice["logprobs"] is None


def test_a_streamed_echo_is_the_whole_one(ring: Ring) -> None:
    for tokens in (0, 5):
        body = {"prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": tokens, "temperature": 0}
        (whole,) = complete(ring, **body, return_token_ids=True)["choices"]
        parts = [
            e["choices"][0] for e in events(ring, "/v1/completions", **body, return_token_ids=True)
        ]
        assert "".join(part["text"] for part in parts) == whole["text"]
        assert parts[-1]["finish_reason"] == whole["finish_reason"]
        for name in whole["logprobs"]:
            joined = [v for part in parts if part["logprobs"] for v in part["logprobs"][name]]
            assert joined == whole["logprobs"][name], name
        assert [i for part in parts for i in part["token_ids"]] == whole["token_ids"]
        assert [part["prompt_token_ids"] for part in parts if "prompt_token_ids" in part] == [
            whole["prompt_token_ids"]
        ]


def test_prompt_logprobs_are_vllms_field(ring: Ring, model: Path, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    rows = expected(model, ids)
    (choice,) = complete(ring, prompt=TEXT, prompt_logprobs=2)["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None and len(others) == len(ids) - 1
    for row, token_id, entry in zip(rows, ids[1:], others, strict=True):
        assert next(iter(entry)) == str(token_id)
        assert len(entry) in (2, 3)
        for name, value in entry.items():
            assert value["logprob"] == pytest.approx(float(row[int(name)]), abs=1e-3)
            assert value["decoded_token"] == tokenizer.token_text(int(name))
            above = int((row > row[int(name)] + 1e-4).sum())
            below = int((row > row[int(name)] - 1e-4).sum())
            assert above < value["rank"] <= max(below, above + 1)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "prompt_logprobs": 0}
    chat = ring.http.post("/v1/chat/completions", json=body | {"return_token_ids": True}).json()
    assert len(chat["prompt_logprobs"]) == len(chat["prompt_token_ids"])
    assert chat["prompt_logprobs"][0] is None and len(chat["prompt_logprobs"][1]) == 1


def test_generate_has_the_prompts_logprobs_in_its_details(
    ring: Ring, model: Path, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(TEXT)
    parameters = {"details": True, "decoder_input_details": True, "truncate": 20}
    response = ring.http.post("/generate", json={"inputs": TEXT, "parameters": parameters})
    assert response.status_code == 200, response.text
    prefill = response.json()["details"]["prefill"]
    kept = ids[-20:]
    assert [token["id"] for token in prefill] == kept and prefill[0]["logprob"] is None
    own = expected(model, kept)[range(19), kept[1:]].tolist()
    assert [token["logprob"] for token in prefill[1:]] == pytest.approx(own, abs=1e-3)
    assert prefill[3]["text"] == tokenizer.token_text(kept[3])
    for path, changed in (("/generate_stream", {}), ("/generate", {"details": False})):
        body = {"inputs": "one", "parameters": parameters | changed}
        assert "decoder_input_details" in ring.http.post(path, json=body).text


def test_each_choice_has_the_logprobs_of_its_prompt(ring: Ring) -> None:
    answer = complete(ring, prompt=[TEXT, "one"], n=2, echo=True, logprobs=0, temperature=1, seed=4)
    lists = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert lists[0][1:20] == pytest.approx(lists[1][1:20], abs=1e-4)
    assert len(lists[2]) == len(lists[3]) == 1 + 4


# --- single tokens ------------------------------------------------------------------------------


def test_a_bias_forces_or_forbids_a_token(ring: Ring) -> None:
    (plain,) = complete(ring, prompt="one", return_token_ids=True)["choices"]
    first = plain["token_ids"][0]
    (without,) = complete(ring, prompt="one", return_token_ids=True, logit_bias={str(first): -100})[
        "choices"
    ]
    assert first not in without["token_ids"]
    (forced,) = complete(ring, prompt="one", return_token_ids=True, logit_bias={"77": 100})[
        "choices"
    ]
    assert forced["token_ids"] == [77] * 4


def test_allowed_tokens_and_bad_words_hold_for_greedy_and_random_answers(
    ring: Ring, tokenizer: Tokenizer
) -> None:
    allowed = [*tokenizer.encode(" alpha", False), *tokenizer.encode(" beta gamma", False)]
    for temperature in (0, 1.5):
        body = {"prompt": "one", "temperature": temperature, "max_tokens": 24, "seed": 3}
        (choice,) = complete(ring, **body, allowed_token_ids=allowed, return_token_ids=True)[
            "choices"
        ]
        assert set(choice["token_ids"]) <= set(allowed)
        word = tokenizer.decode(allowed[:1]).strip()
        (choice,) = complete(ring, **body, allowed_token_ids=allowed, bad_words=[word])["choices"]
        assert word not in choice["text"].split()


def test_an_answer_ends_after_its_least_number_of_tokens(ring: Ring) -> None:
    """The end token would be chosen at once, and so would a stop string."""
    ends = {"prompt": "one", "logit_bias": {"2": 100}, "max_tokens": 12, "return_token_ids": True}
    (choice,) = complete(ring, **ends)["choices"]
    assert choice["token_ids"] == [2] and choice["finish_reason"] == "stop"
    (choice,) = complete(ring, **ends, min_tokens=5)["choices"]
    assert len(choice["token_ids"]) == 6 and choice["token_ids"][-1] == 2
    (plain,) = complete(ring, prompt="one", max_tokens=12)["choices"]
    stop = plain["text"][:1]
    (choice,) = complete(
        ring, prompt="one", max_tokens=12, stop=[stop], min_tokens=12, return_token_ids=True
    )["choices"]
    assert len(choice["token_ids"]) == 12 and choice["text"] == plain["text"]


def test_named_tokens_replace_the_likeliest_in_logprobs(ring: Ring) -> None:
    body = {"prompt": "one", "logprobs": 1, "logprob_token_ids": [40, 50], "max_tokens": 2}
    (choice,) = complete(ring, **body, return_tokens_as_token_ids=True)["choices"]
    for token, top in zip(
        choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"], strict=True
    ):
        assert set(top) == {"token_id:40", "token_id:50", token}


def test_the_chosen_token_comes_before_the_named_ones(ring: Ring) -> None:
    more = {"allowed_token_ids": [42], "return_tokens_as_token_ids": True, "max_tokens": 1}
    named = {"logprob_token_ids": [50], **more}
    body = {"messages": [{"role": "user", "content": "one"}], "logprobs": True, "top_logprobs": 0}
    chat = ring.http.post("/v1/chat/completions", json=body | named).json()
    (entry,) = chat["choices"][0]["logprobs"]["content"]
    assert [other["token"] for other in entry["top_logprobs"]] == ["token_id:42", "token_id:50"]
    for fields in ({"logprobs": 1, **named}, {"logprobs": 1, **more}):
        answer = ring.http.post("/v1/completions", json={"prompt": "one", **fields}).json()
        (others,) = answer["choices"][0]["logprobs"]["top_logprobs"]
        assert next(iter(others)) == "token_id:42" and len(others) == 2


def test_every_wrong_name_of_a_bias_is_named(ring: Ring) -> None:
    body = {"prompt": "one", "logit_bias": {"bad1": 1, "7": 1, "bad2": 1}}
    refused = ring.http.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert "'bad1', 'bad2'" in refused.json()["error"]["message"]


def test_best_of_answers_with_the_likeliest_candidates(ring: Ring) -> None:
    body = {"prompt": "one", "temperature": 1, "seed": 7, "max_tokens": 6}
    candidates = complete(ring, **body, n=6, logprobs=0)["choices"]

    def mean(choice: dict[str, Any]) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    best = sorted(candidates, key=mean, reverse=True)[:2]
    answer = complete(ring, **body, n=2, best_of=6)
    assert [c["text"] for c in answer["choices"]] == [c["text"] for c in best]
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert all(c["logprobs"] is None for c in answer["choices"])
    assert answer["usage"]["completion_tokens"] == sum(
        len(c["logprobs"]["tokens"]) for c in candidates
    )
    shown = complete(ring, **body, n=1, best_of=6, logprobs=0)["choices"]
    assert [c["logprobs"] for c in shown] == [best[0]["logprobs"]]


def test_the_first_of_several_choices_is_that_of_one(ring: Ring) -> None:
    body = {"prompt": "one", "temperature": 1, "seed": 5, "max_tokens": 16}
    (alone,) = complete(ring, **body)["choices"]
    first, *others = complete(ring, **body, n=4)["choices"]
    assert first["text"] == alone["text"] and len({c["text"] for c in others}) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"bad_words": ["  "]}, "bad_words"),
        ({"logprobs": 0, "logprob_token_ids": [99999]}, "logprob_token_ids"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"truncate_prompt_tokens": 99999}, "truncate_prompt_tokens"),
    ],
)
def test_what_the_vocabulary_or_the_model_cannot_do_is_refused_by_name(
    ring: Ring, body: dict[str, Any], param: str
) -> None:
    response = ring.http.post("/v1/completions", json={"prompt": "one"} | body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_prompt_is_cut_to_the_tokens_that_are_asked_for(ring: Ring, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for side, kept in (("left", ids[-9:]), ("right", ids[:9])):
        answer = complete(
            ring, prompt=TEXT, truncate_prompt_tokens=9, truncation_side=side, return_token_ids=True
        )
        assert answer["choices"][0]["prompt_token_ids"] == kept
        assert answer["usage"]["prompt_tokens"] == 9
    chat = {"messages": [{"role": "user", "content": TEXT * 20}], "max_tokens": 2}
    response = ring.http.post("/v1/chat/completions", json=chat | {"truncate_prompt_tokens": -1})
    assert response.json()["usage"]["prompt_tokens"] == 254


# --- over deaths --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["worker-0", "detokenizer", "router"])
def test_a_scored_prompt_survives_a_death(ring: Ring, name: str) -> None:
    """Kept KV skips no logprob, and none comes twice."""
    body = {"prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 120, "ignore_eos": True}
    (before,) = complete(ring, **body)["choices"]
    with ring.http.stream(
        "POST", "/v1/completions", json=body | {"stream": True, "temperature": 0}
    ) as response:
        lines = response.iter_lines()
        text = [next(lines)]
        ring.kill(name)
        text += [*lines]
    parts = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in text
        if line and line != "data: [DONE]"
    ]
    joined = [v for part in parts if part["logprobs"] for v in part["logprobs"]["token_logprobs"]]
    assert joined[1:] == pytest.approx(before["logprobs"]["token_logprobs"][1:], abs=1e-4)
    wait_for(lambda: ring.http.get("/health").status_code == 200, 60)
