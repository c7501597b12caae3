"""Models as transformers, tokenizers, sentencepiece, accelerate, peft and TRL save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from making import CHATML, CORPUS, Reference, byte_level, made, save, sentencepiece_model, tiny

TF = "transformers"


def plain(out: Path, family: str, kind: str = "gpt2", **fields: Any) -> None:
    # transformers gives every qwen2 folder Qwen2's pre-tokenizer, whatever tokenizer.json says.
    tokenizer = byte_level("qwen" if family == "qwen2" else kind)
    save(out, tiny(family, len(tokenizer), **fields), tokenizer)


@made("chat-base", TF)
def _(out: Path) -> None:
    plain(out, "llama", "smollm")


# -- positions


def rope(**fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **fields}}


LLAMA3_ROPE = rope(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "rope-linear": ("llama", rope(rope_type="linear", factor=2.5), None),
    "rope-llama3": ("llama", LLAMA3_ROPE, None),
    "rope-yarn-attention-factor": ("qwen2", rope(**YARN, attention_factor=1.7), None),
    "rope-yarn-betas": ("qwen3", rope(**YARN, beta_fast=8.0, beta_slow=2.0), None),
    "rope-yarn-not-truncated": ("llama", rope(**YARN, truncate=False, beta_fast=20.0), None),
    "rope-yarn-mscale-alone": ("mistral", rope(**YARN, mscale=0.7), None),
    "rope-dynamic": (
        "llama",
        {"max_position_embeddings": 128, **rope(rope_type="dynamic", factor=2.0)},
        None,
    ),
    "rope-longrope": (
        "llama",
        rope(
            rope_type="longrope",
            factor=4.0,
            original_max_position_embeddings=64,
            short_factor=[1.0 + i / 8 for i in range(8)],
            long_factor=[2.0 + i for i in range(8)],
        ),
        "longrope",
    ),
    "rope-partial": (
        "llama",
        rope(rope_type="default", partial_rotary_factor=0.5),
        None,
    ),
    "rope-theta-million": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        None,
    ),
}
for name, (family, fields, refused) in ROPES.items():
    made(name, TF, refused=refused)(
        lambda out, family=family, fields=fields: plain(out, family, **fields)
    )


# -- attention windows, biases, head sizes, ties

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mistral-sliding-window": ("mistral", "gpt2", {"sliding_window": 8}),
    "mistral-no-window": ("mistral", "gpt2", {"sliding_window": None, "head_dim": 32}),
    "qwen2-window-upper-layers": (
        "qwen2",
        "qwen",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "qwen2-window-unused": ("qwen2", "qwen", {"use_sliding_window": False, "sliding_window": 12}),
    "qwen3-layer-types": (
        "qwen3",
        "qwen",
        {
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3-attention-bias": (
        "qwen3",
        "qwen",
        {"attention_bias": True, "tie_word_embeddings": True},
    ),
    "llama-biases": ("llama", "llama3", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("llama", "llama3", {"head_dim": 24, "num_key_value_heads": 1}),
    "llama-tied": ("llama", "smollm", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-gelu": ("llama", "gpt2", {"hidden_act": "gelu"}),
    "llama-two-eos": ("llama", "llama3", {"eos_token_id": [2, 3]}),
}
for name, (family, kind, fields) in SHAPES.items():
    made(name, TF, refused="hidden_act|gelu" if name == "llama-gelu" else None)(
        lambda out, family=family, kind=kind, fields=fields: plain(out, family, kind, **fields)
    )


# -- files


@made("saved-bf16-shards", TF)
def _(out: Path) -> None:
    import torch

    tokenizer = byte_level("qwen")
    save(out, tiny("qwen3", len(tokenizer)).to(torch.bfloat16), tokenizer, max_shard_size="150KB")


@made("saved-fp16", TF)
def _(out: Path) -> None:
    import torch

    tokenizer = byte_level()
    save(out, tiny("llama", len(tokenizer)).to(torch.float16), tokenizer)


@made("mixed-dtypes", TF)
def _(out: Path) -> None:
    """Norms in float32, matrices in bfloat16, as mixed-precision trainers save."""
    import torch

    tokenizer = byte_level()
    model = tiny("llama", len(tokenizer))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.to(torch.bfloat16)
    save(out, model, tokenizer)


@made("saved-float64", TF)
def _(out: Path) -> None:
    tokenizer = byte_level()
    save(out, tiny("llama", len(tokenizer)).double(), tokenizer)


@made("compiled-model-dump", TF, "torch", refused="_orig_mod")
def _(out: Path) -> Reference:
    """`save_file(torch.compile(model).state_dict())`, as training loops write it."""
    import torch
    from safetensors.torch import save_file

    tokenizer = byte_level()
    model = tiny("llama", len(tokenizer))
    save(out.with_name(out.name + "-whole"), model, tokenizer)
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_file(torch.compile(model).state_dict(), out / "model.safetensors", {"format": "pt"})
    return Reference(model=out.with_name(out.name + "-whole"))


@made("torch-bin", TF, "torch", refused=r"pytorch_model\.bin|pickle")
def _(out: Path) -> None:
    """`torch.save(model.state_dict(), "pytorch_model.bin")` beside a config."""
    import torch

    tokenizer = byte_level()
    model = tiny("llama", len(tokenizer))
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    torch.save(model.state_dict(), out / "pytorch_model.bin")


@made("accelerate-save-model", TF, "accelerate")
def _(out: Path) -> None:
    from accelerate import Accelerator

    tokenizer = byte_level("qwen")
    model = tiny("qwen2", len(tokenizer), tie_word_embeddings=True)
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    Accelerator(cpu=True).save_model(model, str(out))


@made("base-model-tied", TF)
def _(out: Path) -> None:
    """The decoder saved without its head (`LlamaModel`): names without `model.`."""
    tokenizer = byte_level()
    save(out, tiny("llama", len(tokenizer), tie_word_embeddings=True).model, tokenizer)


@made("base-model-untied", TF, refused=r"lm_head|LlamaModel")
def _(out: Path) -> None:
    tokenizer = byte_level()
    save(out, tiny("llama", len(tokenizer)).model, tokenizer)


@made("classifier", TF, refused=r"ForSequenceClassification|lm_head|score")
def _(out: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = byte_level()
    config = tiny("llama", len(tokenizer)).config
    save(out, AutoModelForSequenceClassification.from_config(config), tokenizer)


@made("peft-merged", TF, "peft")
def _(out: Path) -> None:
    """`merge_and_unload().save_pretrained()`."""
    import torch
    from peft import LoraConfig, get_peft_model

    tokenizer = byte_level()
    model = get_peft_model(tiny("mistral", len(tokenizer)), LoraConfig(target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save(out, model.merge_and_unload(), tokenizer)


@made("trl-full-training", TF, "trl")
def _(out: Path) -> None:
    """Two steps of SFTTrainer over all weights, with a training template, saved by the trainer."""
    from sft import train

    plain(out.with_name(out.name + "-start"), "qwen3", "qwen")
    train(out.with_name(out.name + "-start"), out, None, assistant_only_loss=False)


# -- tokenizers


@made("added-tokens-resized", TF)
def _(out: Path) -> None:
    """New special and plain tokens, the embedding padded to a multiple of 64."""
    tokenizer = byte_level()
    model = tiny("llama", len(tokenizer))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>", "</tool>"]})
    tokenizer.add_tokens(["lighthouse", " SELECT"])
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    save(out, model, tokenizer)


@made("eos-renamed", TF)
def _(out: Path) -> None:
    """A tokenizer whose eos is another than the one of config.json and generation_config.json."""
    tokenizer = byte_level(eos_token="<|endoftext|>")
    save(out, tiny("llama", len(tokenizer)), tokenizer)


@made("named-templates", TF)
def _(out: Path) -> None:
    """chat_template.jinja and additional_chat_templates/, as transformers 5 lays them."""
    tokenizer = byte_level()
    tokenizer.chat_template = {"default": CHATML, "rag": "RAG {{ messages[0].content }}"}
    save(out, tiny("llama", len(tokenizer)), tokenizer)


@made("template-in-config", TF)
def _(out: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML.replace("<|im_start|>{{", "{{ bos_token }}<|im_start|>{{")
    model = tiny("llama", len(tokenizer))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)


@made("template-helpers", TF)
def _(out: Path) -> None:
    """Namespaces, loop controls, `raise_exception`, `tojson`, `generation`, trimmed blocks."""
    tokenizer = byte_level("qwen")
    tokenizer.chat_template = (
        "{%- set ns = namespace(seen=false) %}\n{%- for m in messages %}\n"
        "    {%- if m.role == 'tool' %}{% continue %}{% endif %}\n"
        "    {%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\n"
        "    {%- elif m.role not in ['system', 'user'] %}{{ raise_exception('role ' + m.role) }}\n"
        "    {%- else %}{%- set ns.seen = true %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{{- {'text': m.content | trim} | tojson }}{{ '<|im_end|>\\n' }}\n    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt and ns.seen %}{{ '<|im_start|>assistant\\n' }}"
        "{%- endif %}"
    )
    save(out, tiny("qwen2", len(tokenizer)), tokenizer)


@made("sentencepiece-bpe", TF, "sentencepiece")
def _(out: Path) -> None:
    """Llama 2's kind: LlamaTokenizer from tokenizer.model, saved as tokenizer.json."""
    from transformers import AutoTokenizer

    sentencepiece_model(out)
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    tokenizer = AutoTokenizer.from_pretrained(out)
    save(out, tiny("llama", len(tokenizer), bos_token_id=1, pad_token_id=None), tokenizer)
    (out / "tokenizer.model").unlink(missing_ok=True)


@made("sentencepiece-model-alone", TF, "sentencepiece")
def _(out: Path) -> Reference:
    """tokenizer.model without tokenizer.json, as older Llama and Mistral folders have it."""
    sentencepiece_model(out)
    names = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (out / "tokenizer_config.json").write_text(json.dumps(names | tokens))
    tiny("mistral", 420, bos_token_id=1, pad_token_id=None).save_pretrained(out)
    return Reference(tokenizer_class="LlamaTokenizer")


@made("sentencepiece-unigram-model-alone", TF, "sentencepiece", refused="Unigram")
def _(out: Path) -> None:
    sentencepiece_model(out, "unigram")
    names = {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    (out / "tokenizer_config.json").write_text(json.dumps(names))
    tiny("llama", 420, bos_token_id=1, pad_token_id=None).save_pretrained(out)


@made("unigram", TF, "tokenizers")
def _(out: Path) -> None:
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import PreTrainedTokenizerFast

    unigram = SentencePieceUnigramTokenizer()
    unigram.train_from_iterator(
        CORPUS, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram._tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    save(out, tiny("llama", len(tokenizer)), tokenizer)


@made("wordpiece", TF, "tokenizers")
def _(out: Path) -> None:
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(CORPUS, vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[SEP]"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, eos_token="[SEP]", unk_token="[UNK]"
    )
    save(out, tiny("llama", len(tokenizer)), tokenizer)


@made("qwen2-tokenizer-class", TF)
def _(out: Path) -> None:
    """Qwen2Tokenizer from vocab.json and merges.txt, which stay beside tokenizer.json."""
    from transformers import Qwen2Tokenizer

    source = byte_level("qwen").backend_tokenizer
    state = json.loads(source.to_str())["model"]
    merges = [tuple(m) for m in state["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=state["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    model = tiny("qwen2", len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    save(out, model, tokenizer)


@made("vocab-and-merges-alone", TF, refused=r"tokenizer\.json|merges\.txt")
def _(out: Path) -> None:
    """vocab.json and merges.txt without tokenizer.json, as the slow Qwen2Tokenizer left them."""
    state = json.loads(byte_level("qwen").backend_tokenizer.to_str())["model"]
    out.mkdir()
    (out / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(m) for m in state["merges"])]
    (out / "merges.txt").write_text("\n".join(lines) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    tiny("qwen2", 424).save_pretrained(out)


# -- generation settings


@made("generation-config-eos-list", TF)
def _(out: Path) -> None:
    """Four stop tokens in generation_config.json, one in config.json."""
    from transformers import GenerationConfig

    plain(out, "llama")
    stops = [2, *range(200, 420)]
    GenerationConfig(bos_token_id=0, eos_token_id=stops, pad_token_id=3).save_pretrained(out)


@made("generation-config-penalty", TF)
def _(out: Path) -> None:
    """`do_sample` false, with a repetition penalty that `generate` applies all the same."""
    from transformers import GenerationConfig

    plain(out, "llama", tie_word_embeddings=True)
    GenerationConfig(eos_token_id=2, pad_token_id=3, repetition_penalty=1.8).save_pretrained(out)


# -- other families: each refused by the name of its model_type

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mixtral": {"num_local_experts": 2},
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 2},
} | {
    family: {}
    for family in (
        *("gemma3_text", "phi3", "olmo2", "granite", "smollm3", "cohere2", "gpt_neox"),
        *("stablelm", "glm4", "ministral", "exaone4", "starcoder2"),
    )
}
for family, fields in FAMILIES.items():
    made(f"family-{family}", TF, refused=rf"\b{family}\b")(
        lambda out, family=family, fields=fields: plain(out, family, **fields)
    )
