"""The tokenizer classes of transformers that set the rules for splitting and joining text.

`class_name` finds the class that AutoTokenizer takes; `BUILDERS` applies each one's rules. All
other classes use tokenizer.json as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers

GENERIC = "PreTrainedTokenizer"
"""The class that uses tokenizer.json as it is."""
OF_MODEL = {
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "mistral": GENERIC,
}
"""The class that transformers registers for a model's type."""
OVERRULED = ("qwen2",)
"""Model types whose repositories often name a wrong class; the registered one is used."""
QWEN_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's character for a space."""
CUTTING = ("Split", "Digits", "Punctuation", "UnicodeScripts", "BertPreTokenizer")
"""Pre-tokenizer stages with their own rule to split text, which the vocabulary was trained with."""


class Builder(Protocol):
    """Applies a class's rules to a tokenizer; `defaults` are its own special tokens."""

    @property
    def defaults(self) -> Mapping[str, str]: ...

    def __call__(self, tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None: ...


def class_name(
    config: Mapping[str, Any], model_config: Mapping[str, Any], is_byte_level: bool
) -> str:
    """The class that transformers 5's AutoTokenizer takes, without "Fast"; `GENERIC` for classes
    that use tokenizer.json as it is."""
    kind = str(model_config.get("model_type"))
    declared = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    registered = OF_MODEL.get(kind)
    if not isinstance(declared, str):
        return registered or GENERIC
    name = declared.removesuffix("Fast")
    if name == "LlamaTokenizer" and is_byte_level and kind not in OVERRULED:
        return GENERIC  # Llama 3, which kept Llama 2's class name
    if registered in (GENERIC, name):
        return registered
    if registered is not None and kind in OVERRULED:
        return registered
    return name


def keeps_its_own_cut(tokenizer: tokenizers.Tokenizer, name: str) -> bool:
    """Whether tokenizer.json splits text by a rule that the class would drop.

    transformers 5 drops it silently: SmolLM2 splits digits, GPT2Tokenizer joins them.
    """
    present = _cuts(tokenizer)
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    BUILDERS[name](other, {})
    return bool(present) and present != _cuts(other)


def _cuts(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """The pre-tokenizer's stages of `CUTTING`, as JSON."""
    if tokenizer.pre_tokenizer is None:
        return []
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    stages = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return [json.dumps(stage, sort_keys=True) for stage in stages if stage["type"] in CUTTING]


class LlamaTokenizer:
    """Llama 2's SentencePiece: a space before the text (`add_prefix_space`), with `legacy` also
    before the text after each special token."""

    defaults: Mapping[str, str] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}

    def __call__(self, tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        prefix = config.get("add_prefix_space")
        prefix = True if prefix is None else bool(prefix)
        scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
        model = tokenizer.model
        model.fuse_unk, model.byte_fallback, model.unk_token = True, True, None
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
        stages: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if prefix:
            stages.append(decoders.Strip(" ", 1, 0))
        tokenizer.decoder = decoders.Sequence(stages)


class CodeLlamaTokenizer:
    """Code Llama's SentencePiece: no space after special tokens, and an unknown token."""

    defaults: Mapping[str, str] = {
        **LlamaTokenizer.defaults,
        "prefix_token": f"{SPACE}<PRE>",
        "middle_token": f"{SPACE}<MID>",
        "suffix_token": f"{SPACE}<SUF>",
        "eot_token": f"{SPACE}<EOT>",
        "fill_token": "<FILL_ME>",
    }

    def __call__(self, tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        LlamaTokenizer()(tokenizer, {**config, "legacy": False})
        unknown = config.get("unk_token", "<unk>")
        tokenizer.model.unk_token = unknown["content"] if isinstance(unknown, dict) else unknown
        stages = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*stages, decoders.Strip(" ", 1, 0)])


class Qwen2Tokenizer:
    """Qwen's byte-level vocabulary: single digits, composed characters (NFC)."""

    defaults: Mapping[str, str] = dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>"
    )

    def __call__(self, tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        model = tokenizer.model
        model.unk_token, model.fuse_unk, model.byte_fallback = None, False, False
        model.ignore_merges = False
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(tokenizers.Regex(QWEN_CUT), "isolated")
        prefix = bool(config.get("add_prefix_space"))
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
        tokenizer.decoder = decoders.ByteLevel()


class GPT2Tokenizer:
    """GPT-2's byte-level vocabulary."""

    defaults: Mapping[str, str] = dict.fromkeys(
        ("bos_token", "eos_token", "unk_token"), "<|endoftext|>"
    )

    def __call__(self, tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        model = tokenizer.model
        model.unk_token, model.fuse_unk, model.byte_fallback = None, False, False
        model.ignore_merges = False
        prefix = bool(config.get("add_prefix_space"))
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        tokenizer.decoder = decoders.ByteLevel()


BUILDERS: Mapping[str, Builder] = {
    "LlamaTokenizer": LlamaTokenizer(),
    "CodeLlamaTokenizer": CodeLlamaTokenizer(),
    "Qwen2Tokenizer": Qwen2Tokenizer(),
    "GPT2Tokenizer": GPT2Tokenizer(),
}
