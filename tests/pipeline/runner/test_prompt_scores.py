"""Log probabilities of prompts, beside transformers' on the same weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import GREEDY, Driver, save_adapter, save_model, start_paged_runner, start_runner
from reference_logits import load_reference, prompts_of

from loraconsole.pipeline.messages import Admission, Batch, BatchRow, PromptLogprobs, SamplingParams
from loraconsole.pipeline.runner import prompt_scores
from loraconsole.pipeline.runner.prompt_scores import score_prompts

LENGTHS = (1, 2, 5, 16, 33, 70)
TOLERANCE: dict[str, float] = {"rtol": 0, "atol": 1e-3 if torch.cuda.is_available() else 1e-4}


def scoring(most: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, prompt_logprobs=most)


class ScoringDriver(Driver):
    """A driver that keeps the pieces of each prompt."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.pieces: dict[int, list[PromptLogprobs]] = {}

    def read(self, pending: Any) -> None:
        super().read(pending)
        for scored in pending.prompt_logprobs:
            self.pieces.setdefault(scored.sequence, []).append(scored.piece)


def unpacked(pieces: list[PromptLogprobs]) -> tuple[list[float], list[list[Any]], list[int]]:
    """(own logprobs, likeliest (id, logprob) of each, ranks), in order; the pieces must join."""
    own, likeliest, ranks, start = [], [], [], pieces[0].start if pieces else 1
    for piece in pieces:
        assert piece.start == start, "pieces join"
        start += piece.count
        values = struct.iter_unpack(f"<{1 + piece.most}f", piece.logprobs)
        ids = struct.iter_unpack(f"<{piece.most}i", piece.likeliest) if piece.most else None
        for first, *others in values:
            own.append(first)
            likeliest.append([*zip(next(ids), others, strict=True)] if ids else [])
        ranks += [rank for (rank,) in struct.iter_unpack("<i", piece.ranks)]
    return own, likeliest, ranks


def check(model: Any, prompt: list[int], pieces: list[PromptLogprobs], most: int) -> None:
    """The pieces are what transformers' log_softmax has of this prompt."""
    own, likeliest, ranks = unpacked(pieces)
    assert len(own) == len(prompt) - 1
    with torch.no_grad():
        expected = model(torch.tensor([prompt]), use_cache=False).logits[0].log_softmax(dim=-1)
    for place, token in enumerate(prompt[1:]):
        row = expected[place]
        torch.testing.assert_close(torch.tensor(own[place]), row[token], **TOLERANCE)
        best = row.topk(max(1, most)).values[:most]
        assert len(likeliest[place]) == most
        found = torch.tensor([value for _, value in likeliest[place]])
        torch.testing.assert_close(found, best, **TOLERANCE)
        for token_id, value in likeliest[place]:
            torch.testing.assert_close(torch.tensor(value), row[token_id], **TOLERANCE)
        least, largest = (int((row > row[token] + gap).sum()) + 1 for gap in (1e-4, -1e-4))
        assert least <= ranks[place] <= largest


@pytest.mark.parametrize("chunk", [1 << 20, 13, 1])
def test_logprobs_equal_transformers_whole_and_in_pieces(chunk: int, tmp_path: Path) -> None:
    """Beside prompts that ask for none, and for other numbers of alternatives."""
    model = save_model(tmp_path, "llama")
    driver = ScoringDriver(start_runner(tmp_path)[0])
    prompts = prompts_of(LENGTHS)
    asked = [0, 3, 20, 5, 0, 7]
    numbers = [
        driver.add(prompt, scoring(most)) for prompt, most in zip(prompts, asked, strict=True)
    ]
    plain = [driver.add(prompt) for prompt in prompts]
    driver.generate([*numbers, *plain], 4, chunk)
    for number, other, prompt, most in zip(numbers, plain, prompts, asked, strict=True):
        check(model, prompt, driver.pieces.get(number, []), most)
        assert other not in driver.pieces
        assert driver.tokens[number] == driver.tokens[other]
        assert all(map(torch.equal, driver.logits[number], driver.logits[other]))


@pytest.mark.slow
def test_kernels_that_read_pages_score_alike(tmp_path: Path) -> None:
    """On a CPU in Triton's interpreter; steps without scores go on in their buckets."""
    pytest.importorskip("triton")
    model = save_model(tmp_path, "llama", num_hidden_layers=1)
    runner = start_paged_runner(tmp_path)
    driver = ScoringDriver(runner)
    prompts = prompts_of((1, 2, 18, 9))
    numbers = [driver.add(prompt, scoring(3)) for prompt in prompts[:3]]
    numbers.append(driver.add(prompts[3]))
    driver.generate(numbers, 2, chunk=7)
    for number, prompt in zip(numbers[:3], prompts, strict=False):
        check(model, prompt, driver.pieces.get(number, []), 3)
    assert numbers[3] not in driver.pieces


def test_few_states_at_a_time_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path, "llama")
    monkeypatch.setattr(prompt_scores, "LOGITS_BYTES", 4 * 160 * 7)
    driver = ScoringDriver(start_runner(tmp_path)[0])
    (prompt,) = prompts_of((40,))
    number = driver.add(prompt, scoring(4))
    driver.prefill([number])
    check(model, prompt, driver.pieces[number], 4)


def test_no_more_logits_are_made_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_scores, "LOGITS_BYTES", 4 * 50 * 8)
    made: list[int] = []

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        made.append(len(states))
        return states.repeat(1, 25)

    scores = score_prompts(torch.randn(30, 2), logits_of, torch.arange(30), 3, 50)
    assert sum(made) == 30 and max(made) == 8
    assert scores.logprobs.shape == (30, 4) and scores.likeliest.shape == (30, 3)


def test_an_adapters_logprobs_are_its_own(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "llama")
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "model")
    runner, started = start_runner(tmp_path / "model", adapter=(f"own={adapter}",))
    driver = ScoringDriver(runner)
    (prompt,) = prompts_of((30,))
    base = driver.add(prompt, scoring(2))
    own = driver.add(prompt, scoring(2), started.adapters[0].key)
    driver.prefill([base, own], chunk=11)
    check(model, prompt, driver.pieces[base], 2)
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_reference(tmp_path / "model"), str(adapter)).eval()
    check(adapted, prompt, driver.pieces[own], 2)


def test_a_prompt_computed_again_is_scored_from_where_it_was(tmp_path: Path) -> None:
    """After a preemption: the router names how much it has, and tokens of the output are known."""
    model = save_model(tmp_path, "llama")
    runner, _ = start_runner(tmp_path)
    (prompt,) = prompts_of((40,))
    tokens = (*prompt, 3, 4, 5)
    for computed, scored, rows in ((0, 1, (20, 23)), (0, 25, (20, 23)), (17, 18, (3, 23))):
        pages, pieces = tuple(range(3)), []
        if computed:  # the KV of an earlier admission
            admission = Admission(0, tokens, 40, GREEDY, None)
            runner.launch(Batch(1, 0, (), (admission,), (BatchRow(0, 20, pages),))).wait()
        admission = Admission(1, tokens, 40, scoring(1), None, computed, scored=scored)
        for number, count in enumerate(rows):
            new, admit = ((), ()) if number else (pages, (admission,))
            pending = runner.launch(Batch(1, number, (), admit, (BatchRow(1, count, new),)))
            pending.wait()
            pieces += [scored.piece for scored in pending.prompt_logprobs]
        own, _, _ = unpacked(pieces)
        assert pieces[0].start == scored and len(own) == 40 - scored
        with torch.no_grad():
            logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
        expected = logits.log_softmax(dim=-1)[range(39), prompt[1:]]
        torch.testing.assert_close(torch.tensor(own), expected[scored - 1 :], **TOLERANCE)
        runner.reset()


def test_pieces_can_be_cut_at_their_front() -> None:
    piece = PromptLogprobs(5, struct.pack("<6f", *range(6)), struct.pack("<3i", 7, 8, 9), bytes(12))
    assert (piece.count, piece.most) == (3, 1)
    rest = piece.after(2)
    assert rest == PromptLogprobs(7, struct.pack("<2f", 4, 5), struct.pack("<i", 9), bytes(4))
    assert piece.after(-1) == piece and piece.after(9).count == 0
