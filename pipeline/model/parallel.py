"""`Ranks`: collectives over the processes that compute one model together.

A single rank creates no process group. Knows tensors and processes, not the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import MEETING, Config
from ..errors import OperatorError
from .layers import Linear
from .shard import WHOLE, Shard

PATIENCE = timedelta(minutes=30)
"""Enough for a rank that loads from a slow disk. The supervisor detects a dead rank at once."""


class RankLost(Exception):
    """Another rank did not take part in a collective operation."""


class Ranks:
    """Sums and gathers over all ranks, which make the same calls in the same order, each from its
    compute thread."""

    def __init__(
        self, shard: Shard = WHOLE, group: Any = None, *, in_rank_order: bool = False
    ) -> None:
        """`group` is `torch.distributed`, initialised; None for one rank. `in_rank_order`: sums add
        the ranks one after the other, in every batch."""
        self.shard, self._group, self._in_rank_order = shard, group, in_rank_order

    def ordered(self) -> Ranks:
        """The same ranks, summing in the order of the ranks. Two have only one order; with more, a
        library's own order depends on the tensor's size."""
        return Ranks(self.shard, self._group, in_rank_order=self.shard.size > 2)

    @property
    def reduce(self) -> Callable[[Tensor], Tensor] | None:
        """The function that sums partial results over all ranks; None for one rank."""
        return self.all_reduce if self.shard.size > 1 else None

    def all_reduce(self, partial: Tensor) -> Tensor:
        """The sum over all ranks, in place; bit for bit the same on each."""
        if self._in_rank_order:
            first, *others = self.all_gather(partial)
            partial.copy_(first)
            for other in others:
                partial.add_(other)
            return partial
        try:
            self._group.all_reduce(partial)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return partial

    def all_gather(self, own: Tensor) -> list[Tensor]:
        """Each rank's tensor, by rank."""
        parts = [torch.empty_like(own) for _ in range(self.shard.size)]
        try:
            self._group.all_gather(parts, own)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return parts

    def least(self, number: int, device: torch.device) -> int:
        """The smallest `number` of any rank."""
        if self.shard.size == 1:
            return number
        return min(int(part) for part in self.all_gather(torch.tensor([number], device=device)))


class GatheredHead:
    """The head, cut by the vocabulary: each rank computes its part of the logits, all ranks gather
    the whole, and so choose the same tokens."""

    def __init__(self, part: Linear, vocab_size: int, ranks: Ranks) -> None:
        self._part, self._vocab_size, self._ranks = part, vocab_size, ranks
        self.num_bytes = part.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [num_samples, hidden_size] -> [num_samples, vocab_size]"""
        parts = self._ranks.all_gather(self._part(x))  # each [num_samples, rows of a part]
        return torch.cat(parts, dim=1)[:, : self._vocab_size]

    @staticmethod
    def rows(table: Tensor, shard: Shard) -> Tensor:
        """A rank's rows of the head's weight, padded with zeros so that all ranks have as many."""
        length = -(-len(table) // shard.size)
        own = table[shard.rank * length : (shard.rank + 1) * length]
        return F.pad(own, (0, 0, 0, length - len(own)))


def join_ranks(config: Config, rank: int, device: torch.device) -> Ranks:
    """Waits for all ranks. They find each other through a rendezvous file named in the environment,
    and communicate by gloo over loopback on a CPU, by NCCL between GPUs."""
    if config.tp == 1:
        return Ranks()
    path = os.environ.get(MEETING)
    if not path:
        raise OperatorError(
            f"rank {rank} of {config.tp} has no rendezvous file to find the others",
            f"set ${MEETING} to the same file for all ranks, one that was not used before",
        )
    import torch.distributed as group  # here, because a single rank does not need it

    # By default both would choose the first interface that leads out of the machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = group.FileStore(path, config.tp)  # type: ignore[attr-defined]  # public, though not exported
    store.set_timeout(PATIENCE)
    on_gpu = device.type == "cuda"
    group.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=config.tp,
        timeout=PATIENCE,
        device_id=device if on_gpu else None,
    )
    return Ranks(Shard(rank, config.tp), group)
