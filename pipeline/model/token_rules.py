"""`TokenRules`: what a request asks of its tokens beside their probabilities: the only tokens
allowed, bad words, a bias of single tokens, no end before a number of tokens.

Knows no distribution: it changes logits before one is made of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..messages import SamplingParams
from .compute_queue import sent

NO_ID = -1
"""Fills up a bad word that is shorter than the longest."""


class TokenRules:
    """The rules of one request. Its tensors are made on first use, in the queue's thread."""

    def __init__(self, params: SamplingParams, eos_token_ids: Iterable[int]) -> None:
        """`eos_token_ids`: the model's. They and the request's own stop tokens end an answer."""
        self._params = params
        self._ends = sorted({*eos_token_ids, *params.stop_token_ids})
        self._device: torch.device | None = None

    @classmethod
    def of(cls, params: SamplingParams, eos_token_ids: Iterable[int]) -> TokenRules | None:
        """The rules of these parameters; None if they have none, which costs a step nothing."""
        asks = (
            params.logit_bias
            or params.bad_words
            or params.min_tokens > 0
            or params.allowed_token_ids is not None
        )
        return cls(params, eos_token_ids) if asks else None

    def apply_(self, logits: Tensor, tokens: Tensor, num_prompt: int) -> None:
        """Changes the logits of the next token; those of tokens that are ruled out become -inf.

        Bad words, and the end tokens before `min_tokens`, yield if nothing else is allowed. Logits
        that are -inf already stay it. Does not wait for a GPU.

        logits float32 [vocab_size], in place; tokens int32 [num_known], prompt and output.
        """
        if self._device is None:
            self._prepare(logits)
        if self._others is not None:
            logits.masked_fill_(self._others, -torch.inf)
        outputs = len(tokens) - num_prompt
        is_early = outputs < self._params.min_tokens and len(self._end_ids) > 0
        if is_early or self._last is not None:
            ruled = logits.clone()
            if is_early:
                ruled.index_fill_(0, self._end_ids, -torch.inf)
            if self._last is not None:
                ruled.index_add_(0, self._last, self._completing(tokens, outputs))
            logits.copy_(torch.where(ruled.amax() == -torch.inf, logits, ruled))
        if self._biased is not None:
            logits.index_add_(0, self._biased, self._biases)

    def _prepare(self, logits: Tensor) -> None:
        params, device, size = self._params, logits.device, len(logits)
        self._device = device
        self._end_ids = sent(torch.tensor([t for t in self._ends if t < size]).long(), device)
        self._others: Tensor | None = None
        if params.allowed_token_ids is not None:
            others = torch.ones(size, dtype=torch.bool)
            others[list(params.allowed_token_ids)] = False
            self._others = sent(others, device)
        self._last: Tensor | None = None
        if words := params.bad_words:
            before = max(map(len, words)) - 1
            firsts = [[NO_ID] * (before + 1 - len(word)) + list(word[:-1]) for word in words]
            self._last = sent(torch.tensor([word[-1] for word in words]), device)
            # [num_words, before]; a word is compared with as many of the last tokens.
            self._firsts = sent(torch.tensor(firsts).long().view(len(words), before), device)
            self._lengths = sent(torch.tensor([len(word) for word in words]), device)
        self._biased: Tensor | None = None
        if bias := params.logit_bias:
            self._biased = sent(torch.tensor([token for token, _ in bias]), device)
            self._biases = sent(torch.tensor([value for _, value in bias]).float(), device)

    def _completing(self, tokens: Tensor, outputs: int) -> Tensor:
        """-inf for each bad word that its last token would complete, 0 for the others. The first
        tokens must be of the output. float32 [num_words]."""
        before = self._firsts.shape[1]
        tail = tokens[max(0, len(tokens) - before) :].long()
        tail = torch.nn.functional.pad(tail, (before - len(tail), 0), value=NO_ID)
        is_next = ((self._firsts == tail) | (self._firsts == NO_ID)).all(dim=-1)
        is_next &= self._lengths <= outputs + 1
        return torch.zeros(len(is_next), device=tail.device).masked_fill_(is_next, -torch.inf)
