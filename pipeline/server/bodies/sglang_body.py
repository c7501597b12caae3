"""The body of SGLang's native /generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, cast

from msgspec import Meta

from ...grammar.wanted_grammar import GrammarKind, WantedGrammar
from ...messages import SamplingParams
from ...model_files.generation_config import GenerationDefaults
from ..http.bad_request import BadRequest
from . import sglang_fields
from .body import Body, convert_body
from .field_table import Table
from .grammar_fields import only_one
from .sampling_fields import make_seed, sampling_params, stop_strings
from .token_fields import MOST_BIASED, Bias
from .value_types import (
    Count,
    Name,
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

DEFAULT_TOKENS = 128  # SGLang's
PROMPT_FIELDS = frozenset({"text", "input_ids", "input_embeds", "sampling_params"})
"""A body of POST /generate with one of these fields is SGLang's."""


LogprobStart: TypeAlias = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]


class SglangSampling(Body, frozen=True, kw_only=True):
    """SGLang's sampling_params."""

    table: ClassVar[Table] = sglang_fields.SGLANG_SAMPLING

    max_new_tokens: Count = DEFAULT_TOKENS
    min_new_tokens: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Repetition | None = None
    sampling_seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=1024)] | None = None
    ignore_eos: bool = False
    no_stop_trim: bool = False
    skip_special_tokens: bool = True
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=MOST_BIASED)] | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: dict[str, Any] | str | None = None

    def wanted_grammar(self) -> WantedGrammar | None:
        """The form that it asks for; None: any text. Raises `BadRequest` if it asks for two."""
        kinds: dict[str, GrammarKind] = {
            "json_schema": "json_schema",
            "regex": "regex",
            "ebnf": "grammar",
            "structural_tag": "structural_tag",
        }
        given = {name: getattr(self, name) for name in kinds}
        return only_one(
            WantedGrammar(kinds[name], value, f"sampling_params.{name}")
            for name, value in given.items()
            if value is not None
        )

    def params(
        self, choice: int, logprobs: int | None, defaults: GenerationDefaults
    ) -> SamplingParams:
        """The parameters of choice i of n. Raises `BadRequest` on bad stop strings."""
        return sampling_params(
            seed=make_seed(self.sampling_seed, choice),
            stop=stop_strings(self.stop, "sampling_params.stop"),
            defaults=defaults,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_new_tokens,
            min_tokens=min(self.min_new_tokens, self.max_new_tokens),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            skip_special_tokens=self.skip_special_tokens,
            include_stop_str_in_output=self.no_stop_trim,
        )


class SglangPrompt(NamedTuple):
    """One prompt of a body, with what the body asks for it."""

    prompt: str | list[int]
    sampling: SglangSampling
    lora_path: str | None
    request_id: str
    """The client's; "" if it gave none."""
    logprobs: int | None
    """As in `SamplingParams`."""
    logprob_start: int
    """The first token of the prompt whose logprob is wanted; -1: none are."""


class SglangBody(Body, frozen=True, kw_only=True):
    """POST /generate with a `text` or `input_ids`."""

    table: ClassVar[Table] = sglang_fields.SGLANG

    text: str | list[str] | None = None
    input_ids: list[TokenId | list[TokenId]] | None = None
    model: Name = ""
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    lora_path: Name | list[Name | None] | None = None
    stream: bool = False
    rid: Name | list[Name] | None = None
    return_logprob: bool | list[bool] = False
    top_logprobs_num: TopLogprobs | list[TopLogprobs] = 0
    logprob_start_len: LogprobStart | list[LogprobStart] = -1
    return_text_in_logprobs: bool = False

    @property
    def is_batch(self) -> bool:
        """Whether the prompts are in a list."""
        if self.text is not None:
            return isinstance(self.text, list)
        return bool(self.input_ids) and isinstance((self.input_ids or [0])[0], list)

    def prompts(self) -> list[SglangPrompt]:
        """The prompts, one after the other. Raises `BadRequest` naming the field."""
        given = self._given()
        count = len(given)
        sampling = [
            convert_body(each or {}, SglangSampling, "sampling_params.")
            for each in _each(self.sampling_params, count, "sampling_params")
        ]
        paths = _each(self.lora_path, count, "lora_path")
        wanted = _each(self.return_logprob, count, "return_logprob")
        tops = _each(self.top_logprobs_num, count, "top_logprobs_num")
        starts = _each(self.logprob_start_len, count, "logprob_start_len")
        if self.stream and any(start >= 0 for start in starts):
            raise BadRequest(
                "logprob_start_len: logprobs of a prompt are not streamed: use stream: false",
                param="logprob_start_len",
            )
        if isinstance(self.rid, str) and count > 1:
            ids = [f"{self.rid}_{number}" for number in range(count)]
        else:
            ids = [rid or "" for rid in _each(self.rid, count, "rid")]
        return [
            SglangPrompt(
                prompt, each, path, rid, top if is_wanted else None, start if is_wanted else -1
            )
            for prompt, each, path, rid, is_wanted, top, start in zip(
                given, sampling, paths, ids, wanted, tops, starts, strict=True
            )
        ]

    def _given(self) -> Sequence[str | list[int]]:
        if (self.text is None) == (self.input_ids is None):
            raise BadRequest("give either text or input_ids", param="text")
        if self.text is not None:
            found = self.text if isinstance(self.text, list) else [self.text]
        else:
            are_lists = {isinstance(each, list) for each in self.input_ids or ()}
            if len(are_lists) > 1:
                raise BadRequest("input_ids mixes ids and lists of them", param="input_ids")
            lists: Any = self.input_ids if are_lists == {True} else [self.input_ids]
            found = lists
        if not found:
            raise BadRequest("text is empty", param="text")
        return cast("Sequence[str | list[int]]", found)


def _each(value: Any, count: int, field: str) -> list[Any]:
    """A value for each of `count` prompts: the same, or one of a list."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise BadRequest(f"{field} has {len(value)} entries for {count} prompts", param=field)
    return value
