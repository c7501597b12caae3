"""The bodies of the HTTP API: OpenAI's chat and completions, S-LoRA's generate, orders.

Knows no socket and no scheduling. A body is checked once here, and every refusal names the field.
`request_fields` lists the accepted and the refused fields.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta

from ..adapter_name import LONGEST_NAME
from ..messages import SamplingParams
from ..model_files.generation_config import NO_DEFAULTS, GenerationDefaults
from . import request_fields
from .bad_request import BadRequest
from .request_fields import Table, honoured_fields, shortened

DEFAULT_CHAT_TOKENS = 1024
"""Default max_tokens of a chat. Admission reserves it, so "as many as fit" would let one request
keep the others out."""
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
DEFAULT_GENERATE_TOKENS = 16  # S-LoRA's
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 4096
"""Most characters of all stop strings of a request: each token is compared with them."""
GREEDY_BELOW = 1e-5
"""Lower temperatures count as 0: logits divided by them are not finite in float32."""

Unit: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Temperature: TypeAlias = Annotated[float, Meta(ge=0.0, le=100.0)]
TopP: TypeAlias = Annotated[float, Meta(gt=0.0, le=1.0)]
TopK: TypeAlias = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2.0, le=2.0)]
WidePenalty: TypeAlias = Annotated[float, Meta(ge=-100.0, le=100.0)]
Repetition: TypeAlias = Annotated[float, Meta(gt=0.0, le=10.0)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
Whole: TypeAlias = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
TopLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=20)]
Name: TypeAlias = Annotated[str, Meta(max_length=4096)]
ShortName: TypeAlias = Annotated[str, Meta(max_length=LONGEST_NAME)]
TokenId: TypeAlias = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Source: TypeAlias = Literal["local", "hub"]

BodyT = TypeVar("BodyT", bound="Body")
MOST_REASON = 200
"""Most characters of a decoder's reason that a refusal repeats."""
MISSING = re.compile(r"missing required field `(\w+)`")


# --- bodies -------------------------------------------------------------------------------------


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of a request; it has a field for every honoured field of `table`."""

    table: ClassVar[Table]
    nested: ClassVar[dict[str, type[Body]]] = {}
    """Fields that are bodies themselves."""


class StreamOptions(Body, frozen=True, kw_only=True):
    table: ClassVar[Table] = request_fields.STREAM_OPTIONS

    include_usage: bool = False
    continuous_usage_stats: bool = False


def sampling_params(
    *,
    stop: tuple[str, ...],
    defaults: GenerationDefaults,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    **more: Any,
) -> SamplingParams:
    """`SamplingParams`; a field that the request leaves out (None) comes from `defaults`."""
    if temperature is None:
        # A request with another sampling field wants random tokens, even if the default is greedy.
        others = (top_k, top_p, min_p)
        is_greedy = defaults.do_sample is False and all(other is None for other in others)
        temperature = 0.0 if is_greedy else defaults.temperature

    def given(value: float | None, default: float | None, off: float) -> float:
        return value if value is not None else default if default is not None else off

    temperature = given(temperature, None, 1.0)
    return SamplingParams(
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_k=max(0, int(given(top_k, defaults.top_k, 0))),
        top_p=given(top_p, defaults.top_p, 1.0),
        min_p=given(min_p, defaults.min_p, 0.0),
        repetition_penalty=given(repetition_penalty, defaults.repetition_penalty, 1.0),
        stop=stop + tuple(one for one in defaults.stop if one not in stop),
        **more,
    )


def make_seed(seed: int | None, choice: int = 0) -> int:
    """The seed of choice i of n; a random one if `seed` is None or -1."""
    if seed is None or seed == -1:
        return random.getrandbits(63)
    return (seed + choice) % (1 << 63)


def stop_strings(given: str | list[str] | None, field: str) -> tuple[str, ...]:
    """`stop` as a tuple. Raises `BadRequest` if a string is empty, or if there are too many strings
    or characters."""
    stop = (given,) if isinstance(given, str) else tuple(given or ())
    if len(stop) > MOST_STOPS or not all(stop):
        raise BadRequest(
            f"{field} takes up to {MOST_STOPS} strings, none of them empty", param=field
        )
    if (length := sum(map(len, stop))) > MOST_STOP_CHARACTERS:
        raise BadRequest(
            f"{field} has {length} characters; at most {MOST_STOP_CHARACTERS} in all are allowed",
            param=field,
        )
    return stop


class SamplingBody(Body, frozen=True, kw_only=True):
    """Fields of both endpoints: OpenAI's, and additions common to other servers."""

    nested: ClassVar[dict[str, type[Body]]] = {"stream_options": StreamOptions}

    model: Name = ""
    adapter_id: Name | None = None
    adapter_source: Source | None = None
    lora_path: Name | None = None
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

    def check(self) -> None:
        """Raises `BadRequest` if fields contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options needs stream: true", param="stream_options")

    def adapters(self) -> dict[str, str]:
        """Adapters named by fields other than `model`, by field."""
        named = {"adapter_id": self.adapter_id, "lora_path": self.lora_path}
        return {field: name for field, name in named.items() if name}

    def params(
        self,
        max_tokens: int,
        logprobs: int | None,
        choice: int,
        defaults: GenerationDefaults = NO_DEFAULTS,
        *,
        skip_special_tokens: bool = True,
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
            skip_special_tokens=skip_special_tokens,
            include_stop_str_in_output=self.include_stop_str_in_output,
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

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")


class CompletionBody(SamplingBody, frozen=True, kw_only=True):
    """POST /v1/completions"""

    table: ClassVar[Table] = request_fields.COMPLETION

    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: TopLogprobs | None = None
    skip_special_tokens: bool = True
    best_of: int | None = None

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != self.n:
            raise BadRequest("best_of other than n is not supported", param="best_of")

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as token ids. Raises `BadRequest` on none or a mixture."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        kinds = set(map(type, self.prompt))
        if len(kinds) != 1:
            reason = "mixes texts, token ids and lists of them" if kinds else "is empty"
            raise BadRequest(f"prompt {reason}", param="prompt")
        # All elements are of one of the three types.
        prompts: Any = [self.prompt] if kinds == {int} else self.prompt
        return cast("list[str] | list[list[int]]", prompts)


class GenerateParameters(Body, frozen=True, kw_only=True):
    """S-LoRA's (TGI's, LoRAX's) parameters."""

    table: ClassVar[Table] = request_fields.PARAMETERS

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
    max_new_tokens: Count = DEFAULT_GENERATE_TOKENS
    stop_sequences: str | list[str] | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    skip_special_tokens: bool = True
    adapter_id: Name | None = None
    """LoRAX's name for S-LoRA's `lora_dir`."""
    adapter_source: Source | None = None

    def params(self, defaults: GenerationDefaults = NO_DEFAULTS) -> SamplingParams:
        """The parameters: greedy unless `do_sample`. Raises `BadRequest` on bad stop strings, and
        on fields that need `do_sample` without it."""
        if self.stop and self.stop_sequences:
            raise BadRequest(
                "stop and stop_sequences are two names of one field", param="parameters.stop"
            )
        if not self.do_sample:
            self._check_greedy()
        temperature = self.temperature
        if temperature is None:  # do_sample is not greedy, even if the model's default is
            temperature = 1.0 if defaults.temperature is None else defaults.temperature
        field = "parameters.stop" if self.stop else "parameters.stop_sequences"
        return sampling_params(
            seed=make_seed(self.seed),
            stop=stop_strings(self.stop or self.stop_sequences, field),
            defaults=defaults,
            temperature=temperature if self.do_sample else 0.0,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_new_tokens,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            ignore_eos=self.ignore_eos or self.ignore_eos_token,
            logprobs=0,
            skip_special_tokens=self.skip_special_tokens,
        )

    def _check_greedy(self) -> None:
        """Raises `BadRequest` for sampling fields without do_sample. TGI and LoRAX sample then,
        S-LoRA drops the fields silently."""
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
    """POST /generate and /generate_stream. `lora_dir`, or LoRAX's `adapter_id`, is the name or path
    of a registered adapter; a request never loads one."""

    table: ClassVar[Table] = request_fields.GENERATE
    nested: ClassVar[dict[str, type[Body]]] = {"parameters": GenerateParameters}

    inputs: str
    parameters: GenerateParameters = GenerateParameters()
    lora_dir: Name | None = None
    stream: bool | None = None

    def adapters(self) -> dict[str, str]:
        """Named adapters, by field."""
        named = {"lora_dir": self.lora_dir, "parameters.adapter_id": self.parameters.adapter_id}
        return {field: name for field, name in named.items() if name}


class LoadBody(Body, frozen=True, kw_only=True):
    """vLLM's and SGLang's body to load an adapter; `pinned` is SGLang's."""

    table: ClassVar[Table] = request_fields.LOAD

    lora_name: Name
    lora_path: Name
    pinned: bool = False


class UnloadBody(Body, frozen=True, kw_only=True):
    """vLLM's and SGLang's body to unload an adapter."""

    table: ClassVar[Table] = request_fields.UNLOAD

    lora_name: Name


class AdapterBody(Body, frozen=True, kw_only=True):
    """POST /v1/adapters."""

    table: ClassVar[Table] = request_fields.ADAPTER_BODY

    name: Name
    path: Name
    pin: bool = False


class SchedulerBody(Body, frozen=True, kw_only=True):
    """PUT /v1/scheduler; fields not given stay unchanged."""

    table: ClassVar[Table] = request_fields.SCHEDULER

    policy: ShortName | None = None
    weights: Annotated[dict[ShortName, float], Meta(max_length=1024)] | None = None
    batch_num_adapters: Whole | None = None
    slo_seconds: float | None = None
    max_wait_tokens: Whole | None = None
    max_per_adapter: Whole | None = None


class PlanBody(Body, frozen=True, kw_only=True):
    """POST /v1/adapters/plan."""

    table: ClassVar[Table] = request_fields.PLAN

    paths: Annotated[list[Name], Meta(max_length=1024)]


class ProfilerBody(Body, frozen=True, kw_only=True):
    """POST /profiler/start; both fields and the body itself are optional."""

    table: ClassVar[Table] = request_fields.PROFILER

    layers: bool = False
    nvtx: bool = False


def decode_body(body: bytes, kind: type[BodyT]) -> BodyT:
    """Decodes JSON to a body. Raises `BadRequest` naming the field."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    if not isinstance(raw, dict):
        raise BadRequest("the body is not a JSON object")
    return _convert(raw, kind, "")


def _convert(raw: dict[str, Any], kind: type[BodyT], at: str) -> BodyT:
    """Converts an object at the path `at` of the body, and the objects in it."""
    given = honoured_fields(raw, kind.table, at)
    for name, value in list(given.items()):
        if name in kind.nested and isinstance(value, dict):
            if all(part is None for part in value.values()):
                del given[name]
                continue
            given[name] = _convert(value, kind.nested[name], f"{at}{name}.")
        if isinstance(value, float) and value.is_integer() and name in _integer_fields(kind):
            given[name] = int(value)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        reason = shortened(reason, MOST_REASON)  # it may quote the value
        field = path.strip("`$.")
        if missing := MISSING.search(reason):
            name = at + missing.group(1)
            raise BadRequest(f"{name} is missing", param=name) from error
        if not field:
            raise BadRequest(reason) from error
        raise BadRequest(f"{reason} (in {at}{field})", param=at + field) from error


@functools.cache
def _integer_fields(kind: type[Body]) -> frozenset[str]:
    """The fields that take an integer, for which JSON's 5.0 is 5. None of them takes floats."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    found = set()
    for field in info.fields:
        one = field.type
        kinds = one.types if isinstance(one, msgspec.inspect.UnionType) else (one,)
        if any(isinstance(kind, msgspec.inspect.IntType) for kind in kinds):
            found.add(field.name)
    return frozenset(found)
