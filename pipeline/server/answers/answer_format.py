"""Formats of the HTTP API's answers: OpenAI's objects, whole and streamed.

Knows no socket and no field of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ...messages import TextDelta, TokenLogprob, TokenText
from ...tool_calls.answer_parser import Reading
from .generate_form import GenerateForm, SglangForm
from .responses_form import ResponsesForm


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def chat_logprobs(
    tokens: list[TokenLogprob], *, by_id: bool = False, with_chosen: bool = False
) -> dict[str, Any]:
    """Chat format: one object per token, with its alternatives. The `bytes` of all tokens joined
    are those of the text. `by_id`: vLLM's names of tokens, "token_id:17". `with_chosen`: the chosen
    token is the first alternative if it is none of them."""

    def entry(token: TokenText) -> dict[str, Any]:
        name = f"token_id:{token.token_id}" if by_id else token.token
        return {"token": name, "logprob": token.logprob, "bytes": list(token.data)}

    def alternatives(token: TokenLogprob) -> list[TokenText]:
        is_there = any(other.token_id == token.chosen.token_id for other in token.top)
        return [*token.top] if is_there or not with_chosen else [token.chosen, *token.top]

    return {
        "content": [
            {**entry(token.chosen), "top_logprobs": [entry(other) for other in alternatives(token)]}
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: list[TokenLogprob], *, by_id: bool = False) -> dict[str, Any]:
    """Completions format: parallel lists. A token that is not whole characters is written as OpenAI
    does, "bytes:\\xf0\\x9f". `by_id`: vLLM's names of tokens, "token_id:17"."""
    return {
        "tokens": [_word(token.chosen, by_id) for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [_likeliest(token, by_id) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def _word(token: TokenText, by_id: bool) -> str:
    if by_id:
        return f"token_id:{token.token_id}"
    try:
        token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(
            chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in token.data
        )
    return token.token


def _likeliest(token: TokenLogprob, by_id: bool) -> dict[str, float]:
    """Text to logprob of the chosen token and, behind it, of the likeliest ones. If two tokens have
    the same text, the second gets vLLM's form by id, "token_id:17"."""
    others = {other.token_id: other for other in (token.chosen, *token.top)}
    found: dict[str, float] = {}
    for other in others.values():
        word = _word(other, by_id)
        found[f"token_id:{other.token_id}" if word in found else word] = other.logprob
    return found


class LogprobQueue:
    """Logprobs of one streamed choice. A token's are held until the text before it is sent, since a
    stop string may end the text earlier and so change its `text_offset`."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []

    def take(self, delta: TextDelta) -> list[TokenLogprob]:
        """The logprobs to send with this delta; their offsets are inside the text."""
        self._waiting += delta.logprobs
        end = delta.offset + len(delta.text)
        if delta.finish_reason:
            ready, self._waiting = self._waiting, []
            return within(ready, end)
        ready = [token for token in self._waiting if token.offset <= end]
        self._waiting = self._waiting[len(ready) :]
        return ready


def within(tokens: list[TokenLogprob], length: int) -> list[TokenLogprob]:
    """The logprobs with offsets cut to `length`, the characters of the text."""
    return [
        token if token.offset <= length else msgspec.structs.replace(token, offset=length)
        for token in tokens
    ]


PROMPT_FIELDS = {
    "chat": "messages",
    "text": "prompt",
    "generate": "inputs",
    "responses": "input",
    "messages": "messages",
    "sglang": "text",
    "embeddings": "input",
}


NO_PROMPT_PART: Mapping[str, None] = {"prompt_logprobs": None, "prompt_token_ids": None}
"""vLLM's fields of a prompt that is not answered."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The form of an answer: the route's, and what the request asks for."""

    kind: Literal["chat", "text", "generate", "responses", "messages", "sglang", "embeddings"]
    """OpenAI's chat, completions or responses; S-LoRA's, TGI's and LoRAX's routes; Anthropic's
    messages; SGLang's native route; OpenAI's embeddings."""
    answer_id: str
    """In the answer, in its events, and in its X-Request-Id header."""
    model: str
    """As the client named it."""
    created: int
    """Unix seconds."""
    is_streamed: bool
    include_usage: bool = False
    continuous_usage_stats: bool = False
    responses: ResponsesForm | None = None
    """Of the kind "responses"."""
    generate: GenerateForm | None = None
    """Of the kind "generate"; None is S-LoRA's."""
    sglang: SglangForm | None = None
    """Of the kind "sglang"."""
    in_base64: bool = False
    """Of the kind "embeddings": whether vectors are bytes in base64."""
    echoes: tuple[str, ...] | None = None
    """The texts that come before the answers to each prompt; None: none do."""
    prompt_logprobs: int | None = None
    """vLLM's field of this name: how many alternatives each token has; None: there is no field."""
    returns_token_ids: bool = False
    """Whether the ids of the prompt's and the answer's tokens are answered."""
    names_tokens_by_id: bool = False
    """Whether logprobs name tokens by their ids."""
    hides_logprobs: bool = False
    """Logprobs are computed for `best_of` alone."""
    num_best: int = 0
    """With `best_of`: how many choices of each prompt are answered, the likeliest ones; 0: all."""
    reading: Reading | None = None
    """How reasoning and tool calls are read from the text; None: all of it is content."""
    is_function_call: bool = False
    """Whether a call is answered in OpenAI's old form."""
    is_named_call: bool = False
    """Whether the request names the function that is called."""
    fingerprint: str | None = None
    """OpenAI's `system_fingerprint`."""
    has_named_logprobs: bool = False
    """Whether logprobs are of tokens that the request names."""

    @property
    def shows_prompt(self) -> bool:
        """Whether an answer has a `PromptPart`."""
        return self.echoes is not None or self.prompt_logprobs is not None or self.returns_token_ids

    @property
    def prompt_field(self) -> str:
        """The field of the body that has the prompt."""
        return PROMPT_FIELDS[self.kind]

    @property
    def _head(self) -> dict[str, Any]:
        return {
            "id": self.answer_id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def chat_logprobs_of(self, tokens: list[TokenLogprob]) -> dict[str, Any] | None:
        if not tokens or self.hides_logprobs:
            return None
        return chat_logprobs(
            tokens, by_id=self.names_tokens_by_id, with_chosen=self.has_named_logprobs
        )

    def _completion_logprobs(self, tokens: list[TokenLogprob]) -> dict[str, Any] | None:
        if not tokens or self.hides_logprobs:
            return None
        return completion_logprobs(tokens, by_id=self.names_tokens_by_id)

    def chunk(
        self, index: int, delta: TextDelta, first: bool, logprobs: list[TokenLogprob]
    ) -> dict[str, Any]:
        """One server-sent event of a stream."""
        choice: dict[str, Any] = {"index": index, "finish_reason": delta.finish_reason}
        if self.kind == "chat":
            role = {"role": "assistant"} if first else {}
            choice["delta"] = {**role, "content": delta.text}
            choice["logprobs"] = self.chat_logprobs_of(logprobs)
            return self.chat_chunk(choice)
        choice["text"] = delta.text
        choice["logprobs"] = self._completion_logprobs(logprobs)
        return {**self._head, "object": "text_completion", "choices": [choice]}

    def chat_chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """An event of a chat's stream with this choice."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def last(self, totals: Usage) -> dict[str, Any]:
        """The event with the usage of a stream; it has no choices."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {**self._head, "object": name, "choices": [], "usage": totals}

    def choice(
        self, index: int, text: str, finish_reason: str | None, logprobs: list[TokenLogprob]
    ) -> dict[str, Any]:
        """One whole answer. vLLM's fields of tokens, which programs read from every answer of it,
        are null until a `PromptPart` sets them."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason, "token_ids": None}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            choice["logprobs"] = self.chat_logprobs_of(logprobs)
        else:
            choice["text"] = text
            choice["logprobs"] = self._completion_logprobs(within(logprobs, len(text)))
            choice.update(NO_PROMPT_PART)
        return choice

    def whole(self, choices: list[dict[str, Any]], totals: Usage) -> dict[str, Any]:
        whole = {**self._head, "object": "text_completion", "choices": choices, "usage": totals}
        if self.kind == "chat":
            whole |= {"object": "chat.completion", **NO_PROMPT_PART}
        return whole
