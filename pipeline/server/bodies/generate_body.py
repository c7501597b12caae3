"""The body of S-LoRA's routes, with TGI's and LoRAX's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from ...grammar.wanted_grammar import WantedGrammar
from ...messages import SamplingParams
from ...model_files.generation_config import NO_DEFAULTS, GenerationDefaults
from ..http.bad_request import BadRequest
from . import request_fields
from .body import Body
from .field_table import Table
from .grammar_fields import ResponseFormat, only_one
from .sampling_fields import make_seed, sampling_params, stop_strings
from .value_types import (
    Count,
    Name,
    Repetition,
    Seed,
    Source,
    Temperature,
    TopK,
    TopLogprobs,
    TopP,
    Unit,
    WidePenalty,
)

DEFAULT_GENERATE_TOKENS = 16  # S-LoRA's
DEFAULT_TGI_TOKENS = 100  # TGI's
SLORA_FIELDS = ("lora_dir", "model_dir", "req_id")
"""Fields that only clients of S-LoRA and LightLLM send; `ignore_eos` among the parameters is
another."""

Style: TypeAlias = Literal["slora", "tgi"]
"""Whose client sent a body: S-LoRA's (LightLLM's), or one of TGI or LoRAX."""


class GenerateParameters(Body, frozen=True, kw_only=True):
    """S-LoRA's (TGI's, LoRAX's) parameters."""

    table: ClassVar[Table] = request_fields.PARAMETERS
    nested: ClassVar[dict[str, type[Body]]] = {
        "grammar": ResponseFormat,
        "response_format": ResponseFormat,
    }

    do_sample: bool = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    presence_penalty: WidePenalty = 0.0
    frequency_penalty: WidePenalty = 0.0
    repetition_penalty: Repetition | None = None
    ignore_eos: bool = False
    ignore_eos_token: bool = False
    max_new_tokens: Count | None = None
    stop_sequences: str | list[str] | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    skip_special_tokens: bool = True
    adapter_id: Name | None = None
    """LoRAX's name for S-LoRA's `lora_dir`."""
    adapter_source: Source | None = None
    truncate: Count | None = None
    return_full_text: bool = False
    details: bool = False
    decoder_input_details: bool = False
    top_n_tokens: TopLogprobs | None = None
    return_k_alternatives: TopLogprobs | None = None
    grammar: ResponseFormat | None = None
    response_format: ResponseFormat | None = None

    def wanted_grammar(self) -> WantedGrammar | None:
        """The form that it asks for; None: any text. Raises `BadRequest`."""
        named = {"grammar": self.grammar, "response_format": self.response_format}
        return only_one(
            one.wanted(f"parameters.{name}") for name, one in named.items() if one is not None
        )

    def params(
        self, defaults: GenerationDefaults = NO_DEFAULTS, style: Style = "slora"
    ) -> SamplingParams:
        """The parameters: greedy unless `do_sample`, which another sampling field implies for
        clients of TGI and LoRAX. Raises `BadRequest` on bad stop strings, and on fields that need
        `do_sample` of S-LoRA's clients."""
        if self.stop and self.stop_sequences:
            raise BadRequest(
                "stop and stop_sequences are two names of one field", param="parameters.stop"
            )
        if self.decoder_input_details and not self.details:
            raise BadRequest(
                "parameters.decoder_input_details needs details: true",
                param="parameters.decoder_input_details",
            )
        samples = self.do_sample
        if style == "tgi":
            others = (self.temperature, self.top_k, self.top_p)
            samples = samples or any(other is not None for other in others)
        elif not samples:
            self._check_greedy()
        temperature = self.temperature
        if temperature is None:  # do_sample is not greedy, even if the model's default is
            temperature = 1.0 if defaults.temperature is None else defaults.temperature
        field = "parameters.stop" if self.stop else "parameters.stop_sequences"
        return sampling_params(
            seed=make_seed(self.seed),
            stop=stop_strings(self.stop or self.stop_sequences, field),
            defaults=defaults,
            temperature=temperature if samples else 0.0,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_new_tokens or self._default_length(defaults, style),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            ignore_eos=self.ignore_eos or self.ignore_eos_token,
            logprobs=max(self.top_n_tokens or 0, self.return_k_alternatives or 0),
            skip_special_tokens=self.skip_special_tokens,
            prompt_logprobs=0 if self.decoder_input_details else None,
        )

    def _default_length(self, defaults: GenerationDefaults, style: Style) -> int:
        if style == "slora":
            return DEFAULT_GENERATE_TOKENS
        return defaults.max_new_tokens or DEFAULT_TGI_TOKENS

    def _check_greedy(self) -> None:
        """Raises `BadRequest` for sampling fields without do_sample, which S-LoRA drops
        silently."""
        asked = {
            "temperature": self.temperature not in (None, 0, 1),
            "top_p": self.top_p not in (None, 1),
            "top_k": (self.top_k or 0) > 1,
            "min_p": bool(self.min_p),
        }
        if field := next((name for name, is_asked in asked.items() if is_asked), ""):
            raise BadRequest(
                f"parameters.{field} needs do_sample: true; without it the most probable token is "
                "chosen",
                param=f"parameters.{field}",
            )


class GenerateBody(Body, frozen=True, kw_only=True):
    """POST /generate, /generate_stream and /. `lora_dir`, or LoRAX's `adapter_id`, is the name or
    path of a registered adapter; a request never loads one."""

    table: ClassVar[Table] = request_fields.GENERATE
    nested: ClassVar[dict[str, type[Body]]] = {"parameters": GenerateParameters}

    inputs: str
    parameters: GenerateParameters = GenerateParameters()
    lora_dir: Name | None = None
    stream: bool | None = None

    def style(self, raw: Mapping[str, Any]) -> Style:
        """Whose client sent it, by its JSON."""
        parameters = raw.get("parameters")
        is_slora = any(raw.get(name) is not None for name in SLORA_FIELDS) or (
            isinstance(parameters, dict) and parameters.get("ignore_eos") is not None
        )
        return "slora" if is_slora else "tgi"

    def adapters(self) -> dict[str, str]:
        """Named adapters, by field."""
        named = {"lora_dir": self.lora_dir, "parameters.adapter_id": self.parameters.adapter_id}
        return {field: name for field, name in named.items() if name}
