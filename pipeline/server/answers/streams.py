"""The text of a request so far: `Stream` for one choice, `AnswerStreams` for all choices of an HTTP
request, `AnswerReader` for one client's place in them.

Knows no HTTP and no socket. Append-only: a slow reader misses no text, and one that comes back
reads on where it was.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

from ...messages import (
    CONTEXT_LENGTH_EXCEEDED,
    Logprob,
    PromptLogprobs,
    Refused,
    Request,
    ResumeRequest,
    TextDelta,
    TokenLogprob,
)
from ...runtime.clock import unix_time
from ...text.tokenizer import Tokenizer
from ..http.bad_request import MODEL_NOT_FOUND, BadRequest
from .answer_format import Format

TAKEN_AT_ONCE = 32
"""Deltas of one answer that are written before the event loop goes on."""


LOGPROBS_AT_ONCE = 2000
"""Logprobs of prompts that are written on the event loop, within ten milliseconds."""


class ReadPlace(NamedTuple):
    """How far a client has read a choice. A place further on compares as greater."""

    tokens: int = 0
    is_over: bool = False
    """Whether it has the finish reason."""


class Stream:
    """The text of one request so far, token by token."""

    def __init__(
        self, request: Request, on_news: Callable[[], None], *, is_restored: bool = False
    ) -> None:
        self.request = request
        self.is_restored = is_restored
        """An earlier server accepted it, so its latencies are unknown."""
        self.arrived = time.perf_counter()
        self.last_token: float | None = None
        self.first_token_at: float | None = None
        """Unix seconds."""
        self.token_ids = array("I")
        self.logprobs: list[TokenLogprob] = []
        """Of each token, if the request asks for them."""
        self.prompt_logprobs: list[PromptLogprobs] = []
        """Of the prompt's tokens after the first, if the request asks for them. All are here before
        the first token."""
        self.num_chars = 0
        self.pieces: list[str] = []
        """The text that each token has released."""
        self.tail = ""
        """Text that came with the finish reason, after the last token."""
        self.finish_reason: str | None = None
        self.stopped_by: str | int | None = None
        """The stop string or the token that ended it."""
        self.refusal: Refused | None = None
        self.choices: Sequence[Stream] = (self,)
        """All choices of its prompt, itself too."""
        self._on_news = on_news
        self._unscored = 0
        """Tokens of the prompt whose logprobs are asked for and not here yet."""
        if request.params.prompt_logprobs is not None:
            self._unscored = request.scored_at_end - 1

    def put(self, delta: TextDelta) -> bool:
        """Adds the new part of a delta; False if nothing is new. A restarted detokenizer, router or
        server leads to repeated text: number of tokens and character offset tell what is known. A
        delta after a gap is left out, and one before the prompt's logprobs: what is missing comes
        again, and then this one too."""
        fresh = delta.num_tokens - self.num_tokens
        if self.ended or fresh > len(delta.token_ids) or delta.offset > self.num_chars:
            return False
        if self._unscored:
            return False
        if fresh <= 0 and not delta.finish_reason:
            return False
        text = delta.text[self.num_chars - delta.offset :]
        if fresh > 0:
            self.first_token_at = self.first_token_at or unix_time()
            self.token_ids.extend(delta.token_ids[-fresh:])
            self.logprobs.extend(delta.logprobs[-fresh:])
            self.pieces += [*[""] * (fresh - 1), text]
        else:
            self.tail = text
        self.num_chars += len(text)
        self.finish_reason, self.stopped_by = delta.finish_reason, delta.stopped_by
        self._on_news()
        return True

    def put_scores(self, piece: PromptLogprobs) -> None:
        """Adds the new part of a piece; repeated pieces come as repeated tokens do."""
        known = self.request.scored_at_end - self._unscored
        fresh = piece.after(known - piece.start)
        if fresh.count and fresh.start == known:
            self.prompt_logprobs.append(fresh)
            self._unscored -= fresh.count

    def refuse(self, refused: Refused) -> None:
        self.refusal = refused
        self._on_news()

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None or self.refusal is not None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.pieces) + self.tail

    def delta_after(self, place: ReadPlace, offset: int) -> TextDelta | None:
        """What follows `place`, a token at a time; None if nothing is known yet. `offset` is the
        number of characters before it."""
        index, is_over = place.tokens, False
        if index < self.num_tokens:
            is_last = index + 1 == self.num_tokens
            text = self.pieces[index]
        elif self.finish_reason is not None and not place.is_over:
            index, is_last, text = index - 1, True, ""
        else:
            return None
        is_over = is_last and self.finish_reason is not None
        logprobs = self.logprobs[index : index + 1] if place.tokens < self.num_tokens else ()
        return TextDelta(
            request_id=self.request.request_id,
            offset=offset,
            text=text + self.tail if is_over else text,
            num_tokens=index + 1,
            token_ids=tuple(self.token_ids[index : index + 1]) if index >= 0 else (),
            logprobs=tuple(logprobs),
            finish_reason=self.finish_reason if is_over else None,
            stopped_by=self.stopped_by if is_over else None,
        )

    def deltas(self) -> Iterator[TextDelta]:
        """All of it so far, a token at a time."""
        place, offset = ReadPlace(), 0
        while delta := self.delta_after(place, offset):
            yield delta
            place = ReadPlace(delta.num_tokens, delta.finish_reason is not None)
            offset += len(delta.text)

    @property
    def num_prompt_logprobs(self) -> int:
        """Those of alternatives too."""
        return sum(piece.count * (1 + piece.most) for piece in self.prompt_logprobs)

    @property
    def mean_logprob(self) -> float:
        """Of its tokens' own logprobs; it has some, and they were asked for."""
        return sum(token.chosen.logprob for token in self.logprobs) / len(self.logprobs)

    def to_resume(self) -> ResumeRequest:
        """What a router needs that does not know the request."""
        return ResumeRequest(
            request=self.request,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(map(_log_values, self.logprobs)),
            first_token_at=self.first_token_at,
            prompt_logprobs=tuple(self.prompt_logprobs),
        )


def _log_values(token: TokenLogprob) -> tuple[Logprob, ...]:
    """The chosen token's, then those of the likeliest tokens."""
    return tuple(Logprob(entry.token_id, entry.logprob) for entry in (token.chosen, *token.top))


class AnswerStreams:
    """All choices of one HTTP request, and the clients that read them."""

    def __init__(
        self, form: Format, owner: bytes, requests: Sequence[Request], *, is_restored: bool = False
    ) -> None:
        """`owner` tells the API key that it was asked for with."""
        self.form, self.owner = form, owner
        self.tokenizer: Tokenizer | None = None
        """The model's, once a client reads it."""
        self.is_cancelled = False
        """Whether a client has ended it that need not have read it."""
        self.is_known = is_restored
        """Whether its client may know that it was accepted."""
        self.readers: list[AnswerReader] = []
        self.on_ended: Callable[[AnswerStreams], None] = lambda answer: None
        """Called once `has_ended`."""
        self.streams = [
            Stream(request, self._waker(index), is_restored=is_restored)
            for index, request in enumerate(requests)
        ]
        for choices in self.by_prompt():
            for stream in choices:
                stream.choices = choices

    def by_prompt(self) -> list[list[Stream]]:
        """The choices of each prompt."""
        found: dict[int, list[Stream]] = {}
        for stream in self.streams:  # the choices of a prompt share it
            found.setdefault(id(stream.request.prompt_ids), []).append(stream)
        return list(found.values())

    @property
    def num_prompt_logprobs(self) -> int:
        """Of all choices."""
        return sum(stream.num_prompt_logprobs for stream in self.streams)

    def best(self) -> list[int]:
        """The choices that are answered: all or, with `best_of`, the likeliest of each prompt."""
        most, found, first = self.form.num_best, list[int](), 0
        for choices in self.by_prompt():
            numbers = list(range(first, first + len(choices)))
            first += len(choices)
            if most:
                numbers.sort(key=lambda number: -self.streams[number].mean_logprob)
            found += numbers[: most or None]
        return found

    def _waker(self, index: int) -> Callable[[], None]:
        def wake() -> None:
            for reader in self.readers:
                reader.wake(index)
            if self.streams[index].ended and self.has_ended:
                self.on_ended(self)

        return wake

    @property
    def is_background(self) -> bool:
        """Whether it is made without a client that reads it."""
        return self.form.responses is not None and self.form.responses.is_background

    @property
    def is_refused(self) -> bool:
        """Whether the router refused it before its client knew of it: the client gets an error."""
        has_refusal = any(stream.refusal is not None for stream in self.streams)
        is_known = self.is_known or self.is_cancelled or self.output_tokens > 0
        return has_refusal and not is_known

    @property
    def has_ended(self) -> bool:
        """Whether all choices have finished; if it is made in the background, or were refused."""
        return all(
            stream.finish_reason is not None or (self.is_background and stream.ended)
            for stream in self.streams
        )

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts; the choices of one share it."""
        return sum(len(choices[0].request.prompt_ids) for choices in self.by_prompt())

    @property
    def output_tokens(self) -> int:
        return sum(stream.num_tokens for stream in self.streams)


class AnswerReader:
    """One client's way through an answer."""

    def __init__(self, answer: AnswerStreams) -> None:
        self.answer = answer
        self.places = [ReadPlace()] * len(answer.streams)
        """How far each choice has been read."""
        self._offsets = [0] * len(answer.streams)
        self._pending = dict.fromkeys(range(len(answer.streams)))
        """Choices that may have news, in the order of their coming."""
        self._news = asyncio.Event()

    def wake(self, index: int) -> None:
        """Notes that a choice has new text or has ended."""
        self._pending[index] = None
        self._news.set()

    async def deltas(self) -> AsyncIterator[tuple[int, TextDelta]]:
        """(choice, delta) from the first token on, as they come, until every choice has finished.
        Raises `BadRequest` with the router's status if it refuses one."""
        unfinished, taken = len(self.places), 0
        while unfinished:
            while not self._pending:
                self._news.clear()
                await self._news.wait()
            index = next(iter(self._pending))
            del self._pending[index]
            stream = self.answer.streams[index]
            while delta := stream.delta_after(self.places[index], self._offsets[index]):
                self.places[index] = ReadPlace(delta.num_tokens, delta.finish_reason is not None)
                self._offsets[index] += len(delta.text)
                unfinished -= delta.finish_reason is not None
                yield index, delta
                taken += 1
                if taken % TAKEN_AT_ONCE == 0:  # nothing above waits while there is more
                    await asyncio.sleep(0)
            if stream.refusal is not None:
                raise refusal_error(stream.refusal, self.answer.form)

    @property
    def output_tokens(self) -> int:
        """Of all choices, as far as they have been read."""
        return sum(place.tokens for place in self.places)


def refusal_error(refusal: Refused, form: Format) -> BadRequest:
    """The router's refusal of a request, as the error of its answer. It names the prompt only if
    that is too long: a grammar without a next token, for one, is no fault of the prompt."""
    param = "model" if refusal.status == 404 else None
    if refusal.code == CONTEXT_LENGTH_EXCEEDED:
        param = form.prompt_field
    code = refusal.code or (MODEL_NOT_FOUND if refusal.status == 404 else "")
    return BadRequest(refusal.reason, status=refusal.status, param=param, code=code)
