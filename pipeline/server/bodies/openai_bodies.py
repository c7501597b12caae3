"""The bodies of OpenAI's routes: chat and completions, with additions common to other servers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

import msgspec
from msgspec import Meta

from ...messages import SamplingParams
from ...model_files.generation_config import NO_DEFAULTS, GenerationDefaults
from ..http.bad_request import BadRequest
from . import request_fields
from .body import Body
from .field_table import Table
from .grammar_fields import GrammarBody
from .sampling_fields import make_seed, sampling_params, stop_strings
from .thinking_fields import Thinking, read_thinking
from .token_fields import TokenFields
from .tool_fields import ChatTools, read_old_functions, read_tools
from .value_types import (
    Count,
    Penalty,
    Repetition,
    Seed,
    Temperature,
    TokenId,
    TopK,
    TopLogprobs,
    TopP,
    Unit,
)

DEFAULT_CHAT_TOKENS = 1024
"""Default max_tokens of a chat. Admission reserves it, so "as many as fit" would let one request
keep the others out."""

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's


class StreamOptions(Body, frozen=True, kw_only=True):
    table: ClassVar[Table] = request_fields.STREAM_OPTIONS

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingBody(TokenFields, frozen=True, kw_only=True):
    """Fields of both endpoints: OpenAI's, and additions common to other servers."""

    nested: ClassVar[dict[str, type[Body]]] = {
        "stream_options": StreamOptions,
        **GrammarBody.nested,
    }

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=1024)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    echo: bool = False

    def check(self) -> None:
        """Raises `BadRequest` if fields contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options needs stream: true", param="stream_options")

    @property
    def num_candidates(self) -> int:
        """Choices of each prompt that are generated; `n` of them are answered."""
        return self.n

    def params(
        self,
        max_tokens: int,
        logprobs: int | None,
        choice: int,
        defaults: GenerationDefaults = NO_DEFAULTS,
    ) -> SamplingParams:
        """The parameters of choice i of n. Its seed is seed + i, so that choices differ and can be
        reproduced."""
        return sampling_params(
            seed=make_seed(self.seed, choice),
            stop=stop_strings(self.stop, "stop"),
            defaults=defaults,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=max_tokens,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            masked_logprobs=self.logprobs_mode == "processed_logprobs",
            skip_special_tokens=self.skip_special_tokens,
            include_stop_str_in_output=self.include_stop_str_in_output or self.no_stop_trim,
            prompt_logprobs=self.prompt_logprobs,
        )


class ChatBody(SamplingBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions"""

    table: ClassVar[Table] = request_fields.CHAT

    messages: list[Any]
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: Annotated[str, Meta(max_length=32)] | None = None
    enable_thinking: bool | None = None
    thinking: bool | dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include_reasoning: bool = True
    separate_reasoning: bool = True
    chat_template: str | None = None

    @property
    def echoed_text(self) -> str | None:
        """What comes before the answer, with `echo`: the last message, if the role that wrote it
        is the one that answers. None: nothing does."""
        last = self.messages[-1] if self.messages and self.echo else None
        if not isinstance(last, dict):
            return None
        if last.get("role") != "assistant" and self.add_generation_prompt is not False:
            return None
        content = last.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str)) or None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        self.check_token_fields(
            is_streamed=self.stream, has_logprobs=self.logprobs, name="logprobs: true"
        )
        if self.tools and self.functions:
            raise BadRequest(
                "functions is the old name of tools: send one of them", param="functions"
            )

    def chat_tools(self) -> ChatTools | None:
        """The tools; None if there are none. Raises `BadRequest` naming the field."""
        if self.functions:
            return read_old_functions(self.functions, self.function_call)
        read_old_functions(None, self.function_call)
        return read_tools(self.tools, self.tool_choice, is_parallel=self.parallel_tool_calls)

    def chat_thinking(self) -> Thinking:
        """What it says of the model's reasoning. Raises `BadRequest` naming the field."""
        return read_thinking(
            self.reasoning_effort, self.enable_thinking, self.thinking, self.reasoning
        )


class CompletionBody(SamplingBody, frozen=True, kw_only=True):
    """POST /v1/completions"""

    table: ClassVar[Table] = request_fields.COMPLETION

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: TopLogprobs | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    suffix: str | None = None

    def check(self) -> None:
        super().check()
        has_logprobs = self.logprobs is not None
        self.check_token_fields(is_streamed=self.stream, has_logprobs=has_logprobs, name="logprobs")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise BadRequest(
                "max_tokens 0 needs echo or prompt_logprobs: nothing else would be answered",
                param="max_tokens",
            )
        if self.suffix and self.echo:
            raise BadRequest("suffix and echo exclude each other", param="suffix")
        if self.num_candidates < self.n:
            raise BadRequest(f"best_of is less than n, {self.n}", param="best_of")
        if self.num_candidates > self.n and (self.stream or self.max_tokens == 0):
            field = "stream" if self.stream else "max_tokens 0"
            raise BadRequest(f"best_of more than n does not go with {field}", param="best_of")

    @property
    def num_candidates(self) -> int:
        return self.n if self.best_of is None else self.best_of

    def params(
        self,
        max_tokens: int,
        logprobs: int | None,
        choice: int,
        defaults: GenerationDefaults = NO_DEFAULTS,
    ) -> SamplingParams:
        """Like those of a chat; logprobs are of the prompt too with `echo`, and are computed for
        `best_of`."""
        if logprobs is None and self.num_candidates > self.n:
            logprobs = 0
        params = super().params(max_tokens, logprobs, choice, defaults)
        if self.echo and self.logprobs is not None:
            most = max(self.logprobs, self.prompt_logprobs or 0)
            params = msgspec.structs.replace(params, prompt_logprobs=most)
        return params

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as token ids. Raises `BadRequest` on none or a mixture."""
        return several_prompts(self.prompt, "prompt")


def several_prompts(
    given: str | list[str | int | list[int]], field: str
) -> list[str] | list[list[int]]:
    """The prompts of a field, as texts or as token ids. Raises `BadRequest` on none or a
    mixture."""
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))
    if len(kinds) != 1:
        reason = "mixes texts, token ids and lists of them" if kinds else "is empty"
        raise BadRequest(f"{field} {reason}", param=field)
    # All elements are of one of the three types.
    prompts: Any = [given] if kinds == {int} else given
    return cast("list[str] | list[list[int]]", prompts)
