"""Hostile HTTP requests, by seed and number: bodies of every route with values, keys, nesting or
bytes that no client should send, and paths and methods beside them. Knows no connection."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "seed": 1,
    "stop": ["a", "b"],
    "stop_token_ids": [5],
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "min_p": 0.1,
    "n": 1,
    "max_tokens": 2,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logit_bias": {},
    "user": "x",
}
ROUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/completions", {"model": "", "prompt": "ab", "logprobs": 2} | SAMPLING),
    (
        "POST",
        "/v1/chat/completions",
        {
            "model": "",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "ab"}]},
            ],
            "logprobs": True,
            "top_logprobs": 2,
            "chat_template_kwargs": {"enable_thinking": False},
        }
        | SAMPLING,
    ),
    (
        "POST",
        "/generate",
        {
            "inputs": "ab",
            "lora_dir": None,
            "parameters": {"max_new_tokens": 2, "do_sample": True, "stop_sequences": ["a"]},
        },
    ),
    ("POST", "/generate_stream", {"inputs": "ab", "parameters": {"max_new_tokens": 2}}),
    ("PUT", "/v1/scheduler", {"policy": "fcfs", "weights": {"a": 1.0}, "max_wait_tokens": 0}),
    ("POST", "/v1/adapters", {"name": "a", "path": "/nowhere/a", "pin": False}),
    ("POST", "/v1/adapters/plan", {"paths": ["/nowhere/a"]}),
    ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/nowhere/a"}),
    ("POST", "/v1/unload_lora_adapter", {"lora_name": "a"}),
)
BARE = (
    ("GET", "/v1/models/{}"),
    ("GET", "/v1/adapters/{}"),
    ("DELETE", "/v1/adapters/{}"),
    ("POST", "/v1/adapters/{}/reload"),
    ("POST", "/v1/adapters/{}/pin"),
    ("DELETE", "/v1/adapters/{}/merge"),
    ("POST", "/v1/adapters/{}/verify"),
    ("GET", "/v1/requests/{}"),
    ("PATCH", "/v1/{}"),
    ("GET", "/{}"),
)
"""Routes without a body; a hostile name goes into the braces."""
NUMBERS: tuple[str, ...] = (
    *("0", "-0", "-1", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "0.1", "5.0", "1e2"),
    *(str(2**31), str(2**63), str(2**64), str(2**70), "9" * 400, "1" + "0" * 5000, "01", "+1"),
)
STRINGS: tuple[str, ...] = (
    *("", " ", "\0", "a\0b", "\ud800", "\U0001f600" * 3, "‮abc", "\x1b]0;x\x07", "../../etc"),
    *("a" * 300, "é" * 5000, "%s%n{}", "null", "<|im_end|>", "/v1/../..", "a/b:c", "\r\nX: y"),
)
NAMES = ("..", "%2e%2e", "a%00b", "a" * 4000, "é", "a/b/c", "%ff%fe", "a?b=c", ":", "base", "-")


@dataclass(frozen=True)
class HttpCase:
    """One request."""

    method: str
    path: str
    body: bytes
    leaves: bool = False
    """The client goes away after the first byte of the answer."""


class Raw(str):
    """JSON text that goes into a body as it is."""


def _write(value: Any) -> str:
    """JSON, with `Raw` left as it is and lone surrogates escaped."""
    match value:
        case Raw():
            return str(value)
        case dict():
            pairs = (f"{json.dumps(key)}:{_write(item)}" for key, item in value.items())
            return "{" + ",".join(pairs) + "}"
        case list():
            return "[" + ",".join(map(_write, value)) + "]"
        case _:
            return json.dumps(value)


def _hostile(rng: random.Random) -> Any:
    how = rng.randrange(9)
    if how <= 1:
        return Raw(rng.choice(NUMBERS))
    if how <= 3:
        return rng.choice(STRINGS)
    if how == 4:
        depth = rng.choice((2, 30, 200, 3000))
        pair = rng.choice((("[", "]"), ('{"a":', "}")))
        return Raw(pair[0] * depth + "0" + pair[1] * depth)
    if how == 5:
        return [rng.choice(STRINGS)] * rng.choice((0, 1, 17, 2000))
    if how == 6:
        return {rng.choice(STRINGS): rng.choice((None, 1, "x")) for _ in range(rng.randint(0, 3))}
    if how == 7:
        return [rng.choice((0, -1, 299, 300, 2**31, 2**63, 2**64, None, True, 1.5))] * 3
    return rng.choice((None, True, False, [], {}, [[]], [None], 0.5))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of each value inside."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += _places(value[key])
    return found


def _mutate_value(rng: random.Random, body: dict[str, Any]) -> None:
    container, key = rng.choice(_places(body))
    how = rng.randrange(5)
    if how <= 2:
        container[key] = _hostile(rng)
    elif how == 3:
        del container[key]
    elif isinstance(container, dict):
        container[rng.choice(STRINGS) or "unknown"] = _hostile(rng)


def _mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    how = rng.randrange(6)
    place = rng.randrange(len(data) + 1)
    if how == 0:
        return data[:place]
    if how == 1:
        return data[:place] + rng.randbytes(rng.randint(1, 6)) + data[place:]
    if how == 2:
        return data[:place] + data[place + rng.randint(1, 6) :]
    if how == 3:
        return data + data[:place]
    if how == 4:
        return rng.choice(
            (b"", b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"[]", b"0")
        )
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def make_case(seed: int, number: int) -> HttpCase:
    """Request `number`."""
    rng = random.Random(f"bodies {seed} {number}")
    if rng.random() < 0.08:
        method, path = rng.choice(BARE)
        return HttpCase(method, path.replace("{}", rng.choice(NAMES)), b"")
    method, path, valid = rng.choice(ROUTES)
    body = json.loads(json.dumps(valid))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if body:
            _mutate_value(rng, body)
    data = _write(body).encode()
    if rng.random() < 0.25:
        data = _mutate_bytes(rng, data)
    return HttpCase(method, path, data, leaves=rng.random() < 0.05)


Check = Callable[[HttpCase, int, bytes], list[str]]
MOST_MESSAGE = 2000
"""Characters of a refusal: it must not repeat what it refuses."""


def answer_faults(case: HttpCase, status: int, content_type: str, body: bytes) -> list[str]:
    """What is wrong with an answer: no status that blames the server, every refusal OpenAI's."""
    faults = []
    if status >= 500 and status not in (503, 504, 507):
        faults.append(f"status {status}")
    if status >= 400 and case.method != "HEAD":
        faults += _refusal_faults(status, body)
    elif status == 200 and content_type.startswith("application/json"):
        json.loads(body)
    return faults


CODES = {
    400: ("context_length_exceeded",),
    401: ("invalid_api_key",),
    404: ("model_not_found",),
    429: ("rate_limit_exceeded",),
}
"""OpenAI's words, which stand in place of the status."""


def _refusal_faults(status: int, body: bytes) -> list[str]:
    try:
        error = json.loads(body)["error"]
        fields = {name: error[name] for name in ("message", "type", "param", "code")}
    except (ValueError, KeyError, TypeError) as problem:
        return [f"a refusal that is not OpenAI's: {problem!r} {body[:80]!r}"]
    if fields["code"] not in (status, *CODES.get(status, ())):
        return [f"code {fields['code']} in a {status}"]
    if len(fields["message"]) > MOST_MESSAGE:
        return [f"a refusal of {len(fields['message'])} characters"]
    return []
