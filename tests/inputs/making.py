"""What every made input starts from: the list of inputs, small tokenizers and small random models.

Runs in the tools' environment (transformers, peft, …), not in the product's. An input is a function
that writes one model or adapter folder with a real tool; `made` puts it on the list.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "The old lighthouse keeper wrote in his book that night: the sea is calm, the lamp burns.",
    "SELECT name, age FROM users WHERE age > 30 ORDER BY name;",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n",
    "Hello, how are you today? I am fine, thank you very much.",
    "Le café est très bon, naïve façade; Straße, größer, schön. 1234567890",
    "It isn't what we'd expect; they're here, and I've seen {\"key\": [1, 2, 3]}.",
] * 30
PROMPTS = [
    "Hello, how are you today?",
    "  The keeper's book, 1984:\n\n\tdef add(a, b):\n        return a + b  # naïve café\n" * 2
    + "SELECT name FROM users WHERE age > 30; they're here, and I've seen it. " * 2,
]
MESSAGES = [
    {"role": "system", "content": "Answer in one line."},
    {"role": "user", "content": "What is the sea like today?"},
]


@dataclass(frozen=True)
class Reference:
    """Where transformers reads the same input from, when not from the folder itself."""

    model: Path | None = None
    tokenizer: Path | None = None
    gguf_file: str | None = None
    adapter: Path | None = None
    tokenizer_class: str = "AutoTokenizer"
    sentencepiece: Path | None = None
    """A tokenizer.model whose own ids are right: transformers' differ after leading spaces."""


@dataclass(frozen=True)
class Input:
    name: str
    make: Callable[..., Reference | None]
    packages: tuple[str, ...]
    refused: str | None
    """A pattern that a clear refusal contains; None if the input is expected to be served."""
    base: str | None = None
    """The input that an adapter is for."""
    file: str = ""
    """The file in the folder that is given to the product, where not the folder."""
    asked: dict[str, Any] = field(default_factory=dict)

    def versions(self) -> str:
        """`peft 0.21.2, trl 1.16.0`."""
        return ", ".join(f"{p} {importlib.metadata.version(p)}" for p in self.packages)


INPUTS: dict[str, Input] = {}


def made(name: str, *packages: str, **options: Any) -> Callable[[Any], Any]:
    """Puts the function it decorates on the list."""

    def keep(make: Callable[..., Reference | None]) -> Callable[..., Reference | None]:
        options.setdefault("refused", None)
        INPUTS[name] = Input(name, make, packages, **options)
        return make

    return keep


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def byte_level(kind: str = "gpt2", size: int = 420, **names: Any) -> Any:
    """A byte-level BPE tokenizer trained by `tokenizers`, in the manner of a family: `gpt2`,
    `smollm`, `llama3` or `qwen`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
    from tokenizers import pre_tokenizers as pre
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    split = Regex(LLAMA3 if kind == "llama3" else QWEN)
    levels = {
        "gpt2": lambda: pre.ByteLevel(add_prefix_space=False),
        "smollm": lambda: pre.Sequence(
            [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
        ),
    }
    tokenizer.pre_tokenizer = levels.get(
        kind,
        lambda: pre.Sequence(
            [
                pre.Split(split, behavior="isolated"),
                pre.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    )()
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre.ByteLevel.alphabet(), special_tokens=SPECIAL
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind == "llama3":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    names = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[3]} | names
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = CHATML
    return fast


def sentencepiece_model(out: Path, kind: str = "bpe", size: int = 420) -> Path:
    """`tokenizer.model` in `out`, trained by sentencepiece with byte fallback."""
    import sentencepiece

    out.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(out / "tokenizer"),
        model_type=kind,
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9995,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (out / "tokenizer.vocab").unlink()
    return out / "tokenizer.model"


def tiny(family: str, vocab: int, seed: int = 0, **fields: Any) -> Any:
    """A random model of three layers; norms and biases are random too, so that each matters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "head_dim": 16,
    } | fields
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.float().eval()


def save(out: Path, model: Any, tokenizer: Any, **options: Any) -> None:
    model.save_pretrained(out, **options)
    tokenizer.save_pretrained(out)
