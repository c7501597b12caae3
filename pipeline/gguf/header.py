"""Writes a GGUF's metadata as the files of a Hugging Face directory, so that all other code reads
one kind of model directory.

Makes config.json and generation_config.json; gguf/tokenizer.py makes tokenizer and chat template.
The weights stay in the GGUF, for the loader to read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import OperatorError
from ..model_files.findings import Finding
from .file import GgufFile, first_part, open_gguf
from .keys import key_findings
from .rope import rope_scaling
from .tensors import (
    MLP,
    biased_modules,
    check_complete,
    check_gguf_tensors,
    tensor_findings,
)
from .tokenizer import GgufVocabulary, make_tokenizer, make_tokenizer_config

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`general.architecture` to `model_type`. Mistral's and SmolLM's files say llama."""
OTHER_FILES = {
    "adapter": ("a LoRA adapter", "give it as --adapter NAME=FILE, and its base as --model"),
    "mmproj": ("a projector of images or sound", "give the file of the language model"),
    "clip": ("a projector of images or sound", "give the file of the language model"),
    "imatrix": ("a matrix for quantising", "give the file of the model"),
    "controlvector": ("a control vector", "give the file of the model"),
}
"""Files that are not models, by `general.type` or `general.architecture`: (what it is, hint)."""
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""Names in `general.sampling`, to those in generation_config.json."""


def read_header(path: Path) -> GgufFile:
    """Reads and checks the file and its parts: 0.2 s for 49 000 tokens.

    Raises `OperatorError` if it is not a GGUF or not a model, if parts are missing, and for keys or
    tensors that would change the answer and are not computed.
    """
    file = open_gguf(first_part(path))
    _check_kind(file)
    bad = [finding for finding in key_findings(file) if finding.verdict == "bad"]
    if bad:
        more = f"; and {len(bad) - 1} more: {', '.join(f.name for f in bad[1:])}" if bad[1:] else ""
        raise file.refusal(f"{bad[0].text}{more}", bad[0].hint)
    check_gguf_tensors(file)
    check_complete(file)
    return file


def write_files(file: GgufFile, directory: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json and tokenizer_config.json.

    Raises `OperatorError` naming an unsupported key or tokenizer.
    """
    for name, content in (
        ("config.json", make_config(file)),
        ("generation_config.json", make_generation_config(file)),
        ("tokenizer_config.json", make_tokenizer_config(file)),
    ):
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    text = make_tokenizer(file).to_str(pretty=False)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


def gguf_findings(path: Path) -> list[Finding]:
    """All findings on a GGUF before a start: each key, each kind of tensor, and whether config and
    tokenizer can be made from them. Never raises."""
    try:
        file = open_gguf(first_part(path))
    except OperatorError as error:
        return [_bad(path, error)]
    findings = [*key_findings(file), *tensor_findings(file)]
    checks: tuple[Callable[[GgufFile], object], ...] = (
        *(_check_kind, check_gguf_tensors, check_complete, make_config, make_generation_config),
        *(make_tokenizer_config, make_tokenizer),
    )
    for check in checks:
        try:
            check(file)
        except OperatorError as error:
            findings.append(_bad(path, error))
    return findings


def _bad(path: Path, error: OperatorError) -> Finding:
    return Finding(path.name, "bad", error.what, error.hint, path.name)


def _check_kind(file: GgufFile) -> None:
    """Raises `OperatorError` if the file is not a model, or of an unknown architecture."""
    architecture = file.require("general.architecture")
    for kind in (file.metadata.get("general.type", "model"), architecture):
        if str(kind) in OTHER_FILES:
            what, hint = OTHER_FILES[str(kind)]
            raise file.refusal(f"it is {what}, not a model", hint)
    if str(architecture) not in ARCHITECTURES:
        raise file.refusal(
            f"architecture {architecture!r} is not supported",
            f"supported are {', '.join(ARCHITECTURES)}",
        )


# --- config.json --------------------------------------------------------------------------------


def make_config(file: GgufFile) -> dict[str, Any]:
    """config.json with Hugging Face's keys. Raises `OperatorError` naming a key that is missing or
    not computed."""
    _check_kind(file)
    heads, hidden = file.count("attention.head_count"), file.count("embedding_length")
    head_dim = _head_dim(file, hidden // heads)
    biased, vocabulary = biased_modules(file), GgufVocabulary(file)
    config = {
        "model_type": ARCHITECTURES[file.architecture],
        "hidden_act": "silu",
        "vocab_size": _num_rows(file),
        "hidden_size": hidden,
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": file.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": file.number("rope.freq_base", 10000.0),
        "rope_scaling": rope_scaling(file, head_dim),
        "attention_bias": bool(biased - MLP),
        "mlp_bias": bool(biased & MLP),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": vocabulary.role_id("bos"),
        "eos_token_id": vocabulary.role_id("eos"),
        "pad_token_id": vocabulary.role_id("padding"),
    }
    return config | _window(file, bool(biased))


def _num_rows(file: GgufFile) -> int:
    """The vocabulary size, by the rows of the embedding."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.refusal("token_embd.weight is missing", "fetch the model again")
    return embedding.shape[0]


def _head_dim(file: GgufFile, default: int) -> int:
    """The size of a head. Raises `OperatorError` for other scales and for partial rotation."""
    key = file.number("attention.key_length", default)
    value = file.number("attention.value_length", key)
    rotated = file.number("rope.dimension_count", key)
    prefix = file.architecture
    if value != key:
        raise file.refusal(
            f"{prefix}.attention.value_length is {value} and key_length {key}: heads whose keys "
            "and values differ in size are not supported"
        )
    if rotated != key:
        raise file.refusal(
            f"{prefix}.rope.dimension_count is {rotated} of {key}: rotation of a part of a head is "
            "not computed"
        )
    scale = file.number("attention.scale", 0)
    if scale and not math.isclose(scale, key**-0.5, rel_tol=1e-4):
        raise file.refusal(
            f"{prefix}.attention.scale is {scale:g}: only 1 / sqrt({key}) is computed"
        )
    wide = file.number("embedding_length_out", 0)
    if wide not in (0, file.number("embedding_length")):
        raise file.refusal(
            f"{prefix}.embedding_length_out is {wide}, which differs from embedding_length"
        )
    return int(key)


def _window(file: GgufFile, biased: bool) -> dict[str, Any]:
    """Config keys of a sliding window shorter than the context. In llama files it is Mistral's;
    Qwen's applies to some layers only, and files do not say which, so it is refused."""
    window = file.number("attention.sliding_window", 0)
    if not 0 < window < file.number("context_length"):
        return {}
    if file.architecture != "llama" or biased:
        raise file.refusal(
            f"{file.architecture}.attention.sliding_window is {window}: a window of this kind of "
            "model is not computed"
        )
    return {"model_type": "mistral", "sliding_window": window}


def make_generation_config(file: GgufFile) -> dict[str, Any]:
    """generation_config.json: every token that ends an answer (end of text, turn or message), and
    the sampling that the file recommends."""
    vocabulary = GgufVocabulary(file)
    config: dict[str, Any] = {
        "bos_token_id": vocabulary.role_id("bos"),
        "eos_token_id": vocabulary.ends(),
    }
    for name, theirs in SAMPLING.items():
        value = file.metadata.get(f"general.sampling.{name}")
        if isinstance(value, int | float):
            config["do_sample"] = True
            config[theirs] = float(f"{value:.7g}") if isinstance(value, float) else value
    return config
