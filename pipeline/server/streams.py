"""The text of a request so far: `Stream` for one choice, `AnswerStreams` for all choices of an HTTP
request.

Knows no HTTP and no socket. Append-only: a slow reader misses no text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TypeAlias

import msgspec

from ..messages import Logprob, Refused, Request, ResumeRequest, TextDelta, TokenLogprob
from ..runtime.clock import unix_time
from .bad_request import BadRequest

TAKEN_AT_ONCE = 32
"""Deltas of one answer that are written before the event loop goes on."""


class Stream:
    """The text of one request so far. New text goes to the queue of its `AnswerStreams`."""

    def __init__(self, request: Request, index: int, sink: Sink) -> None:
        self.request = request
        self.arrived = time.perf_counter()
        self.last_token: float | None = None
        self.first_token_at: float | None = None
        """Unix seconds."""
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        """Of each token, if the request asks for them."""
        self.num_chars = 0
        self._pieces: list[str] = []
        self.ended = False
        self._index = index
        self._sink = sink

    def put(self, delta: TextDelta) -> bool:
        """Passes on the new part of a delta; False if nothing is new. A restarted detokenizer or
        router repeats text: the character offset tells which part is known."""
        if self.ended or (delta.num_tokens <= self.num_tokens and not delta.finish_reason):
            return False
        known = self.num_chars - delta.offset
        fresh = msgspec.structs.replace(delta, text=delta.text[known:]) if known > 0 else delta
        if fresh.text:
            self._pieces.append(fresh.text)
        if delta.num_tokens > self.num_tokens:
            self.first_token_at = self.first_token_at or unix_time()
            self.token_ids.extend(delta.token_ids)
            self.logprobs.extend(delta.logprobs)
        self.num_chars = max(self.num_chars, delta.offset + len(delta.text))
        self.ended = delta.finish_reason is not None
        self._sink.put_nowait((self._index, fresh))
        return True

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def to_resume(self) -> ResumeRequest:
        """What a router needs that does not know the request."""
        return ResumeRequest(
            request=self.request,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(map(_log_values, self.logprobs)),
            first_token_at=self.first_token_at,
        )

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def refuse(self, refused: Refused) -> None:
        self.ended = True
        self._sink.put_nowait((self._index, refused))


def _log_values(token: TokenLogprob) -> tuple[Logprob, ...]:
    """The chosen token's, then those of the likeliest tokens."""
    return tuple(Logprob(entry.token_id, entry.logprob) for entry in (token.chosen, *token.top))


Sink: TypeAlias = "asyncio.Queue[tuple[int, TextDelta | Refused]]"


class AnswerStreams:
    """All choices of one HTTP request, and the queue of their text."""

    def __init__(self, prompt_field: str) -> None:
        """`prompt_field` of the body has the prompt; a refusal of it names that field."""
        self._prompt_field = prompt_field
        self.streams: list[Stream] = []
        self.sink: Sink = asyncio.Queue()

    async def deltas(self) -> AsyncIterator[tuple[int, TextDelta]]:
        """(choice, delta) as they come, until every choice has finished. Raises `BadRequest` with
        the router's status if it refuses one."""
        unfinished = len(self.streams)
        taken = 0
        while unfinished:
            taken += 1
            if taken % TAKEN_AT_ONCE == 0:  # `get` does not wait while there is more
                await asyncio.sleep(0)
            index, delta = await self.sink.get()
            if isinstance(delta, Refused):
                param = {404: "model", 400: self._prompt_field}.get(delta.status)
                raise BadRequest(delta.reason, status=delta.status, param=param)
            unfinished -= delta.finish_reason is not None
            yield index, delta

    @property
    def output_tokens(self) -> int:
        return sum(stream.num_tokens for stream in self.streams)
