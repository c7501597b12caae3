"""`Shard`: the part of a model and of its adapters that one of several ranks holds.

q, k, v, gate and up are cut by their outputs, o and down by their inputs, so each of a layer's two
branches needs only one sum over the ranks, at its end. Heads stay whole: a rank computes a model of
fewer heads and a narrower MLP, described by `model_config`. Norms and the embedding are whole on
every rank. Knows no device and no process.

An adapter's A stays whole if the map is cut by outputs, its B if it is cut by inputs. In the latter
case its product is a partial sum like the base's, and is added to it before the one sum over the
ranks. S-LoRA also cuts A by its rank and gathers: less memory to hold and to read, but five more
collectives per layer, of a few kilobytes each, which cost their latency whatever their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
from torch import Tensor

from ..errors import OperatorError
from ..model_files.model_config import ModelConfig

CUT_BY_INPUT = ("o_proj", "down_proj")


@dataclass(frozen=True)
class Shard:
    """One rank of `size`; the default holds everything."""

    rank: int = 0
    size: int = 1

    def model_config(self, model_config: ModelConfig) -> ModelConfig:
        """The config of the smaller model that this rank computes."""
        return msgspec.structs.replace(
            model_config,
            num_heads=model_config.num_heads // self.size,
            num_kv_heads=model_config.num_kv_heads // self.size,
            intermediate_size=model_config.intermediate_size // self.size,
        )

    def weight(self, weight: Tensor, module: str) -> Tensor:
        """This rank's part of a module's weight [out_features, in_features] or a similar tensor."""
        return self._part(weight, 1 if module in CUT_BY_INPUT else 0)

    def bias(self, bias: Tensor, module: str) -> Tensor | None:
        """This rank's part of a module's bias [out_features]. A bias added to a sum over the ranks
        is held by rank 0 only."""
        if module in CUT_BY_INPUT:
            return None if self.rank else bias
        return self._part(bias, 0)

    def adapter(self, a: Tensor, b: Tensor, module: str) -> tuple[Tensor, Tensor]:
        """This rank's part of an adapter's A [rank, in_features] and B [out_features, rank]."""
        if module in CUT_BY_INPUT:
            return self._part(a, 1), b
        return a, self._part(b, 0)

    def _part(self, tensor: Tensor, dim: int) -> Tensor:
        length = tensor.shape[dim] // self.size
        return tensor.narrow(dim, self.rank * length, length)


WHOLE = Shard()


def check_divides(model_config: ModelConfig, size: int) -> None:
    """Raises `OperatorError` if the model cannot be cut into `size` parts."""
    most = math.gcd(
        model_config.num_heads, model_config.num_kv_heads, model_config.intermediate_size
    )
    if most % size:
        fitting = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
        raise OperatorError(
            f"--tp {size} does not divide this model's {model_config.num_heads} heads, "
            f"{model_config.num_kv_heads} KV heads and {model_config.intermediate_size} MLP "
            "columns",
            f"--tp {fitting} fit" if most > 1 else "it runs on one rank only",
        )
