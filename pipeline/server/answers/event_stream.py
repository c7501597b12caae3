"""Answers as HTTP responses: whole, or as server-sent events while they are generated; from the
start, or from where a client has them.

Knows streams and formats of answers; no route and no body.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...messages import TextDelta, TokenLogprob
from ..http.bad_request import BadRequest
from .answer_format import Format, LogprobQueue, Usage, usage
from .anthropic_answer import anthropic_events, message_object
from .chat_parts import ParsedChunks, parsed_choice
from .embedding_answer import embedding_object
from .event_id import Delivered, nothing_of
from .event_writer import EventWriter, data_lines
from .generate_answer import generate_events, generate_object
from .open_answers import OpenAnswers
from .prompt_part import UnsentTokens, complete_chunk, prompt_parts
from .responses_answer import response_object, responses_events
from .sglang_answer import sglang_events, sglang_object
from .streams import LOGPROBS_AT_ONCE, AnswerReader, AnswerStreams

T = TypeVar("T")
REFUSAL_SECONDS = 0.2
"""Longest wait for the router's refusal of an answer in the background: it takes a few
milliseconds."""
REQUEST_ID = "x-request-id"
"""The header with an answer's id: the client's own, or the server's."""


class EventStream(StreamingResponse):
    """Server-sent events. `stack` ends their reader when the response ends, even if the client
    leaves before the first byte and the generator never runs."""

    def __init__(
        self, events: AsyncIterator[bytes], headers: dict[str, str], stack: contextlib.ExitStack
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await super().__call__(scope, receive, send)


class WholeAnswer(Response):
    """An unstreamed answer. `stack` ends its reader once it is sent."""

    def __init__(self, body: bytes, headers: dict[str, str], stack: contextlib.ExitStack) -> None:
        super().__init__(body, headers=headers, media_type="application/json")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await super().__call__(scope, receive, send)


async def answer_response(
    request: HttpRequest,
    answers: OpenAnswers,
    answer: AnswerStreams,
    sending: Awaitable[None] | None = None,
    delivered: Delivered | None = None,
) -> Response:
    """The answer as its form has it. `sending` sends its requests to the router; `delivered` is
    what a client that comes back has of it. Raises `BadRequest` if the router refuses.

    Events have ids if the client has chosen the answer's id or comes back: there are programs that
    take all of an event behind `data: ` for JSON."""
    form = answer.form
    has_ids = delivered is not None or REQUEST_ID in request.headers
    headers = {REQUEST_ID: form.answer_id}
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(answers.reading(answer))
        if sending is not None:
            await sending
        if answer.is_background and not form.is_streamed and delivered is None:
            body = msgspec.json.encode(WHOLE[form.kind](answer))
            await until_gone(request, _await_refusal(reader))
            return WholeAnswer(body, headers, stack.pop_all())
        if not form.is_streamed:
            body = await until_gone(request, _whole_body(reader))
            return WholeAnswer(body, headers, stack.pop_all())
        # Waits for the first delta, since a refusal must not have status 200.
        deltas = reader.deltas()
        first = await until_gone(request, _first_delta(answer, deltas))
        write = EVENTS[form.kind]
        writer = EventWriter(reader, delivered or nothing_of(answer), has_ids=has_ids)
        events = write(writer, chain(first, deltas))
        return EventStream(events, headers, stack.pop_all())


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


async def _first_delta(
    answer: AnswerStreams, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> tuple[int, TextDelta]:
    """The first of `deltas`. Raises `BadRequest` if the router refuses the answer before."""
    try:
        return await anext(deltas)
    finally:
        answer.is_known = True  # or its client has left: what it comes to is kept


async def _await_refusal(reader: AnswerReader) -> None:
    """Waits until the answer has begun, at most `REFUSAL_SECONDS`. Raises `BadRequest` if the
    router has refused it."""
    answer = reader.answer
    try:
        async with asyncio.timeout(REFUSAL_SECONDS):
            await _first_delta(answer, reader.deltas())
    except TimeoutError:
        pass
    except BadRequest:
        if not answer.is_cancelled:
            raise


async def chain(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    """`first`, which was already awaited, and then the rest."""
    yield first
    async for item in rest:
        yield item


async def _whole_body(reader: AnswerReader) -> bytes:
    """The unstreamed answer, once all choices have ended."""
    async for _ in reader.deltas():
        pass
    answer = reader.answer

    def write() -> bytes:
        return msgspec.json.encode(WHOLE[answer.form.kind](answer))

    is_long = answer.num_prompt_logprobs > LOGPROBS_AT_ONCE
    return await asyncio.to_thread(write) if is_long else write()


def _openai_whole(answer: AnswerStreams) -> dict[str, Any]:
    form, streams = answer.form, answer.streams
    make = form.choice if form.reading is None else functools.partial(parsed_choice, form)
    parts = prompt_parts(answer)
    choices = []
    for index, number in enumerate(answer.best()):
        stream = streams[number]
        choice = make(index, stream.text, stream.finish_reason, stream.logprobs)
        if parts:
            parts[number].complete_choice(choice)
        choices.append(choice)
    whole = form.whole(choices, usage(answer.prompt_tokens, answer.output_tokens))
    if parts and form.kind == "chat":
        whole.update(parts[0].fields())
    return whole


class _PlainChunks:
    """The events of one choice of text."""

    def __init__(self, form: Format, index: int) -> None:
        self._form, self._index = form, index
        self._has_begun = False

    def chunk(self, delta: TextDelta, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        """The event of a delta; None if it has nothing for a client: held-back text gives empty
        deltas."""
        is_first, self._has_begun = not self._has_begun, True
        if is_first or delta.text or delta.finish_reason or logprobs:
            return self._form.chunk(self._index, delta, is_first, logprobs)
        return None


async def _openai_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> AsyncIterator[bytes]:
    """OpenAI's stream: a chunk per delta, the usage if requested, and [DONE]."""
    reader = writer.reader
    form, prompt_tokens = reader.answer.form, reader.answer.prompt_tokens
    parts = prompt_parts(reader.answer)
    queues: dict[int, LogprobQueue] = {}
    chunks: dict[int, _PlainChunks | ParsedChunks] = {}
    unsent: dict[int, UnsentTokens] = {}

    def so_far() -> Usage:
        return usage(prompt_tokens, reader.output_tokens)

    try:
        async for index, delta in deltas:
            if is_first := index not in queues:
                queues[index] = LogprobQueue()
                make = _PlainChunks if form.reading is None else ParsedChunks
                chunks[index] = make(form, index)
                unsent[index] = UnsentTokens()
            chunk = chunks[index].chunk(delta, queues[index].take(delta))
            if parts:
                unsent[index].add(delta)
            if not writer.advance(index):
                unsent[index].take()  # the client has them
            elif chunk:
                if parts:
                    token_ids = unsent[index].take()
                    await complete_chunk(chunk, parts[index], token_ids, is_first=is_first)
                if form.include_usage:
                    chunk["usage"] = so_far() if form.continuous_usage_stats else None
                yield writer.event(chunk)
    except BadRequest as error:
        yield data_lines(error.body())
        return
    if form.include_usage and not writer.delivered.has_usage:
        yield writer.event(form.last(so_far()), has_usage=True)
    yield b"data: [DONE]\n\n"


Events: TypeAlias = Callable[
    [EventWriter, AsyncIterator[tuple[int, TextDelta]]], AsyncIterator[bytes]
]
EVENTS: Mapping[str, Events] = {
    "chat": _openai_events,
    "text": _openai_events,
    "generate": generate_events,
    "sglang": sglang_events,
    "responses": responses_events,
    "messages": anthropic_events,
}
"""What writes a stream, by the kind of the answer."""
WHOLE: Mapping[str, Callable[[AnswerStreams], Any]] = {
    "chat": _openai_whole,
    "text": _openai_whole,
    "generate": generate_object,
    "sglang": sglang_object,
    "embeddings": embedding_object,
    "responses": response_object,
    "messages": message_object,
}
"""What makes a whole answer, by its kind."""
