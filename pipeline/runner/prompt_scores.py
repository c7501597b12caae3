"""`score_prompts`: log probabilities of the tokens of prompts, each after the tokens before it.

The logits of a whole prompt would take gigabytes, so they are made of a few states at a time and
only what is asked for is kept. Knows no sampling: the model's own distribution is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOGITS_BYTES = 64 << 20
"""Most bytes of logits at a time: 340 tokens of the default model, 130 of a model with a vocabulary
of 128 000."""


@dataclass(frozen=True)
class PromptScores:
    """Of each scored token: its logprob, how many tokens are at least as likely, and the likeliest
    tokens in its place."""

    logprobs: Tensor
    """float32 [num_scores, 1 + most]: the token's own first"""
    likeliest: Tensor
    """int32 [num_scores, most]"""
    ranks: Tensor
    """int32 [num_scores]: 1 if no token is likelier"""

    def to_host(self) -> PromptScores:
        """A copy in pinned memory, filled when the device reaches this point. Does not wait."""

        def copy(tensor: Tensor) -> Tensor:
            pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
            return pinned.copy_(tensor, non_blocking=True)

        return PromptScores(copy(self.logprobs), copy(self.likeliest), copy(self.ranks))


def score_prompts(
    states: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    token_ids: Tensor,
    most: int,
    vocab_size: int,
) -> PromptScores:
    """Scores `token_ids` int64 [num_scores] by the states of the tokens before them.

    states [num_scores, hidden_size]; `logits_of` turns some of them into logits [n, vocab_size].
    `most` is how many of the likeliest tokens are reported.
    """
    step = max(1, LOGITS_BYTES // (4 * vocab_size))
    parts = []
    for start in range(0, len(states), step):
        logits = logits_of(states[start : start + step]).float()
        parts.append(_score(logits, token_ids[start : start + step, None], most))
    values, likeliest, ranks = (torch.cat(column) for column in zip(*parts, strict=True))
    return PromptScores(values, likeliest, ranks)


def _score(logits: Tensor, token_ids: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """logits float32 [n, vocab_size], token_ids [n, 1] -> as in `PromptScores`."""
    own = logits.gather(1, token_ids)
    best = logits.topk(min(most, logits.shape[-1]), dim=-1)
    ranks = 1 + (logits > own).sum(dim=-1)
    total = logits.logsumexp(dim=-1, keepdim=True)
    values = torch.cat([own, best.values], dim=1) - total
    return values, best.indices.int(), ranks.int()
