"""`GgufHeader`: what a GGUF file says of its model, written as the files of a Hugging Face
directory, so that everything else reads one kind of model directory.

Knows config, tokenizer and chat template; the weights stay in the GGUF, for the loader to read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import msgspec
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from .config import OperatorError

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`general.architecture` to `model_type`. Mistral's and SmolLM's files say llama."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The values of `tokenizer.ggml.token_type`."""

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

PreTokenizer = Literal["digits", "gpt2", "llama3", "qwen2"]
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "smollm": "digits",
    "gpt-2": "gpt2",
    "default": "gpt2",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}
"""`tokenizer.ggml.pre` to how text is cut before byte-pair encoding."""

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a space."""


class GgufHeader(msgspec.Struct, frozen=True):
    """The metadata of one file, by key, the names of its tensors, and Llama 3's rope factors."""

    path: Path
    metadata: dict[str, Any]
    tensors: frozenset[str]
    rope_factors: tuple[float, ...] = ()
    """By which each rotary frequency is divided, [head_dim / 2]; empty where the file has none."""

    def require(self, key: str) -> Any:
        """The value of `key`. Raises `OperatorError` naming it where it is missing."""
        if key not in self.metadata:
            raise OperatorError(f"{self.path} has no {key}", "the file is incomplete")
        return self.metadata[key]

    def of_model(self, name: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.name`, or the default."""
        return self.metadata.get(f"{self.require('general.architecture')}.{name}", default)

    def token(self, role: str) -> str | None:
        """The text of the token in a role: bos, eos, unknown, padding."""
        token_id = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return None if token_id is None else self.require("tokenizer.ggml.tokens")[token_id]

    @property
    def adds_bos(self) -> bool:
        """Whether texts begin with BOS; files that do not say follow llama.cpp's habit."""
        habit = (
            self.metadata.get("tokenizer.ggml.model") == "llama"
            or PRE_TOKENIZERS.get(self.metadata.get("tokenizer.ggml.pre", "")) == "llama3"
        )
        return bool(self.metadata.get("tokenizer.ggml.add_bos_token", habit))


def read_header(path: Path) -> GgufHeader:
    """Reads all metadata; takes seconds, since the reader makes an array of every token.

    Raises `OperatorError` for a file that is no GGUF, is cut off, or is one part of several.
    """
    from gguf import GGUFReader  # costs 0.2 s, and a model already converted never needs it

    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, OverflowError) as error:
        raise OperatorError(f"{path} is not a whole GGUF file: {error}", "fetch it anew") from error
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    if metadata.get("split.count", 1) > 1:
        raise OperatorError(
            f"{path} is one part of {metadata['split.count']}", "merge them: llama-gguf-split"
        )
    factors = next((t.data.tolist() for t in reader.tensors if t.name == "rope_freqs.weight"), ())
    return GgufHeader(path, metadata, frozenset(t.name for t in reader.tensors), tuple(factors))


def write_files(header: GgufHeader, directory: Path) -> None:
    """Writes config.json, generation_config.json, tokenizer.json and tokenizer_config.json.

    Raises `OperatorError` naming the architecture or tokenizer that is not supported.
    """
    for name, content in (
        ("config.json", make_config(header)),
        ("generation_config.json", make_generation_config(header)),
        ("tokenizer_config.json", make_tokenizer_config(header)),
    ):
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    text = make_tokenizer(header).to_str(pretty=False)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


# --- config.json --------------------------------------------------------------------------------


def make_config(header: GgufHeader) -> dict[str, Any]:
    """config.json in Hugging Face's words."""
    architecture = header.require("general.architecture")
    if architecture not in ARCHITECTURES:
        raise OperatorError(
            f"{header.path}: architecture {architecture!r} is not supported",
            f"supported are {', '.join(ARCHITECTURES)}",
        )
    if header.of_model("expert_count", 0):
        raise OperatorError(f"{header.path}: mixtures of experts are not supported")

    def number(name: str) -> Any:
        value = header.require(f"{architecture}.{name}")
        if not isinstance(value, int | float):
            raise OperatorError(f"{header.path}: {name} differs by layer, which is not supported")
        return value

    heads, hidden = number("attention.head_count"), number("embedding_length")
    head_dim = header.of_model(
        "attention.key_length", header.of_model("rope.dimension_count", hidden // heads)
    )
    return {
        "model_type": ARCHITECTURES[architecture],
        "hidden_act": "silu",
        "vocab_size": len(header.require("tokenizer.ggml.tokens")),
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.of_model("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": header.of_model("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(header, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": header.metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _rope_scaling(header: GgufHeader, head_dim: int) -> dict[str, Any] | None:
    """Hugging Face's `rope_scaling`, from the keys or, for Llama 3, from its factors."""
    if header.rope_factors:
        return _llama3_scaling(header, head_dim)
    kind = header.of_model("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise OperatorError(f"{header.path}: rope scaling {kind!r} is not supported")
    scaling = {
        "rope_type": kind,
        "factor": header.of_model("rope.scaling.factor", 1.0),
        "original_max_position_embeddings": header.of_model(
            "rope.scaling.original_context_length", header.of_model("context_length")
        ),
        "beta_fast": header.of_model("rope.scaling.yarn_beta_fast"),
        "beta_slow": header.of_model("rope.scaling.yarn_beta_slow"),
    }
    return {name: value for name, value in scaling.items() if value is not None}


def _llama3_scaling(header: GgufHeader, head_dim: int) -> dict[str, Any]:
    """The scaling that gives the file's factors; it holds these alone, not how they came about.

    All Llama 3 models share the constants below, and their factor is the largest one. Computed
    back and compared, so that a model with other constants is refused, not run wrongly.
    """
    factor, low, high, context = max(header.rope_factors), 1.0, 4.0, 8192
    theta = header.of_model("rope.freq_base", 10000.0)
    expected = []
    for index in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * index / head_dim)
        smooth = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        expected.append(1 / ((1 - smooth) / factor + smooth))
    if len(expected) != len(header.rope_factors) or any(
        abs(a / b - 1) > 1e-3 for a, b in zip(expected, header.rope_factors, strict=True)
    ):
        raise OperatorError(f"{header.path}: its rope factors are not Llama 3's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def make_generation_config(header: GgufHeader) -> dict[str, Any]:
    """generation_config.json: every token that ends an answer (of text, turn or message)."""
    ids = [header.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    return {
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(dict.fromkeys(token_id for token_id in ids if token_id is not None)),
    }


# --- the tokenizer ------------------------------------------------------------------------------


def make_tokenizer_config(header: GgufHeader) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by name, and the chat template."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": header.token("bos"),
        "eos_token": header.token("eos"),
        "unk_token": header.token("unknown"),
        "pad_token": header.token("padding"),
        "chat_template": header.metadata.get("tokenizer.chat_template"),
    }
    return {name: value for name, value in config.items() if value is not None}


def make_tokenizer(header: GgufHeader) -> Tokenizer:
    """The tokenizer that the metadata describe."""
    kind = header.require("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(header)
    elif kind == "llama":
        tokenizer = _sentence_piece(header)
    else:
        raise OperatorError(
            f"{header.path}: tokenizer {kind!r} is not supported", "supported are gpt2 and llama"
        )
    tokens = header.require("tokenizer.ggml.tokens")
    types = header.metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    special = (CONTROL,) if kind == "gpt2" else (CONTROL, UNKNOWN)
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=role in special)
            for token, role in zip(tokens, types, strict=True)
            if role in special or role == USER_DEFINED
        ]
    )
    bos = header.token("bos")
    if header.adds_bos and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, header.metadata["tokenizer.ggml.bos_token_id"])],
        )
    return tokenizer


def _byte_level(header: GgufHeader) -> Tokenizer:
    """Byte-level BPE, with the cut that `tokenizer.ggml.pre` names.

    SmolLM's cut isolates every digit first, as in the model's own tokenizer.json and in llama.cpp
    (transformers leaves that out when it reads a GGUF: two spaces before a digit then differ).
    """
    name = header.metadata.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise OperatorError(
            f"{header.path}: pre-tokenizer {name!r} is not supported",
            f"supported are {', '.join(PRE_TOKENIZERS)}",
        )
    cut = PRE_TOKENIZERS[name]
    vocab = {token: index for index, token in enumerate(header.require("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in header.require("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=cut == "llama3"))
    by_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if cut == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, by_words])
    elif cut == "gpt2":
        tokenizer.pre_tokenizer = by_words
    else:
        pattern = Regex(LLAMA3_SPLIT if cut == "llama3" else QWEN2_SPLIT)
        split = pre_tokenizers.Split(pattern, behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(header: GgufHeader) -> Tokenizer:
    """SentencePiece's BPE: the pair that makes the best-scored token is merged first, and what
    is not in the vocabulary falls back to bytes."""
    tokens = header.require("tokenizer.ggml.tokens")
    scores = header.require("tokenizer.ggml.scores")
    types = header.metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    words = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    merges = [
        (score, token[:cut], token[cut:])
        for token, score in words.items()
        for cut in range(1, len(token))
        if token[:cut] in words and token[cut:] in words
    ]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1])))
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            [(left, right) for _, left, right in merges],
            unk_token=header.token("unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(header.metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), *spaces] if prefix else spaces
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer
