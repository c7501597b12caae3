"""Bodies are checked once, and every refusal names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loraconsole.pipeline.openai import (
    BadRequest,
    ChatBody,
    CompletionBody,
    GenerateBody,
    decode_body,
)

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize(
    ("changes", "param", "reason"),
    [
        ({"temperature": -1}, "temperature", ">= 0.0"),
        ({"temperature": "hot"}, "temperature", "Expected"),
        ({"top_p": 0}, "top_p", "> 0.0"),
        ({"top_p": 1.5}, "top_p", "<= 1.0"),
        ({"top_k": -2}, "top_k", ">= -1"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"n": 0}, "n", ">= 1"),
        ({"seed": "x"}, "seed", "Expected"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": [{"content": "hi"}]}, "messages[0]", "role"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "text"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "<= 20"),
        ({"stop": [""]}, "stop", "none of them empty"),
    ],
)
def test_a_bad_chat_names_its_field(changes: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        body: ChatBody = decode_body(json.dumps(CHAT | changes).encode(), ChatBody)
        body.refuse_unsupported()
        body.params(16, None, 0)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert reason in refused.value.reason


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m"}', b"\xff\xfe"])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_body(body, ChatBody)


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of")],
)
def test_what_completions_cannot_honour_is_refused(changes: dict[str, Any], param: str) -> None:
    body: CompletionBody = decode_body(json.dumps(COMPLETION | changes).encode(), CompletionBody)
    with pytest.raises(BadRequest) as refused:
        body.refuse_unsupported()
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_come_in_four_shapes(prompt: Any, prompts: Any) -> None:
    body: CompletionBody = decode_body(
        json.dumps(COMPLETION | {"prompt": prompt}).encode(), CompletionBody
    )
    assert body.prompts() == prompts


def test_choices_are_seeded_apart_and_again_alike() -> None:
    body: ChatBody = decode_body(json.dumps(CHAT | {"seed": 40, "n": 3}).encode(), ChatBody)
    assert [body.params(8, None, i).seed for i in range(3)] == [40, 41, 42]
    unseeded: ChatBody = decode_body(json.dumps(CHAT).encode(), ChatBody)
    assert unseeded.params(8, None, 0).seed != unseeded.params(8, None, 0).seed


def test_content_parts_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body: ChatBody = decode_body(
        json.dumps(CHAT | {"messages": [{"role": "user", "content": parts}]}).encode(), ChatBody
    )
    assert body.messages[0].plain() == {"role": "user", "content": "ab"}
    parts = [{"type": "image_url", "image_url": {"url": "x"}}]  # type: ignore[dict-item]
    body = decode_body(
        json.dumps(CHAT | {"messages": [{"role": "user", "content": parts}]}).encode(), ChatBody
    )
    with pytest.raises(BadRequest, match="image_url"):
        body.messages[0].plain()


def test_generate_is_greedy_unless_it_says_do_sample() -> None:
    text = {"inputs": "x", "parameters": {"temperature": 0.7, "max_new_tokens": 5}}
    body: GenerateBody = decode_body(json.dumps(text).encode(), GenerateBody)
    assert body.parameters.params().temperature == 0.0
    text["parameters"]["do_sample"] = True  # type: ignore[index]
    body = decode_body(json.dumps(text).encode(), GenerateBody)
    assert body.parameters.params().temperature == 0.7
