"""`ModelCard`: what a model's config.json says, read once, with one name for each thing.

Every process may read it (it holds no tensor). `RUN/model` is the model's directory, laid by
`fetch`: config.json, tokenizer.json, tokenizer_config.json and *.safetensors or model.gguf.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from .config import OperatorError
from .stop_tokens import stop_token_ids

Family = Literal["llama", "mistral", "qwen2", "qwen3"]
FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""`model_type` in config.json to family. SmolLM2 calls itself llama."""


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How rotary frequencies are stretched; fields as in Hugging Face's `rope_scaling`."""

    rope_type: Literal["default", "linear", "dynamic", "llama3", "yarn"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The shapes and constants of a decoder, and its limits."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling = RopeScaling()
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """q, k and v carry a bias (Qwen2, and Llama variants that say so)."""
    output_bias: bool = False
    """The attention's output projection carries a bias (Llama variants that say so)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """An RMSNorm over each head of q and k (Qwen3)."""
    sliding_window: int = 0
    """0: full attention. Otherwise a token sees itself and the `sliding_window - 1` before."""
    windowed_layers: tuple[bool, ...] = ()
    """Which layers use the window; empty means all or none, by `sliding_window`."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def read_card(directory: str | Path) -> ModelCard:
    """Reads config.json (and generation_config.json's stop tokens).

    Raises `OperatorError` naming the file and field where the model is not one of ours.
    """
    path = Path(directory) / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}", "a model directory holds a config.json"
        ) from error
    except ValueError as error:
        raise OperatorError(f"{path} is not JSON: {error}") from error
    kind = raw.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise OperatorError(
            f"{path}: model_type {kind!r} is not supported",
            f"supported are {', '.join(sorted(FAMILIES))}",
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise OperatorError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported")
    try:
        return _card(family, raw, stop_token_ids(path.parent, raw))
    except KeyError as error:
        raise OperatorError(f"{path}: {error.args[0]!r} is missing") from error
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise OperatorError(f"{path}: {error}") from error


def _card(family: Family, raw: dict[str, Any], eos_token_ids: tuple[int, ...]) -> ModelCard:
    heads = int(raw["num_attention_heads"])
    layers = int(raw["num_hidden_layers"])
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling stood apart.
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope_theta = float(rope.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    rope.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    window, windowed = _window(family, raw, layers)
    return ModelCard(
        family=family,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
        max_model_len=int(raw["max_position_embeddings"]),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        rope_theta=rope_theta,
        rope_scaling=msgspec.convert(rope, RopeScaling),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2" or bool(raw.get("attention_bias", False)),
        output_bias=family != "qwen2" and bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        sliding_window=window,
        windowed_layers=windowed,
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=eos_token_ids,
    )


def _window(family: Family, raw: dict[str, Any], layers: int) -> tuple[int, tuple[bool, ...]]:
    """The sliding window in tokens (0: none) and the layers it applies to."""
    window = int(raw.get("sliding_window") or 0)
    if family in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        window = 0
    if not window or family == "llama":
        return 0, ()
    if kinds := raw.get("layer_types"):
        return window, tuple(kind == "sliding_attention" for kind in kinds)
    if family in ("qwen2", "qwen3"):
        first = int(raw.get("max_window_layers", layers))
        return window, tuple(layer >= first for layer in range(layers))
    return window, ()
