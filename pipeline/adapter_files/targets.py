"""`match_targets`: the modules of the model that an adapter changes, each with its A and B.

Any other tensor in the file is refused by name. Knows shapes and names; reads no tensor.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..model_files.model_config import ModelConfig
from ..runtime.guarded_file import AdapterError, brief
from .keys import AdapterKeys
from .peft_config import EMBEDDINGS, PeftConfig
from .peft_refusals import MERGE
from .tensor_file import CONFIG, DTYPES, WeightFiles


def module_shapes(model_config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of each linear module of a layer."""
    q, kv = (
        model_config.num_heads * model_config.head_dim,
        model_config.num_kv_heads * model_config.head_dim,
    )
    return {
        "q_proj": (q, model_config.hidden_size),
        "k_proj": (kv, model_config.hidden_size),
        "v_proj": (kv, model_config.hidden_size),
        "o_proj": (model_config.hidden_size, q),
        "gate_proj": (model_config.intermediate_size, model_config.hidden_size),
        "up_proj": (model_config.intermediate_size, model_config.hidden_size),
        "down_proj": (model_config.hidden_size, model_config.intermediate_size),
    }


def module_path(layer: int, module: str) -> str:
    """A module's name in the model, as PEFT and Hugging Face write it."""
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{module}"


LORA_KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_[ABab](\.[^.]+)?(\.weight)?")


class Target(NamedTuple):
    """A module that an adapter changes in one layer."""

    layer: int
    module: str
    rank: int
    scale: float
    keys: tuple[str, str]
    """Keys of A [rank, in_features] and B [out_features, rank] in the files."""


def match_targets(
    config: PeftConfig,
    keys: AdapterKeys,
    files: WeightFiles,
    model_config: ModelConfig,
    other_base: str,
    is_transposed: bool,
) -> tuple[Target, ...]:
    """The modules that the adapter targets, each with both its matrices. Raises `AdapterError` if
    one is missing or wrong, or if the files hold anything else."""
    targets: list[Target] = []
    rest, known = dict(files.entries), set()
    for layer in range(model_config.num_layers):
        for module, (out_features, in_features) in module_shapes(model_config).items():
            where = module_path(layer, module)
            known.add(where)
            trained = keys.trained(where)
            if not config.targets(trained):
                continue
            rank = config.rank(trained)
            pair = keys.key(where, "A"), keys.key(where, "B")
            for key, shape in zip(pair, ((rank, in_features), (out_features, rank)), strict=True):
                shape = shape[::-1] if is_transposed else shape
                layout = " in mlx-lm's layout" if is_transposed else ""
                entry, path = rest.pop(key, None), files.path_of(key)
                if entry is None:
                    stranger = next((k for k in files.entries if k not in keys.modules), "")
                    found = f"; it has {brief(stranger)}" if stranger and not targets else ""
                    raise AdapterError(
                        f"{path}: {brief(key)} is missing; its shape would be {list(shape)}{layout}"
                        f"{found}{other_base}"
                    )
                if entry.dtype not in DTYPES:
                    raise AdapterError(
                        f"{path}: {key} is of dtype {brief(entry.dtype)}, not one of "
                        f"{', '.join(DTYPES)}"
                    )
                if entry.shape != shape:
                    raise AdapterError(
                        f"{path}: {key} has shape {brief(str(list(entry.shape)))}, the model "
                        f"and {CONFIG} need {list(shape)}{layout}"
                        f"{_not_gathered(entry.shape) or other_base}"
                    )
            targets.append(Target(layer, module, rank, config.scale(trained), pair))
    # Base weights first: they identify a full state_dict, which its head alone would not.
    for key in sorted(rest, key=lambda key: ".base_layer." not in key) if targets else ():
        module = keys.modules.get(key, "")
        raise AdapterError(
            f"{files.path_of(key)}: {brief(key)}{_stranger(key, module, known, other_base)}"
        )
    if not targets:
        raise AdapterError(
            f"{files.path.parent / CONFIG}: target_modules names no module of this model, which "
            f"has {', '.join(module_shapes(model_config))}; it is {_shown(config.target_modules)}"
            + (f", without {_shown(out)}" if (out := config.exclude_modules) else "")
            + other_base
        )
    return tuple(targets)


def _not_gathered(shape: tuple[int, ...]) -> str:
    """The end of a refusal of a shape that a trainer's sharding leaves, else ""."""
    if len(shape) == 1 or 0 in shape:
        return "; DeepSpeed ZeRO-3 and FSDP leave such tensors: gather them before saving"
    return ""


def _shown(names: str | list[str] | None) -> str:
    return brief(names if isinstance(names, str) else ", ".join(names or ()))


def _stranger(key: str, module: str, known: set[str], other_base: str) -> str:
    """Why a key of no targeted module is refused. `module`: the one it is A or B of, if any."""
    if "lora_embedding_" in key or any(f"{name}." in f"model.{key}" for name in EMBEDDINGS):
        return f": embeddings and lm_head are not supported yet; {MERGE}"
    if "lora_magnitude_vector" in key or key.endswith(".m"):
        return f" is of DoRA, which is not supported ({CONFIG} lacks use_dora); {MERGE}"
    if key.endswith(".bias"):
        return f" is a trained bias, which is not supported; {MERGE}"
    if ".base_layer." in key:
        return (
            " is a weight of the base model: the file is a full state_dict; save the adapter "
            "with PEFT's save_pretrained"
        )
    if "lora_E" in key or "ranknum" in key:
        return " is of AdaLoRA, which is not supported"
    if module in known:
        return f": {module} is not among its target_modules"
    if match := LORA_KEY.fullmatch(key):
        where = module or match["module"]
        return f": {brief(where)} cannot be adapted in this model{other_base}"
    return " is not a key of a LoRA adapter"
