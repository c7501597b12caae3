"""`checkpoint_findings`: checks that a checkpoint has all tensors its config.json needs, as plain
weights, and no other tensor that would change the answer. Looks at names, types and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from .findings import Finding, Verdict
from .model_config import ModelConfig
from .safetensors_header import StoredTensor, same_values

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PLAIN = frozenset({"F16", "BF16", "F32", "F64"})
"""Types that hold the weights themselves. Other types hold codes, which need scales."""

HARMLESS = re.compile(
    r".*\brotary_emb\.inv_freq|.*\bmasked_bias|v_head\..*|.*\.[kv]_scale|.*\b_extra_state"
)
"""Unused tensors that change nothing: buffers saved by older versions that follow from config.json,
value heads of reinforcement learning, scales of an 8-bit KV cache, accelerator state."""

PREFIXES = (
    *("language_model.", "model.language_model.", "transformer.", "_orig_mod.", "module."),
    *("base_model.model.", "model.model."),
)
MERGE = "merge it: peft's merge_and_unload"
DEQUANTISE = (
    "take a revision that is not quantised, or dequantise it with the library that wrote it"
)
OTHER_MODEL = "config.json and weights are of different models"
HEADLESS = (
    "a base model was saved without its head: save the causal language model; "
    "if the embedding is the head: set tie_word_embeddings to true"
)
QUANTISED, NOT_READ = "is of weights quantised by ", ", which is not read yet"
REASONS: tuple[tuple[str, str, str], ...] = (
    (r"lora_(A|B|embedding)|\.base_layer\.|modules_to_save", "is of an adapter", MERGE),
    (
        r"\.(SCB|CB|weight_format)$|\.(nested_)?(absmax|quant_map)$|\.quant_state",
        f"{QUANTISED}bitsandbytes{NOT_READ}",
        DEQUANTISE,
    ),
    (
        r"\.weight\._(data|scale|shift)$",
        f"{QUANTISED}quanto{NOT_READ}",
        DEQUANTISE,
    ),
    (
        r"\.(qweight|qzeros|scales|g_idx|biases)$",
        f"{QUANTISED}gptq, awq or mlx{NOT_READ}",
        DEQUANTISE,
    ),
    (
        r"weight_(scale|scale_inv|scale_2|zero_point|packed|shape|g_idx)$|"
        r"(input|output|activation)_(scale|zero_point)|weight_global_scale|_(blocks|scales)$",
        f"{QUANTISED}compressed-tensors, fp8, modelopt or mxfp4{NOT_READ}",
        DEQUANTISE,
    ),
    (r"\.bias$", "is a bias that config.json does not mention", OTHER_MODEL),
    (r"\.[qk]_norm\.", "is a norm that this family does not have", OTHER_MODEL),
    (r"\.(experts|block_sparse_moe|shared_expert)", "is of a mixture of experts", OTHER_MODEL),
)
"""(name pattern, what an unused tensor is, what to do). The adapter's pattern is first, because its
tensors also have a prefix."""


def needed_tensors(model_config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of each weight, including the head even if it is tied to the embedding."""
    hidden, middle, dim = (
        model_config.hidden_size,
        model_config.intermediate_size,
        model_config.head_dim,
    )
    q, kv = model_config.num_heads * dim, model_config.num_kv_heads * dim
    yield EMBEDDING, (model_config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    yield HEAD, (model_config.vocab_size, hidden)
    maps = {
        "self_attn.q_proj": (q, hidden, model_config.attention_bias),
        "self_attn.k_proj": (kv, hidden, model_config.attention_bias),
        "self_attn.v_proj": (kv, hidden, model_config.attention_bias),
        "self_attn.o_proj": (hidden, q, model_config.output_bias),
        "mlp.gate_proj": (middle, hidden, model_config.mlp_bias),
        "mlp.up_proj": (middle, hidden, model_config.mlp_bias),
        "mlp.down_proj": (hidden, middle, model_config.mlp_bias),
    }
    for layer in range(model_config.num_layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
        if model_config.qk_norm:
            yield f"{at}.self_attn.q_norm.weight", (dim,)
            yield f"{at}.self_attn.k_norm.weight", (dim,)
        for name, (rows, columns, has_bias) in maps.items():
            yield f"{at}.{name}.weight", (rows, columns)
            if has_bias:
                yield f"{at}.{name}.bias", (rows,)


def checkpoint_findings(
    model_config: ModelConfig,
    tensors: Mapping[str, StoredTensor],
    where: Path,
    quantized_by: str = "",
) -> list[Finding]:
    """A finding for each kind of tensor that is a code, unused, missing or misshapen; if none is
    bad, one that counts the tensors. `quantized_by`: the method that the directory names."""
    needed = dict(needed_tensors(model_config))
    if model_config.tie_word_embeddings and (HEAD in tensors) != (EMBEDDING in tensors):
        del needed[EMBEDDING if HEAD in tensors else HEAD]  # the stored one serves as both
    used = {name: tensors[name] for name in needed if name in tensors}
    unused = [name for name in tensors if name not in needed]
    harmless = [name for name in unused if HARMLESS.fullmatch(name)]
    found = _codes(used, quantized_by)
    found += _unused([name for name in unused if name not in harmless], model_config, quantized_by)
    missing = [name for name in needed if name not in tensors]
    if missing:
        hint = HEADLESS if missing == [HEAD] else "fetch the model again"
        found.append(_of_several(missing, "bad", "is missing", hint))
    for name, tensor in used.items():
        if tensor.shape != needed[name]:
            what = f"has shape {list(tensor.shape)}, config.json needs {list(needed[name])}"
            found.append(Finding(name, "bad", what, OTHER_MODEL))
            break
    if model_config.tie_word_embeddings and EMBEDDING in tensors and HEAD in tensors and not found:
        found += _own_head(tensors)
    if not found or all(finding.verdict != "bad" for finding in found):
        types = ", ".join(sorted({tensor.dtype for tensor in used.values()}))
        what = f"{len(used)} tensors of {types}"
        if harmless:
            what += f"; {len(harmless)} that change nothing, e.g. {harmless[0]}"
        found.append(Finding(where.name, "good", what))
    return [msgspec.structs.replace(finding, source=where.name) for finding in found]


def _codes(used: Mapping[str, StoredTensor], quantized_by: str) -> list[Finding]:
    codes = [name for name, tensor in used.items() if tensor.dtype not in PLAIN]
    if not codes:
        return []
    by = f": quantised by {quantized_by}" if quantized_by else ": the weights are quantised"
    what = f"holds {used[codes[0]].dtype} codes{by}, which is not read yet"
    return [_of_several(codes, "bad", what, DEQUANTISE)]


def _unused(names: list[str], model_config: ModelConfig, quantized_by: str) -> list[Finding]:
    """One finding per reason, for all unused tensors with that reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        what, hint = _reason(name, model_config)
        if quantized_by and what.startswith(QUANTISED):  # more reliable than the tensor's name
            what = f"{QUANTISED}{quantized_by}{NOT_READ}"
        groups.setdefault((what, hint), []).append(name)
    return [_of_several(group, "bad", what, hint) for (what, hint), group in groups.items()]


def _reason(name: str, model_config: ModelConfig) -> tuple[str, str]:
    """(what an unused tensor is, what to do)."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    for pattern, what, hint in REASONS[:1] if prefix else REASONS:
        if re.search(pattern, name):
            return what, hint
    if prefix:
        hint = f"names must be like {EMBEDDING}: save the model without the prefix"
        return f"carries the prefix {prefix!r}", hint
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    if layer and int(layer[1]) >= model_config.num_layers:
        what = f"is of a layer beyond the {model_config.num_layers} of num_hidden_layers"
        return what, OTHER_MODEL
    return "is not used here and may change the answer", OTHER_MODEL


def _own_head(tensors: Mapping[str, StoredTensor]) -> list[Finding]:
    """A note if the head differs from the embedding: transformers 5 ties them only if equal."""
    if same_values(tensors[HEAD], tensors[EMBEDDING]):
        return []
    what = (
        "differs from the embedding, though tie_word_embeddings is true: the file's head is used, "
        "as in transformers 5"
    )
    return [Finding(HEAD, "note", what, "set tie_word_embeddings to false, or remove the tensor")]


def _of_several(names: list[str], verdict: Verdict, what: str, hint: str) -> Finding:
    if len(names) > 1:
        what += f" ({len(names)} such tensors)"
    return Finding(names[0], verdict, what, hint)
