"""`chat`: one streamed answer of the pipeline over HTTP, for the Prompt panel and the command line.
Knows OpenAI's stream, no widget and no argument parser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ...pipeline.errors import OperatorError
from .http_client import Http, HttpError


class ChatParams(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters of an answer; None leaves one to the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    """Number of alternatives to return beside each token; None returns no probabilities."""

    @property
    def body(self) -> dict[str, Any]:
        """The fields of the request; those that are None or empty are left out."""
        given = {k: v for k, v in msgspec.structs.asdict(self).items() if v not in (None, ())}
        if (alternatives := given.pop("logprobs", None)) is not None:
            given |= {"logprobs": True, "top_logprobs": alternatives}
        return given


class TokenChoice(msgspec.Struct, frozen=True):
    """A token of an answer, its log probability, and the most likely tokens at its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class ChatPart(msgspec.Struct, frozen=True):
    """A piece of an answer. The last one carries `finish_reason` and the token counts."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    choices: tuple[TokenChoice, ...] = ()
    """Its tokens, if logprobs were requested."""


class ChatError(OperatorError):
    """The pipeline refused the request or broke off the answer; `what` is the reason."""


async def chat(
    http: Http,
    model: str,
    messages: list[dict[str, str]],
    params: ChatParams,
) -> AsyncIterator[ChatPart]:
    """Streams `model`'s answer (the base model's name, or an adapter's).

    Leaving the iterator early cancels the request. Raises `ChatError`.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **params.body,
    }
    finish_reason: str | None = None
    try:
        async with http.post("/v1/chat/completions", body) as response:
            if response.status != 200:
                raise ChatError(_reason(await response.read(), response.status))
            async for line in response.lines():
                data = line.removeprefix("data: ")
                if not data or data == "[DONE]" or data == line:
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ChatError(event["error"]["message"])
                if usage := event.get("usage"):
                    yield ChatPart(
                        "", finish_reason, usage["prompt_tokens"], usage["completion_tokens"]
                    )
                for choice in event["choices"]:
                    finish_reason = choice["finish_reason"] or finish_reason
                    text, tokens = choice["delta"].get("content"), _tokens(choice)
                    if text or tokens:
                        yield ChatPart(text or "", choices=tokens)
    except HttpError as error:
        raise ChatError(str(error)) from error
    if finish_reason is None:
        raise ChatError("the answer was cut off")


def _tokens(choice: dict[str, Any]) -> tuple[TokenChoice, ...]:
    logprobs = choice.get("logprobs") or {}
    return tuple(
        TokenChoice(
            each["token"],
            each["logprob"],
            tuple((other["token"], other["logprob"]) for other in each.get("top_logprobs", ())),
        )
        for each in logprobs.get("content") or ()
    )


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {status}"
