"""Fields of adapter_config.json that are not computed here and refused, with what to do.

A field that PEFT or a trainer writes is honoured (`PeftConfig` has it), harmless, or refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..runtime.guarded_file import AdapterError, brief

MERGE = "merge it into its base model (PEFT's merge_and_unload) and serve that with --model"
TRAIN = "train it without"

UNSUPPORTED = {
    "use_dora": ("DoRA", MERGE),
    "lora_bias": ("a bias of B", f"{MERGE}, which needs biases in the base"),
    "modules_to_save": ("whole modules trained beside LoRA", MERGE),
    "layer_replication": ("layers used twice", MERGE),
    "trainable_token_indices": ("embeddings of its own tokens", MERGE),
    "target_parameters": ("LoRA of bare parameters", MERGE),
    "alora_invocation_tokens": ("activated LoRA; no merging replaces it", TRAIN),
    "use_qalora": ("QALoRA", TRAIN),
    "use_bdlora": ("block-diagonal LoRA", MERGE),
    "arrow_config": ("Arrow routes between adapters", "serve its adapters one by one"),
    "kasa_config": ("KaSA", MERGE),
    "monteclora_config": ("MonteCLoRA", MERGE),
    "velora_config": ("VeLoRA", MERGE),
    "megatron_config": ("layers of Megatron", "convert it to PEFT's names"),
    "enable_lora": ("parts of a fused projection, of PEFT 0.2", "train it with a newer PEFT"),
}
"""Fields that change the arithmetic, refused if set: what each is, and what to do."""

HARMLESS = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
"""Fields of PEFT and of trainers built on it that change nothing here. `fan_in_fan_out` describes
the layout of the base's weights; PEFT ignores it for a linear layer. The settings of an
`init_lora_weights` have no effect after the adapter is saved."""

BIASES = ("none", "all", "lora_only")
"""Values of `bias`: which biases were trained. If the model has any, they are in the file."""

SOUND_INIT = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that do not change the base model."""

CONVERT = (
    "convert it with PEFT: save_pretrained(path, path_initial_model_for_weight_conversion=start), "
    "with start the adapter as saved before training"
)
OTHER_INIT = {
    "pissa": f"{CONVERT}; without it, {MERGE}",
    "pissa_niter": CONVERT,  # PEFT's own reload repeats it with other random numbers
    "olora": f"{CONVERT}; without it, {MERGE}",
    "corda": CONVERT,
    "lora_ga": CONVERT,
    "loftq": "its base is a quantised copy that PEFT makes when it loads the adapter: merge it "
    "there (merge_and_unload) and serve that with --model",
}
"""Initialisations that change the base model, so that it differs from ours, and what to do. Each
hint but loftq's, which needs CUDA, was tried with PEFT 0.21."""


def check_fields(raw: dict[str, Any], honoured: Iterable[str], path: Path) -> None:
    """Raises `AdapterError` if the config asks for something that is not computed here."""
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{path}: peft_type {brief(str(kind))} is not supported, only LORA is; {MERGE}, if "
            "PEFT can merge that type"
        )
    # An empty object counts as set for most of these: PEFT fills it with defaults.
    refused = [name for name in UNSUPPORTED if raw.get(name) not in (None, False, [])]
    if refused:
        ways = {name: UNSUPPORTED[name] for name in refused}
        words = [f"{name} ({what})" for name, (what, _) in ways.items()]
        todo = "; ".join(dict.fromkeys(way for _, way in ways.values()))
        raise AdapterError(f"{path}: {', '.join(words)} is not supported: {todo}")
    if (bias := raw.get("bias", "none")) not in BIASES:
        raise AdapterError(f"{path}: bias {brief(str(bias))!r} is not one of {', '.join(BIASES)}")
    start = str(raw.get("init_lora_weights", True))
    if start.lower() not in SOUND_INIT:
        name = "pissa_niter" if start.startswith("pissa_niter_") else start.lower()
        way = OTHER_INIT.get(name, "it is unknown here whether it changes the base model")
        raise AdapterError(f"{path}: init_lora_weights {brief(start)!r} is not supported: {way}")
    known = {*UNSUPPORTED, *HARMLESS, *honoured}
    for field in raw.keys() - known:
        if raw[field] not in (None, False, [], {}, ""):
            raise AdapterError(
                f"{path}: {brief(field)} is an unknown field; remove it if it does not change what "
                "the adapter computes"
            )
