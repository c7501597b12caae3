"""The answers of S-LoRA's, TGI's and LoRAX's routes, whole and streamed.

Knows no request and no route.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ...messages import NO_TOKEN, TextDelta, TokenLogprob, TokenText
from ..http.bad_request import BadRequest
from .event_writer import EventWriter, data_lines
from .generate_form import GenerateForm
from .scored_prompt import scored_prompt
from .streams import AnswerStreams, Stream

SLORA = GenerateForm()


def generate_object(answer: AnswerStreams) -> Any:
    """The whole answer. S-LoRA's clients read a list of texts; those of TGI and LoRAX one text, in
    an object that `POST /` puts into a list."""
    form, stream = answer.form.generate or SLORA, answer.streams[0]
    texts = [form.prefix + each.text for each in answer.streams]
    found: dict[str, Any] = {"generated_text": texts if form.is_slora else texts[0]}
    if form.is_slora:
        found["count_output_tokens"] = answer.output_tokens
    if form.with_details:
        found["details"] = {
            **_details(stream, form),
            "prefill": _prefill(answer, stream),
            "tokens": [_token(token, form, token.chosen.token) for token in stream.logprobs],
        }
        if form.num_top:
            tops = [_top_tokens(token, form.num_top) for token in stream.logprobs]
            found["details"]["top_tokens"] = tops
    return [found] if form.in_list else found


async def generate_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> AsyncIterator[bytes]:
    """The stream: an event for each token, and in the last one the whole text of a TGI's client.
    `finished` is S-LoRA's."""
    answer = writer.reader.answer
    form = answer.form.generate or SLORA
    try:
        async for index, delta in deltas:
            if not writer.advance(index):
                continue
            event: dict[str, Any] = {
                "index": delta.num_tokens,
                "token": _streamed_token(delta, form),
                "generated_text": None,
                "finished": delta.finish_reason is not None,
                "details": None,
            }
            if form.num_top:
                event["top_tokens"] = [
                    other for token in delta.logprobs for other in _top_tokens(token, form.num_top)
                ]
            if delta.finish_reason and not form.is_slora:
                stream = answer.streams[index]
                event["generated_text"] = form.prefix + stream.text
                event["details"] = _details(stream, form)
            yield writer.event(event)
    except BadRequest as error:
        yield data_lines(error.body())


def _prefill(answer: AnswerStreams, stream: Stream) -> list[dict[str, Any]]:
    """The prompt's tokens, if they are asked for; the first one has no logprob."""
    if stream.request.params.prompt_logprobs is None:
        return []
    tokens = scored_prompt(stream, answer.tokenizer, 0)
    return [{"id": each.token_id, "text": each.text, "logprob": each.logprob} for each in tokens]


def _streamed_token(delta: TextDelta, form: GenerateForm) -> dict[str, Any]:
    """The token of a delta, with the text that it has released: clients join these, special tokens
    included."""
    if delta.logprobs:
        return _token(delta.logprobs[0], form, delta.text)
    token_id = delta.token_ids[-1] if delta.token_ids else NO_TOKEN  # an end without a token
    return {"id": token_id, "text": delta.text, "logprob": None, "special": False}


def _token(token: TokenLogprob, form: GenerateForm, text: str) -> dict[str, Any]:
    """A token as TGI has it, with LoRAX's alternatives."""
    found = {**_plain(token.chosen), "text": text}
    if form.num_alternatives:
        found["alternative_tokens"] = [
            _plain(other) for other in token.top[: form.num_alternatives]
        ]
    return found


def _plain(token: TokenText) -> dict[str, Any]:
    return {
        "id": token.token_id,
        "text": token.token,
        "logprob": token.logprob,
        "special": not token.data,
    }


def _top_tokens(token: TokenLogprob, count: int) -> list[dict[str, Any]]:
    return [_plain(other) for other in token.top[:count]]


def _details(stream: Stream, form: GenerateForm) -> dict[str, Any]:
    """Why and when it ended: TGI's names, and LoRAX's."""
    reason = "length"
    if stream.finish_reason != "length":
        reason = "stop_sequence" if isinstance(stream.stopped_by, str) else "eos_token"
    prompt = len(stream.request.prompt_ids)
    return {
        "finish_reason": reason,
        "generated_tokens": stream.num_tokens,
        "seed": form.seed,
        "input_length": prompt,
        "prompt_tokens": prompt,
    }
