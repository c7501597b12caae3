"""`Llama`: the decoder of Llama 2/3, Mistral, Qwen2/2.5/3 and SmolLM2, driven by a `ModelCard`.

Reads like the paper, top down. Paging is in the batch, LoRA and weight formats are in the layers;
where weights come from is the loader's.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels import reference
from ..card import ModelCard
from .forward_batch import Attention, ForwardBatch
from .layers import Linear, RMSNorm
from .lora import LoraBatch


class Llama:
    """Embedding, layers, norm, head. All tokens of a step at once, whatever they belong to."""

    def __init__(
        self, embedding: Tensor, layers: list[DecoderLayer], norm: RMSNorm, head: Linear
    ) -> None:
        self._embedding, self.layers, self._norm, self._head = embedding, layers, norm, head

    def __call__(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        """pages [num_layers, …] is the KV pool -> float32 logits [num_samples, vocab_size]."""
        hidden = F.embedding(batch.token_ids, self._embedding)  # [num_tokens, hidden_size]
        for layer, pool in zip(self.layers, pages, strict=True):
            layer(hidden, batch, pool)
        if not len(batch.sample_tokens):
            return hidden.new_empty((0, len(self._embedding)))
        wanted = hidden.index_select(0, batch.sample_tokens)
        return self._head(self._norm(wanted)).float()

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

    def __call__(self, hidden: Tensor, batch: ForwardBatch, pool: Tensor) -> None:
        """In place. hidden [num_tokens, hidden_size]."""
        hidden.add_(self.attention(self.attention_norm(hidden), batch, pool))
        hidden.add_(self.mlp(self.mlp_norm(hidden), batch))


class SelfAttention:
    """Grouped-query attention over paged KV, with rotary positions and an optional window."""

    def __init__(
        self,
        card: ModelCard,
        layer: int,
        qkv: AdaptedLinear,
        output: AdaptedLinear,
        q_norm: RMSNorm | None,
        k_norm: RMSNorm | None,
    ) -> None:
        self._q, self._kv, self._head_dim = card.num_heads, card.num_kv_heads, card.head_dim
        self._scale = card.head_dim**-0.5
        self._window = layer_windows(card)[layer]
        self.qkv, self.output = qkv, output
        self._q_norm, self._k_norm = q_norm, k_norm

    def __call__(self, hidden: Tensor, batch: ForwardBatch, pool: Tensor) -> Tensor:
        """hidden [num_tokens, hidden_size] -> the same shape."""
        heads = self.qkv(hidden, batch.lora).unflatten(1, (-1, self._head_dim))
        q, k, _ = heads.split((self._q, self._kv, self._kv), dim=1)
        if self._q_norm and self._k_norm:
            q.copy_(self._q_norm(q))
            k.copy_(self._k_norm(k))
        reference.rotate_(heads[:, : self._q + self._kv], batch.rotation)
        reference.write_pages(pool, heads[:, self._q :], batch.write_index)
        parts = [self._attend(heads[part.tokens], part, pool) for part in batch.attention]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.output(attended, batch.lora)

    def with_maps(self, qkv: AdaptedLinear, output: AdaptedLinear) -> SelfAttention:
        """The same attention with other linear maps."""
        other = copy(self)
        other.qkv, other.output = qkv, output
        return other

    def _attend(self, heads: Tensor, part: Attention, pool: Tensor) -> Tensor:
        """heads [num_tokens, q + 2 kv, head_dim] -> [num_tokens, q head_dim]."""
        q, k, v = heads.split((self._q, self._kv, self._kv), dim=1)
        view = part.views[self._window]
        if view is None:
            return reference.attend_prefill(
                q, k.transpose(0, 1), v.transpose(0, 1), None, self._scale
            )
        if part.decode:
            keys, values = reference.gather_pages(pool, view.index, num_rows=len(q))
            return reference.attend_decode(q, keys, values, view.mask, self._scale)
        keys, values = reference.gather_pages(pool, view.index, num_rows=1)
        return reference.attend_prefill(q, keys[0], values[0], view.mask, self._scale)


@dataclass(frozen=True)
class Mlp:
    """down(silu(gate(x)) * up(x))"""

    gate_up: AdaptedLinear
    down: AdaptedLinear

    def __call__(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """hidden [num_tokens, hidden_size] -> the same shape."""
        return self.down(reference.silu_mul(self.gate_up(hidden, batch.lora)), batch.lora)


@dataclass(frozen=True)
class AdaptedLinear:
    """A linear map of the base model, to which a step's adapters add their part."""

    base: Linear
    layer: int
    site: str

    def __call__(self, x: Tensor, lora: LoraBatch | None) -> Tensor:
        y = self.base(x)
        if lora is not None:
            lora.add(y, x, self.layer, self.site)
        return y


def layer_windows(card: ModelCard) -> tuple[int, ...]:
    """Each layer's attention window, 0 where it looks at everything."""
    windowed = card.windowed_layers or (True,) * card.num_layers
    return tuple(card.sliding_window if own else 0 for own in windowed)
