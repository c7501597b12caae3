"""The answers of SGLang's native /generate, whole and streamed.

Knows no request and no route.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from ...messages import TextDelta, TokenLogprob, TokenText
from ..http.bad_request import BadRequest
from .event_writer import EventWriter, data_lines
from .generate_form import SglangForm
from .scored_prompt import scored_prompt
from .streams import AnswerStreams, Stream


def sglang_object(answer: AnswerStreams) -> Any:
    """The whole answer: an object for each choice, in a list if the request was a batch."""
    form = _form_of(answer)
    found = [
        _choice(form, index, stream, stream.text, stream.num_tokens)
        for index, stream in enumerate(answer.streams)
    ]
    for index, choice in enumerate(found):
        if form.starts and form.starts[index] is not None:
            choice["meta_info"] |= _prompt_logprobs(answer, form, index)
    return found if form.is_batch else found[0]


async def sglang_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> AsyncIterator[bytes]:
    """The stream: with each token the whole text so far, as SGLang has it, and [DONE]."""
    answer = writer.reader.answer
    form = _form_of(answer)
    texts = [""] * len(answer.streams)
    try:
        async for index, delta in deltas:
            texts[index] += delta.text
            if not writer.advance(index) or not (delta.text or delta.finish_reason):
                continue
            stream = answer.streams[index]
            is_last = delta.finish_reason is not None
            event = _choice(form, index, stream, texts[index], delta.num_tokens, is_last=is_last)
            yield writer.event({**event, "index": index} if form.is_batch else event)
    except BadRequest as error:
        yield data_lines(error.body())
        return
    yield b"data: [DONE]\n\n"


def _form_of(answer: AnswerStreams) -> SglangForm:
    assert answer.form.sglang is not None
    return answer.form.sglang


def _choice(
    form: SglangForm,
    index: int,
    stream: Stream,
    text: str,
    num_tokens: int,
    *,
    is_last: bool = True,
) -> dict[str, Any]:
    """A choice with its first `num_tokens` tokens."""
    meta: dict[str, Any] = {
        "id": form.ids[index],
        "finish_reason": _finish_reason(stream) if is_last else None,
        "prompt_tokens": len(stream.request.prompt_ids),
        "completion_tokens": num_tokens,
        "cached_tokens": 0,
        "weight_version": "default",
    }
    if is_last and not stream.is_restored:
        meta["e2e_latency"] = time.perf_counter() - stream.arrived
    if form.with_logprobs[index]:
        meta |= _logprobs(form, index, stream.logprobs[:num_tokens])
    return {"text": text, "output_ids": list(stream.token_ids[:num_tokens]), "meta_info": meta}


def _finish_reason(stream: Stream) -> dict[str, Any]:
    if stream.finish_reason == "length":
        return {"type": "length", "length": stream.request.params.max_tokens}
    return {"type": "stop", "matched": stream.stopped_by}


def _prompt_logprobs(answer: AnswerStreams, form: SglangForm, index: int) -> dict[str, Any]:
    """As `_logprobs`, of the prompt's tokens from the first that is wanted."""
    count, tokenizer = form.num_top[index], answer.tokenizer
    tokens = scored_prompt(answer.streams[index], tokenizer, count)[form.starts[index] :]
    assert tokenizer is not None

    def entry(token_id: int, logprob: float | None) -> list[Any]:
        return [logprob, token_id, tokenizer.token_text(token_id) if form.with_text else None]

    found: dict[str, Any] = {
        "input_token_logprobs": [entry(each.token_id, each.logprob) for each in tokens]
    }
    if count:
        found["input_top_logprobs"] = [
            [entry(*other) for other in each.likeliest] if each.likeliest else None
            for each in tokens
        ]
    return found


def _logprobs(form: SglangForm, index: int, tokens: list[TokenLogprob]) -> dict[str, Any]:
    """Lists of (logprob, token id, text or None)."""

    def entry(token: TokenText) -> list[Any]:
        return [token.logprob, token.token_id, token.token if form.with_text else None]

    found: dict[str, Any] = {
        "input_token_logprobs": [],
        "output_token_logprobs": [entry(token.chosen) for token in tokens],
    }
    if count := form.num_top[index]:
        found["input_top_logprobs"] = []
        tops = [[entry(other) for other in token.top[:count]] for token in tokens]
        found["output_top_logprobs"] = tops
    return found
