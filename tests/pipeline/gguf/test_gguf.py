"""What a GGUF's metadata say of a model: honoured, harmless, or refused by its name."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import TOKENS, assert_as_transformers, serve, write_gguf
from transformers import AutoConfig, AutoModelForCausalLM

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.gguf.header import gguf_findings
from loraconsole.pipeline.gguf.keys import (
    GENERAL_KEYS,
    MODEL_KEYS,
    MODEL_PREFIXES,
    PREFIXES,
    TOKENIZER_KEYS,
    UNKNOWN,
    key_of,
)
from loraconsole.pipeline.gguf.tokenizer import CUTS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def with_rope(path: Path, architecture: str, **rope):
    """The same weights in a transformers model with another rotation."""
    directory = path.parent / f"{path.stem}-checkpoint"
    config = AutoConfig.from_pretrained(directory)
    config.rope_parameters = {"rope_theta": 10000.0} | rope
    return AutoModelForCausalLM.from_pretrained(
        directory, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({"rope.scale_linear": 4.0}, LINEAR),
        ({"rope.scaling.factor": 4.0}, LINEAR),
        ({"rope.scaling.factor": 4.0, "rope.scaling.type": "linear"}, LINEAR),
        ({"rope.scaling.factor": 0.0, "rope.scale_linear": 4.0}, LINEAR),
        ({"rope.scaling.factor": 4.0, "rope.scaling.type": "none"}, {"rope_type": "default"}),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, YARN),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.yarn_beta_fast": 16.0,
                "rope.scaling.yarn_beta_slow": 2.0,
                "rope.scaling.yarn_attn_factor": 1.25,
                "rope.scaling.finetuned": True,
            },
            YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.attn_factor": 1.5,
            },
            YARN | {"attention_factor": 1.5 * (0.1 * math.log(4) + 1)},
        ),
    ],
)
def test_rotation_is_scaled_as_the_keys_say(tmp_path, architecture, keys, rope):
    path = tmp_path / "m.gguf"
    keys = {f"{architecture}.{name}": value for name, value in keys.items()}
    if rope["rope_type"] == "yarn":
        keys[f"{architecture}.rope.scaling.original_context_length"] = 64
    write_gguf(path, architecture, keys=keys)
    assert_as_transformers(serve(path), with_rope(path, architecture, **rope))


@pytest.mark.parametrize(("low", "high", "context"), [(1, 4, 8192), (1, 40, 1000), (2, 6, 2048)])
def test_factors_of_llama_3s_kind_are_honoured_whatever_made_them(tmp_path, low, high, context):
    turns = [context / (2 * math.pi * 10000.0 ** (i / 8)) for i in range(8)]
    smooth = [min(max((turn - low) / (high - low), 0), 1) for turn in turns]
    factors = np.array([1 / ((1 - s) / 8 + s) for s in smooth], np.float32)
    path = tmp_path / "m.gguf"
    write_gguf(path, tensors={"rope_freqs.weight": factors})
    model = with_rope(
        path,
        "llama",
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position_embeddings=context,
    )
    assert_as_transformers(serve(path), model)


def test_a_window_of_a_llama_file_is_mistrals(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, keys={"llama.attention.sliding_window": 24})
    directory = tmp_path / "m-checkpoint"
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": None, "sliding_window": 24}
    (directory / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert_as_transformers(serve(path), model)
    write_gguf(path, keys={"llama.attention.sliding_window": 512})
    assert config_of(serve(path))["model_type"] == "llama", "which no sequence fills"


def config_of(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"llama.attention.scale": 0.5}, r"llama.attention.scale is 0.5: only 1 / sqrt\(16\)"),
        ({"llama.attention.causal": False}, "llama.attention.causal is false"),
        ({"llama.logit_scale": 0.25}, "llama.logit_scale is 0.25"),
        ({"llama.attn_logit_softcapping": 50.0}, "llama.attn_logit_softcapping is 50.0"),
        ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping is 30.0"),
        ({"llama.embedding_scale": 12.0}, "llama.embedding_scale is 12.0"),
        ({"llama.residual_scale": 0.2}, "llama.residual_scale is 0.2"),
        ({"llama.attention.value_length": 8}, "value_length is 8 and key_length 16"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8 of 16"),
        ({"llama.rope.dimension_sections": [4, 4, 0, 0]}, "llama.rope.dimension_sections"),
        ({"llama.rope.scaling.alpha": 2.0}, "llama.rope.scaling.alpha is 2.0"),
        ({"llama.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor is 1.2"),
        ({"llama.rope.scaling.type": "dynamic"}, "rope scaling 'dynamic' is not supported"),
        ({"llama.attention.head_count_kv": [2, 4]}, "head_count_kv differs by layer"),
        ({"llama.attention.sliding_window_pattern": 2}, "sliding_window_pattern is 2"),
        ({"llama.attention.temperature_scale": 0.1}, "temperature_scale is 0.1"),
        ({"llama.expert_used_count": 2}, "llama.expert_used_count is 2: mixtures of experts"),
        ({"llama.nextn_predict_layers": 1}, "llama.nextn_predict_layers is 1"),
        ({"llama.ssm.state_size": 16}, "llama.ssm.state_size is 16"),
        ({"llama.hidden_activation": "gelu"}, 'llama.hidden_activation is "gelu"'),
        ({"llama.of_tomorrow": 0}, "llama.of_tomorrow is 0, and is an unknown key"),
        ({"tokenizer.ggml.of_tomorrow": "x"}, "tokenizer.ggml.of_tomorrow .* unknown key"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces is true"),
        ({"tokenizer.ggml.suppress_tokens": [3]}, "suppress_tokens is an array of 1"),
        ({"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": None}, "no eos_tok"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer 'bert' is not supported"),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5' is not supported"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type has 1 values for 270 tokens"),
        ({"tokenizer.ggml.tokens": ["a", *TOKENS[1:-1], "a"]}, "tokens has 'a' twice"),
        ({"tokenizer.ggml.merges": ["t zz"]}, "merges joins 't' and 'zz' to 'tzz'"),
        ({"general.type": "adapter"}, "it is a LoRA adapter, not a model"),
        ({"general.type": "mmproj"}, "it is a projector of images or sound, not a model"),
        ({"general.type": "imatrix"}, "it is a matrix for quantising, not a model"),
        ({"llama.block_count": "two"}, "llama.block_count is 'two', not a whole number"),
        ({"llama.attention.head_count": 0}, "head_count is 0, not a number from 1 up"),
        (
            {"llama.embedding_length": "wide"},
            "embedding_length differs by layer or is not a number",
        ),
        ({"tokenizer.ggml.tokens": 3}, "tokens is not an array of texts"),
        ({"tokenizer.ggml.token_type": TOKENS[0]}, "token_type is not an array of numbers"),
        ({"tokenizer.ggml.merges": 3}, "merges is not an array of texts"),
        ({"tokenizer.chat_template": 3}, "its chat template 'default' is not a text"),
        ({"llama.block_count": None}, "has no llama.block_count"),
        ({"llama.block_count": 1}, "it has blk.1, but block_count is 1"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_name(tmp_path, keys, words):
    path = tmp_path / "m.gguf"
    write_gguf(path, keys=keys)
    with pytest.raises(OperatorError, match=words):
        serve(path)
    assert any(finding.verdict == "bad" for finding in gguf_findings(path))


def test_values_that_say_nothing_change_nothing(tmp_path):
    """As llama.cpp itself writes a model: every key, most of them 0 or -1."""
    path = tmp_path / "m.gguf"
    silent = {
        "expert_count": 0,
        "logit_scale": 0.0,
        "residual_scale": 1.0,
        "attention.causal": True,
        "attention.scale": 0.25,
        "attention.head_count": [4, 4],
        "attention.sliding_window": 0,
        "attention.rope_pattern": [1, 1],
        "attention.recurrent_layers": [0, 0],
        "deepstack_mapping": [-1, -1],
        "decoder_start_token_id": -1,
        "rope.dimension_sections": [0, 0, 0, 0],
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 0.0,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.yarn_ext_factor": -1.0,
        "rope.scaling.yarn_attn_factor": 1.0,
        "swiglu_clamp_exp": [0.0, 0.0],
        "wkv.head_size": 0,
        "pooling_type": 0,
        "vocab_size": len(TOKENS),
    }
    keys = {f"llama.{name}": value for name, value in silent.items()}
    keys |= {"general.name": "Tiny", "quantize.imatrix.file": "x", "mradermacher.by": "y"}
    keys |= {"tokenizer.ggml.padding_token_id": 2**32 - 1}
    model = write_gguf(path, keys=keys)
    directory = serve(path)
    assert_as_transformers(directory, model)
    assert config_of(directory)["pad_token_id"] is None


def test_the_table_has_every_key_that_the_gguf_package_knows():
    found = []
    for group in vars(gguf.Keys).values():
        nested = (
            [group, *(v for v in vars(group).values() if isinstance(v, type))]
            if isinstance(group, type)
            else []
        )
        for names in nested:
            found += [v for v in vars(names).values() if isinstance(v, str) and "." in v]
    names = {name.format(arch="llama", id=0, name="tool_use", dense="dense_2") for name in found}
    names = {name for name in names if name.startswith(("llama.", "tokenizer.", "general."))}
    assert len(names) > 150
    assert [name for name in sorted(names) if key_of(name, "llama") is UNKNOWN] == []


def test_the_documentation_lists_the_tables():
    page = (Path(__file__).parents[3] / "docs" / "gguf.md").read_text()
    listed = set()
    for row in page.splitlines():
        if row.startswith("| `"):
            names, what = row.split("|")[1:3]
            listed |= {(name.strip(" `"), what.split()[0].strip(":")) for name in names.split(", ")}
    tables = MODEL_KEYS, TOKENIZER_KEYS, GENERAL_KEYS
    expected = {(name, key.use) for table in tables for name, key in table.items()}
    prefixes = MODEL_PREFIXES.items() | PREFIXES.items()
    expected |= {(f"{name}*", key.use) for name, key in prefixes}
    assert listed == expected
    for name in CUTS:
        assert f"`{name}`" in page


def test_what_a_file_recommends_for_sampling_is_in_generation_config(tmp_path):
    path = tmp_path / "m.gguf"
    recommended = {"temp": 0.7, "top_k": 20, "top_p": 0.8, "penalty_repeat": 1.05}
    write_gguf(path, keys={f"general.sampling.{k}": v for k, v in recommended.items()})
    config = json.loads((serve(path) / "generation_config.json").read_text())
    assert (config["temperature"], config["top_k"], config["top_p"]) == (0.7, 20, 0.8)
    assert (config["repetition_penalty"], config["do_sample"]) == (1.05, True)
