"""config.json as transformers' classes read it: defaults, nulls, and every key read, harmless or
refused by its name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from driver import SMALL
from made_tokenizers import newest_reference
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model.layers import rotary_frequencies
from loraconsole.pipeline.model_files.config_keys import HARMLESS, NULLABLE, READ, REFUSED
from loraconsole.pipeline.model_files.families import DEFAULTS, FAMILY_REFUSED, Family
from loraconsole.pipeline.model_files.findings import notes
from loraconsole.pipeline.model_files.model_config import (
    ModelConfig,
    inspect_config,
    read_model_config,
)

FAMILIES: tuple[Family, ...] = ("llama", "mistral", "qwen2", "qwen3")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def write(directory: Path, family: str = "llama", **keys: Any) -> Path:
    """A config.json of a small model with these keys."""
    config = {"model_type": family, **SMALL, **keys}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def refusal(directory: Path, ignored: tuple[str, ...] = ()) -> str:
    with pytest.raises(OperatorError) as raised:
        read_model_config(directory, ignored)
    return str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_keys_have_the_defaults_of_the_familys_class(family: Family, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    model_config, theirs = read_model_config(tmp_path), AutoConfig.from_pretrained(tmp_path)
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert model_config == ModelConfig(
        family=family,
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.hidden_size,
        intermediate_size=theirs.intermediate_size,
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        num_kv_heads=theirs.num_key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=theirs.max_position_embeddings,
        max_model_len=theirs.max_position_embeddings,
        rms_norm_eps=theirs.rms_norm_eps,
        rope_theta=theirs.rope_parameters["rope_theta"],
        rope_scaling=model_config.rope_scaling,
        tie_word_embeddings=theirs.tie_word_embeddings,
        attention_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        sliding_window=theirs.sliding_window if family == "mistral" else 0,
        bos_token_id=model_config.bos_token_id,
        eos_token_ids=model_config.eos_token_ids,
    )


@newest_reference
@pytest.mark.parametrize("family", FAMILIES)
def test_each_default_is_that_of_the_class(family: Family) -> None:
    kind = type(AutoConfig.for_model(family))
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    for key, default in DEFAULTS[family].items():
        if key in fields:
            assert fields[key] == default, key
        else:
            assert default is None, f"{key} is no field of {kind.__name__}"


@newest_reference
@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_transformers_writes_is_known(family: Family, tmp_path: Path) -> None:
    """Of the class, of its base, and of generation, in a file that leaves no default out."""
    config = AutoConfig.for_model(family, **SMALL)
    known = READ | HARMLESS | REFUSED.keys() | FAMILY_REFUSED[family].keys()
    fields = {field.name for field in dataclasses.fields(type(config))}
    fields |= {field.name for field in dataclasses.fields(PreTrainedConfig)}
    assert fields - known == set()
    old = {"max_length", "do_sample", "temperature", "top_k", "num_beams", "bad_words_ids"}
    assert old < GenerationConfig().to_dict().keys() and old < HARMLESS
    config.to_json_file(tmp_path / "config.json", use_diff=False)
    read_model_config(tmp_path)


def test_no_key_stands_in_two_lists() -> None:
    assert not READ & HARMLESS
    assert not (READ | HARMLESS) & REFUSED.keys()


@newest_reference
@pytest.mark.parametrize("family", FAMILIES)
def test_a_null_means_what_it_means_to_the_class(family: Family, tmp_path: Path) -> None:
    for key in DEFAULTS[family].keys() - {"bos_token_id"}:
        write(tmp_path, family, **{key: None})
        try:
            AutoConfig.from_pretrained(tmp_path)
            is_taken = True
        except Exception:  # its own validation error
            is_taken = False
        if key in NULLABLE:  # also where the class refuses it: the weights' shapes say the same
            read_model_config(tmp_path)
        else:
            assert not is_taken and f"{key} is null" in refusal(tmp_path)


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ("llama", {"is_causal": False}, "is_causal"),
    ("llama", {"is_causal": None}, "is_causal"),
    ("qwen3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("llama", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved"),
    ("llama", {"logits_scaling": 8.0}, "logits_scaling"),
    ("llama", {"a_new_key": 3}, "a_new_key 3: an unknown key"),
    ("llama", {"sliding_window": 64}, "sliding_window"),
    ("mistral", {"use_sliding_window": False, "sliding_window": 64}, "use_sliding_window"),
    ("mistral", {"attention_bias": True}, "attention_bias"),
    ("qwen3", {"mlp_bias": True}, "mlp_bias"),
    ("qwen2", {"layer_types": ["full_attention"] * 2}, "layer_types has 2 entries for 3 layers"),
    (
        "qwen2",
        {"layer_types": ["full_attention", "chunked_attention", "conv"]},
        "chunked_attention",
    ),
    ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "there is no window"),
    ("llama", {"head_dim": 15}, "head_dim 15 is odd"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads 4 does not divide 6"),
    ("llama", {"vocab_size": "160"}, "vocab_size is '160', not an integer"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq (bits 4)"),
    ("llama", {"quantization_config": {"load_in_4bit": True}}, "bitsandbytes (load_in_4bit)"),
    ("llama", {"quantization": {"group_size": 64, "bits": 4}}, "mlx (bits 4)"),
    ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_scaling.type 'su'"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "'mrope'"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "4"}}, "rope_scaling.factor is '4'"),
    ("llama", {"rope_parameters": YARN | {"alpha": 3.0}}, "rope_parameters.alpha 3.0"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "factor": 4.0}}, "rope_parameters.factor"),
    ("llama", {"rope_parameters": YARN | {"type": "linear"}}, "contradicts type 'linear'"),
    ("llama", {"rope_parameters": {"full_attention": dict(YARN)}}, "differs by layer"),
    ("llama", {"rope_parameters": YARN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"rope_parameters": {"rope_theta": None}}, "rope_theta is null"),
    ("llama", {"rope_theta": "10000"}, "rope_theta is '10000'"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
        "low_freq_factor is missing",
    ),
]


@pytest.mark.parametrize(("family", "keys", "words"), REFUSALS)
def test_what_changes_the_answer_is_refused_by_its_name(
    family: str, keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    said = refusal(write(tmp_path, family, **keys))
    assert words in said and f"{tmp_path}/config.json: " in said


@pytest.mark.parametrize(
    "keys",
    [
        {"unsloth_version": "2025.1", "transformers.js_config": {"dtype": "q4"}},
        {"torch_dtype": "float16", "_name_or_path": "x", "neftune_noise_alpha": 5},
        {"pretraining_tp": 2, "attention_dropout": 0.1, "initializer_range": 0.5},
        {"rope_interleaved": False, "is_llama_config": True, "partial_rotary_factor": 1.0},
        {"is_decoder": False, "do_sample": True, "max_length": 4096, "temperature": 0.6},
        {"rope_scaling": None, "quantization_config": None, "is_causal": True, "unheard_of": None},
        {"rope_scaling": {"type": "default", "finetuned": True}},
        {"architectures": ["LLaMAForCausalLM"], "hidden_act": "swish", "sliding_window": None},
        {"sliding_window": 4096, "layer_types": ["full_attention"] * 3, "use_sliding_window": True},
    ],
)
def test_what_changes_nothing_changes_nothing(keys: dict[str, Any], tmp_path: Path) -> None:
    plain = read_model_config(write(tmp_path))
    assert read_model_config(write(tmp_path, **keys)) == plain


def test_several_refusals_are_said_at_once_and_counted(tmp_path: Path) -> None:
    keys = {f"new_{number}": number + 1 for number in range(5)}
    said = refusal(write(tmp_path, hidden_act="relu", **keys))
    assert "new_0" in said and "new_1" in said and "and 3 more" in said


def test_a_key_is_ignored_where_the_operator_says_so(tmp_path: Path) -> None:
    plain = read_model_config(write(tmp_path, rope_scaling=YARN))
    write(tmp_path, rope_scaling=YARN | {"alpha": 2.0}, a_new_key=3)
    assert "--ignore-key a_new_key" in refusal(tmp_path)
    assert "--ignore-key rope_scaling.alpha" in refusal(tmp_path, ("a_new_key",))
    assert read_model_config(tmp_path, ("a_new_key", "rope_scaling.alpha")) == plain


def test_what_is_no_model_directory_is_named_for_what_it_is(tmp_path: Path) -> None:
    assert "holds a config.json" in refusal(tmp_path)
    (tmp_path / "checkpoint-500").mkdir()
    write(tmp_path / "checkpoint-500")
    assert "models below: checkpoint-500" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--adapter" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert "is not an object" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (None, 256),
        ({"type": "linear", "factor": 2.0}, 512),
        ({"type": "dynamic", "factor": 3.0}, 768),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}, 2048),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, 256),
        ({"type": "yarn", "factor": 2.0}, 512),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            256,
        ),
    ],
)
def test_a_context_is_as_long_as_its_scaling_makes_it(
    rope: dict[str, Any] | None, longest: int, tmp_path: Path
) -> None:
    assert read_model_config(write(tmp_path, rope_scaling=rope)).max_model_len == longest


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_scaling": YARN, "rope_theta": 5000.0},
        {"rope_scaling": {}, "rope_parameters": YARN | {"rope_theta": 77.0}},
        {"rope_parameters": YARN, "rope_theta": 300.0},
        {"rope_parameters": YARN | {"beta_fast": 0, "beta_slow": None, "truncate": None}},
        {"rope_parameters": YARN | {"factor": None, "attention_factor": 0}},
        {"rope_parameters": YARN | {"beta_fast": 1, "beta_slow": 40}},
        {"rope_scaling": {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 9}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 0.5}},
    ],
)
def test_rope_tables_mean_what_they_mean_to_transformers(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    model_config = read_model_config(write(tmp_path, **keys))
    theirs = AutoConfig.from_pretrained(tmp_path)
    kind = theirs.rope_parameters["rope_type"]
    expected, scale = ROPE_INIT_FUNCTIONS[kind](theirs)
    found, ours = rotary_frequencies(model_config)
    assert (found / expected - 1).abs().max() < 1e-5
    assert ours == pytest.approx(scale)


def test_what_is_ignored_as_by_transformers_is_said(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    write(
        tmp_path,
        architectures=["MistralForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling.X"},
        rope_parameters=rope,
        rope_scaling={"type": "linear", "factor": 2.0, "beta_fast": 3.0},
    )
    model_config, findings = inspect_config(tmp_path)
    assert model_config is not None and model_config.rope_theta == 10000.0
    said = "\n".join(notes(findings))
    for name in (
        "architectures",
        "auto_map",
        "rope_scaling is set beside",
        "rope_scaling.beta_fast",
    ):
        assert name in said


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("num_hidden_layers", 10**9, "the most is"),
        ("rope_theta", 10**400, "rope_theta is 1000"),
        ("rms_norm_eps", 10**400, "rms_norm_eps is 1000"),
    ],
)
def test_a_number_beyond_all_models_is_refused_at_once(
    key: str, value: int, word: str, tmp_path: Path
) -> None:
    assert word in refusal(write(tmp_path, **{key: value}))
