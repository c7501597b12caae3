"""Which metadata keys of a GGUF are read, which change nothing, and which are refused by name.

Follows llama.cpp's llama-arch.cpp. A key that would change the answer and is not computed here is
refused unless its value has no effect; an unknown key of the model or the tokenizer is refused.
docs/gguf.md lists all of them.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from ..model_files.findings import Finding, Verdict
from .file import GgufFile

NOTHING: tuple[Any, ...] = (0, -1, 0xFFFFFFFF, "", float("-inf"))
"""Values that llama.cpp writes for features a model does not have; 0 equals False."""
NO_SCALE: tuple[Any, ...] = (0, 1)
LONGEST_VALUE = 60
"""Characters of a value in a finding."""


class Key(NamedTuple):
    """How a key is treated. `why` completes a sentence that begins with the key's name."""

    use: Literal["read", "harmless", "refused"]
    why: str
    nothing: tuple[Any, ...] = NOTHING
    """For a refused key: the values without effect. An array has none if no item does."""


def _read(*names: str) -> dict[str, Key]:
    return dict.fromkeys(names, Key("read", "is read"))


def _harmless(why: str, *names: str) -> dict[str, Key]:
    return dict.fromkeys(names, Key("harmless", why))


def _refused(why: str, *names: str, nothing: tuple[Any, ...] = NOTHING) -> dict[str, Key]:
    return dict.fromkeys(names, Key("refused", why, nothing))


EXPERTS = "mixtures of experts are not supported"
OTHER = "belongs to other kinds of models"
WINDOWS = "layers that differ in window or rotation are not supported"

MODEL_KEYS: dict[str, Key] = {
    **_read(
        *("context_length", "embedding_length", "block_count", "feed_forward_length"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
        *("attention.value_length", "attention.layer_norm_rms_epsilon"),
        *("attention.sliding_window", "attention.scale", "embedding_length_out"),
        *("rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type"),
        *("rope.scaling.factor", "rope.scaling.attn_factor"),
        *("rope.scaling.original_context_length", "rope.scaling.yarn_ext_factor"),
        *("rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast"),
        "rope.scaling.yarn_beta_slow",
    ),
    **_harmless("the rows of token_embd.weight give it", "vocab_size"),
    **_harmless("its origin changes nothing", "rope.scaling.finetuned"),
    **_harmless("describes the converter's weight layout", "tensor_data_layout"),
    **_harmless("embeddings are not served", "pooling_type"),
    **_harmless(
        "these models have only RMS norms",
        *("attention.layer_norm_epsilon", "attention.group_norm_epsilon"),
        "attention.group_norm_groups",
    ),
    **_harmless(
        "applies to a window pattern, which is refused",
        *("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"),
        "rope.freq_base_swa",
    ),
    **_harmless(
        "has no effect without experts, which are refused",
        *("expert_weights_scale", "expert_weights_norm", "expert_gating_func"),
    ),
    **_refused(
        EXPERTS,
        *("expert_count", "expert_used_count", "expert_shared_count", "expert_group_count"),
        *("expert_group_used_count", "expert_feed_forward_length", "expert_latent_length"),
        *("expert_shared_feed_forward_length", "expert_chunk_feed_forward_length"),
        *("expert_group_scale", "experts_per_group", "moe_every_n_layers", "moe_latent_size"),
        *("leading_dense_block_count", "interleave_moe_layer_step", "router_logit_softcapping"),
    ),
    **_refused("attention to later tokens is not computed", "attention.causal", nothing=(1,)),
    **_refused(
        "scaled logits, embeddings or residuals are not computed",
        *("logit_scale", "residual_scale", "embedding_scale"),
        *("attention.output_scale", "attention.value_scale"),
        nothing=NO_SCALE,
    ),
    **_refused(
        "capped or clamped values are not computed",
        *("attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv"),
        *("swiglu_clamp_exp", "swiglu_clamp_shexp"),
    ),
    **_refused("biases by distance are not computed", "attention.max_alibi_bias"),
    **_refused("biases by distance are not computed", "attention.relative_buckets_count"),
    **_refused(
        "attention whose scale grows with the position is not computed",
        *("attention.temperature_length", "attention.temperature_scale"),
    ),
    **_refused(
        WINDOWS,
        *("attention.sliding_window_pattern", "attention.shared_kv_layers"),
        *("attention.recurrent_layers", "full_attention_interval"),
    ),
    **_refused(WINDOWS, "attention.rope_pattern", nothing=(0, 1)),
    **_refused(
        "rotation of this kind is not computed",
        *("rope.dimension_sections", "rope.scaling.alpha", "rope.scaling.yarn_log_multiplier"),
    ),
    **_refused("layers that predict further tokens are not computed", "nextn_predict_layers"),
    **_refused("parallel residuals are not computed", "use_parallel_residual"),
    **_refused("it is a classifier", "classifier.output_labels"),
    **_refused("silu is the only activation", "hidden_activation", nothing=("silu", "")),
    **_refused(
        OTHER,
        *("features_length", "embedding_length_per_layer_input", "n_deepstack_layers"),
        *("deepstack_mapping", "decoder_start_token_id", "decoder_block_count", "swin_norm"),
        *("rescale_every_n_layers", "time_mix_extra_dim", "time_decay_extra_dim"),
        *("token_shift_count", "activation_sparsity_scale", "hash_layer_count"),
        *("target_layers", "target_hidden_size", "norm_before_residual", "norm_before_fc"),
        *("attention.q_lora_rank", "attention.kv_lora_rank", "attention.decay_lora_rank"),
        *("attention.iclr_lora_rank", "attention.value_residual_mix_lora_rank"),
        *("attention.gate_lora_rank", "attention.key_length_mla", "attention.value_length_mla"),
        *("attention.output_group_count", "attention.output_lora_rank"),
        *("attention.compress_rope_freq_base", "attention.compress_ratios"),
        *("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"),
    ),
}
"""Keys by their name after `ARCHITECTURE.`"""

MODEL_PREFIXES: dict[str, Key] = _refused(
    OTHER,
    *("attention.indexer.", "altup.", "convnext.", "hyper_connection.", "kda.", "posnet."),
    *("shortconv.", "ssm.", "wkv."),
)

TOKENIZER_KEYS: dict[str, Key] = {
    **_read(
        *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
        *("tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges"),
        *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
        *("tokenizer.ggml.eos_token_ids", "tokenizer.ggml.eot_token_id"),
        *("tokenizer.ggml.eom_token_id", "tokenizer.ggml.unknown_token_id"),
        *("tokenizer.ggml.padding_token_id", "tokenizer.ggml.fim_pad_token_id"),
        *("tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id"),
        *("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"),
        *("tokenizer.ggml.add_space_prefix", "tokenizer.chat_template"),
        "tokenizer.chat_templates",
    ),
    **_harmless(
        "this role is not used",
        *("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id"),
        *("tokenizer.ggml.cls_token_id", "tokenizer.ggml.mask_token_id"),
        *("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id"),
        *("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.prefix_token_id"),
        *("tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"),
        *("tokenizer.ggml.add_padding_token", "tokenizer.ggml.add_unknown_token"),
        *("tokenizer.ggml.add_cls_token", "tokenizer.ggml.add_mask_token"),
    ),
    **_harmless("these models have one kind of tokens", "tokenizer.ggml.token_type_count"),
    **_harmless("the keys of tokenizer.ggml have the same content", "tokenizer.huggingface.json"),
    **_refused("spaces are kept as they are", "tokenizer.ggml.remove_extra_whitespaces"),
    **_refused("texts are not normalised", "tokenizer.ggml.precompiled_charsmap"),
    **_refused("texts are not normalised", "tokenizer.ggml.normalizer.lowercase"),
    **_refused("texts are not normalised", "tokenizer.ggml.normalizer.strip_accents"),
    **_refused("no separator is added to texts", "tokenizer.ggml.add_sep_token"),
    **_refused("no separator is added to texts", "tokenizer.ggml.add_seperator_token"),
    **_refused("no token is kept from answers", "tokenizer.ggml.suppress_tokens", nothing=()),
    **_refused("RWKV's tokenizer is not supported", "tokenizer.rwkv.world"),
}

GENERAL_KEYS: dict[str, Key] = {
    **_read(
        *("general.architecture", "general.type", "general.alignment"),
        *("general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p"),
        *("general.sampling.min_p", "general.sampling.penalty_repeat"),
        *("split.no", "split.count", "split.tensors.count"),
    ),
}

PREFIXES: dict[str, Key] = {
    "tokenizer.chat_template.": Key("read", "is read"),
    "general.": Key("harmless", "describes the model's origin"),
    "quantize.": Key("harmless", "describes how the model was quantised"),
    "adapter.": Key("refused", "it is an adapter, not a model", ()),
    "clip.": Key("refused", "it is a projector of images or sound, not a model", ()),
    "imatrix.": Key("refused", "it is a matrix for quantising, not a model", ()),
    "controlvector.": Key("refused", "it is a control vector, not a model", ()),
    "diffusion.": Key("refused", "diffusion is not computed"),
    "xielu.": Key("refused", "silu is the only activation"),
}
"""Keys in no table above that do not begin with the architecture, by prefix."""

UNKNOWN = Key("refused", "is an unknown key", ())
FOREIGN = Key("harmless", "belongs to no part of the model")


def key_of(name: str, architecture: str) -> Key:
    """How a key is treated in a file of that architecture."""
    for table in (GENERAL_KEYS, TOKENIZER_KEYS):
        if name in table:
            return table[name]
    prefix = f"{architecture}."
    if architecture and name.startswith(prefix):
        own = name.removeprefix(prefix)
        of_prefix = (key for start, key in MODEL_PREFIXES.items() if own.startswith(start))
        return MODEL_KEYS.get(own) or next(of_prefix, UNKNOWN)
    found = next((key for start, key in PREFIXES.items() if name.startswith(start)), None)
    if found is None and name.startswith("tokenizer."):
        return UNKNOWN
    return found or FOREIGN


def key_findings(file: GgufFile) -> list[Finding]:
    """A finding for each key of the file."""
    return [_finding(name, value, file) for name, value in file.metadata.items()]


def _finding(name: str, value: Any, file: GgufFile) -> Finding:
    key = key_of(name, file.architecture)
    verdict: Verdict = "good"
    if key.use != "refused":
        text = f"is {_brief(value)}: {key.why}" if key.use == "harmless" else f"is {_brief(value)}"
    elif _says_nothing(value, key.nothing):
        text = f"is {_brief(value)}, which has no effect"
    else:
        verdict, text = "bad", f"is {_brief(value)}: {key.why}"
        if key is UNKNOWN:
            text = f"is {_brief(value)}, and is an unknown key"
    hint = "use a model without it" if verdict == "bad" else ""
    return Finding(name, verdict, text, hint, file.path.name)


def _says_nothing(value: Any, nothing: tuple[Any, ...]) -> bool:
    if isinstance(value, list):
        return all(item in nothing for item in value)
    return value in nothing


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
