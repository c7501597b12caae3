"""mlx-lm's adapters: a different adapter_config.json, and adapters.safetensors.

mlx-lm computes y + scale (x A) B with A [in_features, rank] and B [rank, out_features], the
transposes of PEFT's A and B. A module without them in the file is not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ..runtime.guarded_file import AdapterError, brief
from .keys import AdapterKeys
from .peft_config import PeftConfig, check_ranks

MLX_FIELDS = ("fine_tune_type", "lora_parameters", "lora_layers")
"""A config with any of these and no peft_type is mlx-lm's; `lora_layers` is from old versions."""


class LoraParameters(msgspec.Struct, frozen=True):
    """`lora_parameters` of the config; `keys` names modules, as the file's tensors also do."""

    rank: int
    scale: float
    dropout: float | None = None
    keys: list[str] | None = None


class MlxConfig(msgspec.Struct, frozen=True):
    """The fields of mlx-lm's adapter_config.json that affect the arithmetic; the others are about
    the training run."""

    lora_parameters: LoraParameters
    fine_tune_type: str = "lora"
    model: str | None = None

    def as_peft(self, keys: AdapterKeys) -> PeftConfig:
        """The equivalent PEFT config, for the modules with tensors in the file."""
        parameters = self.lora_parameters
        return PeftConfig(
            r=parameters.rank,
            lora_alpha=parameters.scale * parameters.rank,
            target_modules=sorted({keys.trained(module) for module in keys.modules.values()}),
            base_model_name_or_path=self.model,
        )


def is_mlx(raw: dict[str, Any]) -> bool:
    return "peft_type" not in raw and any(name in raw for name in MLX_FIELDS)


def parse_mlx_config(raw: dict[str, Any], path: Path) -> MlxConfig:
    """Raises `AdapterError`."""
    kind = raw.get("fine_tune_type", "lora")
    if kind == "full":
        raise AdapterError(
            f"{path}: mlx-lm's fine_tune_type full trains the whole model, not an adapter: "
            "serve the model (mlx_lm.fuse) with --model"
        )
    if kind != "lora":
        raise AdapterError(
            f"{path}: mlx-lm's fine_tune_type {brief(str(kind))} is not supported: merge it "
            "(mlx_lm.fuse) and serve that model"
        )
    try:
        config = msgspec.convert(raw, MlxConfig)
    except ValueError as error:
        raise AdapterError(f"{path}, mlx-lm's: {error}") from error
    check_ranks({"lora_parameters.rank": config.lora_parameters.rank}, path)
    return config
