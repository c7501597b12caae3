"""`Adapter`: one adapter directory, checked against the model and laid out for computing.

All headers are checked before a weight is read, every weight before the layout is allocated. Knows
a model's modules and their shapes; not when the adapter runs or for which request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from ..adapter_files.keys import MLX_SPELLING, AdapterKeys, read_keys
from ..adapter_files.mlx_config import is_mlx, parse_mlx_config
from ..adapter_files.peft_config import PeftConfig, check_modules, decode_config, parse_config
from ..adapter_files.place import MLX_WEIGHTS, check_place, weight_files
from ..adapter_files.targets import Target, match_targets
from ..adapter_files.targets import module_path as module_path
from ..adapter_files.targets import module_shapes as module_shapes
from ..adapter_files.tensor_file import CONFIG, WeightFiles, read_config_file
from ..messages import AdapterInfo
from ..model_files.model_config import ModelConfig
from ..runtime.guarded_file import AdapterError, brief
from ..runtime.text_output import visible
from .layers import pair_heads
from .page_pool import page_elements
from .shard import WHOLE, Shard

SITES: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The four fused linear maps of a layer, and the modules that each combines."""


@dataclass(frozen=True)
class Part:
    """The place of an adapter's module in each layer's elements: A [rank, in_features] from element
    `a` on, B.T [rank, out_features] times the scale from `b` on. In a layer in which the adapter
    does not change the module, or has a smaller rank, the rest is zero.
    """

    module: str
    rank: int
    a: int
    b: int


@dataclass(frozen=True)
class Adapter:
    """A checked adapter at its true ranks, in host memory; one copy to a device makes it resident.

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


@dataclass(frozen=True)
class Measured:
    """Everything known of a valid adapter from its headers."""

    info: AdapterInfo
    targets: tuple[Target, ...]
    parts: tuple[Part, ...]
    size: int
    """Elements of each layer, whole pages."""
    is_transposed: bool
    """Whether the files hold A.T and B.T."""


def measure_adapter(
    key: str,
    directory: str,
    model_config: ModelConfig,
    dtype: torch.dtype,
    *,
    base: str = "",
    roots: Sequence[str] = (),
    shard: Shard = WHOLE,
) -> AdapterInfo:
    """An adapter's info from its headers alone: no weight is read, so `digest` is empty.

    `base` names the model that it would run on. Its files must be inside one of `roots`, if given.
    They are checked against the whole `model_config`; sizes are those of the `shard`. Raises
    `AdapterError`.
    """
    with _measured(key, directory, model_config, dtype, base, roots, shard) as (measured, _):
        return measured.info


def read_adapter(
    key: str,
    directory: str,
    model_config: ModelConfig,
    dtype: torch.dtype,
    *,
    base: str = "",
    roots: Sequence[str] = (),
    shard: Shard = WHOLE,
) -> Adapter:
    """Checks the headers as `measure_adapter` does, then reads, checks and lays out the weights."""
    with _measured(key, directory, model_config, dtype, base, roots, shard) as (measured, files):
        tensors = _read_tensors(measured, files, dtype)
        info = msgspec.structs.replace(measured.info, digest=files.digest)
    host = _lay_out(measured, tensors, model_config, dtype, shard)
    return Adapter(info, measured.parts, max(8, 1 << (info.rank - 1).bit_length()), host)


class Pair(NamedTuple):
    """A and B of a module as PEFT orders them, in float32, without the scale."""

    a: Tensor
    """[rank, in_features]"""
    b: Tensor
    """[out_features, rank]"""
    scale: float


def read_pairs(directory: str, model_config: ModelConfig) -> dict[str, Pair]:
    """An adapter's A, B and scale by the module's name in the model. Raises `AdapterError`."""
    with _measured("", directory, model_config, torch.float32, "", (), WHOLE) as (measured, files):
        tensors = _read_tensors(measured, files, torch.float32)
    return {
        module_path(layer, module): Pair(tensors[keys[0]].float(), tensors[keys[1]].float(), scale)
        for layer, module, _, scale, keys in measured.targets
    }


@contextmanager
def _measured(
    key: str,
    directory: str,
    model_config: ModelConfig,
    dtype: torch.dtype,
    base: str,
    roots: Sequence[str],
    shard: Shard,
) -> Iterator[tuple[Measured, WeightFiles]]:
    """The checked headers, and the weight files, open but not yet read."""
    with _opened(directory, model_config, roots) as (config, keys, files, is_mlx_lms):
        trained_for = brief(config.base_model_name_or_path or "")
        targets = match_targets(
            config, keys, files, model_config, _other_base(trained_for, base), is_mlx_lms
        )
        files.check_layout()
        part_config = shard.model_config(model_config)
        parts, size = _plan(targets, part_config)
        shapes, present = module_shapes(part_config), {target.module for target in targets}
        warnings = [_base_warning(trained_for, base)]
        if keys.notes:
            warnings.append(visible(f"its keys are read {', '.join(keys.notes)}"))
        info = AdapterInfo(
            key=key,
            path=directory,
            rank=max(part.rank for part in parts),
            target_modules=tuple(module for module in shapes if module in present),
            num_bytes=sum(t.rank * sum(shapes[t.module]) for t in targets) * dtype.itemsize,
            pages=size // page_elements(part_config),
            digest="",
            warning="; ".join(filter(None, warnings)),
        )
        yield Measured(info, targets, parts, size, is_mlx_lms), files


@contextmanager
def _opened(
    directory: str, model_config: ModelConfig, roots: Sequence[str]
) -> Iterator[tuple[PeftConfig, AdapterKeys, WeightFiles, bool]]:
    """The config, the keys and the weight files of a directory, and whether they are mlx-lm's."""
    check_place(directory, roots)
    path = Path(directory) / CONFIG
    text = read_config_file(directory, roots)
    raw = decode_config(text, path)
    if is_mlx(raw):
        mlx_config = parse_mlx_config(raw, path)
        with WeightFiles((Path(directory) / MLX_WEIGHTS,), directory, text, roots) as files:
            keys = read_keys(files.entries, files.path, MLX_SPELLING)
            yield mlx_config.as_peft(keys), keys, files, True
        return
    config = parse_config(raw, path)
    with WeightFiles(weight_files(directory, roots), directory, text, roots) as files:
        keys = read_keys(files.entries, files.path)
        modules = [
            keys.trained(module_path(n, name))
            for n in range(model_config.num_layers)
            for name in module_shapes(model_config)
        ]
        check_modules(config, path, modules, keys.head, model_config.num_layers)
        yield config, keys, files, False


def _other_base(trained_for: str, base: str) -> str:
    """The end of a shape refusal, naming the adapter's base model if it is another; else ""."""
    if not trained_for or trained_for == base:
        return ""
    return f"; it was trained for {trained_for}" + (f", this is {base}" if base else "")


def _base_warning(trained_for: str, base: str) -> str:
    """A warning if the base model's name is not `base`, else "". Only the last parts of the names
    are compared: the same model may be given as a hub id or as a directory."""
    ends = {
        name.rstrip("/").rpartition("/")[2].partition("@")[0].lower()
        for name in (trained_for, base)
    }
    if not trained_for or not base or len(ends) == 1:
        return ""
    return visible(
        f"trained for {trained_for}, served on {base}: same shapes, perhaps not the same weights"
    )


def _plan(targets: Sequence[Target], model_config: ModelConfig) -> tuple[tuple[Part, ...], int]:
    """(parts, elements per layer, rounded up to whole pages). Each module gets the largest rank it
    has in any layer, so that all layers have the same layout and a page id is valid in each.

    The A matrices of a site's modules are adjacent, followed by their B, so one read serves them
    all.
    """
    parts, size, shapes = [], 0, module_shapes(model_config)
    for members in SITES.values():
        ranks = {
            module: max(target.rank for target in targets if target.module == module)
            for module in members
            if any(target.module == module for target in targets)
        }
        b = size + sum(rank * shapes[module][1] for module, rank in ranks.items())
        for module, rank in ranks.items():
            parts.append(Part(module, rank, size, b))
            size, b = size + rank * shapes[module][1], b + rank * shapes[module][0]
        size = b
    elements = page_elements(model_config)
    return tuple(parts), -(-size // elements) * elements


def _read_tensors(measured: Measured, files: WeightFiles, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors by key. Raises `AdapterError` unless all values are finite, and still finite in
    `dtype` after multiplication by the scale."""
    scales = {target.keys[1]: target.scale for target in measured.targets}
    tensors = {}
    for key, tensor in files.tensors():
        peak = max(abs(bound.item()) for bound in tensor.aminmax())  # NaN if any of them is
        scale = scales.get(key, 1.0)
        if not math.isfinite(peak):
            raise AdapterError(
                f"{files.path_of(key)}: {key} holds values that are not finite numbers"
            )
        if peak * abs(scale) > torch.finfo(dtype).max:
            raise AdapterError(
                f"{files.path_of(key)}: {key} holds {peak:.3g}, which its scale {scale:.3g} makes "
                f"too large for {str(dtype).removeprefix('torch.')}"
            )
        tensors[key] = tensor.t() if measured.is_transposed else tensor
    return tensors


def _lay_out(
    measured: Measured,
    tensors: dict[str, Tensor],
    model_config: ModelConfig,
    dtype: torch.dtype,
    shard: Shard,
) -> Tensor:
    """The host copy of a shard [num_layers, size], scales included; consumes `tensors`."""
    part_config = shard.model_config(model_config)
    num_heads = {"q_proj": part_config.num_heads, "k_proj": part_config.num_kv_heads}
    parts = {part.module: part for part in measured.parts}
    host = torch.zeros(model_config.num_layers, measured.size, dtype=dtype)
    for layer, module, rank, scale, keys in measured.targets:
        a, b = shard.adapter(tensors.pop(keys[0]), tensors.pop(keys[1]), module)
        if module in num_heads:
            b = pair_heads(b, num_heads[module])
        part = parts[module]
        _matrix(host, layer, part.a, rank, a.shape[1]).copy_(a)
        _matrix(host, layer, part.b, rank, len(b)).copy_(b.float().t() * scale)
    return host


def _matrix(host: Tensor, layer: int, start: int, rows: int, columns: int) -> Tensor:
    """The matrix [rows, columns] from element `start` of a layer."""
    return host[layer, start : start + rows * columns].view(rows, columns)
