"""The parts of a decoder: linear maps in several weight formats, norm, rotary embedding.

Each is a callable over tensors [num_tokens, …] and knows nothing of batches or models. On a CPU
activations are float32 whatever type the weights have; on a GPU both have the model's type.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels import reference
from ...kernels.layouts import Shrunk
from ..model_files.model_config import ModelConfig
from ..model_files.rope import RopeScaling
from . import cpu_kernels
from .compute_queue import Helpers
from .cpu_kernels import INT4_GROUP
from .fixed_order import MOST_ROWS, Padding, size_for

fused: ModuleType | None = None
fixed: ModuleType | None = None
"""Kernels for the work between the matrix products; None without Triton: plain torch is used. On a
CPU Triton is imported only to interpret kernels in tests, since its import is slow."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if (torch.cuda.is_available() or INTERPRETED) and importlib.util.find_spec("triton"):
    fused = importlib.import_module("...kernels.fused", __package__)
    fixed = importlib.import_module("...kernels.fixed", __package__)


class Product(Protocol):
    """y = x @ weight.T + bias; x [num_tokens, in_features] -> [num_tokens, out_features]."""

    num_bytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


class Linear(Product, Protocol):
    """A product to whose weight a delta can be added."""

    def plus(self, delta: Tensor) -> Linear:
        """A new map with weight + delta, added in float32, in a format for any number of rows.
        delta float32 [out_features, in_features], on the CPU."""


class Output(NamedTuple):
    """A linear map's output, and the adapter part still to be added to it; the next reader of `y`
    adds `rest` in its own pass."""

    y: Tensor
    rest: Shrunk | None = None


class DenseLinear:
    """The weight as stored, multiplied by torch's own matrix product."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight
        self._bias = None if bias is None else bias.to(weight.dtype)
        self.num_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias).to(x.dtype)

    def plus(self, delta: Tensor) -> Linear:
        weight = self._weight.float() + delta.to(self._weight.device)
        return DenseLinear(weight.to(self._weight.dtype), self._bias)


class SizedLinear:
    """A linear map on a GPU whose library is called with few numbers of rows, which give a row the
    same bits (see `sizes_agree`)."""

    def __init__(self, linear: Linear) -> None:
        self._linear, self.num_bytes = linear, linear.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > MOST_ROWS:
            return torch.cat([self(part) for part in x.split(MOST_ROWS)])
        missing = size_for(len(x)) - len(x)
        return self._linear(F.pad(x, (0, 0, 0, missing)))[: len(x)] if missing else self._linear(x)

    def plus(self, delta: Tensor) -> Linear:
        return SizedLinear(self._linear.plus(delta))


class FixedLinear:
    """The weight as stored, multiplied on a GPU by our own kernel, which gives a row the same bits
    in every batch."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.contiguous()
        self._bias = None if bias is None else bias.to(weight.dtype)
        self.num_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = fixed.fixed_product(x, self._weight, self._bias)  # type: ignore[union-attr]
        return y

    def plus(self, delta: Tensor) -> Linear:
        weight = self._weight.float() + delta.to(self._weight.device)
        return FixedLinear(weight.to(self._weight.dtype), self._bias)


class PackedLinear:
    """The weight in oneDNN's layout, its type unchanged; 2 to 3 times as fast as `F.linear` for 2
    to 64 rows. x and y are float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._dtype = weight.dtype
        self._weight = cpu_kernels.pack(weight)
        self._bias = None if bias is None else bias.to(weight.dtype)
        self.num_bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return cpu_kernels.packed_product(x.to(self._dtype), self._weight, self._bias).float()

    def plus(self, delta: Tensor) -> Linear:
        weight = self._weight.to_dense()  # bit for bit what was packed
        return PackedLinear((weight.float() + delta).to(self._dtype), self._bias)


@dataclass(frozen=True)
class Int4Blocks:
    """A weight in groups of 32 that share a scale: w = (q - 8) * scale + middle.

    q uint8 [out_features, in_features], 0 to 15; scale, middle float32 [out_features, groups].
    """

    q: Tensor
    scale: Tensor
    middle: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.q.shape)

    def dequantize(self) -> Tensor:
        """The weight in float32, [out_features, in_features]."""
        grouped = (self.q.float() - 8).unflatten(1, (-1, INT4_GROUP))
        weight: Tensor = (grouped * self.scale[..., None] + self.middle[..., None]).flatten(1)
        return weight

    @staticmethod
    def of_whole_numbers(weight: Tensor) -> Int4Blocks:
        """A weight of whole numbers from -8 to 7."""
        groups = torch.zeros(len(weight), weight.shape[1] // INT4_GROUP)
        return Int4Blocks((weight + 8).to(torch.uint8), groups + 1, groups)

    @staticmethod
    def cat(parts: list[Int4Blocks]) -> Int4Blocks:
        """The rows of several weights over the same input, one below the other."""
        return Int4Blocks(
            torch.cat([part.q for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat([part.middle for part in parts]),
        )


class Int4Linear:
    """A weight kept in 4 bits; the product is bfloat16 inside. x and y are float32."""

    ROWS = 16
    """torch's kernel needs out_features to be a multiple of this."""

    def __init__(self, blocks: Int4Blocks, bias: Tensor | None = None) -> None:
        self._packed = cpu_kernels.pack_int4(blocks.q)
        pairs = torch.stack((blocks.scale.t(), blocks.middle.t()), dim=-1)
        self._scale_and_middle = pairs.bfloat16().contiguous()  # [groups, out_features, 2]
        self._bias = bias
        self.num_bytes = self._packed.nbytes + self._scale_and_middle.nbytes

    @classmethod
    def supports(cls, blocks: Int4Blocks) -> bool:
        return blocks.shape[0] % cls.ROWS == 0

    def __call__(self, x: Tensor) -> Tensor:
        y = self._product(x)
        return y if self._bias is None else y.add_(self._bias)

    def _product(self, x: Tensor) -> Tensor:
        return cpu_kernels.int4_product(x, self._packed, self._scale_and_middle)

    def plus(self, delta: Tensor) -> Linear:
        """The sum, not kept in 4 bits, which would round the delta away."""
        weight = self._product(torch.eye(delta.shape[1])).t()  # the weight as the kernel rounds it
        kind = DenseLinear if cpu_kernels.why_not_packed() else PackedLinear
        return kind((weight + delta).contiguous(), self._bias)


class HelpedLinear:
    """A linear map that uses other threads if the work is large enough."""

    READ_ROWS = 8
    """Fewer rows count as this many, because reading the weight then dominates."""

    def __init__(self, linear: Linear, num_weights: int, helpers: Helpers) -> None:
        self._linear, self._num_weights, self._helpers = linear, num_weights, helpers
        self.num_bytes = linear.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        if not self._helpers.worth(self._num_weights * max(len(x), self.READ_ROWS)):
            return self._linear(x)
        with self._helpers:
            return self._linear(x)

    def plus(self, delta: Tensor) -> Linear:
        return HelpedLinear(self._linear.plus(delta), self._num_weights, self._helpers)


class PaddedLinear:
    """A linear map that gives a row the same bits in every batch, because rows of zeros are added
    to small products (see `find_padding`)."""

    def __init__(self, linear: Linear, padding: Padding) -> None:
        self._linear, self._padding = linear, padding
        self.num_bytes = linear.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        missing = self._padding.missing(len(x))
        return self._linear(F.pad(x, (0, 0, 0, missing)))[: len(x)] if missing else self._linear(x)

    def plus(self, delta: Tensor) -> Linear:
        return PaddedLinear(self._linear.plus(delta), self._padding)


class LinearByRows:
    """Two formats of one weight: `few` up to a number of rows, `many` above."""

    def __init__(self, few: Linear, many: Linear, limit: int) -> None:
        self._few, self._many, self._limit = few, many, limit
        self.num_bytes = few.num_bytes + many.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        return self.chosen(x.shape[0])(x)

    def chosen(self, num_rows: int) -> Linear:
        """The map that computes this many rows."""
        return self._few if num_rows <= self._limit else self._many

    def plus(self, delta: Tensor) -> Linear:
        return self._many.plus(delta)


class RMSNorm:
    """y = x / sqrt(mean(x²) + eps) * weight over the last dimension."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps
        self._gain = weight.float() * math.sqrt(len(weight))
        self._floor = torch.tensor(math.sqrt(len(weight) * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # one kernel on a GPU
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        return reference.rms_norm(x, self._gain, self._floor)

    def add_(self, hidden: Tensor, delta: Output | None) -> Tensor:
        """hidden += delta, in place; then the norm of it. Both [num_tokens, n]."""
        if delta is None:
            return self(hidden)
        if fused is not None and (hidden.is_cuda or delta.rest):
            normed: Tensor = torch.empty_like(hidden)
            fused.add_norm_(hidden, delta.y, self._weight, self._eps, normed, delta.rest)
            return normed
        assert delta.rest is None
        return self(hidden.add_(delta.y))


def silu_gate_up(gate_up: Output) -> Tensor:
    """silu(gate) * up; may overwrite the gate. gate_up [num_tokens, 2 n], gate first."""
    y, rest = gate_up
    if fused is not None and (y.is_cuda or rest):
        out = y.new_empty((len(y), y.shape[1] // 2))
        fused.silu_mul(y, out, rest)
        return out
    assert rest is None
    return reference.silu_mul(y)


class Rotary:
    """The rotation of each token's pairs: scale * exp(i position frequency)."""

    def __init__(self, model_config: ModelConfig, device: torch.device) -> None:
        self._model_config = model_config
        inverse, scale = rotary_frequencies(model_config)
        self._inverse = inverse.to(device)
        self._scale = torch.tensor(scale, device=device)
        self._exponent = (
            torch.arange(0, model_config.head_dim, 2, device=device).float() / model_config.head_dim
        )
        if long_factor := model_config.rope_scaling.long_factor:
            self._long = 1.0 / (
                torch.tensor(long_factor, device=device) * model_config.rope_theta**self._exponent
            )

    def __call__(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """positions [num_tokens]; lengths [num_tokens], the known length of each token's sequence,
        on which dynamic and longrope scaling depend -> complex64 [num_tokens, 1, head_dim / 2]."""
        inverse, scaling = self._inverse, self._model_config.rope_scaling
        if scaling.rope_type == "dynamic":
            inverse = self._dynamic(lengths)
        elif scaling.rope_type == "longrope":
            is_long = lengths > scaling.original_max_position_embeddings
            inverse = torch.where(is_long.view(-1, 1, 1), self._long, inverse)
        angle = positions.float().view(-1, 1, 1) * inverse
        return torch.polar(self._scale.expand_as(angle), angle)

    def _dynamic(self, lengths: Tensor) -> Tensor:
        """NTK-aware scaling: the base grows as a sequence exceeds the trained length.

        Computed per sequence, not per batch, so that other sequences have no influence.
        lengths [num_tokens] -> [num_tokens, 1, head_dim / 2].
        """
        model_config, factor = self._model_config, self._model_config.rope_scaling.factor
        trained = model_config.max_position_embeddings
        stretch = lengths.clamp(min=trained).float() / trained
        power = model_config.head_dim / (model_config.head_dim - 2)
        base = model_config.rope_theta * (factor * stretch - (factor - 1)) ** power
        return 1.0 / base.view(-1, 1, 1) ** self._exponent


def rotary_frequencies(model_config: ModelConfig) -> tuple[Tensor, float]:
    """Frequencies of the rotary pairs, float32 [head_dim / 2], and the scale of the rotation."""
    scaling, dim = model_config.rope_scaling, model_config.head_dim
    exponent = torch.arange(0, dim, 2).float() / dim
    inverse = 1.0 / model_config.rope_theta**exponent
    match scaling.rope_type:
        case "linear":
            return inverse / scaling.factor, 1.0
        case "llama3":
            return _llama3(inverse, scaling), 1.0
        case "yarn":
            return _yarn(inverse, scaling, model_config.rope_theta), _yarn_scale(scaling)
        case "longrope":
            short = torch.tensor(scaling.short_factor)
            return 1.0 / (short * model_config.rope_theta**exponent), _longrope_scale(scaling)
        case _:
            return inverse, 1.0


def _yarn_scale(scaling: RopeScaling) -> float:
    """The factor of cosine and sine; derived from the scaling factor unless the file gives it."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def of(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return of(scaling.mscale) / of(scaling.mscale_all_dim)
    return of(1.0)


def _longrope_scale(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    length = scaling.original_max_position_embeddings
    return math.sqrt(1 + math.log(scaling.factor) / math.log(length))


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """Long wavelengths are stretched by the factor, short ones kept, those between blended."""
    turns = scaling.original_max_position_embeddings * inverse / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse / scaling.factor * (1 - keep) + inverse * keep


def _yarn(inverse: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Frequencies as llama3 scales them, but blended along the index of a pair: from `beta_fast`
    turns to `beta_slow`."""
    dim, length = 2 * len(inverse), scaling.original_max_position_embeddings

    def index_of(turns: float) -> float:
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    low, high = max(first, 0), min(last, dim - 1)
    ramp = (torch.arange(dim // 2).float() - low) / (high - low or 0.001)
    stretch = ramp.clamp(0, 1)
    return inverse / scaling.factor * stretch + inverse * (1 - stretch)


def pair_heads(rows: Tensor, num_heads: int) -> Tensor:
    """Reorders the outputs of heads from Hugging Face's order (first numbers of all pairs, then the
    second) to ours (pair by pair), for weights that yield q or k. rows [num_heads head_dim, …]."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
