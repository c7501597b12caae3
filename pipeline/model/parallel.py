"""`Ranks`: the processes that compute one model together, as one of them sees them.

A rank alone has no group and pays for none. Knows tensors and processes, not what is computed.
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
"""For a rank that loads from a slow disk. One that died is known at once, by the supervisor."""


class RankLost(Exception):
    """Another rank did not take part in what all do together."""


class Ranks:
    """Sums and gathers over all ranks. Each must call the same in the same order, from the one
    thread that computes."""

    def __init__(self, shard: Shard = WHOLE, group: Any = None) -> None:
        """`group` is `torch.distributed`, set up; None for one rank."""
        self.shard, self._group = shard, group

    @property
    def reduce(self) -> Callable[[Tensor], Tensor] | None:
        """For partial sums; None where there is nothing to add."""
        return self.all_reduce if self.shard.size > 1 else None

    def all_reduce(self, partial: Tensor) -> Tensor:
        """The sum over all ranks, in place; bit for bit the same on each."""
        try:
            self._group.all_reduce(partial)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return partial

    def all_gather(self, own: Tensor) -> list[Tensor]:
        """What each rank has, by rank."""
        parts = [torch.empty_like(own) for _ in range(self.shard.size)]
        try:
            self._group.all_gather(parts, own)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return parts

    def least(self, number: int, device: torch.device) -> int:
        """The smallest that any rank has."""
        if self.shard.size == 1:
            return number
        return min(int(part) for part in self.all_gather(torch.tensor([number], device=device)))


class GatheredHead:
    """The head cut by the vocabulary: each rank makes its part of the logits, all get them whole,
    and so choose the same tokens."""

    def __init__(self, part: Linear, vocab_size: int, ranks: Ranks) -> None:
        self._part, self._vocab_size, self._ranks = part, vocab_size, ranks
        self.num_bytes = part.num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """x [num_samples, hidden_size] -> [num_samples, vocab_size]"""
        parts = self._ranks.all_gather(self._part(x))  # each [num_samples, rows of a part]
        return torch.cat(parts, dim=1)[:, : self._vocab_size]

    @staticmethod
    def rows(table: Tensor, shard: Shard) -> Tensor:
        """A rank's rows of the head's weight; zeros behind the last, so that all have as many."""
        length = -(-len(table) // shard.size)
        own = table[shard.rank * length : (shard.rank + 1) * length]
        return F.pad(own, (0, 0, 0, length - len(own)))


def join_ranks(config: Config, rank: int, device: torch.device) -> Ranks:
    """Waits for all ranks. They find each other through a file in a directory of ours, and talk
    over loopback on a CPU, over NCCL's ways between GPUs."""
    if config.tp == 1:
        return Ranks()
    path = os.environ.get(MEETING)
    if not path:
        raise OperatorError(
            f"rank {rank} of {config.tp} does not know where the others are",
            f"set ${MEETING} to one file for all of them, which was not used before",
        )
    import torch.distributed as group  # here, because a rank alone does without

    # Both would take the first interface that leads out of the machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = group.FileStore(path, config.tp)  # type: ignore[attr-defined]  # public all the same
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
