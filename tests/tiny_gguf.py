"""For tests of GGUF files: tiny files, as llama.cpp's converter writes them from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from driver import Driver, save_model, start_runner
from safetensors.torch import load_file
from torch import Tensor

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.fetch.fetch import resolve
from loraconsole.pipeline.text.tokenizer import byte_of_character

SPECIAL = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "h e", "th e", "Ġ the", "1 2", "12 3", "Ġ Ġ", "a n", "an d")
TOKENS = (*byte_of_character(), *SPECIAL, *(merge.replace(" ", "") for merge in MERGES))
"""A token for each byte, ids 0 to 255 in the order of `byte_of_character`; then special tokens and
merges."""
BOS, EOS, IM_END = (TOKENS.index(token) for token in ("<s>", "</s>", "<|im_end|>"))
PROMPT = [17, 90, 3, 77, 54, 121, 8, 200, 31] * 7
SHAPES: dict[str, Any] = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def tensors_of(directory: Path, architecture: str) -> dict[str, np.ndarray]:
    """A checkpoint's tensors under llama.cpp's names, q and k permuted as in llama.cpp."""
    config = json.loads((directory / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        module, _, suffix = name.rpartition(".")
        layer, _, rest = module.removeprefix("model.layers.").partition(".")
        target = f"blk.{layer}.{NAMES[rest]}" if rest in NAMES else NAMES[module]
        last = rest.rpartition(".")[2]
        if architecture == "llama" and last in heads:
            tensor = _pairs(tensor, heads[last])
        found[f"{target}.{suffix}"] = tensor.numpy()
    return found


def _pairs(tensor: Tensor, heads: int) -> Tensor:
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def write_gguf(
    path: Path,
    architecture: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    tensors_a_part: int = 0,
    **shapes: Any,
) -> Any:
    """Writes a random model's GGUF, its matrices in the given type; returns the transformers model.

    `keys` adds or replaces metadata, or removes an entry if the value is None; `tensors` does the
    same for tensors. With `tensors_a_part` the file is split into parts of this many tensors.
    """
    directory = path.parent / f"{path.stem}-checkpoint"
    model = save_model(directory, architecture, **SHAPES | shapes)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_part)
    for name, value in (metadata_of(model.config, architecture) | dict(keys or {})).items():
        if value is not None:
            add(writer, name, value)
    content: dict[str, np.ndarray | None] = {**tensors_of(directory, architecture)}
    for name, data in (content | dict(tensors or {})).items():
        if data is None:
            continue
        if data.ndim == 2 and data.dtype == np.float32:
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def metadata_of(config: Any, architecture: str) -> dict[str, Any]:
    types = [3 if token in SPECIAL else 1 for token in TOKENS]
    of_model = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": 10000.0,
    }
    return {f"{architecture}.{name}": value for name, value in of_model.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*TOKENS],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [*MERGES],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }


def add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if name == "general.architecture":
        return
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    if isinstance(value, list):
        writer.add_array(name, value)
    elif name in ("split.no", "split.count"):
        writer.add_uint16(name, value)
    elif isinstance(value, int) and value < 0:
        writer.add_int32(name, value)
    else:
        kinds.get(type(value), writer.add_string)(name, value)


def serve(path: Path) -> Path:
    """The model directory of a GGUF."""
    return resolve(Config(model=str(path)))


def assert_as_transformers(directory: Path, model: Any) -> None:
    """Checks that the logits of a prompt's last token and three more are those of `model`."""
    driver = Driver(start_runner(directory)[0])
    driver.generate([number := driver.add(PROMPT)], 4)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT + driver.tokens[number][:-1]])).logits[0]
    found = torch.stack(driver.logits[number])
    torch.testing.assert_close(found, expected[len(PROMPT) - 1 :], rtol=1e-3, atol=1e-3)
