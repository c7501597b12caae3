"""`chat`: one streamed answer of the pipeline over HTTP, for the Prompt panel and the command line.
Knows OpenAI's stream, no widget and no argument parser."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from ...pipeline.errors import OperatorError
from .http_client import ConnectionBroke, Http, HttpError, HttpResponse

RESUME_SECONDS = 30.0
"""Longest wait for a server that is back to answer, instead of a 503."""
RETRY_SECONDS = 0.2


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

    If the server dies meanwhile, the rest comes from the next one. Leaving the iterator early
    cancels the request. Raises `ChatError`.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "separate_reasoning": False,  # the text is shown as the model writes it
        **params.body,
    }
    events = _ChatEvents(f"console-{secrets.token_hex(12)}")
    connection = http.post("/v1/chat/completions", body, {"X-Request-Id": events.request_id})
    broke: ConnectionBroke | None = None
    give_up_at = 0.0
    while True:
        try:
            async with connection as response:
                if response.status == 200:
                    async for part in events.parts(response):
                        broke = None
                        yield part
                    return
                reason = _reason(await response.read(), response.status)
            if broke is None or response.status not in (404, 503):
                raise ChatError(reason)
            if response.status == 404:  # it was not accepted, or too long ago
                raise ChatError(str(broke))
        except ConnectionBroke as error:
            if broke is None:
                broke, give_up_at = error, time.monotonic() + RESUME_SECONDS
        except HttpError as error:
            raise ChatError(str(broke or error)) from error
        if time.monotonic() > give_up_at:
            raise ChatError(str(broke))
        await asyncio.sleep(RETRY_SECONDS)
        connection = http.get(f"/v1/requests/{events.request_id}", events.place)


class _ChatEvents:
    """The events of one answer, over all its connections."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._last_id = ""
        self._finish_reason: str | None = None

    @property
    def place(self) -> dict[str, str]:
        """The header that says which events are here."""
        return {"Last-Event-ID": self._last_id} if self._last_id else {}

    async def parts(self, response: HttpResponse) -> AsyncIterator[ChatPart]:
        """The parts of the answer from here on. Raises `ChatError` if it is not whole."""
        event_id = ""
        async for line in response.lines():
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = value
            if name != "data" or value == "[DONE]":
                continue
            event = json.loads(value)
            if "error" in event:
                raise ChatError(event["error"]["message"])
            self._last_id = event_id or self._last_id
            for part in self._parts_of(event):
                yield part
        if self._finish_reason is None:
            raise ChatError("the answer was cut off")

    def _parts_of(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        if usage := event.get("usage"):
            prompt, output = usage["prompt_tokens"], usage["completion_tokens"]
            yield ChatPart("", self._finish_reason, prompt, output)
        for choice in event["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            text, tokens = choice["delta"].get("content"), _tokens(choice)
            if text or tokens:
                yield ChatPart(text or "", choices=tokens)


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
