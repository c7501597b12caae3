"""`Llama`: the decoder of Llama 2/3, Mistral, Qwen2/2.5/3 and SmolLM2, driven by a `ModelConfig`.

Reads like the paper, top down. Paging is in the batch, LoRA and weight formats are in the layers,
reading weights in the loader.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ...kernels.layouts import Shrunk
from ..model_files.model_config import ModelConfig
from .layers import Linear, Output, Product, RMSNorm, silu_gate_up


class LoraProducts(Protocol):
    """The LoRA products of a step's adapters."""

    def begin(self, x: Tensor, layer: int, site: str) -> Callable[[Tensor, bool], Shrunk | None]:
        """Starts the adapters' products of x. The returned function (y, whole) adds them to y, or
        returns the part still to be added; with `whole` it adds everything. x [num_tokens, in],
        y [num_tokens, out]."""


class StepBatch(Protocol):
    """A step as the model sees it; the tokens of all sequences are concatenated."""

    @property
    def token_ids(self) -> Tensor: ...
    @property
    def sample_tokens(self) -> Tensor:
        """Indices of the tokens whose logits are wanted."""

    @property
    def score_history(self) -> Tensor | None:
        """None if no prompt is scored; the tokens wanted are then in their order in the step."""

    @property
    def lora(self) -> LoraProducts | None: ...

    def rotate_write(
        self, heads: Tensor, num_heads: int, pool: Tensor, rest: Shrunk | None
    ) -> None:
        """Adds `rest`, the remaining adapter part, rotates q and k in place and stores k and v in
        their pages. heads [num_tokens, num_heads + 2 num_kv_heads, head_dim]; one layer's pool."""

    def attend(
        self, heads: Tensor, num_heads: int, pool: Tensor, scale: float, window: int
    ) -> Tensor:
        """Each token's attention over its own sequence -> [num_tokens, num_heads head_dim]."""


class Llama:
    """Embedding, layers, norm, head; computes the tokens of all sequences of a step at once."""

    def __init__(
        self,
        embedding: Tensor,
        layers: list[DecoderLayer],
        norm: RMSNorm,
        head: Product,
    ) -> None:
        self._embedding, self.layers, self._norm, self._head = embedding, layers, norm, head

    def __call__(self, batch: StepBatch, pages: Tensor) -> Tensor:
        """pages [num_layers, …] is the KV pool -> logits [num_samples, vocab_size]."""
        return self.logits(self.states(batch, pages))

    def states(self, batch: StepBatch, pages: Tensor) -> Tensor:
        """The states of which the head makes logits, [num_samples, hidden_size]."""
        hidden = F.embedding(batch.token_ids, self._embedding)  # [num_tokens, hidden_size]
        delta: Output | None = None
        for layer, pool in zip(self.layers, pages, strict=True):
            delta = layer(hidden, delta, batch, pool)
        if not len(batch.sample_tokens):
            return hidden[:0]
        wanted = batch.sample_tokens
        takes_all = len(wanted) == len(hidden) and batch.score_history is None
        if len(wanted) < len(hidden) and (delta is None or delta.rest is None):
            hidden = hidden.index_select(0, wanted)
            delta = delta and Output(delta.y.index_select(0, wanted))
            takes_all = True
        normed = self._norm.add_(hidden, delta)
        return normed if takes_all else normed.index_select(0, wanted)

    def logits(self, states: Tensor) -> Tensor:
        """states [n, hidden_size] -> [n, vocab_size]."""
        if not len(states):
            return states.new_empty((0, len(self._embedding)))
        return self._head(states)

    def matrices(self) -> list[Product]:
        """All matrices that a step multiplies by."""
        found = [self._head]
        for layer in self.layers:
            maps = (layer.attention.qkv, layer.attention.output, layer.mlp.gate_up, layer.mlp.down)
            found += [adapted.base for adapted in maps]
        return found

    def with_layers(self, layers: list[DecoderLayer]) -> Llama:
        """The same model with other layers."""
        return Llama(self._embedding, layers, self._norm, self._head)


@dataclass(frozen=True)
class DecoderLayer:
    """Two residual branches."""

    attention_norm: RMSNorm
    attention: SelfAttention
    mlp_norm: RMSNorm
    mlp: Mlp

    def __call__(
        self, hidden: Tensor, delta: Output | None, batch: StepBatch, pool: Tensor
    ) -> Output:
        """Adds to hidden [num_tokens, hidden_size] `delta`, the second branch of the layer before,
        and this layer's first branch; returns the second, for the next sum and norm."""
        delta = self.attention(self.attention_norm.add_(hidden, delta), batch, pool)
        return self.mlp(self.mlp_norm.add_(hidden, delta), batch)


class SelfAttention:
    """Grouped-query attention over paged KV, with rotary positions and an optional window."""

    def __init__(
        self,
        model_config: ModelConfig,
        layer: int,
        qkv: AdaptedLinear,
        output: AdaptedLinear,
        q_norm: RMSNorm | None,
        k_norm: RMSNorm | None,
    ) -> None:
        self._q, self._kv, self._head_dim = (
            model_config.num_heads,
            model_config.num_kv_heads,
            model_config.head_dim,
        )
        self._scale = model_config.head_dim**-0.5
        self._window = layer_windows(model_config)[layer]
        self.qkv, self.output = qkv, output
        self._q_norm, self._k_norm = q_norm, k_norm

    def __call__(self, hidden: Tensor, batch: StepBatch, pool: Tensor) -> Output:
        """hidden [num_tokens, hidden_size] -> the same shape."""
        y, rest = self.qkv(hidden, batch.lora, whole=self._q_norm is not None)
        heads = y.unflatten(1, (-1, self._head_dim))
        if self._q_norm and self._k_norm:
            q, k, _ = heads.split((self._q, self._kv, self._kv), dim=1)
            q.copy_(self._q_norm(q))
            k.copy_(self._k_norm(k))
        batch.rotate_write(heads, self._q, pool, rest)
        attended = batch.attend(heads, self._q, pool, self._scale, self._window)
        return self.output(attended, batch.lora)

    def with_maps(self, qkv: AdaptedLinear, output: AdaptedLinear) -> SelfAttention:
        """The same attention with other linear maps."""
        other = copy(self)
        other.qkv, other.output = qkv, output
        return other


@dataclass(frozen=True)
class Mlp:
    """down(silu(gate(x)) * up(x))"""

    gate_up: AdaptedLinear
    down: AdaptedLinear

    def __call__(self, hidden: Tensor, batch: StepBatch) -> Output:
        """hidden [num_tokens, hidden_size] -> the same shape."""
        return self.down(silu_gate_up(self.gate_up(hidden, batch.lora)), batch.lora)


@dataclass(frozen=True)
class AdaptedLinear:
    """A linear map of the base model, to which a step's adapters add their part."""

    base: Linear
    layer: int
    site: str
    reduce: Callable[[Tensor], Tensor] | None = None
    """Set if ranks hold parts of the input: replaces this rank's partial sum, adapters included, by
    the sum over all ranks."""

    def __call__(self, x: Tensor, lora: LoraProducts | None, *, whole: bool = False) -> Output:
        """`whole`: y includes all adapter products, for readers that cannot add the rest."""
        if lora is None:
            y, rest = self.base(x), None
        else:
            finish = lora.begin(x, self.layer, self.site)
            y = self.base(x)
            rest = finish(y, whole or self.reduce is not None)
        return Output(y if self.reduce is None else self.reduce(y), rest)


def layer_windows(model_config: ModelConfig) -> tuple[int, ...]:
    """Each layer's attention window, 0 for full attention."""
    windowed = model_config.windowed_layers or (True,) * model_config.num_layers
    return tuple(model_config.sliding_window if own else 0 for own in windowed)
