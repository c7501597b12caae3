"""A model with a span around each layer, showing how long each takes.

Each layer is launched from the host, so a step of such a model cannot be replayed from a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..model.layers import Output
from ..model.llama import DecoderLayer, Llama, StepBatch
from ..runtime.spans import Spans


@dataclass(frozen=True)
class SpannedLayer(DecoderLayer):
    """A decoder layer with the same computation, inside spans."""

    number: int
    spans: Spans
    settle: Callable[[], object]
    """Waits for the device if spans must include device time, not only launch time."""

    def __call__(
        self, hidden: Tensor, delta: Output | None, batch: StepBatch, pool: Tensor
    ) -> Output:
        with self.spans.span("layer_{}", self.number):
            with self.spans.span("attention", layer=self.number):
                delta = self.attention(self.attention_norm.add_(hidden, delta), batch, pool)
                self.settle()
            with self.spans.span("mlp", layer=self.number):
                delta = self.mlp(self.mlp_norm.add_(hidden, delta), batch)
                self.settle()
        return delta


def with_layer_spans(model: Llama, spans: Spans, settle: Callable[[], object]) -> Llama:
    """The model with a span around each layer, over the same weights."""
    return model.with_layers(
        [
            SpannedLayer(
                layer.attention_norm,
                layer.attention,
                layer.mlp_norm,
                layer.mlp,
                number,
                spans,
                settle,
            )
            for number, layer in enumerate(model.layers)
        ]
    )
