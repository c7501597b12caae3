"""Sampling: exact where it is arithmetic, the right distribution where it is chance."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loraconsole.pipeline.messages import NO_TOKEN, SamplingParams
from loraconsole.pipeline.model.sampler import FEW, SampleRow, _keep_top_p, sample, uniform

VOCAB = 300  # more than one block, and not a whole number of them
NO_HISTORY = torch.zeros(1, 4, dtype=torch.int32)


def row(position: int = 0, **params: Any) -> SampleRow:
    """The row of a sequence in slot 0 with one prompt token and `position` output tokens."""
    return SampleRow(SamplingParams(**params), slot=0, num_prompt=1, known=1 + position)


def logits_of(seed: int = 0, rows: int = 1) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def chosen(logits: Tensor, rows: list[SampleRow], history: Tensor = NO_HISTORY) -> list[int]:
    tokens: list[int] = sample(logits.clone(), rows, history).token_ids.tolist()
    return tokens


def kept(logits: Tensor, **params: Any) -> set[int]:
    """Every token that 400 draws at a high temperature's ease bring up."""
    rows = [row(position, **params) for position in range(400)]
    return set(chosen(logits.expand(400, -1), rows))


def test_temperature_zero_takes_the_best() -> None:
    logits = logits_of(rows=5)
    assert chosen(logits, [row(temperature=0.0)] * 5) == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "logprobs": 3},
        {"temperature": 0.8, "seed": 3, "top_p": 0.9, "top_k": 5},
        {"temperature": 1.0, "repetition_penalty": 1.3, "logprobs": 0},
    ],
)
def test_a_row_that_is_not_finite_gets_no_token_and_its_neighbours_theirs(
    value: float, params: dict[str, Any]
) -> None:
    logits = logits_of(rows=3)
    spoiled = logits.clone()
    spoiled[1, 77] = value
    rows = [row(**params), row(**params), row(temperature=0.0)]
    before, _, after = chosen(logits, rows)
    assert chosen(spoiled, rows) == [before, NO_TOKEN, after]
    spoiled[1] = 0.0  # what a norm makes of states that overflow
    assert chosen(spoiled, rows) == [before, NO_TOKEN, after]


def test_tokens_that_are_ruled_out_leave_a_row_finite() -> None:
    logits = torch.full((2, VOCAB), -torch.inf)
    logits[:, 5] = 1.0
    assert chosen(logits, [row(temperature=0.0), row(temperature=1.0)]) == [5, 5]


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = torch.full((VOCAB,), -100.0)
    places = [3, 127, 128, 299]  # both sides of a block's end, and the last of all
    logits[places] = probabilities.log()
    count = 20_000
    found = Counter(chosen(logits.expand(count, -1), [row(i, seed=9) for i in range(count)]))
    assert set(found) == set(places)
    for place, probability in zip(places, probabilities.tolist(), strict=True):
        assert found[place] / count == pytest.approx(probability, abs=0.015)


def test_draws_of_many_seeds_follow_the_distribution() -> None:
    """Chi-square over a peaked distribution, at one position of many seeds."""
    logits, count = logits_of(3)[0] * 0.7, 40_000
    for params in ({}, {"top_p": 0.9, "temperature": 1.2}):
        expected = (logits / params.get("temperature", 1.0)).softmax(-1)
        if "top_p" in params:
            order = expected.sort(descending=True)
            needed = int((order.values.cumsum(-1) < 0.9).sum()) + 1
            expected = torch.zeros(VOCAB).scatter(0, order.indices[:needed], order.values[:needed])
            expected /= expected.sum()
        rows = [row(7, seed=seed, **params) for seed in range(count)]
        drawn = torch.tensor(chosen(logits.expand(count, -1), rows)).bincount(minlength=VOCAB)
        common = expected * count >= 5
        assert not drawn[expected == 0].any()
        gaps = drawn[common] - expected[common] * count
        chi_square = float((gaps**2 / (expected[common] * count)).sum())
        freedom = int(common.sum()) - 1
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_a_draw_is_the_same_in_every_order_of_the_rows_and_beside_any_number() -> None:
    """Also with a flat distribution, where a sum's last bit would move the choice."""
    logits = torch.randn(1, 50_257, generator=torch.Generator().manual_seed(1)) * 0.01
    for params in ({}, {"top_p": 0.99}, {"top_k": 20_000, "min_p": 0.5}):
        rows = [row(i, seed=11, **params) for i in range(12)]
        alone = [chosen(logits, [own])[0] for own in rows]
        assert chosen(logits.expand(12, -1), rows) == alone
        assert chosen(logits.expand(12, -1), rows[::-1]) == alone[::-1]
    assert len(set(alone)) > 8


def test_a_temperature_flattens_or_sharpens() -> None:
    logits = torch.full((VOCAB,), -1e4)
    logits[[1, 2]] = torch.tensor([0.0, 1.0])
    count = 4000
    for temperature in (0.5, 2.0):
        rows = [row(i, temperature=temperature) for i in range(count)]
        share = chosen(logits.expand(count, -1), rows).count(2) / count
        assert share == pytest.approx(torch.sigmoid(torch.tensor(1 / temperature)), abs=0.03)


def test_the_smallest_temperature_is_greedy_and_does_not_overflow() -> None:
    logits = logits_of(rows=3) * 1e4
    rows = [row(seed=seed, temperature=1e-30) for seed in range(3)]
    assert chosen(logits, rows) == logits.argmax(dim=-1).tolist()


def test_a_draw_depends_on_seed_and_position_and_on_no_neighbour() -> None:
    logits = logits_of(rows=1)
    alone = [chosen(logits, [row(i, seed=5, top_p=0.9)])[0] for i in range(20)]
    neighbours = [row(seed=1, temperature=0.0), row(seed=2, top_k=3, logprobs=2)]
    for position, token in enumerate(alone):
        batch = torch.cat([logits_of(1, 2), logits, logits_of(2, 1)])
        own = row(position, seed=5, top_p=0.9)
        assert chosen(batch, [*neighbours, own, row(seed=3, min_p=0.1)])[2] == token
    other_seed = [chosen(logits, [row(i, seed=6, top_p=0.9)])[0] for i in range(20)]
    assert len(set(alone)) > 3 and other_seed != alone


@given(st.integers(-(2**63), 2**64), st.integers(0, 10**6))
def test_uniform_numbers_lie_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_uniform_numbers_are_uniform_along_seeds_and_positions() -> None:
    for numbers in (
        [uniform(seed, 3) for seed in range(5000)],
        [uniform(3, position) for position in range(5000)],
    ):
        tenths = Counter(int(number * 10) for number in numbers)
        assert min(tenths.values()) > 400 and max(tenths.values()) < 600


# --- truncation ---------------------------------------------------------------------------------


def test_top_k_keeps_the_k_best() -> None:
    logits = logits_of()[0] / 6
    assert kept(logits, top_k=5) == set(logits.topk(5).indices.tolist())
    assert kept(logits, top_k=1) == {int(logits.argmax())}
    assert len(kept(logits, top_k=VOCAB + 5)) > 100


@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.95])
def test_top_p_keeps_the_fewest_that_reach_p(top_p: float) -> None:
    logits = torch.full((VOCAB,), -1e4)
    logits[[7, 200, 31, 150]] = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    wanted = {0.2: {7}, 0.6: {7, 200}, 0.95: {7, 200, 31, 150}}[top_p]
    assert kept(logits, top_p=top_p) == wanted


def test_top_p_is_exact_where_many_tokens_are_needed() -> None:
    """Nearly flat, so that the few best do not reach p and all must be sorted."""
    logits = logits_of()[0] * 0.01
    order = logits.softmax(-1).sort(descending=True)
    needed = int((order.values.cumsum(-1) - order.values < 0.95).sum())
    assert needed > 256
    rows = [row(i, top_p=0.95) for i in range(6000)]
    drawn = set(chosen(logits.expand(6000, -1), rows))
    assert drawn <= set(order.indices[:needed].tolist())
    assert len(drawn) > 0.98 * needed


def test_min_p_keeps_what_is_not_much_less_likely_than_the_best() -> None:
    logits = torch.full((VOCAB,), -1e4)
    logits[[7, 200, 31, 150]] = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert kept(logits, min_p=0.4) == {7, 200}
    assert kept(logits, min_p=1.0) == {7}


def test_truncations_combine_as_in_transformers() -> None:
    """Temperature, then top-k, then top-p of what is left, then min-p."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    for seed in range(8):
        logits = logits_of(seed)
        warpers = LogitsProcessorList(
            [
                TemperatureLogitsWarper(1.7),
                TopKLogitsWarper(20),
                TopPLogitsWarper(0.8),
                MinPLogitsWarper(0.05),
            ]
        )
        left = set(torch.isfinite(warpers(None, logits.clone())[0]).nonzero()[:, 0].tolist())
        found = kept(logits[0], temperature=1.7, top_k=20, top_p=0.8, min_p=0.05)
        assert found <= left and len(found) >= 0.7 * len(left)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    top_k=st.integers(0, VOCAB + 1),
    top_p=st.floats(1e-6, 1.0),
    min_p=st.floats(0.0, 1.0),
    temperature=st.floats(1e-6, 1e4),
)
def test_no_token_is_ever_drawn_that_was_truncated(
    seed: int, scale: float, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    logits = logits_of(seed, 4) * scale
    params: Any = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": temperature}
    tokens = chosen(logits, [row(i, seed=seed, **params) for i in range(4)])
    for line, token in zip(logits, tokens, strict=True):
        rank = int((line > line[token]).sum())
        assert 0 <= token < VOCAB
        assert not top_k or rank < top_k
        if min_p > 0:
            ratio = ((line[token] - line.max()).double() / temperature).exp()
            assert ratio >= min_p * 0.999


# --- penalties ----------------------------------------------------------------------------------


def penalized(logits: Tensor, prompt: list[int], output: list[int], **params: Any) -> Tensor:
    """What the sampler makes of a row of logits, found by overwriting it in place."""
    history = torch.full((3, 64), 5, dtype=torch.int32)  # what is beyond the tokens is not zero
    history[2, : len(prompt) + len(output)] = torch.tensor(prompt + output)
    own = SampleRow(SamplingParams(**params), 2, len(prompt), len(prompt + output))
    plain = SampleRow(SamplingParams(temperature=0.0), 0, 1, 1)
    both = torch.stack([logits, logits])
    sample(both, [plain, own], history)
    assert torch.equal(both[0], logits), "a row without penalties is left alone"
    return both[1]


def test_presence_and_frequency_count_the_output_alone() -> None:
    logits = logits_of()[0]
    found = penalized(
        logits,
        [10, 11, 11],
        [20, 21, 20, 20],
        temperature=0.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    expected = logits.clone()
    expected[20] -= 0.5 + 3 * 0.25
    expected[21] -= 0.5 + 0.25
    torch.testing.assert_close(found, expected)


def test_repetition_is_that_of_transformers_over_prompt_and_output() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, tokens = logits_of(4)[0], [10, 11, 11, 20, 21, 0]
    found = penalized(logits, tokens[:3], tokens[3:], temperature=0.0, repetition_penalty=1.3)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([tokens]), logits[None].clone())
    torch.testing.assert_close(found, expected[0])


def test_penalties_turn_the_choice() -> None:
    logits = torch.zeros(VOCAB)
    logits[[20, 30]] = torch.tensor([2.0, 1.9])
    history = torch.tensor([[1, 20]], dtype=torch.int32)
    rows = [row(1, temperature=0.0), row(1, temperature=0.0, presence_penalty=0.2)]
    assert chosen(logits.expand(2, -1), rows, history) == [20, 30]


# --- log probabilities --------------------------------------------------------------------------


def test_logprobs_are_of_the_models_own_distribution() -> None:
    """Before penalties, temperature and truncation; the best in order; none where none asked."""
    logits, history = logits_of(rows=4), torch.tensor([[1, 20]], dtype=torch.int32)
    rows = [
        row(temperature=0.0),
        row(seed=1, temperature=3.0, top_k=40, logprobs=3),
        row(1, temperature=0.0, repetition_penalty=2.0, logprobs=0),
        row(temperature=0.0, logprobs=1),
    ]
    sampled = sample(logits.clone(), rows, history)
    assert sampled.logprob_rows == (1, 2, 3)
    assert sampled.logprob_counts == (3, 0, 1)
    expected = logits.log_softmax(dim=-1)
    for place, index in enumerate(sampled.logprob_rows):
        token = int(sampled.token_ids[index])
        torch.testing.assert_close(sampled.chosen_logprobs[place], expected[index, token])
        count = sampled.logprob_counts[place]
        best = expected[index].topk(3)
        torch.testing.assert_close(sampled.best_logprobs[place, :count], best.values[:count])
        assert torch.equal(sampled.best_ids[place, :count], best.indices[:count])


def test_named_tokens_are_reported_in_place_of_the_likeliest() -> None:
    logits = logits_of(rows=3)
    rows = [
        row(temperature=0.0, logprobs=3, logprob_token_ids=(9, 4, 250)),
        row(temperature=0.0, logprobs=1),
        row(temperature=0.0, logprobs=2, logprob_token_ids=(7, int(logits[2].argmax()))),
    ]
    sampled = sample(logits.clone(), rows, NO_HISTORY)
    assert sampled.logprob_counts == (3, 1, 2)
    expected = logits.log_softmax(dim=-1)
    assert sampled.best_ids[0].tolist() == [9, 4, 250]
    assert torch.equal(sampled.best_logprobs[0], expected[0, [9, 4, 250]])
    assert sampled.best_ids[1, 0] == sampled.token_ids[1]
    assert sampled.best_ids[2, 0] == 7 and sampled.best_logprobs[2, 0] == expected[2, 7]


# --- the same alone and in company ----------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_k": 900, "top_p": 0.9},
    {"min_p": 0.02, "temperature": 0.7},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 3.0, "top_p": 0.97, "logprobs": 20},
]


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("vocab_size", [301, 4099, 32768])
def test_a_token_and_its_logprobs_are_bit_equal_alone_and_in_company(
    vocab_size: int, device: str
) -> None:
    """Rows that need all tokens sorted beside rows that do not; the widest top-k beside none."""
    generator = torch.Generator().manual_seed(3)
    count = 60
    scale = torch.tensor([0.02, 1.0, 4.0]).repeat(count // 3)[:, None]
    logits = (torch.randn(count, vocab_size, generator=generator) * scale).to(device)
    history = torch.randint(vocab_size, (count, 9), generator=generator).int().to(device)
    rows = [
        SampleRow(SamplingParams(seed=i, **KINDS[i % len(KINDS)]), i, 3, 3 + i % 7)
        for i in range(count)
    ]
    together = sample(logits.clone(), rows, history)
    asking = dict(zip(together.logprob_rows, range(count), strict=False))
    for i, own in enumerate(rows):
        alone = sample(logits[i : i + 1].clone(), [own], history)
        assert alone.token_ids[0] == together.token_ids[i], own.params
        if i in asking:
            wanted, place = alone.logprob_counts[0], asking[i]
            assert torch.equal(alone.chosen_logprobs[0], together.chosen_logprobs[place])
            assert torch.equal(
                alone.best_logprobs[0, :wanted], together.best_logprobs[place, :wanted]
            )


def test_top_p_keeps_the_same_tokens_whether_few_or_all_are_sorted() -> None:
    """Where p is the sum of the few best, as it rounds: with sums of floats 24 of 300 differed."""
    for seed in range(300):
        scores = torch.randn(1, 2048, generator=torch.Generator().manual_seed(seed)) * 2
        few = scores.softmax(dim=-1).topk(FEW, dim=-1).values
        p = float(few.cumsum(dim=-1)[0, -1])
        both = torch.cat([scores, torch.zeros(1, 2048)])  # the flat row needs more than the few
        _keep_top_p(scores, [p])
        _keep_top_p(both, [p, 0.9999])
        assert torch.equal(scores[0], both[0])
