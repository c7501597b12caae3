"""`PooledStates`: the states of prompts that are pooled, over the steps in which a prompt is
computed piece by piece.

Knows no request and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PooledPiece:
    """A piece of a prompt: which of a step's states are its own, and what it is a piece of."""

    slot: int
    """The prompt's row in the token history; no other live prompt has it."""
    first: int
    count: int
    """Of the step's states."""
    is_first: bool
    num_pooled: int
    """Tokens that are pooled once the piece ends the prompt; 0: more pieces follow."""
    is_unit: bool
    """Whether the pooled state is scaled to length 1."""


class PooledStates:
    """The sums so far, by slot."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def pool(self, states: Tensor, pieces: Sequence[PooledPiece]) -> Tensor:
        """Adds the pieces' states, [n, hidden_size]. Returns the means of the prompts that end with
        theirs, float32 [num_ended, hidden_size], in the order of the pieces."""
        ended: list[Tensor] = []
        for piece in pieces:
            total = states[piece.first : piece.first + piece.count].sum(0, dtype=torch.float32)
            if not piece.is_first:
                total += self._sums.pop(piece.slot)
            if not piece.num_pooled:
                self._sums[piece.slot] = total
                continue
            mean = total / piece.num_pooled
            if piece.is_unit:
                mean = torch.nn.functional.normalize(mean, dim=0)
            ended.append(mean)
        return torch.stack(ended) if ended else states.new_empty((0, states.shape[1])).float()
