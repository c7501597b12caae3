"""`sample`: from logits to tokens, according to `SamplingParams`.

A token is a pure function of its logits, its parameters and (seed, position): one uniform number
per token, from a hash, then the inverse of the distribution. Probabilities are whole numbers, whose
sums are exact and so the same in any order. So a request gets the same tokens in any batch, also
after it was preempted and resumed. Rows without an option do not pay for it, and
nothing waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..messages import END_OF_ANSWER, NO_TOKEN, SamplingParams
from .compute_queue import sent
from .token_rules import TokenRules

RULED_OUT = -9999.0
"""OpenAI's log probability of a token that cannot come, where it must be a number."""
NOTHING_ALLOWED = -3
"""Replaces a token where a grammar goes on, but other parameters leave none of its tokens."""
HAS_TRITON = find_spec("triton") is not None
MASK_64 = (1 << 64) - 1
BLOCK = 128
"""Tokens per block of summed probabilities: the drawn number is searched among a few hundred sums
and then within one block, instead of the whole vocabulary."""
LOG2_E = math.log2(math.e)
FEW = 256
"""Most probable tokens tried for top-p before sorting all: 0.2 ms a row instead of 4."""
WHOLE = float(1 << 33)
"""The weight of the most probable token. All weights are whole numbers, so that float64 has the
exact sum of a million of them, in any order; those of tokens 10^10 times less likely are 0."""


class SampleRow(NamedTuple):
    """How to sample one row of logits: parameters, history slot, and number of known tokens."""

    params: SamplingParams
    slot: int
    num_prompt: int
    known: int
    rules: TokenRules | None = None
    """What the request asks of its tokens beside their probabilities; None: nothing."""

    @property
    def takes_best(self) -> bool:
        """Whether only the most probable token is needed."""
        params = self.params
        return (
            params.temperature == 0
            and params.logprobs is None
            and self.rules is None
            and not params.penalizes
            and not params.grammar
        )


@dataclass(frozen=True)
class TokenMask:
    """The tokens that grammars allow in some of the rows."""

    rows: tuple[int, ...]
    """Ascending."""
    bits: Tensor
    """uint8 [len(rows), at least vocab_size / 8], on the logits' device; bit t % 8 of byte t // 8
    is set if token t is allowed."""
    is_complete: tuple[bool, ...]
    """Of each of these rows: whether only the answer's end may follow."""


@dataclass(frozen=True)
class Sampled:
    """Chosen tokens; for rows that asked, log probabilities of the chosen and the best tokens."""

    token_ids: Tensor
    """Integers [num_rows]; `NO_TOKEN` if no token could be chosen."""
    logprob_rows: tuple[int, ...]
    """The rows that asked for log probabilities."""
    logprob_counts: tuple[int, ...]
    """How many other tokens each of them asked for."""
    chosen_logprobs: Tensor
    """[len(logprob_rows)]"""
    best_logprobs: Tensor
    """[len(logprob_rows), most asked for]; of the likeliest tokens, or of those asked for by id"""
    best_ids: Tensor

    def to_host(self) -> Sampled:
        """A copy in pinned memory, filled when the device reaches this point. Does not wait."""

        def copy(tensor: Tensor) -> Tensor:
            if not tensor.numel():
                return tensor
            pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
            return pinned.copy_(tensor, non_blocking=True)

        return replace(
            self,
            token_ids=copy(self.token_ids),
            chosen_logprobs=copy(self.chosen_logprobs),
            best_logprobs=copy(self.best_logprobs),
            best_ids=copy(self.best_ids),
        )


_EMPTY = torch.empty(0)
NOTHING_SAMPLED = Sampled(_EMPTY.long(), (), (), _EMPTY, _EMPTY, _EMPTY.long())


def sample(
    logits: Tensor, rows: Sequence[SampleRow], history: Tensor, mask: TokenMask | None = None
) -> Sampled:
    """One token a row.

    logits float32 [num_rows, vocab_size], overwritten; history int32 [num_slots, width] holds the
    known tokens of each slot. Log probabilities are natural and of the model's own distribution,
    before grammar, rules, penalties, temperature and truncation; with `masked_logprobs`, after the
    first three. A row with unusable logits gets `NO_TOKEN`; one of which the mask and the rules
    leave no token gets `END_OF_ANSWER` if its grammar is complete, else `NOTHING_ALLOWED`.
    """
    least, largest = logits.aminmax(dim=-1)  # both NaN if any logit is
    is_usable = largest.isfinite() & (least < largest)
    asking = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    index = _on(logits.device, asking)
    logprobs = logits[index].log_softmax(dim=-1) if asking else None
    if mask is not None:
        _forbid(logits, mask)
    for i, row in enumerate(rows):
        if row.rules is not None:
            row.rules.apply_(logits[i], history[row.slot, : row.known], row.num_prompt)
    _penalize(logits, rows, history)
    if logprobs is not None:
        _take_masked(logprobs, logits, [(i, rows[i]) for i in asking])
    token_ids = _choose(logits, rows)
    if mask is not None:
        _note_emptied(token_ids, logits, mask)
    token_ids.masked_fill_(~is_usable, NO_TOKEN)
    if logprobs is None:
        return replace(NOTHING_SAMPLED, token_ids=token_ids)
    chosen = logprobs.gather(1, token_ids[index][:, None].clamp(min=0))[:, 0]
    counts, values, ids = _reported(logprobs, [rows[i].params for i in asking])
    return Sampled(token_ids, tuple(asking), counts, chosen, values, ids)


def _reported(
    logprobs: Tensor, params: Sequence[SamplingParams]
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """(How many tokens each row reports beside the chosen one, their logprobs, their ids): the
    likeliest, or those that the request names. Both tensors [num_rows, most of any row]."""
    size = logprobs.shape[-1]
    likeliest = [0 if p.logprob_token_ids else min(p.logprobs or 0, size) for p in params]
    counts = tuple(len(p.logprob_token_ids) or n for p, n in zip(params, likeliest, strict=True))
    best = logprobs.topk(max(1, *likeliest), dim=-1)
    wider = (0, max(0, max(counts) - best.values.shape[1]))
    values, ids = F.pad(best.values, wider), F.pad(best.indices, wider)
    for place, own in enumerate(params):
        if named := own.logprob_token_ids:
            index = _on(logprobs.device, named)
            ids[place, : len(named)] = index
            values[place, : len(named)] = logprobs[place, index]
    return counts, values, ids


def _forbid(logits: Tensor, mask: TokenMask) -> None:
    """Sets the logits of tokens that the grammars do not allow to minus infinity."""
    rows = _on(logits.device, mask.rows, torch.int32)
    if logits.is_cuda and HAS_TRITON:
        from ...kernels.sampling import forbid_tokens
    else:
        from ...kernels.reference import forbid_tokens
    forbid_tokens(logits, mask.bits, rows)


def _note_emptied(token_ids: Tensor, logits: Tensor, mask: TokenMask) -> None:
    """Replaces the tokens chosen in rows of which no logit is left, in place."""
    index = _on(logits.device, mask.rows)
    chosen = token_ids[index]
    is_empty = logits[index, chosen].isneginf()
    instead = [END_OF_ANSWER if c else NOTHING_ALLOWED for c in mask.is_complete]
    token_ids[index] = torch.where(is_empty, _on(logits.device, instead), chosen)


def _take_masked(logprobs: Tensor, logits: Tensor, asking: Sequence[tuple[int, SampleRow]]) -> None:
    """Replaces the log probabilities of rows that want those of the distribution sampled from, in
    place. logprobs [len(asking), vocab_size]."""
    wanting = [(at, i) for at, (i, row) in enumerate(asking) if row.params.masked_logprobs]
    if wanting:
        places, index = (_on(logits.device, column) for column in zip(*wanting, strict=True))
        logprobs[places] = logits[index].log_softmax(dim=-1).clamp_(min=RULED_OUT)


def _choose(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The best token if the temperature is zero, else a random one. int64 [num_rows]."""
    random = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if len(random) == len(rows):
        return _draw(logits, rows)
    token_ids = logits.argmax(dim=-1)
    if random:
        index = _on(logits.device, random)
        token_ids[index] = _draw(logits[index], [rows[i] for i in random])
    return token_ids


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), by SplitMix64's mixing of (seed, position)."""
    value = (seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03 + 1) & MASK_64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & MASK_64
    return ((value ^ (value >> 31)) >> 11) / (1 << 53)


def _on(
    device: torch.device, values: Sequence[int] | Sequence[float], dtype: torch.dtype = torch.long
) -> Tensor:
    """A small tensor, without waiting for a GPU."""
    return sent(torch.tensor(values, dtype=dtype), device)


def _penalize(logits: Tensor, rows: Sequence[SampleRow], history: Tensor) -> None:
    """Repetition penalty as in transformers: over prompt and output; positive logits are divided,
    others multiplied. Presence and frequency penalties as OpenAI's: over the output only."""
    needing = [index for index, row in enumerate(rows) if row.params.penalizes]
    if not needing:
        return
    device, chosen = logits.device, [rows[i] for i in needing]
    longest = max(row.known for row in chosen)
    tokens = history[_on(device, [row.slot for row in chosen]), :longest].long()
    place = torch.arange(longest, device=device)
    known = place < _on(device, [row.known for row in chosen])[:, None]
    output = known & (place >= _on(device, [row.num_prompt for row in chosen])[:, None])
    index = _on(device, needing)
    penalized = logits[index]
    # Entries after the known tokens are arbitrary; point them at token 0 with weight zero.
    tokens = tokens.masked_fill_(~known, 0)
    seen = torch.zeros_like(penalized).scatter_add_(1, tokens, known.float()) > 0
    count = torch.zeros_like(penalized).scatter_add_(1, tokens, output.float())

    def column(values: list[float]) -> Tensor:
        return _on(device, values, torch.float)[:, None]

    repetition = column([row.params.repetition_penalty for row in chosen])
    repeated = torch.where(penalized > 0, penalized / repetition, penalized * repetition)
    penalized = torch.where(seen, repeated, penalized)
    penalized -= count * column([row.params.frequency_penalty for row in chosen])
    penalized -= (count > 0) * column([row.params.presence_penalty for row in chosen])
    logits[index] = penalized


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Temperature, top-k, top-p, min-p, in this order; then draws one of the remaining tokens.

    logits [num_rows, vocab_size] -> int64 [num_rows].
    """
    device, params = logits.device, [row.params for row in rows]
    temperature = _on(device, [p.temperature for p in params], torch.float)[:, None]
    # Shift the best to zero before the division, so that a tiny temperature cannot overflow.
    scores = (logits - logits.amax(dim=-1, keepdim=True)).div_(temperature)
    _keep_top_k(scores, [p.top_k for p in params])
    _keep_top_p(scores, [p.top_p for p in params])
    if any(p.min_p > 0 for p in params):
        least = _on(device, [p.min_p for p in params], torch.float).log_()[:, None]
        scores.masked_fill_(scores < least, float("-inf"))
    numbers = [uniform(row.params.seed, row.known - row.num_prompt) for row in rows]
    return _invert(_weights(scores), _on(device, numbers, torch.double))


def _weights(scores: Tensor) -> Tensor:
    """Whole numbers of float32 in proportion to the probabilities, the largest `WHOLE`. scores
    [num_rows, vocab_size], the best of each row 0."""
    # On a CPU half the time of `exp`, and a sixth where scores are masked.
    return scores.mul(LOG2_E).exp2_().mul_(WHOLE).round_()


def _keep_top_k(scores: Tensor, top_k: list[int]) -> None:
    """Masks scores below the k-th best of each row; 0 keeps all. In place."""
    vocab_size = scores.shape[-1]
    rows = [i for i, k in enumerate(top_k) if 0 < k < vocab_size]
    if not rows:
        return
    index = _on(scores.device, rows)
    some = scores if len(rows) == len(top_k) else scores[index]
    best = some.topk(max(top_k[i] for i in rows), dim=-1).values
    least = best.gather(1, _on(scores.device, [top_k[i] - 1 for i in rows])[:, None])
    scores[index] = some.masked_fill(some < least, float("-inf"))


def _keep_top_p(scores: Tensor, top_p: list[float]) -> None:
    """Masks all but the fewest best tokens whose probabilities reach p; the best score of a row is
    0. In place."""
    rows = [i for i, p in enumerate(top_p) if p < 1.0]
    if not rows:
        return
    index = _on(scores.device, rows)
    some = scores if len(rows) == len(top_p) else scores[index]
    weights = _weights(some)
    wanted = _on(scores.device, [top_p[i] for i in rows], torch.double)[:, None]
    wanted = wanted * weights.sum(dim=-1, keepdim=True, dtype=torch.double)
    best = weights.topk(min(FEW, weights.shape[-1]), dim=-1).values
    sums = best.double().cumsum(dim=-1)
    # A CPU may test the sums; on a GPU the test would wait for the device, and sorting is cheap.
    if scores.is_cuda or bool((sums[:, -1:] < wanted).any()):
        best = weights.sort(dim=-1, descending=True).values
        sums = best.double().cumsum(dim=-1)
    # As many as have too small a sum, and the next one.
    last = (sums < wanted).sum(dim=-1, keepdim=True).clamp_(max=best.shape[-1] - 1)
    least = best.gather(1, last)
    scores[index] = some.masked_fill(weights < least, float("-inf"))


def _invert(weights: Tensor, numbers: Tensor) -> Tensor:
    """The token at which the cumulative weight passes each number times the total.

    weights [num_rows, vocab_size], numbers float64 [num_rows] in [0, 1) -> int64 [num_rows]. Never
    a token of weight zero.
    """
    padding = -weights.shape[-1] % BLOCK
    blocks = F.pad(weights, (0, padding)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(dim=-1, dtype=torch.double).cumsum(dim=-1)  # [num_rows, num_blocks]
    target = numbers[:, None] * sums[:, -1:]
    block = _first_above(sums, target)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0]
    offset = _first_above(inside.double().cumsum(dim=-1), target - before)
    return (block * BLOCK + offset)[:, 0]


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """Index of the first of the growing sums that exceeds the target, capped at the first equal to
    the last: later entries have weight zero. sums [num_rows, n], target [num_rows, 1]."""
    return torch.minimum((sums <= target).sum(-1, True), (sums < sums[:, -1:]).sum(-1, True))
