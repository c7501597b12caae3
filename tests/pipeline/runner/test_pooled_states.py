"""Pooled states of prompts, beside transformers' hidden states on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_paged_runner, start_runner
from reference_logits import load_reference, prompts_of

from loraconsole.pipeline.messages import Admission, Batch, BatchRow, PromptLogprobs, SamplingParams

LENGTHS = (1, 2, 5, 16, 33, 70)
TOLERANCE: dict[str, float] = {"rtol": 0, "atol": 1e-3 if torch.cuda.is_available() else 1e-4}


def pooled(pooling: str, *, is_unit: bool = False) -> SamplingParams:
    return SamplingParams(temperature=0.0, prompt_logprobs=0, pooling=pooling, unit_state=is_unit)


class PoolingDriver(Driver):
    """A driver that keeps what comes of each prompt."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.pieces: dict[int, list[PromptLogprobs]] = {}

    def read(self, pending: Any) -> None:
        super().read(pending)
        for scored in pending.prompt_logprobs:
            self.pieces.setdefault(scored.sequence, []).append(scored.piece)


def check(model: Any, prompt: list[int], pieces: list[PromptLogprobs], pooling: str) -> None:
    """One piece covers the whole prompt, and is what transformers' states give."""
    (piece,) = pieces
    assert (piece.start, piece.count) == (1, len(prompt))
    assert piece.after(0) == piece and piece.after(piece.count).count == 0
    with torch.no_grad():
        found = model(torch.tensor([prompt]), use_cache=False, output_hidden_states=True)
    states = found.hidden_states[-1][0]
    expected = states[-1] if pooling == "last" else states.mean(0)
    state = torch.frombuffer(bytearray(piece.state), dtype=torch.float32)
    torch.testing.assert_close(state, expected, **TOLERANCE)


@pytest.mark.parametrize("chunk", [1 << 20, 13, 1])
def test_states_equal_transformers_whole_and_in_pieces(chunk: int, tmp_path: Path) -> None:
    """Beside prompts that are not pooled, and those whose logprobs are asked for."""
    model = save_model(tmp_path, "llama")
    driver = PoolingDriver(start_runner(tmp_path)[0])
    prompts = prompts_of(LENGTHS)
    pooling = ["last", "mean", "mean", "last", "mean", "mean"]
    numbers = [
        driver.add(prompt, pooled(kind)) for prompt, kind in zip(prompts, pooling, strict=True)
    ]
    plain = [driver.add(prompt) for prompt in prompts]
    scored = driver.add(prompts[-1], SamplingParams(temperature=0.0, prompt_logprobs=2))
    driver.generate([*numbers, *plain, scored], 3, chunk)
    for number, other, prompt, kind in zip(numbers, plain, prompts, pooling, strict=True):
        check(model, prompt, driver.pieces[number], kind)
        assert other not in driver.pieces
        assert driver.tokens[number] == driver.tokens[other]
    assert sum(piece.count for piece in driver.pieces[scored]) == len(prompts[-1]) - 1
    assert all(not piece.state for piece in driver.pieces[scored])


def test_a_unit_state_has_length_one(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    driver = PoolingDriver(start_runner(tmp_path)[0])
    (prompt,) = prompts_of((21,))
    numbers = [driver.add(prompt, pooled("mean", is_unit=is_unit)) for is_unit in (False, True)]
    driver.prefill(numbers, chunk=8)
    plain, unit = (
        torch.frombuffer(bytearray(driver.pieces[number][0].state), dtype=torch.float32)
        for number in numbers
    )
    assert abs(float(unit.norm()) - 1) < 1e-5 < abs(float(plain.norm()) - 1)
    torch.testing.assert_close(unit * plain.norm(), plain)


@pytest.mark.slow
def test_kernels_that_read_pages_pool_alike(tmp_path: Path) -> None:
    """On a CPU in Triton's interpreter."""
    pytest.importorskip("triton")
    model = save_model(tmp_path, "llama", num_hidden_layers=1)
    runner = start_paged_runner(tmp_path)
    driver = PoolingDriver(runner)
    prompts, pooling = prompts_of((1, 2, 18)), ("mean", "last", "mean")
    numbers = [
        driver.add(prompt, pooled(kind)) for prompt, kind in zip(prompts, pooling, strict=True)
    ]
    numbers.append(driver.add(prompts[2]))
    driver.generate(numbers, 2, chunk=7)
    for number, prompt, kind in zip(numbers[:3], prompts, pooling, strict=True):
        check(model, prompt, driver.pieces[number], kind)
    assert numbers[3] not in driver.pieces


def test_an_adapters_states_are_its_own(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "llama")
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "model")
    runner, started = start_runner(tmp_path / "model", adapter=(f"own={adapter}",))
    driver = PoolingDriver(runner)
    (prompt,) = prompts_of((30,))
    base = driver.add(prompt, pooled("mean"))
    own = driver.add(prompt, pooled("mean"), started.adapters[0].key)
    driver.prefill([base, own], chunk=11)
    check(model, prompt, driver.pieces[base], "mean")
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load_reference(tmp_path / "model"), str(adapter)).eval()
    check(adapted, prompt, driver.pieces[own], "mean")
    assert driver.pieces[own][0].state != driver.pieces[base][0].state


def test_a_prompt_begun_again_is_pooled_from_its_start(tmp_path: Path) -> None:
    """After a preemption half way; and its slot's next prompt begins with nothing of it."""
    model = save_model(tmp_path, "llama")
    runner, _ = start_runner(tmp_path)
    (prompt, other) = prompts_of((40, 25))
    for number, (tokens, rows) in enumerate(((prompt, (20,)), (prompt, (20, 20)), (other, (25,)))):
        admission = Admission(number, tuple(tokens), len(tokens), pooled("mean"), None)
        pieces = []
        for step, count in enumerate(rows):
            new, admit = (tuple(range(3)), (admission,)) if not step else ((), ())
            release = (number - 1,) if number and not step else ()
            batch = Batch(1, 10 * number + step, release, admit, (BatchRow(number, count, new),))
            pending = runner.launch(batch)
            pending.wait()
            pieces += [scored.piece for scored in pending.prompt_logprobs]
        if len(tokens) == sum(rows):
            check(model, tokens, pieces, "mean")
        else:
            assert not pieces
