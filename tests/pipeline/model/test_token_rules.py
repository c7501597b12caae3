"""What a request asks of its tokens beside their probabilities, against the plain definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loraconsole.pipeline.messages import SamplingParams
from loraconsole.pipeline.model.sampler import SampleRow, sample
from loraconsole.pipeline.model.token_rules import TokenRules

VOCAB = 12
EOS = (11,)


def ruled(logits: Tensor, prompt: list[int], output: list[int], **params: Any) -> Tensor:
    """The logits under these parameters, where the model's end token is 11."""
    rules = TokenRules.of(SamplingParams(**params), EOS)
    assert rules is not None
    found = logits.clone()
    rules.apply_(found, torch.tensor(prompt + output, dtype=torch.int32), len(prompt))
    return found


def banned(before: Tensor, after: Tensor) -> set[int]:
    return set((after.isneginf() & ~before.isneginf()).nonzero()[:, 0].tolist())


def logits_of(seed: int = 0) -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))


def test_parameters_without_rules_have_none() -> None:
    assert TokenRules.of(SamplingParams(top_k=3, logprobs=2, stop_token_ids=(4,)), EOS) is None


def test_a_bias_is_added_to_its_tokens_alone() -> None:
    logits = logits_of()
    expected = logits.clone()
    expected[3] -= 100.0
    expected[7] += 2.5
    found = ruled(logits, [1], [2], logit_bias=((3, -100.0), (7, 2.5)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_only_allowed_tokens_remain_and_a_bias_brings_no_other_back() -> None:
    logits = logits_of()
    found = ruled(logits, [1], [], allowed_token_ids=(2, 5), logit_bias=((3, 100.0), (5, 1.0)))
    assert banned(logits, found) == set(range(VOCAB)) - {2, 5}
    assert found[5] == logits[5] + 1.0


@pytest.mark.parametrize(("outputs", "expected"), [(0, {4, 11}), (2, {4, 11}), (3, set())])
def test_end_tokens_wait_for_the_least_number_of_tokens(outputs: int, expected: set[int]) -> None:
    """The model's own, also if they would not end the answer, and the request's."""
    logits, params = logits_of(), {"min_tokens": 3, "stop_token_ids": (4,), "ignore_eos": True}
    assert banned(logits, ruled(logits, [1, 2], [5] * outputs, **params)) == expected


def test_rules_yield_where_nothing_else_is_allowed() -> None:
    logits = logits_of()
    found = ruled(logits, [1], [2], allowed_token_ids=(3, 11), bad_words=((3,),), min_tokens=5)
    assert banned(logits, found) == set(range(VOCAB)) - {3, 11}


def test_a_token_without_a_probability_keeps_none() -> None:
    """What a grammar has ruled out is neither biased in nor brought back by rules that yield."""
    logits = torch.full((VOCAB,), -torch.inf)
    logits[11] = 1.0
    found = ruled(logits, [1], [], logit_bias=((3, 100.0),), min_tokens=4)
    assert banned(torch.zeros(VOCAB), found) == set(range(11))


words = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
tokens = st.lists(st.integers(0, 3), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(words, min_size=1, max_size=5), tokens, tokens)
def test_bad_words_rule_out_what_would_complete_one(
    bad: list[tuple[int, ...]], prompt: list[int], output: list[int]
) -> None:
    """The prompt's tokens do not begin a word of the output."""
    prompt = [1, *prompt]
    expected = {
        word[-1]
        for word in bad
        if len(word) - 1 <= len(output) and [*word[:-1]] == output[len(output) + 1 - len(word) :]
    }
    logits = logits_of()
    found = ruled(logits, prompt, output, bad_words=tuple(bad))
    assert banned(logits, found) == expected
    kept = [token for token in range(VOCAB) if token not in expected]
    assert torch.equal(found[kept], logits[kept])


def test_rules_of_one_row_leave_the_others_and_its_logprobs_alone() -> None:
    logits = torch.stack([logits_of(), logits_of(), logits_of()])
    best = int(logits[0].argmax())
    params = SamplingParams(temperature=0.0, logprobs=1, bad_words=((best,),))
    plain = SampleRow(SamplingParams(temperature=0.0, logprobs=1), 0, 1, 1)
    own = SampleRow(params, 0, 1, 1, TokenRules.of(params, EOS))
    assert plain.takes_best is False and own.takes_best is False
    sampled = sample(logits.clone(), [plain, own, plain], torch.zeros(1, 4, dtype=torch.int32))
    first, second, third = sampled.token_ids.tolist()
    assert first == third == best and second == int(logits[0].topk(2).indices[1])
    assert sampled.best_ids[1, 0] == best, "logprobs are the model's own, bad words included"
