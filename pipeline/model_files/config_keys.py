"""Which keys of config.json are read, which change nothing, and which are refused by name.

Follows the classes of transformers 5.24. A key that they ignore and that changes no logit is
harmless. A key that would change the answer and is not computed here is refused if it is set, and
so is an unknown one. docs/models.md lists all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .families import DEFAULTS, FAMILY_REFUSED, NEUTRAL, Family, RefusedKey
from .findings import Finding
from .json_fields import brief_json

CONFIG = "config.json"

NULLABLE = frozenset({"num_key_value_heads", "head_dim", "sliding_window", "layer_types"})
"""Keys for which null has a meaning: in this order, as many as heads, hidden_size / heads, no
window, decided by other keys."""

READ = frozenset(
    {
        *(key for keys in DEFAULTS.values() for key in keys),
        *("model_type", "architectures", "eos_token_id"),
        "transformers_weights",
        *("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings"),
        *("quantization_config", "quantization", "compression_config", "auto_map"),
    }
)
"""Keys that are read in at least one family."""

HARMLESS = frozenset(
    {
        # The base class of transformers, 4.40 to 5.24.
        *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version"),
        *("_from_model_config", "_auto_class"),
        *("dtype", "torch_dtype", "use_bfloat16", "torchscript", "tf_legacy_loss"),
        *("_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal"),
        *("attn_implementation", "_experts_implementation", "experts_implementation"),
        *("_experts_implementation_internal", "_output_attentions", "tie_last_hidden_states"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        *("use_cache", "chunk_size_feed_forward", "is_decoder", "tie_encoder_decoder"),
        *("gradient_checkpointing", "finetuning_task", "problem_type", "loss_type"),
        *("id2label", "label2id", "num_labels", "tokenizer_class", "prefix"),
        *("pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id"),
        *("decoder_start_token_id", "task_specific_params"),
        # Training and initialisation.
        *("initializer_range", "initializer_factor", "attention_dropout", "attn_dropout"),
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "hidden_dropout_prob"),
        *("attention_probs_dropout_prob", "classifier_dropout", "mlp_dropout", "dropout"),
        *("embedding_dropout", "resid_dropout", "router_aux_loss_coef", "output_router_logits"),
        # Only changes rounding, by computing products of a weight in parts.
        "pretraining_tp",
        # Generation settings from before generation_config.json; transformers 5 drops them too.
        *("max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample"),
        *("early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
        *("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
        *("num_return_sequences", "output_scores", "return_dict_in_generate"),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
        *("epsilon_cutoff", "eta_cutoff", "guidance_scale", "renormalize_logits", "penalty_alpha"),
        *("encoder_repetition_penalty", "max_time", "stop_strings", "cache_implementation"),
        *("output_logits", "generation_config", "is_assistant", "num_assistant_tokens"),
        # Left by trainers and converters.
        *("neftune_noise_alpha", "transformers.js_config", "is_llama_config", "model_name"),
        *("max_sequence_length", "max_seq_length", "model_max_length", "seq_length"),
        *("tokenizer_model_max_length", "tokenizer_padding_side", "padding_side", "license"),
        *("use_flash_attn", "use_flash_attention", "use_flash_attention_2", "flash_attention"),
        *("_flash_attn_2_enabled", "_flash_attn_2_supported", "use_unpad", "description"),
        *("pad_token", "bos_token", "eos_token", "unk_token", "special_tokens_map_file"),
        *("base_model_name_or_path", "base_model", "base_model_config", "language", "tags"),
        *("trl_version", "peft_version", "axolotl_version", "llamafactory_version"),
        *("freeze_trainable_layers", "use_liger_kernel", "merge_method", "mergekit_config"),
    }
)
"""Keys that change no logit of these families, whatever their value."""

HARMLESS_PREFIXES = ("unsloth_",)


_NO_SCALE = (None, 1)
_COUNTS = (None, 0, 1)
REFUSED: dict[str, RefusedKey] = {
    "is_causal": RefusedKey("attention to later tokens is not computed", (True,)),
    "use_bidirectional_attention": RefusedKey("attention to later tokens is not computed"),
    "is_encoder_decoder": RefusedKey("encoders are not computed"),
    "add_cross_attention": RefusedKey("cross-attention is not computed"),
    "cross_attention_hidden_size": RefusedKey("cross-attention is not computed"),
    "pruned_heads": RefusedKey("pruned heads are not computed"),
    "per_layer_config": RefusedKey("shapes that differ by layer are not computed"),
    "partial_rotary_factor": RefusedKey("rotation of a part of a head is not computed", _NO_SCALE),
    "rotary_pct": RefusedKey("rotation of a part of a head is not computed", _NO_SCALE),
    "rotary_dim": RefusedKey("rotation of a part of a head is not computed"),
    "rope_interleaved": RefusedKey("rotation of neighbouring numbers is not computed"),
    "no_rope_layers": RefusedKey("layers without rotation are not computed"),
    "no_rope_layer_interval": RefusedKey("layers without rotation are not computed"),
    "use_mrope": RefusedKey("multimodal rotation is not computed"),
    "alibi": RefusedKey("ALiBi is not computed"),
    "attn_logit_softcapping": RefusedKey("soft caps are not computed"),
    "final_logit_softcapping": RefusedKey("soft caps are not computed"),
    "logit_softcapping": RefusedKey("soft caps are not computed"),
    "query_pre_attn_scalar": RefusedKey("this scale of attention is not computed"),
    "attention_multiplier": RefusedKey("this scale of attention is not computed"),
    "attn_temperature_tuning": RefusedKey("this scale of attention is not computed"),
    "attention_chunk_size": RefusedKey("attention in chunks is not computed"),
    "clip_qkv": RefusedKey("clipping is not computed"),
    "embedding_multiplier": RefusedKey("scaled embeddings are not computed", _NO_SCALE),
    "scale_emb": RefusedKey("scaled embeddings are not computed", _NO_SCALE),
    "scale_depth": RefusedKey("scaled residuals are not computed"),
    "residual_multiplier": RefusedKey("scaled residuals are not computed", _NO_SCALE),
    "logits_scaling": RefusedKey("scaled logits are not computed", _NO_SCALE),
    "logit_scale": RefusedKey("scaled logits are not computed", _NO_SCALE),
    "hidden_activation": RefusedKey("only silu is computed", (None, "silu", "swish")),
    "bias": RefusedKey("biases are by attention_bias and mlp_bias here"),
    "use_bias": RefusedKey("biases are by attention_bias and mlp_bias here"),
    "qkv_bias": RefusedKey("biases are by attention_bias and mlp_bias here"),
    "use_qk_norm": RefusedKey("norms of q and k are by the family here"),
    "qk_layernorm": RefusedKey("norms of q and k are by the family here"),
    "sliding_window_pattern": RefusedKey("which layers use the window is by layer_types here"),
    "mlp_layer_types": RefusedKey("mixtures of experts are not computed"),
    "num_experts": RefusedKey("mixtures of experts are not computed", _COUNTS),
    "num_local_experts": RefusedKey("mixtures of experts are not computed", _COUNTS),
    "n_routed_experts": RefusedKey("mixtures of experts are not computed", _COUNTS),
    "num_nextn_predict_layers": RefusedKey("layers that predict further tokens are not computed"),
    "num_kv_shared_layers": RefusedKey("layers that share keys and values are not computed"),
    "vision_config": RefusedKey("images are not computed"),
    "audio_config": RefusedKey("audio is not computed"),
    "text_config": RefusedKey("a model of several parts is not computed"),
    "mm_vision_tower": RefusedKey("images are not computed"),
}
"""Keys that change the answer of these families' classes or of other models; not computed here."""

IGNORE = "if it does not change what the model computes: --ignore-key {}"


def check_keys(family: Family, raw: Mapping[str, Any]) -> list[Finding]:
    """A finding for each refused or unknown key, one for all keys that are read, and one for all
    that change nothing."""
    found: list[Finding] = []
    harmless: list[str] = []
    refused = REFUSED | FAMILY_REFUSED[family]
    for key, value in raw.items():
        if key in refused:
            if value not in refused[key].neutral:
                why = f"{brief_json(value)}: {refused[key].why}"
                found.append(Finding(key, "bad", why, IGNORE.format(key), CONFIG))
        elif key in HARMLESS or key.startswith(HARMLESS_PREFIXES):
            harmless.append(key)
        elif key not in READ and value not in NEUTRAL:
            what = f"{brief_json(value)}: an unknown key"
            found.append(Finding(key, "bad", what, IGNORE.format(key), CONFIG))
    read = sorted(READ.intersection(raw))
    for name, keys in (("read:", read), ("change nothing:", sorted(harmless))):
        if keys:
            found.append(Finding(name, "good", ", ".join(keys), source=CONFIG))
    return found


def without(raw: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """A copy of the object without the ignored keys; `a.b` is key b of table a."""
    kept = {key: value for key, value in raw.items() if key not in ignored}
    for name in ignored:
        table, _, key = name.partition(".")
        if key and isinstance(kept.get(table), dict):
            kept[table] = {k: v for k, v in kept[table].items() if k != key}
    return kept
