"""Constrained rows of a runner: beside others, with steps in flight, and to their ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner
from token_tables import END, small_table, text_of

from loraconsole.pipeline.grammar.specification import (
    choice_grammar,
    json_schema_grammar,
    regex_grammar,
)
from loraconsole.pipeline.grammar.token_table import write_token_table
from loraconsole.pipeline.messages import (
    END_OF_ANSWER,
    NO_TOKEN,
    Admission,
    Batch,
    BatchRow,
    SampledToken,
    SamplingParams,
)
from loraconsole.pipeline.runner.runner import ModelRunner

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
GRAMMAR = json_schema_grammar(SCHEMA, is_compact=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    save_model(found, "llama", eos_token_id=END, max_position_embeddings=512)
    write_token_table(found, small_table())
    save_adapter(found / "adapter", found)
    return found


@pytest.fixture(scope="module")
def runner(directory: Path) -> Iterator[ModelRunner]:
    found, _ = start_runner(directory, adapter=(f"a={directory / 'adapter'}",))
    yield found


def params(grammar: str = "", **changes: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 1.0, "grammar": grammar} | changes))


def answer(
    runner: ModelRunner, wanted: dict[int, tuple[SamplingParams, str | None]], steps: int = 60
) -> dict[int, list[SampledToken]]:
    """Tokens of sequences with one prompt, always with two steps in flight, as in the ring. A
    sequence goes on after its end, as one does whose end the router has not got yet."""
    prompt = tuple(range(40, 60))
    found: dict[int, list[SampledToken]] = {number: [] for number in wanted}
    admit = tuple(Admission(n, prompt, len(prompt), p, a) for n, (p, a) in wanted.items())
    pages = {number: iter(range(8 * i, 8 * i + 8)) for i, number in enumerate(wanted)}
    flight = []
    for step in range(steps):
        count, known = (len(prompt), 0) if step == 0 else (1, len(prompt) + step - 1)
        rows = []
        for number in wanted:
            held, needed = -(-known // 16), -(-(known + count) // 16)
            new = tuple(next(pages[number]) for _ in range(needed - held))
            rows.append(BatchRow(number, count, new))
        batch = Batch(1, step, (), () if step else admit, tuple(rows))
        flight.append(runner.launch(batch))
        if len(flight) > 1:
            for token in flight.pop(0).wait()[0]:
                found[token.sequence].append(token)
    for token in flight.pop().wait()[0]:
        found[token.sequence].append(token)
    runner.launch(Batch(1, steps, tuple(wanted), (), ())).wait()
    return found


def until_end(tokens: list[SampledToken]) -> list[int]:
    ids = [token.token_id for token in tokens]
    assert END in ids, text_of(ids)
    return ids[: ids.index(END)]


def test_constrained_rows_follow_their_schemas_and_others_are_as_alone(runner: ModelRunner) -> None:
    plain = {n: (params(seed=n), None) for n in (0, 1)}
    alone = answer(runner, plain)
    mixed: dict[int, tuple[SamplingParams, str | None]] = dict(plain)
    for number in range(2, 8):
        mixed[number] = params(GRAMMAR, seed=number), None
    mixed[8] = params(choice_grammar(["yes", "no"])), None
    mixed[9] = params(regex_grammar("[a-f]{3}-[0-9]+")), None
    together = answer(runner, mixed)
    for number in plain:
        assert [t.token_id for t in together[number]] == [t.token_id for t in alone[number]]
    for number in range(2, 8):
        value = json.loads(text_of(until_end(together[number])))
        assert set(value) == {"name", "ok"} and isinstance(value["ok"], bool)
    assert text_of(until_end(together[8])) in ("yes", "no")
    assert len({tuple(t.token_id for t in together[n]) for n in range(2, 8)}) > 1


def test_a_constrained_row_is_the_same_alone_and_among_others(runner: ModelRunner) -> None:
    one = {3: (params(GRAMMAR, seed=5), None)}
    others = {n: (params(GRAMMAR if n % 2 else "", seed=n), None) for n in range(10, 16)}
    alone = answer(runner, one)[3]
    assert [t.token_id for t in answer(runner, {**others, **one})[3]] == [t.token_id for t in alone]


def test_adapters_are_constrained_too(runner: ModelRunner) -> None:
    wanted = {n: (params(GRAMMAR, seed=n), "a" if n % 2 else None) for n in range(6)}
    for tokens in answer(runner, wanted).values():
        assert set(json.loads(text_of(until_end(tokens)))) == {"name", "ok"}


def test_a_greedy_row_takes_the_best_allowed_token(runner: ModelRunner) -> None:
    found = answer(runner, {0: (params(GRAMMAR, temperature=0.0), None)})[0]
    assert set(json.loads(text_of(until_end(found)))) == {"name", "ok"}


def test_an_answer_goes_on_after_the_tokens_it_was_admitted_with(runner: ModelRunner) -> None:
    wanted = params(GRAMMAR, seed=7)
    whole = [t.token_id for t in answer(runner, {0: (wanted, None)})[0]]
    for cut in (1, 5, 11):
        driver = Driver(runner)
        prompt = [*range(40, 60), *whole[:cut]]
        number = driver.add(prompt, wanted, num_prompt=20)
        driver.generate([number], 4)
        assert driver.tokens[number] == whole[cut : cut + 4]
        driver.drop(number)
        driver.launch({}).wait()


def test_without_an_end_token_a_complete_answer_ends(runner: ModelRunner) -> None:
    wanted = params(choice_grammar(["yes", "no"]), ignore_eos=True)
    ids = [t.token_id for t in answer(runner, {0: (wanted, None)}, steps=8)[0]]
    end = ids.index(END_OF_ANSWER)
    assert text_of(ids[:end]) in ("yes", "no") and END not in ids[:end]


def test_a_stop_token_of_the_request_ends_a_complete_answer(runner: ModelRunner) -> None:
    wanted = params(choice_grammar(["yes", "no"]), ignore_eos=True, stop_token_ids=(151,))
    ids = [t.token_id for t in answer(runner, {0: (wanted, None)}, steps=8)[0]]
    assert text_of(ids[: ids.index(151)]) in ("yes", "no")


def test_a_grammar_that_fails_ends_its_row_alone(runner: ModelRunner) -> None:
    broken = 'start: "a" <|nowhere|>'
    wanted = {0: (params(broken), None), 1: (params(GRAMMAR, seed=3), None)}
    found = answer(runner, wanted)
    assert {t.token_id for t in found[0]} == {NO_TOKEN}
    assert "unknown special token" in found[0][0].error
    assert set(json.loads(text_of(until_end(found[1])))) == {"name", "ok"}


def test_without_the_table_of_tokens_a_row_says_so(directory: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", "llama")
    bare, _ = start_runner(tmp_path / "model")
    found = answer(bare, {0: (params(GRAMMAR), None), 1: (params(), None)}, steps=3)
    assert "table of tokens" in found[0][0].error
    assert all(t.token_id >= 0 and not t.error for t in found[1])


@pytest.mark.parametrize("masked", [False, True])
def test_logprobs_are_the_models_own_or_those_after_the_mask(
    runner: ModelRunner, masked: bool
) -> None:
    driver = Driver(runner)
    wanted = params(choice_grammar(["yes", "no"]), logprobs=3, masked_logprobs=masked)
    number = driver.add(range(40, 60), wanted)
    driver.prefill([number])
    logits = driver.logits[number][0].clone()
    if masked:
        allowed = torch.tensor([ord("y"), ord("n")])
        kept = torch.full_like(logits, float("-inf"))
        logits = kept.scatter(0, allowed, logits[allowed])
    expected = logits.log_softmax(-1)
    chosen, *top = driver.entries[number].logprobs
    assert chosen.logprob == pytest.approx(float(expected[chosen.token_id]), abs=1e-4)
    assert [t.token_id for t in top][:2] == expected.topk(2).indices.tolist()
    assert (top[2].logprob == -9999) is masked
    driver.drop(number)
    driver.launch({}).wait()
