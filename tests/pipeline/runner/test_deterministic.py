"""With fixed sums, a sequence's logits are the same bits alone and among any others."""

import os
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from driver import GREEDY, Driver, save_adapter, save_model, start_runner

from loraconsole.pipeline.messages import SamplingParams
from loraconsole.pipeline.runner.runner import ModelRunner

PAGES = 260
ADAPTERS: Mapping[str, Mapping[str, Any]] = {
    "low": {"r": 4},
    "high": {"r": 20},
    "attention": {"r": 8, "target_modules": ["q_proj", "v_proj", "o_proj"]},
}
NAMES = (None, *ADAPTERS)
MANNERS = (
    GREEDY,
    SamplingParams(temperature=0.9, seed=5),
    SamplingParams(temperature=1.3, seed=6, top_k=12, top_p=0.9),
    SamplingParams(temperature=0.8, seed=7, min_p=0.05, repetition_penalty=1.2),
    SamplingParams(temperature=0.0, presence_penalty=0.4, frequency_penalty=0.2),
    SamplingParams(temperature=1.0, seed=8, top_p=0.999),
)


@pytest.fixture(scope="module", params=["float32", "bfloat16", "windowed"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    root = tmp_path_factory.mktemp("deterministic")
    changes = {"hidden_size": 96, "intermediate_size": 640, "max_position_embeddings": 640}
    family = "mistral" if request.param == "windowed" else "llama"
    if request.param == "windowed":
        changes["sliding_window"] = 40
    save_model(root / "model", family, **changes)
    entries = tuple(
        f"{name}={save_adapter(root / name, root / 'model', seed, **own)}"
        for seed, (name, own) in enumerate(ADAPTERS.items())
    )
    dtype = "bfloat16" if request.param == "bfloat16" else "float32"
    found, _ = start_runner(root / "model", adapter=entries, dtype=dtype, deterministic=True)
    assert found.loaded.deterministic
    return found


class Sequence:
    """A request of the property test."""

    def __init__(self, length: int, name: str | None, params: SamplingParams, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.prompt: list[int] = torch.randint(160, (length,), generator=generator).tolist()
        self.name, self.params = name, params

    def add(self, driver: Driver) -> int:
        return driver.add(self.prompt, self.params, self.name)


LENGTHS = (1, 2, 3, 15, 16, 17, 33, 63, 120, 257, 300)


def any_sequence(chance: random.Random) -> Sequence:
    name, manner = chance.choice(NAMES), chance.choice(MANNERS)
    return Sequence(chance.choice(LENGTHS), name, manner, chance.randrange(99))


def alone(runner: ModelRunner, sequence: Sequence, count: int) -> tuple[list[int], torch.Tensor]:
    """Its tokens and logits without any other, its prompt computed at once."""
    driver = Driver(runner, PAGES)
    runner.reset()
    replace_adapters(runner)
    number = sequence.add(driver)
    driver.generate([number], count)
    return driver.tokens[number], torch.stack(driver.logits[number])


def next_chunk(driver: Driver, sequence: int, most: int) -> int:
    return min(most, driver.known[sequence] - driver.computed[sequence])


def replace_adapters(runner: ModelRunner) -> None:
    """Places the adapters again: a reset evicts them."""
    pages = iter(range(runner.loaded.pool.num_pages - 1, 0, -1))
    for info in runner.adapters.held():
        runner.adapters.place(info.key, [next(pages) for _ in range(info.pages)]).result()


@pytest.mark.parametrize("seed", range(int(os.environ.get("DETERMINISTIC_CASES", "8"))))
def test_company_chunks_and_preemption_change_no_bit(runner: ModelRunner, seed: int) -> None:
    chance, count = random.Random(seed), 6
    own = any_sequence(chance)
    tokens, logits = alone(runner, own, count)
    driver = Driver(runner, PAGES)
    runner.reset()
    replace_adapters(runner)
    company = [any_sequence(chance).add(driver) for _ in range(chance.randrange(1, 10))]
    for _ in range(chance.randrange(3)):
        driver.step({sequence: next_chunk(driver, sequence, 64) for sequence in company})
    number = own.add(driver)
    while len(driver.tokens[number]) < count:
        counts = {sequence: next_chunk(driver, sequence, 64) for sequence in company}
        counts[number] = next_chunk(driver, number, chance.choice((1, 7, 16, 50, 120)))
        order = chance.sample([*counts], len(counts))
        driver.step({sequence: counts[sequence] for sequence in order})
        if company and chance.random() < 0.3:
            driver.drop(company.pop())
    assert driver.tokens[number] == tokens
    assert torch.equal(torch.stack(driver.logits[number]), logits)

    # As after a preemption: prompt and output are computed again, as a prompt.
    known = [*own.prompt, *tokens[:3]]
    again = driver.add(known, own.params, own.name, num_prompt=len(own.prompt))
    driver.generate([again], count - 3, chunk=50)
    assert driver.tokens[again] == tokens[3:]
    assert torch.equal(torch.stack(driver.logits[again]), logits[3:])
