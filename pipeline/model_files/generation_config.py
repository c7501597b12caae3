"""`GenerationDefaults`: sampling defaults from a model's generation_config.json.

Used for parameters that a request does not set. A key is read, harmless, or reported as not
honoured. Stop tokens (eos_token_id) are read elsewhere. Knows no request.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..errors import OperatorError
from ..runtime.text_files import read_json

FILE = "generation_config.json"
HINT = "fix the file, or start with --generation-config none, which reads no defaults"

HARMLESS = frozenset(
    {
        # Token ids: not used here, or (eos_token_id) read elsewhere.
        *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
        # The request decides the answer's length; max_length counts the prompt as well.
        *("max_length", "num_return_sequences"),
        # How transformers computes and what it returns; tokens do not change.
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len"),
        *("return_legacy_cache", "compile_config", "disable_compile", "prefill_chunk_size"),
        *("continuous_batching_config", "low_memory", "output_attentions"),
        *("output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("remove_invalid_values", "renormalize_logits"),
        # Beam search, which only num_beams turns on.
        *("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty"),
        # Speculative decoding, which draws from the same distribution.
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "assistant_ensemble_weight", "speculation_type"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp"),
        *("transformers_version", "_from_model_config", "_commit_hash", "generation_kwargs"),
    }
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "typical_p": (1,),
    "top_h": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "token_healing": (False,),
}
"""Keys that are not honoured, and their values without effect."""


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of a model's author; None if the file does not set them. As in vLLM, a temperature
    applies without `do_sample: true`, and transformers' own default top_k of 50 does not apply."""

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    max_new_tokens: Annotated[int, Meta(ge=1, le=(1 << 31) - 1)] | None = None
    do_sample: bool | None = None
    """False: a request that sets no temperature, top_k, top_p or min_p gets the most probable
    token. If absent it has no effect, although transformers treats that as false: OpenAI clients
    expect a temperature of 1."""
    stop_strings: str | list[str] | None = None
    """Strings that end an answer, in addition to the request's own."""
    not_honoured: tuple[str, ...] = ()
    """Settings in the file that are not honoured, e.g. "num_beams 4"."""

    @property
    def stop(self) -> tuple[str, ...]:
        """`stop_strings` as a tuple, without empty ones."""
        given = [self.stop_strings] if isinstance(self.stop_strings, str) else self.stop_strings
        return tuple(filter(None, given or ()))

    @property
    def named(self) -> dict[str, Any]:
        """The file's settings, by its own names."""
        values = {name: getattr(self, name) for name in READ}
        return {name: value for name, value in values.items() if value is not None}


READ = tuple(name for name in GenerationDefaults.__struct_fields__ if name != "not_honoured")
"""Keys of the file."""
NO_DEFAULTS = GenerationDefaults()


def read_generation_config(directory: str | Path) -> GenerationDefaults:
    """The defaults in a model directory; `NO_DEFAULTS` if it has no such file.

    Raises `OperatorError` naming file and key.
    """
    path = Path(directory) / FILE
    try:
        raw = read_json(path)
    except FileNotFoundError:
        return NO_DEFAULTS
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} is not readable: {error}", HINT) from error
    if not isinstance(raw, dict):
        raise OperatorError(f"{path} is not a JSON object", HINT)
    given = {name: value for name, value in raw.items() if value is not None}
    known = {name: given.pop(name) for name in READ if name in given}
    for name in ("top_k", "max_new_tokens"):
        if isinstance(known.get(name), float) and known[name].is_integer():
            known[name] = int(known[name])
    known["not_honoured"] = tuple(
        f"{name} {json.dumps(value)[:60]}"
        for name, value in given.items()
        if name not in HARMLESS and value not in NEUTRAL.get(name, ())
    )
    try:
        return msgspec.convert(known, GenerationDefaults)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{path}: {error}", HINT) from error
