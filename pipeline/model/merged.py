"""Merged weights: a copy of the model with one adapter added into its linear maps.

The base model is not modified, so no rounding error accumulates; to unmerge, drop the copy.
Unchanged weights (norms, embedding, head, sites without the adapter) are shared.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..model_files.model_config import ModelConfig
from .adapter import SITES, Adapter, module_shapes
from .llama import AdaptedLinear, DecoderLayer, Llama


def merge(model: Llama, adapter: Adapter, model_config: ModelConfig) -> Llama:
    """A model with maps W + scale B A, added in float32 and rounded to W's type once."""
    return model.with_layers(
        [_merged_layer(layer, adapter, model_config) for layer in model.layers]
    )


def merged_bytes(adapter: Adapter, model_config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that `merge` allocates: one more copy of each changed site."""
    shapes = module_shapes(model_config)
    changed = {part.module for part in adapter.parts}
    weights = sum(
        shapes[member][0] * shapes[member][1]
        for members in SITES.values()
        for member in members
        if not changed.isdisjoint(members)
    )
    return weights * model_config.num_layers * dtype.itemsize


def _merged_layer(layer: DecoderLayer, adapter: Adapter, model_config: ModelConfig) -> DecoderLayer:
    def merged(linear: AdaptedLinear) -> AdaptedLinear:
        delta = site_delta(adapter, model_config, linear.layer, linear.site)
        return linear if delta is None else replace(linear, base=linear.base.plus(delta))

    attention, mlp = layer.attention, layer.mlp
    return replace(
        layer,
        attention=attention.with_maps(merged(attention.qkv), merged(attention.output)),
        mlp=replace(mlp, gate_up=merged(mlp.gate_up), down=merged(mlp.down)),
    )


def site_delta(adapter: Adapter, model_config: ModelConfig, layer: int, site: str) -> Tensor | None:
    """The adapter's change to a site's weights, float32 [out_features of all its modules,
    in_features]; None if it does not change the site."""
    shapes, members = module_shapes(model_config), SITES[site]
    parts = [part for part in adapter.parts if part.module in members]
    if not parts:
        return None
    delta = torch.zeros(sum(shapes[m][0] for m in members), shapes[members[0]][1])
    for part in parts:
        out_features, in_features = shapes[part.module]
        content = adapter.host[layer].float()
        a = content[part.a : part.a + part.rank * in_features].view(part.rank, in_features)
        b = content[part.b : part.b + part.rank * out_features].view(part.rank, out_features)
        first = sum(shapes[m][0] for m in members[: members.index(part.module)])
        delta[first : first + out_features] = b.t() @ a
    return delta
