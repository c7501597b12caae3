"""`PromptPart`: what an answer repeats of the prompt of a choice: its text, its tokens, their
logprobs.

Knows no stream of events and no route.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...messages import PromptLogprobs, TextDelta, TokenLogprob
from ...text.token_words import TokenWords
from ...text.tokenizer import TextStream, Tokenizer
from .answer_format import Format, completion_logprobs
from .streams import LOGPROBS_AT_ONCE, AnswerStreams, Stream


class Score(NamedTuple):
    """A token of a prompt in its place."""

    logprob: float
    rank: int
    """1 if no token is likelier."""
    likeliest: list[tuple[int, float]]
    """(token id, logprob), in order."""


class PromptPart:
    """The prompt of one choice. Its methods change what `Format` has made of the choice."""

    def __init__(
        self, form: Format, stream: Stream, echo: str | None, tokenizer: Tokenizer
    ) -> None:
        """`echo`: the text that comes before the answer; None: none does."""
        params = stream.request.params
        self._form, self._stream, self._echo = form, stream, echo
        self.is_chat = form.kind == "chat"
        self._prompt_ids = stream.request.prompt_ids
        self._tokenizer, self._skips = tokenizer, params.skip_special_tokens
        self._words = TokenWords(tokenizer, self._skips)
        self._echoed_most = None if form.hides_logprobs else params.logprobs

    @property
    def is_long(self) -> bool:
        """Whether it takes the event loop too long to write its logprobs."""
        return self._stream.num_prompt_logprobs > LOGPROBS_AT_ONCE

    # -- in OpenAI's objects

    def complete_choice(self, choice: dict[str, Any]) -> None:
        """Adds the prompt to a whole choice."""
        self._put_echo(choice, choice["message"] if self.is_chat else choice)
        if self._form.returns_token_ids:
            choice["token_ids"] = list(self._stream.token_ids)
        if not self.is_chat:
            choice.update(self.fields())

    def complete_chunk(
        self, choice: dict[str, Any], token_ids: list[int], *, is_first: bool
    ) -> None:
        """Adds the prompt to the first chunk of a choice, and `token_ids` to each."""
        if is_first:
            self._put_echo(choice, choice["delta"] if self.is_chat else choice)
            if self._form.returns_token_ids and not self.is_chat:
                choice["prompt_token_ids"] = list(self._prompt_ids)
        else:
            self._shift_offsets(choice)
        if self._form.returns_token_ids:
            choice["token_ids"] = token_ids

    def fields(self) -> dict[str, Any]:
        """vLLM's fields about the prompt: of a completion's choice, of a whole chat's answer."""
        found: dict[str, Any] = {}
        if self._form.prompt_logprobs is not None:
            found["prompt_logprobs"] = self._scores_by_id(self._form.prompt_logprobs)
        if self._form.returns_token_ids:
            found["prompt_token_ids"] = list(self._prompt_ids)
        return found

    def _put_echo(self, choice: dict[str, Any], holder: dict[str, Any]) -> None:
        if self._echo is None:
            return
        field = "content" if self.is_chat else "text"
        holder[field] = self._echo + (holder[field] or "")
        self._shift_offsets(choice)
        if self._echoed_most is not None and not self.is_chat:
            ours, theirs = self._echo_logprobs(self._echo, self._echoed_most), choice["logprobs"]
            choice["logprobs"] = (
                {name: ours[name] + theirs[name] for name in ours} if theirs else ours
            )

    def _shift_offsets(self, choice: dict[str, Any]) -> None:
        logprobs = choice["logprobs"]
        if self._echo and logprobs and not self.is_chat:
            offsets = logprobs["text_offset"]
            logprobs["text_offset"] = [len(self._echo) + offset for offset in offsets]

    # -- logprobs

    def _scores(self, most: int) -> Iterator[Score]:
        """Of each token of the prompt after the first, with `most` alternatives."""
        for piece in self._stream.prompt_logprobs:
            yield from unpacked(piece, most)

    def _scores_by_id(self, most: int) -> list[dict[str, Any] | None]:
        """vLLM's form: by token id, the prompt's own token first; the first token has none."""
        found: list[dict[str, Any] | None] = [None]
        for token_id, score in zip(self._prompt_ids[1:], self._scores(most), strict=True):
            ranked = [(token_id, score.logprob, score.rank)]
            ranked += [
                (other, logprob, rank)
                for rank, (other, logprob) in enumerate(score.likeliest, start=1)
                if other != token_id
            ]
            found.append(
                {
                    str(other): {
                        "logprob": logprob,
                        "rank": rank,
                        "decoded_token": self._tokenizer.token_text(other),
                    }
                    for other, logprob, rank in ranked
                }
            )
        return found

    def _echo_logprobs(self, echo: str, most: int) -> dict[str, Any]:
        """OpenAI's lists; the first token has a null for its logprob and its alternatives."""
        tokens: list[TokenLogprob] = []
        scores = [Score(0.0, 1, []), *self._scores(most)]
        has_begun = False
        offsets = self._offsets(echo)
        for token_id, score, offset in zip(self._prompt_ids, scores, offsets, strict=True):
            entries = [(token_id, score.logprob), *score.likeliest]
            chosen, *top = (
                self._words.entry(other, logprob, is_first=not has_begun)
                for other, logprob in entries
            )
            tokens.append(TokenLogprob(chosen, tuple(top), offset))
            has_begun = has_begun or not self._words.is_left_out(token_id)
        found = completion_logprobs(tokens, by_id=self._form.names_tokens_by_id)
        found["token_logprobs"][0] = found["top_logprobs"][0] = None
        return found

    def _offsets(self, echo: str) -> Iterator[int]:
        """Where each token of the prompt begins in its text. A token that the text does not have,
        such as a BOS that the tokenizer has added, takes no place."""
        tokenizer, at = self._tokenizer, 0
        stream = TextStream(tokenizer, skip_special_tokens=False)
        for token_id in self._prompt_ids:
            yield at
            is_special = tokenizer.is_special(token_id)
            text = tokenizer.token_text(token_id) if is_special else stream.push(token_id)
            if echo.startswith(text, at):
                at += len(text)
            elif echo.startswith(text[1:], at):  # some decoders put a space behind special tokens
                at += len(text) - 1


def unpacked(piece: PromptLogprobs, most: int) -> Iterator[Score]:
    """The scores of a piece, each with `most` of its alternatives."""
    logprobs, likeliest, ranks = array("f"), array("i"), array("i")
    for numbers, data in (
        (logprobs, piece.logprobs),
        (likeliest, piece.likeliest),
        (ranks, piece.ranks),
    ):
        numbers.frombytes(data)
        if sys.byteorder == "big":
            numbers.byteswap()
    width = piece.most
    for place, rank in enumerate(ranks):
        own, ids = place * (1 + width), likeliest[place * width : place * width + most]
        values = logprobs[own + 1 : own + 1 + most]
        yield Score(logprobs[own], rank, [*zip(ids, values, strict=False)])


class UnsentTokens:
    """Token ids of a streamed choice that no chunk has had yet: text that is held back delays
    them."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._num_tokens = 0

    def add(self, delta: TextDelta) -> None:
        """Adds a delta's token, unless it has only the end of the text of the one before."""
        if delta.num_tokens > self._num_tokens:
            self._num_tokens = delta.num_tokens
            self._token_ids += delta.token_ids

    def take(self) -> list[int]:
        """All of them, to be sent now."""
        taken, self._token_ids = self._token_ids, []
        return taken


def prompt_parts(answer: AnswerStreams) -> list[PromptPart]:
    """What the answer repeats of the prompt of each choice; [] if that is nothing."""
    form = answer.form
    if not form.shows_prompt:
        return []
    tokenizer = answer.tokenizer
    assert tokenizer is not None, "an answer is read once the server has its tokenizer"
    echoes = form.echoes or (None,) * len(answer.by_prompt())
    return [
        PromptPart(form, stream, echo, tokenizer)
        for echo, choices in zip(echoes, answer.by_prompt(), strict=True)
        for stream in choices
    ]


async def complete_chunk(
    chunk: dict[str, Any], part: PromptPart, token_ids: list[int], *, is_first: bool
) -> None:
    """Adds to a chunk of one choice what `part` has for it, and the ids of its tokens."""
    (choice,) = chunk["choices"]
    work = functools.partial(part.complete_chunk, choice, token_ids, is_first=is_first)
    if is_first and part.is_long:
        await asyncio.to_thread(work)
    else:
        work()
    if is_first and part.is_chat:
        chunk.update(part.fields())
