"""`Adapter`: one PEFT directory, checked against the model and laid out for computing.

Knows adapter_config.json and adapter_model.safetensors; not when or for whom it runs.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..card import ModelCard
from ..messages import AdapterInfo
from .layers import pair_heads
from .pages import page_elements

SITES: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The four fused linear maps of a layer, and the modules of an adapter that meet in each."""

UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
"""Fields of adapter_config.json that change the arithmetic: refused by name where they are set."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""`init_lora_weights` that begin so start from a changed base model, which is not the one here."""

KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class AdapterError(Exception):
    """These files are no adapter for this model; says which file, key and shape."""


class PeftConfig(msgspec.Struct, frozen=True):
    """What adapter_config.json says of the arithmetic."""

    r: int
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    peft_type: str = "LORA"
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: str = "none"
    init_lora_weights: bool | str = True

    def targets(self, module: str, layer: int) -> bool:
        """Whether the adapter changes `module`, as PEFT decides it."""
        if self.exclude_modules and _names(self.exclude_modules, module):
            return False
        if not self.target_modules or not _names(self.target_modules, module):
            return False
        layers = self.layers_to_transform
        if layers is None or isinstance(self.target_modules, str):
            return True
        return layer in ([layers] if isinstance(layers, int) else layers or [layer])

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What B A is multiplied by."""
        rank = self.rank(module)
        alpha = float(_by_pattern(self.alpha_pattern, module, self.lora_alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _names(targets: str | list[str], module: str) -> bool:
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _by_pattern(pattern: dict[str, int] | dict[str, float] | None, module: str, rest: float) -> Any:
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return rest


@dataclass(frozen=True)
class Part:
    """Where a module of an adapter lies in each layer's elements.

    From `a` on A [rank, in_features], from `b` on B.T [rank, out_features], the scale in it. In a
    layer where the adapter leaves the module alone, or has less rank, the rest is zero.
    """

    module: str
    rank: int
    a: int
    b: int


@dataclass(frozen=True)
class Adapter:
    """A checked adapter at its true ranks, as the host keeps it: one copy makes it resident.

    `host` [num_layers, whole pages of elements]; `padded_rank` is its largest rank, rounded up to
    a power of two.
    """

    info: AdapterInfo
    parts: tuple[Part, ...]
    padded_rank: int
    host: Tensor

    @property
    def nbytes(self) -> int:
        return self.info.num_bytes


def module_shapes(card: ModelCard) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of each linear module of a layer."""
    q, kv = card.num_heads * card.head_dim, card.num_kv_heads * card.head_dim
    return {
        "q_proj": (q, card.hidden_size),
        "k_proj": (kv, card.hidden_size),
        "v_proj": (kv, card.hidden_size),
        "o_proj": (card.hidden_size, q),
        "gate_proj": (card.intermediate_size, card.hidden_size),
        "up_proj": (card.intermediate_size, card.hidden_size),
        "down_proj": (card.hidden_size, card.intermediate_size),
    }


def module_path(layer: int, module: str) -> str:
    """A module's name in the model, as PEFT and Hugging Face write it."""
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{module}"


def read_adapter(key: str, directory: str, card: ModelCard, dtype: torch.dtype) -> Adapter:
    """Reads, checks and lays out one adapter. Raises `AdapterError`."""
    config_path = Path(directory) / "adapter_config.json"
    weights_path = Path(directory) / "adapter_model.safetensors"
    config = _read_config(config_path)
    if not weights_path.exists():
        if (weights_path.parent / "adapter_model.bin").exists():
            raise AdapterError(
                f"{weights_path.parent} holds adapter_model.bin, a pickle, which may run code when "
                "read: save it as safetensors"
            )
        raise AdapterError(f"{weights_path} is missing")
    try:
        with safe_open(weights_path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        digest = hashlib.sha256(config_path.read_bytes())
        digest.update(weights_path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{weights_path} cannot be read: {error}") from error
    modules = _by_module(tensors, config, card, weights_path)
    parts, host = _lay_out(config, modules, card, dtype)
    rank = max(part.rank for part in parts)
    present = {module for _, module in modules}
    info = AdapterInfo(
        key=key,
        path=directory,
        rank=rank,
        target_modules=tuple(module for module in module_shapes(card) if module in present),
        num_bytes=sum((a.numel() + b.numel()) * dtype.itemsize for a, b in modules.values()),
        pages=host.shape[1] // page_elements(card),
        digest=digest.hexdigest(),
    )
    return Adapter(info, parts, max(8, 1 << (rank - 1).bit_length()), host)


def _read_config(path: Path) -> PeftConfig:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from error
    try:
        raw = msgspec.json.decode(text, type=dict[str, Any])
        config = msgspec.convert(raw, PeftConfig)
    except msgspec.MsgspecError as error:
        raise AdapterError(f"{path}: {error}") from error
    refused = [field for field in UNSUPPORTED if raw.get(field)]
    if config.peft_type != "LORA":
        refused.append(f"peft_type {config.peft_type}")
    if config.bias != "none":
        refused.append(f"bias {config.bias!r}")
    if str(config.init_lora_weights).lower().startswith(CHANGES_BASE):
        refused.append(f"init_lora_weights {config.init_lora_weights!r}")
    if refused:
        raise AdapterError(f"{path}: {', '.join(refused)} is not supported")
    if config.r < 1 or any(rank < 1 for rank in (config.rank_pattern or {}).values()):
        raise AdapterError(f"{path}: ranks must be at least 1")
    try:
        for pattern in (*(config.rank_pattern or ()), *(config.alpha_pattern or ())):
            re.compile(pattern)
        for names in (config.target_modules, config.exclude_modules):
            if isinstance(names, str):
                re.compile(names)
    except re.error as error:
        raise AdapterError(f"{path}: {error.pattern!r} is no pattern: {error}") from error
    return config


def _by_module(
    tensors: dict[str, Tensor], config: PeftConfig, card: ModelCard, path: Path
) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """The (A, B) of each (layer, module) that the adapter targets, checked one by one."""
    found: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    known: set[str] = set()
    rest = dict(tensors)
    for layer in range(card.num_layers):
        for module, (out_features, in_features) in module_shapes(card).items():
            where = module_path(layer, module)
            known.add(where)
            if not config.targets(where, layer):
                continue
            rank = config.rank(where)
            pair = []
            for side, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
                key = f"base_model.model.{where}.lora_{side}.weight"
                tensor = rest.pop(key, None)
                if tensor is None:
                    raise AdapterError(f"{path}: {key} is missing")
                if tuple(tensor.shape) != shape:
                    raise AdapterError(
                        f"{path}: {key} has shape {list(tensor.shape)}, the model and "
                        f"adapter_config.json need {list(shape)}"
                    )
                if not tensor.is_floating_point() or not tensor.isfinite().all():
                    raise AdapterError(f"{path}: {key} holds values that are not finite numbers")
                pair.append(tensor)
            found[layer, module] = (pair[0], pair[1])
    if not found:
        raise AdapterError(f"{path}: target_modules names no module of this model")
    for key in rest:
        match = KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"{path}: {key} is no key of a LoRA adapter")
        if match["module"] in known:
            raise AdapterError(f"{path}: {key}: {match['module']} is not among its target_modules")
        raise AdapterError(
            f"{path}: {key}: {match['module']} is no module that can be adapted in this model"
        )
    return found


def _lay_out(
    config: PeftConfig,
    modules: dict[tuple[int, str], tuple[Tensor, Tensor]],
    card: ModelCard,
    dtype: torch.dtype,
) -> tuple[tuple[Part, ...], Tensor]:
    """Each module at the largest rank it has in any layer, so that all layers are laid out alike
    and a page id is valid in each; filled up to whole pages."""
    num_heads = {"q_proj": card.num_heads, "k_proj": card.num_kv_heads}
    parts, size = [], 0
    for module, (out_features, in_features) in module_shapes(card).items():
        ranks = [len(a) for (_, name), (a, _) in modules.items() if name == module]
        if ranks:
            rank = max(ranks)
            parts.append(Part(module, rank, size, size + rank * in_features))
            size += rank * (in_features + out_features)
    elements = page_elements(card)
    host = torch.zeros(card.num_layers, -(-size // elements) * elements, dtype=dtype)
    for part in parts:
        for layer in range(card.num_layers):
            if (layer, part.module) not in modules:
                continue
            a, b = (tensor.float() for tensor in modules[layer, part.module])
            if part.module in num_heads:
                b = pair_heads(b, num_heads[part.module])
            b = b.t() * config.scale(module_path(layer, part.module))
            host[layer, part.a : part.a + a.numel()] = a.flatten().to(dtype)
            host[layer, part.b : part.b + b.numel()] = b.flatten().to(dtype)
    return tuple(parts), host
