"""The families of models that are computed, what each one's config.json leaves out, and which keys
it refuses. Written beside the classes of transformers 5.24.

A family is a `model_type` and what its class computes by itself. What else depends on it:

* `model_config.py`: biases, norms of q and k, and the sliding window
* `gguf/header.py` (`ARCHITECTURES`) and `gguf/tensors.py`: its name and its tensors in GGUF files
* `text/tokenizer_class.py` (`OF_MODEL`): the class of its tokenizer
* `text/stop_tokens.py` (`CLASS_DEFAULTS`): its end token, where no file names one

`checkpoint_tensors.py` and `model/` go by the fields of `ModelConfig` and know no family.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Family = Literal["llama", "mistral", "qwen2", "qwen3"]
FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""`model_type` in config.json to family. SmolLM2 calls itself llama."""

_ALL: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": None,
}
_QWEN: dict[str, Any] = _ALL | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
DEFAULTS: dict[Family, dict[str, Any]] = {
    "llama": _ALL | {"bos_token_id": 1, "attention_bias": False, "mlp_bias": False},
    "mistral": _ALL
    | {
        "bos_token_id": 1,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128, "attention_bias": False},
}
"""Defaults for absent keys, from the family's class in transformers."""

NEUTRAL: tuple[Any, ...] = (None, False, [], {}, "")
"""Values with which most keys have no effect; 0 equals False."""


class RefusedKey(msgspec.Struct, frozen=True):
    """A key that would change the answer: why it is refused, and its values without effect."""

    why: str
    neutral: tuple[Any, ...] = NEUTRAL


FAMILY_REFUSED: dict[Family, dict[str, RefusedKey]] = {
    "llama": {},
    "mistral": {
        "attention_bias": RefusedKey("mistral has no biases"),
        "mlp_bias": RefusedKey("mistral has no biases"),
    },
    "qwen2": {"mlp_bias": RefusedKey("qwen2 has no biases in its MLP")},
    "qwen3": {"mlp_bias": RefusedKey("qwen3 has no biases in its MLP")},
}
"""Keys that other families read but this family's class ignores."""
