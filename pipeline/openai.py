"""The shapes of the HTTP API: what bodies are accepted, what answers look like.

OpenAI's chat and completions, and S-LoRA's generate. Knows no socket and no scheduling. A body
is checked once here, and every refusal names the field.
"""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .messages import SamplingParams, TextDelta, TokenLogprob

DEFAULT_CHAT_TOKENS = 1024
"""max_tokens of a chat that names none: admission reserves it, so "as many as fit" would let
one request keep the others out."""
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's

Unit: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2.0, le=2.0)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]
TopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]


class BadRequest(Exception):
    """The client's to mend: an HTTP status, what is wrong, and the field it is about."""

    def __init__(self, reason: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param


# --- bodies -------------------------------------------------------------------------------------


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class SamplingBody(msgspec.Struct, frozen=True, kw_only=True):
    """The fields both endpoints share: OpenAI's, and the field's usual additions."""

    model: str
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # Fields that would change the answer and that we cannot honour are refused by name.
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        if self.logit_bias:
            raise BadRequest("logit_bias is not supported", param="logit_bias")
        if self.response_format and self.response_format.get("type") != "text":
            raise BadRequest("only response_format text is supported", param="response_format")

    @property
    def choices(self) -> int:
        return self.n or 1

    def params(self, max_tokens: int, logprobs: int | None, choice: int) -> SamplingParams:
        """Choice i of n is seeded with seed + i, so n choices differ and can be had again."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > 16 or not all(stop):
            raise BadRequest("stop takes up to 16 strings, none of them empty", param="stop")
        seed = random.getrandbits(63) if self.seed is None else self.seed
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=self.top_p or 1.0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=(seed + choice) % (1 << 63),
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
        )


class ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | UnsetType = UNSET


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """For the chat template. Raises `BadRequest` on anything but text."""
        if isinstance(self.content, list):
            for part in self.content:
                if part.text is UNSET:
                    raise BadRequest(f"content of type {part.type!r} is not supported; text is")
            content = "".join(str(part.text) for part in self.content)
        else:
            content = self.content or ""
        return {"role": self.role, "content": content}


class ChatBody(SamplingBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions"""

    messages: list[ChatMessage]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    tools: list[Any] | None = None

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.tools:
            raise BadRequest("tools are not supported", param="tools")
        if not self.messages:
            raise BadRequest("messages is empty", param="messages")
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")


class CompletionBody(SamplingBody, frozen=True, kw_only=True):
    """POST /v1/completions"""

    prompt: str | list[str | int | list[int]]
    logprobs: TopLogprobs | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.echo:
            raise BadRequest("echo is not supported", param="echo")
        if self.suffix:
            raise BadRequest("suffix is not supported", param="suffix")
        if self.best_of and self.best_of != self.choices:
            raise BadRequest("best_of other than n is not supported", param="best_of")

    def prompts(self) -> list[str] | list[list[int]]:
        """One or many, as text or as token ids. Raises `BadRequest` on none or a mixture."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [item for item in self.prompt if isinstance(item, str)]
        ids = [item for item in self.prompt if isinstance(item, int)]
        lists = [item for item in self.prompt if isinstance(item, list)]
        found = [kind for kind in (texts, [ids] if ids else [], lists) if kind]
        if len(found) != 1:
            reason = "prompt mixes texts, token ids and lists of them" if found else "it is empty"
            raise BadRequest(reason, param="prompt")
        return found[0]


class GenerateParameters(msgspec.Struct, frozen=True, kw_only=True):
    """S-LoRA's (TGI's) parameters."""

    do_sample: bool = False
    temperature: Annotated[float, Meta(ge=0.0)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False
    max_new_tokens: Count = 16
    stop_sequences: str | list[str] | None = None
    seed: int | None = None
    adapter_id: str | None = None
    """LoRAX's place for what S-LoRA calls `lora_dir`."""
    adapter_source: Literal["local", "hub"] | None = None

    def params(self) -> SamplingParams:
        stop = self.stop_sequences
        return SamplingParams(
            max_tokens=self.max_new_tokens,
            temperature=self.temperature if self.do_sample else 0.0,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=random.getrandbits(63) if self.seed is None else self.seed % (1 << 63),
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            ignore_eos=self.ignore_eos,
            logprobs=0,
        )


class GenerateBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /generate and /generate_stream. `lora_dir`, or LoRAX's `adapter_id`, is the name or the
    path of a registered adapter; a request never loads one."""

    inputs: str
    parameters: GenerateParameters = GenerateParameters()
    lora_dir: str | None = None
    model_dir: str | None = None
    req_id: str | None = None

    def adapter(self) -> str | None:
        """The one adapter that is named. Raises `BadRequest` on two."""
        named = {name for name in (self.lora_dir, self.parameters.adapter_id) if name}
        if len(named) > 1:
            raise BadRequest("lora_dir and adapter_id name two adapters", param="adapter_id")
        return named.pop() if named else None


class LoadBody(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's and SGLang's body of a load; `pinned` is SGLang's."""

    lora_name: str
    lora_path: str
    pinned: bool = False


class UnloadBody(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's and SGLang's body of an unload."""

    lora_name: str


class AdapterBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/adapters."""

    name: str
    path: str
    pin: bool = False


class SchedulerBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PUT /v1/scheduler; what is not given stays as it is."""

    policy: str | None = None
    weights: dict[str, float] | None = None
    batch_num_adapters: int | None = None
    slo_seconds: float | None = None
    max_wait_tokens: int | None = None
    max_per_adapter: int | None = None


class PlanBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/adapters/plan."""

    paths: list[str]


class ProfilerBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /profiler/start; both may be left out, and the body too."""

    layers: bool = False
    nvtx: bool = False


def decode_body(body: bytes, kind: Any) -> Any:
    """JSON to a body struct. Raises `BadRequest` naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at ")
        field = at.strip("`$.") or None
        raise BadRequest(f"{reason} (in {field})" if field else reason, param=field) from error
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


# --- answers ------------------------------------------------------------------------------------


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def error_body(status: int, reason: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": param, "code": status}}


def chat_logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    """The chat form: one object a token, its alternatives inside."""

    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            {
                **entry(token.token, token.logprob),
                "top_logprobs": [entry(text, logprob) for text, logprob in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """The older form: parallel lists. `offset` is the number of characters before the first."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }


class Format:
    """How an endpoint words its answer; the same stream of text feeds either.

    `kind` "chat" or "text". `created` is unix seconds.
    """

    def __init__(self, kind: Literal["chat", "text"], answer_id: str, model: str, created: int):
        self.kind = kind
        self._head = {"id": answer_id, "created": created, "model": model}

    def chunk(self, index: int, delta: TextDelta, first: bool) -> dict[str, Any]:
        """One server-sent event of a stream."""
        choice: dict[str, Any] = {"index": index, "finish_reason": delta.finish_reason}
        logprobs = list(delta.logprobs)
        if self.kind == "chat":
            role = {"role": "assistant"} if first else {}
            choice["delta"] = {**role, "content": delta.text}
            choice["logprobs"] = chat_logprobs(logprobs) if logprobs else None
            return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        choice["text"] = delta.text
        choice["logprobs"] = completion_logprobs(logprobs, delta.offset) if logprobs else None
        return {**self._head, "object": "text_completion", "choices": [choice]}

    def last(self, totals: Usage) -> dict[str, Any]:
        """The event that carries the usage of a stream: no choices."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {**self._head, "object": name, "choices": [], "usage": totals}

    def choice(
        self, index: int, text: str, finish_reason: str | None, logprobs: list[TokenLogprob]
    ) -> dict[str, Any]:
        """One whole answer."""
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            choice["logprobs"] = chat_logprobs(logprobs) if logprobs else None
        else:
            choice["text"] = text
            choice["logprobs"] = completion_logprobs(logprobs, 0) if logprobs else None
        return choice

    def whole(self, choices: list[dict[str, Any]], totals: Usage) -> dict[str, Any]:
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head, "object": name, "choices": choices, "usage": totals}
