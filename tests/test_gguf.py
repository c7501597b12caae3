"""What a GGUF says of a model: honoured, harmless, or refused by its name."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from driver import Driver, start_runner
from safetensors.torch import load_file, save_file
from tiny_gguf import EOS, IM_END, SPECIAL, TOKENS, tensors_of, write_gguf
from transformers import AutoConfig, AutoModelForCausalLM

from loraconsole.pipeline.card import read_card
from loraconsole.pipeline.config import Config, OperatorError
from loraconsole.pipeline.fetch import resolve
from loraconsole.pipeline.gguf_header import gguf_findings, read_header
from loraconsole.pipeline.gguf_keys import (
    GENERAL_KEYS,
    MODEL_KEYS,
    MODEL_PREFIXES,
    PREFIXES,
    TOKENIZER_KEYS,
    UNKNOWN,
    key_of,
)
from loraconsole.pipeline.gguf_tokenizer import CUTS
from loraconsole.pipeline.model.gguf_checkpoint import GgufCheckpoint
from loraconsole.pipeline.tokenizer import Tokenizer

PROMPT = [17, 90, 3, 77, 54, 121, 8, 200, 31] * 7
Q = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def serve(path: Path) -> Path:
    return resolve(Config(model=str(path)))


def logits_of(directory: Path) -> torch.Tensor:
    """Of a prompt's last token and of three after it."""
    driver = Driver(start_runner(directory)[0])
    driver.generate([number := driver.add(PROMPT)], 4)
    expected = torch.tensor([PROMPT + driver.tokens[number][:-1]])
    return torch.stack(driver.logits[number]), expected


def assert_as_transformers(directory: Path, model) -> None:
    found, ids = logits_of(directory)
    with torch.no_grad():
        expected = model(ids).logits[0, len(PROMPT) - 1 :]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def with_rope(path: Path, architecture: str, **rope):
    """The same weights in a transformers model with another rotation."""
    directory = path.parent / f"{path.stem}-checkpoint"
    config = AutoConfig.from_pretrained(directory)
    config.rope_parameters = {"rope_theta": 10000.0} | rope
    return AutoModelForCausalLM.from_pretrained(
        directory, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


# --- keys


LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


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
        ({"llama.of_tomorrow": 0}, "llama.of_tomorrow is 0, and is a key unknown here"),
        ({"tokenizer.ggml.of_tomorrow": "x"}, "tokenizer.ggml.of_tomorrow .* unknown here"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, "remove_extra_whitespaces is true"),
        ({"tokenizer.ggml.suppress_tokens": [3]}, "suppress_tokens is an array of 1"),
        ({"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": None}, "no eos_tok"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer 'bert' is not supported"),
        ({"tokenizer.ggml.model": "t5"}, "tokenizer 't5' is not supported"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type has 1 values for 270 tokens"),
        ({"tokenizer.ggml.tokens": ["a", *TOKENS[1:-1], "a"]}, "tokens has 'a' twice"),
        ({"tokenizer.ggml.merges": ["t zz"]}, "merges makes 'tzz' of 't' and 'zz'"),
        ({"general.type": "adapter"}, "it is a LoRA adapter, not a model"),
        ({"general.type": "mmproj"}, "it is a projector of images or sound, not a model"),
        ({"general.type": "imatrix"}, "it is a matrix for quantising, not a model"),
        ({"llama.block_count": None}, "has no llama.block_count"),
        ({"llama.block_count": 1}, "blk.1 stands in it, block_count is 1"),
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
    page = (Path(__file__).parents[1] / "docs" / "gguf.md").read_text()
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


# --- tensors


VECTOR = np.ones(16, np.float32)


@pytest.mark.parametrize(
    ("architecture", "tensors", "words"),
    [
        ("llama", {"blk.0.attn_q_norm.weight": VECTOR}, "attn_q_norm.weight: nothing in a llama"),
        ("llama", {"blk.0.ffn_gate_inp.weight": VECTOR}, "mixtures of experts"),
        ("llama", {"blk.0.ffn_up_exps.weight": VECTOR}, "mixtures of experts"),
        ("llama", {"blk.0.attn_qkv.weight": VECTOR}, "share one tensor"),
        ("llama", {"blk.0.attn_norm.bias": VECTOR}, "blk.0.attn_norm.bias: nothing"),
        ("llama", {"blk.0.attn_q.lora_a": VECTOR}, "it is an adapter"),
        ("llama", {"token_embd.scale": VECTOR[:1]}, "token_embd.scale: nothing"),
        ("llama", {"output.scale": VECTOR[:1], "output.weight": None}, "and no output.weight"),
        ("llama", {"rope_factors_long.weight": VECTOR}, "longrope"),
        ("llama", {"rope_freqs.weight": VECTOR[:7]}, "has no 8 factors"),
        ("llama", {"position_embd.weight": VECTOR}, "position_embd.weight: nothing"),
        ("llama", {"blk.0.attn_q.bias": np.ones(64, np.float32)}, "blk.1.attn_q.bias is missing"),
        ("llama", {"blk.2.attn_norm.weight": np.ones(64, np.float32)}, "is missing, which other"),
        ("llama", {"blk.1.ffn_up.weight": None}, "blk.1.ffn_up.weight is missing"),
        ("llama", {"output_norm.weight": None}, "output_norm.weight is missing"),
        ("qwen2", {"output.bias": np.ones(270, np.float32)}, "output.bias: nothing in a qwen2"),
        ("qwen2", {"blk.0.ffn_up.bias": np.ones(96, np.float32)}, "ffn_up.bias: nothing"),
        ("qwen3", {f"blk.{i}.attn_q_norm.weight": None for i in (0, 1)}, "attn_q_norm.weight is m"),
        ("llama", {"blk.0.attn_norm.weight": np.ones(64)}, "of type F64, which cannot be read"),
    ],
)
def test_a_tensor_that_nothing_uses_or_that_is_missing_is_named(
    tmp_path, architecture, tensors, words
):
    path = tmp_path / "m.gguf"
    write_gguf(path, architecture, tensors=tensors)
    with pytest.raises(OperatorError, match=words):
        serve(path)


def test_biases_of_a_llama_are_used(tmp_path):
    path = tmp_path / "m.gguf"
    model = write_gguf(path, attention_bias=True, mlp_bias=True)
    assert_as_transformers(serve(path), model)


def test_a_head_of_its_own_and_a_tied_one_are_used(tmp_path):
    for tied in (False, True):
        path = tmp_path / f"{tied}.gguf"
        model = write_gguf(path, tie_word_embeddings=tied)
        assert ("output.weight" in read_header(path).tensors) is not tied
        assert_as_transformers(serve(path), model)


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q4_1", "Q8_0"])
def test_scales_beside_a_weight_multiply_it(tmp_path, kind):
    """As NVFP4 files have them; the input's scale changes nothing."""
    scales = {f"blk.0.{module}": 0.5 + i / 4 for i, module in enumerate(("attn_q", "ffn_down"))}
    scales["output"] = 0.75
    tensors = {f"{name}.scale": np.array([s], np.float32) for name, s in scales.items()}
    tensors["blk.1.attn_k.input_scale"] = np.array([7.0], np.float32)
    path, plain = tmp_path / "m.gguf", tmp_path / "plain.gguf"
    write_gguf(path, kind=Q[kind], tensors=tensors)
    write_gguf(plain, kind=Q[kind])
    found, expected = GgufCheckpoint(path), GgufCheckpoint(plain)
    for name, shape, scale in (
        ("model.layers.0.self_attn.q_proj", (64, 64), 0.5),
        ("model.layers.0.mlp.down_proj", (64, 96), 0.75),
        ("model.layers.1.self_attn.k_proj", (32, 64), 1.0),
        ("lm_head", (270, 64), 0.75),
    ):
        weight = expected.tensor(f"{name}.weight", shape)
        torch.testing.assert_close(found.tensor(f"{name}.weight", shape), weight * scale)
        if (blocks := found.int4(f"{name}.weight", shape)) is not None:
            torch.testing.assert_close(blocks.dequantize(), weight * scale, rtol=1e-3, atol=1e-3)
    serve(path)


@pytest.mark.parametrize("kind", [kind.name for kind in Q])
def test_every_type_is_read_as_the_gguf_package_dequantises_it_or_named(tmp_path, kind):
    """Of random bytes, since the package can write few of the types that it reads."""
    block, num_bytes = gguf.GGML_QUANT_SIZES[Q[kind]]
    width = max(64, block)
    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, (96, width // block * num_bytes), np.uint8)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=Q[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    name = "model.layers.0.mlp.up_proj.weight"
    if kind in ("F32", "F16"):
        data = data.view({"F32": np.float32, "F16": np.float16}[kind])
    with np.errstate(all="ignore"):
        try:
            expected = gguf.dequantize(data, Q[kind])
        except NotImplementedError:
            with pytest.raises(OperatorError, match=f"is of type {kind}, which cannot be read"):
                GgufCheckpoint(path)
            return
        found = GgufCheckpoint(path).tensor(name, (96, width)).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("number", "name"), [(31, "Q4_0_4_4"), (4, "Q4_2"), (137, "137")])
def test_a_type_that_is_not_known_is_named_before_the_weights_are_read(tmp_path, number, name):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    content = path.read_bytes()
    at = content.index(b"blk.1.ffn_up.weight") + len("blk.1.ffn_up.weight") + 4 + 2 * 8
    path.write_bytes(content[:at] + number.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(OperatorError, match=f"ffn_up.weight is of type {name}, which cannot be"):
        serve(path)


def test_a_file_that_is_cut_off_is_refused_at_the_header(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(OperatorError, match="is cut off"):
        serve(path)


def test_numbers_made_up_in_a_header_are_no_allocation(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for at in (8, 16, 24):  # tensors, keys, the length of the first key
        path.write_bytes(whole[:at] + (2**60).to_bytes(8, "little") + whole[at + 8 :])
        with pytest.raises(OperatorError, match="is not a whole GGUF file"):
            serve(path)
    swapped = whole[:4] + whole[4:8][::-1] + whole[8:]
    path.write_bytes(swapped)
    with pytest.raises(OperatorError, match="it is big-endian"):
        serve(path)


# --- parts


def parts_of(tmp_path: Path) -> list[Path]:
    write_gguf(tmp_path / "m.gguf", tensors_a_part=8)
    return sorted(tmp_path.glob("m-0*.gguf"))


def test_a_model_in_parts_is_served_from_any_of_them(tmp_path):
    whole = tmp_path / "whole" / "m.gguf"
    whole.parent.mkdir()
    model = write_gguf(whole)
    parts = parts_of(tmp_path)
    assert len(parts) == 3
    directories = {serve(path) for path in parts}
    assert len(directories) == 1
    assert_as_transformers(directories.pop(), model)


def test_parts_that_are_links_into_a_hubs_cache_are_served(tmp_path):
    parts = parts_of(tmp_path)
    (tmp_path / "snapshot").mkdir()
    for number, part in enumerate(parts):
        (tmp_path / f"blob-{number}").write_bytes(part.read_bytes())
        (tmp_path / "snapshot" / part.name).symlink_to(tmp_path / f"blob-{number}")
        part.unlink()
    directory = serve(tmp_path / "snapshot" / parts[1].name)
    start_runner(directory)


def test_a_missing_part_is_named(tmp_path):
    first, second, third = parts_of(tmp_path)
    content = third.read_bytes()
    third.unlink()
    with pytest.raises(OperatorError, match=f"2 of 3 parts are there; missing: .*{third.name}"):
        serve(second)
    third.write_bytes(content)
    first.unlink()
    with pytest.raises(OperatorError, match=f"is part 3 of 3; the first, {first.name}, is missing"):
        serve(third)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    first, second, third = parts_of(tmp_path)
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(OperatorError, match="split.no and split.count are 2 and 3, not 1 and 3"):
        serve(first)
    second.write_bytes(content)
    other = tmp_path / "other.gguf"
    other.write_bytes(third.read_bytes())
    with pytest.raises(OperatorError, match="it is part 3 of 3"):
        serve(other)


def test_a_first_part_with_every_tensor_needs_no_other(tmp_path):
    path = tmp_path / "m-00001-of-00002.gguf"
    keys = {"split.count": 2, "split.no": 0, "split.tensors.count": 21}
    model = write_gguf(path, keys=keys)
    assert_as_transformers(serve(path), model)
    write_gguf(path, keys=keys | {"split.tensors.count": 22})
    with pytest.raises(OperatorError, match=r"missing: .*m-00002-of-00002\.gguf"):
        serve(path)


# --- tokens


def stops(path: Path) -> set[str]:
    return {TOKENS[index] for index in read_card(serve(path)).eos_token_ids}


def test_a_token_that_ends_a_turn_by_its_text_ends_an_answer(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    assert stops(path) == {"</s>", "<|im_end|>"}
    write_gguf(path, keys={"tokenizer.ggml.token_type": [1] * len(TOKENS)})
    assert stops(path) == {"</s>", "<|im_end|>"}, "eos by name; no word is written as the other"
    tokenizer = Tokenizer(serve(path))
    assert tokenizer.encode("a<|im_end|>", False)[-1] == IM_END
    assert tokenizer.is_special(IM_END)
    keys = {"tokenizer.ggml.eos_token_id": IM_END, "tokenizer.ggml.token_type": [1] * len(TOKENS)}
    write_gguf(path, keys=keys)
    assert stops(path) == {"<|im_end|>"}, "an ordinary </s> may be HTML"


@pytest.mark.parametrize("role", ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_a_token_that_ends_an_answer_by_its_role_does(tmp_path, role):
    path = tmp_path / "m.gguf"
    write_gguf(path, keys={f"tokenizer.ggml.{role}_token_id": TOKENS.index("A")})
    assert stops(path) == {"A", "</s>", "<|im_end|>"}
    write_gguf(path, keys={"tokenizer.ggml.eos_token_ids": [TOKENS.index("B"), EOS]})
    assert stops(path) == {"B", "</s>", "<|im_end|>"}


def test_eos_is_added_where_the_file_says_so(tmp_path):
    path = tmp_path / "m.gguf"
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    write_gguf(path, keys=both)
    tokens = [TOKENS[index] for index in Tokenizer(serve(path)).encode("and")]
    assert tokens == ["<s>", "and", "</s>"]


def test_chat_templates_by_name_are_kept(tmp_path):
    path = tmp_path / "m.gguf"
    keys = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    write_gguf(path, keys=keys | {"tokenizer.chat_templates": ["default", "tool_use"]})
    config = json.loads((serve(path) / "tokenizer_config.json").read_text())
    assert config["chat_template"] == [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]
    assert Tokenizer(serve(path)).render_chat([{"role": "user", "content": "x"}]) == "plain"
