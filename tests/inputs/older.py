"""Folders as transformers 4 saves them: `rope_theta` and `rope_scaling` at the top of config.json,
`torch_dtype`, slow tokenizers' files, templates in tokenizer_config.json. Made with transformers 4
in front on PYTHONPATH, which gives the reference too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from making import CHATML, byte_level, made, save, sentencepiece_model, tiny

TF = "transformers"
ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "older-llama3-rope": (
        "llama",
        {
            "rope_theta": 50000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "older-yarn": (
        "qwen2",
        {
            "rope_theta": 20000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "older-linear-type-key": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "older-qwen3": ("qwen3", {"rope_theta": 1e6, "tie_word_embeddings": True}),
    "older-mistral": ("mistral", {"sliding_window": 8, "rope_theta": 5000.0}),
}
for name, (family, fields) in ROPES.items():

    def plain(out: Path, family: str = family, fields: dict[str, Any] = fields) -> None:
        tokenizer = byte_level("qwen")
        save(out, tiny(family, len(tokenizer), **fields), tokenizer)

    made(name, TF)(plain)


@made("older-slow-llama-tokenizer", TF, "sentencepiece")
def _(out: Path) -> None:
    """LlamaTokenizer (slow) with added tokens: tokenizer.model and added_tokens_decoder alone."""
    from transformers import LlamaTokenizer

    vocab = sentencepiece_model(out.with_name(out.name + "-sp"))
    tokenizer = LlamaTokenizer(str(vocab), legacy=False, chat_template=CHATML)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    save(out, tiny("llama", len(tokenizer), bos_token_id=1, pad_token_id=None), tokenizer)


@made("older-named-templates", TF)
def _(out: Path) -> None:
    """`chat_template` as a list of named templates in tokenizer_config.json."""
    tokenizer = byte_level()
    tokenizer.save_pretrained(out)
    tiny("llama", len(tokenizer)).save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    (out / "chat_template.jinja").unlink(missing_ok=True)
    config["chat_template"] = [
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": "TOOLS {{ messages[-1].content }}"},
    ]
    path.write_text(json.dumps(config))


@made("older-unsafe-shards", TF, refused=r"pytorch_model|pickle")
def _(out: Path) -> None:
    """`safe_serialization=False`: pytorch_model-0000N.bin with an index."""
    tokenizer = byte_level()
    save(
        out,
        tiny("llama", len(tokenizer)),
        tokenizer,
        safe_serialization=False,
        max_shard_size="150KB",
    )
