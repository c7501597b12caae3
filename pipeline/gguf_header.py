"""What a GGUF says of its model, written as the files of a Hugging Face directory, so that
everything else reads one kind of model directory.

Knows config.json and generation_config.json; tokenizer and chat template are gguf_tokenizer.py's,
and the weights stay in the GGUF, for the loader to read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .config import OperatorError
from .findings import Finding
from .gguf_file import GgufFile, first_part, open_gguf
from .gguf_keys import key_findings
from .gguf_tensors import (
    MLP,
    ROPE_FACTORS,
    biased_modules,
    check_complete,
    check_tensors,
    tensor_findings,
)
from .gguf_tokenizer import Vocabulary, make_tokenizer, make_tokenizer_config

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`general.architecture` to `model_type`. Mistral's and SmolLM's files say llama."""
OTHER_FILES = {
    "adapter": ("a LoRA adapter", "give it as --adapter NAME=FILE, and its base as --model"),
    "mmproj": ("a projector of images or sound", "give the file of the language model"),
    "clip": ("a projector of images or sound", "give the file of the language model"),
    "imatrix": ("a matrix for quantising", "give the file of the model"),
    "controlvector": ("a control vector", "give the file of the model"),
}
"""What a file is by `general.type` or `general.architecture`, where it is no model."""
LLAMA3_CONTEXT = 8192
"""Tokens that Llama 3 was first trained for: the length in which its rotary factors turn."""
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""`general.sampling` to generation_config.json."""


def read_header(path: Path) -> GgufFile:
    """The file and its parts, checked: 0.2 s for 49 000 tokens.

    Raises `OperatorError` for what is no GGUF or no model, for parts that are missing, and for
    each key or tensor that would change the answer and is not computed.
    """
    file = open_gguf(first_part(path))
    _check_kind(file)
    bad = [finding for finding in key_findings(file) if finding.verdict == "bad"]
    if bad:
        more = f"; and {len(bad) - 1} more: {', '.join(f.name for f in bad[1:])}" if bad[1:] else ""
        raise file.refusal(f"{bad[0].text}{more}", bad[0].hint)
    check_tensors(file)
    check_complete(file)
    return file


def write_files(file: GgufFile, directory: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json and tokenizer_config.json.

    Raises `OperatorError` naming the key or the tokenizer that is not supported.
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
    """All that is known of a GGUF before a start: each key, each kind of tensor, and whether
    config and tokenizer can be made of them. Raises nothing."""
    try:
        file = open_gguf(first_part(path))
    except OperatorError as error:
        return [_bad(path, error)]
    findings = [*key_findings(file), *tensor_findings(file)]
    checks: tuple[Callable[[GgufFile], object], ...] = (
        *(_check_kind, check_tensors, check_complete, make_config, make_generation_config),
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
    """Raises `OperatorError` for a file that is no model, or of an unknown architecture."""
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
    """config.json in Hugging Face's words. Raises `OperatorError` naming the key that is missing
    or not computed."""
    _check_kind(file)
    heads, hidden = _count(file, "attention.head_count"), _count(file, "embedding_length")
    head_dim = _head_dim(file, hidden // heads)
    biased, vocabulary = biased_modules(file), Vocabulary(file)
    config = {
        "model_type": ARCHITECTURES[file.architecture],
        "hidden_act": "silu",
        "vocab_size": _num_rows(file),
        "hidden_size": hidden,
        "intermediate_size": _count(file, "feed_forward_length"),
        "num_hidden_layers": _count(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(file, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": _count(file, "context_length"),
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _number(file, "rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, head_dim),
        "attention_bias": bool(biased - MLP),
        "mlp_bias": bool(biased & MLP),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": vocabulary.role_id("bos"),
        "eos_token_id": vocabulary.role_id("eos"),
        "pad_token_id": vocabulary.role_id("padding"),
    }
    return config | _window(file, bool(biased))


def _number(file: GgufFile, name: str, default: Any = None) -> Any:
    """`ARCHITECTURE.name`, which may be an array of equal numbers, one a layer."""
    key = f"{file.architecture}.{name}"
    value = file.metadata.get(key, default) if default is not None else file.require(key)
    if isinstance(value, list) and value and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise file.refusal(f"{key} differs by layer or is no number, which is not supported")
    return value


def _count(file: GgufFile, name: str, default: int | None = None) -> int:
    """A whole number from 1 up."""
    value = _number(file, name, default)
    if not isinstance(value, int) or value < 1:
        raise file.refusal(f"{file.architecture}.{name} is {value}, not a number from 1 up")
    return value


def _num_rows(file: GgufFile) -> int:
    """Tokens that the model knows, by the rows of its embedding."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.refusal("token_embd.weight is missing", "fetch the model again")
    return embedding.shape[0]


def _head_dim(file: GgufFile, default: int) -> int:
    """The size of a head, which is rotated whole."""
    key = _number(file, "attention.key_length", default)
    value = _number(file, "attention.value_length", key)
    rotated = _number(file, "rope.dimension_count", key)
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
    scale = _number(file, "attention.scale", 0)
    if scale and not math.isclose(scale, key**-0.5, rel_tol=1e-4):
        raise file.refusal(
            f"{prefix}.attention.scale is {scale:g}: only 1 / sqrt({key}) is computed"
        )
    wide = _number(file, "embedding_length_out", 0)
    if wide not in (0, _number(file, "embedding_length")):
        raise file.refusal(
            f"{prefix}.embedding_length_out is {wide}, which differs from embedding_length"
        )
    return int(key)


def _window(file: GgufFile, biased: bool) -> dict[str, Any]:
    """A sliding window that some sequence fills. Of llama files it is Mistral's; Qwen's window is
    for some layers, and files do not say which."""
    window = _number(file, "attention.sliding_window", 0)
    if not 0 < window < _number(file, "context_length"):
        return {}
    if file.architecture != "llama" or biased:
        raise file.refusal(
            f"{file.architecture}.attention.sliding_window is {window}: a window of this kind of "
            "model is not computed"
        )
    return {"model_type": "mistral", "sliding_window": window}


def _rope_scaling(file: GgufFile, head_dim: int) -> dict[str, Any] | None:
    """Hugging Face's `rope_scaling`, from the keys or, for Llama 3, from its factors.

    As in llama.cpp: without a type the factor is linear, and `scale_linear` is the factor's name
    of 2023.
    """
    kind = str(file.of_model("rope.scaling.type", "linear"))
    if kind not in ("none", "linear", "yarn"):
        raise file.refusal(f"rope scaling {kind!r} is not supported", "none, linear and yarn are")
    factor = _number(file, "rope.scaling.factor", 0) or _number(file, "rope.scale_linear", 0) or 1
    if kind == "none":
        factor = 1
    if ROPE_FACTORS in file.tensors:
        if factor != 1:
            raise file.refusal(
                f"it has {ROPE_FACTORS} and a rope factor of {factor:g}: one of both"
            )
        return _llama3_scaling(file, head_dim)
    if kind == "yarn":
        return _yarn(file, factor)
    for name, nothing in (("attn_factor", 1), ("yarn_attn_factor", 1)):
        _require_nothing(file, f"rope.scaling.{name}", (0, nothing), f"rope scaling {kind}")
    _require_nothing(file, "rope.scaling.yarn_ext_factor", (0, -1), f"rope scaling {kind}")
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _yarn(file: GgufFile, factor: float) -> dict[str, Any]:
    """Cosine and sine are multiplied by 1 + ln(factor) / 10 or by `yarn_attn_factor`, and that by
    `attn_factor`."""
    _require_nothing(file, "rope.scaling.yarn_ext_factor", (-1, 1), "yarn")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(
            _number(file, "rope.scaling.original_context_length", 0)
            or _number(file, "context_length")
        ),
    }
    for name in ("beta_fast", "beta_slow"):
        if value := _number(file, f"rope.scaling.yarn_{name}", 0):
            scaling[name] = value
    own = _number(file, "rope.scaling.yarn_attn_factor", 1) or 1
    times = _number(file, "rope.scaling.attn_factor", 1) or 1
    if own != 1 or times != 1:
        usual = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
        scaling["attention_factor"] = (own if own != 1 else usual) * times
    return scaling


def _require_nothing(file: GgufFile, name: str, nothing: Iterable[float], beside: str) -> None:
    """Raises `OperatorError` where a key says something that is not computed beside another."""
    nothing = tuple(nothing)
    value = _number(file, name, nothing[-1])
    if value not in nothing:
        raise file.refusal(f"{file.architecture}.{name} is {value:g}: not computed with {beside}")


def _llama3_scaling(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """The scaling that gives the file's factors; it holds these alone, not how they came about.

    Between the factors that are 1 and the largest one, 1 / factor grows with the frequency in a
    straight line, whose ends are the low and the high factor. Computed back and compared, so that
    factors of another kind are refused, not run wrongly.
    """
    factors = _rope_factors(file)
    if len(factors) != head_dim // 2 or not all(f > 0.999 for f in factors):  # rounded
        raise file.refusal(f"{ROPE_FACTORS} has no {head_dim // 2} factors from 1 up")
    theta, factor = _number(file, "rope.freq_base", 10000.0), max(factors)
    turns = [
        LLAMA3_CONTEXT / (2 * math.pi * theta ** (2 * index / head_dim))
        for index in range(head_dim // 2)
    ]
    for low, high in ((1.0, 4.0), _fit(turns, factors, factor)):
        if high <= low:
            continue
        smooth = [min(max((turn - low) / (high - low), 0.0), 1.0) for turn in turns]
        expected = [1 / ((1 - s) / factor + s) for s in smooth]
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(expected, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": LLAMA3_CONTEXT,
            }
    raise file.refusal(f"the rope factors in {ROPE_FACTORS} are not of Llama 3's kind")


def _fit(turns: list[float], factors: list[float], factor: float) -> tuple[float, float]:
    """(low, high): the turns at which the line through the factors between reaches 0 and 1. Where
    these are fewer than two, any line will do that leaves the others at the ends."""
    points = [
        (turn, (1 / f - 1 / factor) / (1 - 1 / factor))
        for turn, f in zip(turns, factors, strict=True)
        if 1.0001 < f < factor * 0.9999
    ]
    pairs = [*zip(turns, factors, strict=True)]
    low = max((turn for turn, f in pairs if f >= factor * 0.9999), default=turns[-1] / 2)
    high = min((turn for turn, f in pairs if f <= 1.0001), default=turns[0] * 2)
    if not points:
        return low, high
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(points) > 1:
        width = (x1 - x0) / (y1 - y0) if y1 != y0 else 0.0
    else:
        width = min((x0 - low) / y0, (high - x0) / (1 - y0))
    return x0 - y0 * width, x0 + (1 - y0) * width


def _rope_factors(file: GgufFile) -> list[float]:
    import numpy as np
    from gguf.constants import GGMLQuantizationType

    tensor = file.tensors[ROPE_FACTORS]
    if tensor.kind != GGMLQuantizationType.F32 or len(tensor.shape) != 1:
        raise file.refusal(f"{ROPE_FACTORS} is no row of F32")
    data = file.parts[tensor.part]
    return [float(f) for f in np.frombuffer(data, "<f4", tensor.shape[0], tensor.offset)]


def make_generation_config(file: GgufFile) -> dict[str, Any]:
    """generation_config.json: every token that ends an answer (of text, turn or message), and the
    sampling that the file recommends."""
    vocabulary = Vocabulary(file)
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
