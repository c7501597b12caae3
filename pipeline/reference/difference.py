"""`judge_answer`: compares one of our answers with a reference's logits; right or wrong.

In float32 the bounds allow only for another order of summation. In other types tokens and logprobs
may differ by the type's rounding. Knows no library and no file.
"""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor

from ..model.verification import find_logits_flaw
from .reference import AnswerDifference, DtypeName, PromptAnswer

LARGEST_SHARE, MEAN_SHARE = 1e-4, 1e-5
"""Allowed difference in float32, as a share of the logits' range, at most and in the mean: forty
times that of SmolLM2-135M and of random models of every family."""
LARGEST_LOGPROB = 1e-3
"""Allowed difference of a token's logprob in float32, if logits are unknown."""
ROUNDED: dict[DtypeName, tuple[float, float]] = {
    "bfloat16": (0.1, 0.3),
    "float16": (0.05, 0.15),
    "int4": (0.1, 0.3),
}
"""Bounds for the logprobs of greedy tokens in types that round: their mean difference, and how much
less probable than the reference's own choice a token may be. SmolLM2-135M and its adapters reached
means of 0.027 (bfloat16) and 0.016 (int4); a wrong rope base or omitted scale exceeds 0.5."""


def judge_answer(
    answer: PromptAnswer, ours: Tensor | None, ids: list[int], theirs: Tensor, dtype: DtypeName
) -> AnswerDifference:
    """Logits `ours` and `theirs` [num_tokens, vocab_size]; `theirs` are computed for our tokens
    after the reference's own prompt `ids`."""
    tokens = torch.tensor(answer.token_ids)
    chosen = theirs.argmax(dim=-1)
    unit_is_logits = ours is not None and dtype == "float32"
    if unit_is_logits:
        assert ours is not None
        apart = (ours - theirs[:, : ours.shape[1]]).abs()
    else:
        expected = theirs.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        apart = (torch.tensor(answer.logprobs) - expected).abs()
    apart = apart[apart.isfinite()]
    finite = theirs[theirs.isfinite()]
    found = AnswerDifference(
        prompt=answer.prompt,
        adapter=answer.adapter,
        is_right=False,
        prompt_tokens=len(answer.prompt_ids) or answer.prompt_tokens,
        tokens=len(tokens),
        equal_tokens=int((chosen == tokens).sum()),
        largest=float(apart.max()) if len(apart) else 0.0,
        mean=float(apart.mean()) if len(apart) else 0.0,
        range=float(finite.max() - finite.min()) if len(finite) else 0.0,
        unit="logits" if unit_is_logits else "logprobs",
    )
    reason = (
        _of_prompt(answer, ids)
        or find_logits_flaw("reference's", theirs)
        or (find_logits_flaw("served", ours) if ours is not None else _of_logprobs(answer.logprobs))
        or _of_bounds(found, theirs, tokens, dtype)
    )
    return msgspec.structs.replace(found, is_right=not reason, reason=reason)


def _of_prompt(answer: PromptAnswer, theirs: list[int]) -> str:
    """The first place at which the prompt's ids differ, or their count; "" if they are equal."""
    for place, (a, b) in enumerate(zip(answer.prompt_ids, theirs, strict=False)):
        if a != b:
            return f"prompt id {place} is {a}, the reference's {b}"
    count = len(answer.prompt_ids) or answer.prompt_tokens
    if count != len(theirs):
        return f"the prompt has {count} ids, the reference's {len(theirs)}"
    return ""


def _of_logprobs(logprobs: tuple[float, ...]) -> str:
    return "" if all(map(math.isfinite, logprobs)) else "a served logprob is not finite"


def _of_bounds(found: AnswerDifference, theirs: Tensor, tokens: Tensor, dtype: DtypeName) -> str:
    """What exceeds the bounds of the type; "" if nothing does."""
    logprobs = theirs.log_softmax(dim=-1)
    lost = logprobs.amax(dim=-1) - logprobs.gather(1, tokens[:, None])[:, 0]
    worst = int(lost.argmax())
    if dtype == "float32":
        tie = LARGEST_SHARE * found.range
        largest = tie if found.unit == "logits" else LARGEST_LOGPROB
        mean = MEAN_SHARE * found.range if found.unit == "logits" else LARGEST_LOGPROB
    else:
        mean, tie = ROUNDED[dtype]
        largest = math.inf
    if lost[worst] > tie:
        best = int(theirs[worst].argmax())
        return f"token {worst} is {int(tokens[worst])}, the reference's {best}"
    if found.largest > largest:
        return f"{found.unit} differ by up to {found.largest:.2g}; the limit is {largest:.2g}"
    if found.mean > mean:
        return f"{found.unit} differ by {found.mean:.2g} in the mean; the limit is {mean:.2g}"
    return ""
