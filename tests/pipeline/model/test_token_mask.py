"""Sampling from the tokens that grammars allow, beside a request's other rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from loraconsole.pipeline.messages import END_OF_ANSWER, NO_TOKEN, SamplingParams
from loraconsole.pipeline.model.sampler import NOTHING_ALLOWED, SampleRow, TokenMask, sample
from loraconsole.pipeline.model.token_rules import TokenRules

SIZE = 100
EOS = 7


def mask_of(allowed: dict[int, Sequence[int]], complete: Sequence[int] = ()) -> TokenMask:
    """The mask of some rows: their tokens, in 13 bytes and three more."""
    bits = np.zeros((len(allowed), 8 * 16), dtype=np.uint8)
    for place, tokens in enumerate(allowed.values()):
        bits[place, list(tokens)] = 1
    packed = torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))
    return TokenMask(tuple(allowed), packed, tuple(row in complete for row in allowed))


def rows_of(*params: dict[str, Any]) -> list[SampleRow]:
    found = []
    for slot, given in enumerate(params):
        own = SamplingParams(**({"temperature": 0.0, "grammar": "g"} | given))
        found.append(SampleRow(own, slot, 2, 4, TokenRules.of(own, (EOS,))))
    return found


def tokens(rows: list[SampleRow], mask: TokenMask | None, seed: int = 0) -> list[int]:
    logits = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(seed))
    history = torch.full((len(rows), 8), 3, dtype=torch.int32)
    found: list[int] = sample(logits, rows, history, mask).token_ids.tolist()
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_masked_row_takes_an_allowed_token_and_others_theirs(temperature: float) -> None:
    rows = rows_of(*[{"temperature": temperature, "seed": n} for n in range(4)])
    for seed in range(20):
        free = tokens(rows, None, seed)
        found = tokens(rows, mask_of({1: [5, 50, 99], 3: [64]}), seed)
        assert found[1] in (5, 50, 99) and found[3] == 64
        assert (found[0], found[2]) == (free[0], free[2])
        assert set(tokens(rows, mask_of({key: [8, 9] for key in range(4)}), seed)) <= {8, 9}


def test_an_empty_row_ends_if_its_grammar_is_complete() -> None:
    for temperature in (0.0, 1.0):
        rows = rows_of(*[{"temperature": temperature}] * 3)
        found = tokens(rows, mask_of({0: [], 1: [4], 2: []}, complete=[0]))
        assert found == [END_OF_ANSWER, 4, NOTHING_ALLOWED]


def test_rules_choose_among_what_the_grammar_allows() -> None:
    rows = rows_of(
        {"allowed_token_ids": (4, 5)},
        {"allowed_token_ids": (4, 5)},
        {"logit_bias": ((9, 100.0), (30, 50.0))},
        {"bad_words": ((30,),)},
    )
    found = tokens(rows, mask_of({0: [5, 6], 1: [6], 2: [30, 31], 3: [30, 31]}))
    assert found == [5, NOTHING_ALLOWED, 30, 31]


def test_a_complete_answer_ends_though_it_is_shorter_than_min_tokens() -> None:
    rows = rows_of({"min_tokens": 50}, {"min_tokens": 50}, {"min_tokens": 50, "ignore_eos": True})
    found = tokens(rows, mask_of({0: [EOS], 1: [EOS, 20], 2: []}, complete=[0, 2]))
    assert found == [EOS, 20, END_OF_ANSWER]


def test_unusable_logits_are_reported_as_such() -> None:
    rows = rows_of({}, {})
    logits = torch.randn(2, SIZE)
    logits[0, 3] = float("nan")
    history = torch.zeros((2, 8), dtype=torch.int32)
    found = sample(logits, rows, history, mask_of({0: [3], 1: [3]})).token_ids.tolist()
    assert found == [NO_TOKEN, 3]


def test_logprobs_after_the_mask_sum_to_one_among_the_allowed() -> None:
    rows = rows_of(
        {"logprobs": 3, "masked_logprobs": True},
        {"logprobs": 3},
        {"logprobs": 2, "masked_logprobs": True, "logit_bias": ((5, 2.0),)},
    )
    logits = torch.zeros(3, SIZE)
    logits[:, 5] = 1.0
    history = torch.zeros((3, 8), dtype=torch.int32)
    found = sample(logits.clone(), rows, history, mask_of({key: [5, 6] for key in range(3)}))
    masked, own, biased = found.best_logprobs.exp().tolist()
    assert sum(masked[:2]) == pytest.approx(1) and found.best_logprobs[0, 2] == -9999
    assert own[0] == pytest.approx(np.e / (np.e + SIZE - 1), abs=1e-5)
    assert biased[0] / biased[1] == pytest.approx(np.e**3, rel=1e-4)
