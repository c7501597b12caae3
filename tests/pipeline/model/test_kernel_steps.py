"""Steps through the kernels that read pages, against the plain path: on a CPU by Triton's
interpreter and without graphs, on a GPU as it serves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_adapter, save_model, start_runner

pytest.importorskip("triton")

ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "wide": {"r": 20, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "patterned": {"rank_pattern": {"k_proj": 7, "up_proj": 2}},
}


def run(
    model: Path,
    adapters: dict[str, Path],
    *,
    paged: bool,
    padded: bool = False,
    spans: Path | None = None,
    deterministic: bool = False,
    company: bool = True,
) -> dict[int, torch.Tensor]:
    """Prompts whole and in pieces, decode rows beside them, adapters and base, one that ends.
    Without `company` each is computed alone, its prompt at once."""
    runner = start_runner(model, deterministic=deterministic)[0]
    if spans:
        runner.spans.start(spans, layers=True)
    if not torch.cuda.is_available() and paged:
        runner.loaded.store.tables = runner.loaded.store.make_tables(8)
        runner.compute.paged = runner.compute.make_paged()
        assert runner.compute.paged is not None
        if padded:
            buckets = runner.compute.paged.to_capture(8, with_adapters=True)
            runner.compute.paged._captured = dict.fromkeys(buckets)
    pages = iter(random.Random(3).sample(range(70, 128), 58))
    for name, path in adapters.items():
        info = runner.adapters.read(name, str(path))
        assert not info.reason
        runner.adapters.place(name, [next(pages) for _ in range(info.pages)]).result()
    driver = Driver(runner, num_pages=70)
    rng = random.Random(4)
    numbers = [
        driver.add([rng.randrange(160) for _ in range(count)], adapter=name)
        for count, name in ((18, "all"), (5, None), (9, "wide"), (21, "patterned"), (12, "all"))
    ]
    if not company:
        for number in numbers:
            driver.generate([number], 4)
        return {number: torch.stack(driver.logits[number]) for number in numbers}
    driver.prefill(numbers[:3])
    driver.step(dict.fromkeys(numbers[:3], 1) | {numbers[3]: 17, numbers[4]: 12})
    driver.drop(numbers[1])
    alive = [numbers[0], numbers[2]]
    driver.step(dict.fromkeys([*alive, numbers[4]], 1) | {numbers[3]: 4})
    driver.decode([*alive, *numbers[3:]], 1)
    return {number: torch.stack(driver.logits[number]) for number in numbers}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_kernels_that_read_pages_say_what_the_plain_path_says(family: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    changes = {"sliding_window": 16} if family == "mistral" else {}
    save_model(model, family, num_hidden_layers=1, **changes)
    adapters = {
        name: save_adapter(tmp_path / name, model, seed, **changes)
        for seed, (name, changes) in enumerate(ADAPTERS.items())
    }
    plain = run(model, adapters, paged=False)
    for padded, spans in ((False, None), (True, None), (True, tmp_path / "spans.jsonl")):
        paged = run(model, adapters, paged=True, padded=padded, spans=spans)
        for number, expected in plain.items():
            torch.testing.assert_close(paged[number], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_with_fixed_sums_the_kernels_say_the_same_bits_alone_and_among_others(
    family: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    changes = {"sliding_window": 16} if family == "mistral" else {}
    save_model(model, family, num_hidden_layers=1, **changes)
    adapters = {
        name: save_adapter(tmp_path / name, model, seed, **changes)
        for seed, (name, changes) in enumerate(ADAPTERS.items())
    }
    plain = run(model, adapters, paged=False)
    alone = run(model, adapters, paged=True, deterministic=True, company=False)
    for padded in (False, True):
        paged = run(model, adapters, paged=True, padded=padded, deterministic=True)
        for number, expected in plain.items():
            torch.testing.assert_close(paged[number], expected, rtol=1e-3, atol=1e-3)
            own = alone[number][: len(paged[number])]
            if torch.cuda.is_available():
                assert torch.equal(paged[number], own)
            else:  # numpy's product of a tile, in the interpreter, depends on a row's place
                torch.testing.assert_close(paged[number], own, rtol=1e-5, atol=1e-5)
