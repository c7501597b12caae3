"""Answers as HTTP responses: whole, or as server-sent events while they are generated.

Knows streams and formats of answers; no route and no body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..messages import TextDelta, TokenLogprob
from .answer_format import Format, LogprobQueue, error_body, usage
from .bad_request import BadRequest
from .schemas import StreamOptions
from .streams import AnswerStreams

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events. `stack` ends their requests when the response ends, even if the client
    leaves before the first byte and the generator never runs."""

    def __init__(self, events: AsyncIterator[bytes], stack: contextlib.ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await super().__call__(scope, receive, send)


async def until_gone(request: HttpRequest, answer: Awaitable[T]) -> T:
    """Awaits `answer`. Raises `BadRequest` as soon as the client has left; an abort follows."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise BadRequest("the client has left", status=499)
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def chain(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """`first`, which was already awaited, and then the rest."""
    yield first
    async for item in rest:
        yield item


async def collect_choices(
    answer: AnswerStreams,
) -> list[tuple[str, str | None, list[TokenLogprob]]]:
    """The whole answer of each choice: text, finish reason and logprobs."""
    texts: list[list[str]] = [[] for _ in answer.streams]
    logprobs: list[list[TokenLogprob]] = [[] for _ in answer.streams]
    reasons: list[str | None] = [None for _ in answer.streams]
    async for index, delta in answer.deltas():
        texts[index].append(delta.text)
        logprobs[index].extend(delta.logprobs)
        reasons[index] = delta.finish_reason
    return [("".join(t), r, p) for t, r, p in zip(texts, reasons, logprobs, strict=True)]


async def whole_response(answer: AnswerStreams, form: Format, prompt_tokens: int) -> Response:
    """OpenAI's unstreamed answer, once all choices have ended."""
    choices = [form.choice(i, *whole) for i, whole in enumerate(await collect_choices(answer))]
    body = form.whole(choices, usage(prompt_tokens, answer.output_tokens))
    return Response(msgspec.json.encode(body), media_type="application/json")


def _event(data: Any) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def openai_events(
    answer: AnswerStreams,
    deltas: AsyncIterator[tuple[int, TextDelta]],
    form: Format,
    prompt_tokens: int,
    options: StreamOptions,
) -> AsyncIterator[bytes]:
    """OpenAI's stream: a chunk per delta, the usage if requested, and [DONE]."""
    queues: dict[int, LogprobQueue] = {}
    try:
        async for index, delta in deltas:
            first = index not in queues
            logprobs = queues.setdefault(index, LogprobQueue()).take(delta)
            # Held-back text gives empty deltas, which are of no use to a client.
            if first or delta.text or delta.finish_reason or logprobs:
                chunk = form.chunk(index, delta, first, logprobs)
                if options.include_usage:
                    so_far = usage(prompt_tokens, answer.output_tokens)
                    chunk["usage"] = so_far if options.continuous_usage_stats else None
                yield _event(chunk)
    except BadRequest as error:
        yield _event(error_body(error.status, error.reason, error.param))
        return
    if options.include_usage:
        yield _event(form.last(usage(prompt_tokens, answer.output_tokens)))
    yield b"data: [DONE]\n\n"


async def slora_events(deltas: AsyncIterator[tuple[int, TextDelta]]) -> AsyncIterator[bytes]:
    """S-LoRA's stream: one event per token; the whole text is never repeated."""
    try:
        async for _, delta in deltas:
            token = {
                "id": delta.token_ids[-1],
                "text": delta.text,
                "logprob": delta.logprobs[0].chosen.logprob if delta.logprobs else None,
                "special": False,
            }
            finished = delta.finish_reason is not None
            yield _event(
                {"token": token, "generated_text": None, "finished": finished, "details": None}
            )
    except BadRequest as error:
        yield _event(error_body(error.status, error.reason, error.param))
