"""The decoder beside transformers, on tiny random models of each family and each feature."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import GREEDY, Driver, save_model, start_runner
from reference_logits import expected_logits, load_reference, prompts_of

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama without grouping": ("llama", {"num_key_value_heads": 6}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 21}),
    "window of a page": ("mistral", {"sliding_window": 16}),
    "window of one": ("mistral", {"sliding_window": 1}),
    "qwen2": ("qwen2", {}),
    "qwen2 with a window in some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5}}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "yarn rope": ("qwen2", {"rope_parameters": YARN}),
    "yarn rope that is not truncated": (
        "llama",
        {"rope_parameters": YARN | {"truncate": False, "beta_fast": 6.0}},
    ),
    "yarn rope with mscale": (
        "qwen3",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
    ),
    "yarn rope with one mscale": ("llama", {"rope_parameters": YARN | {"mscale": 0.7}}),
    "yarn rope of lengths alone": ("llama", {"rope_parameters": YARN | {"factor": None}}),
    "yarn rope without an original length": (
        "mistral",
        {
            "sliding_window": None,
            "rope_parameters": {"rope_type": "yarn", "factor": 2.0},
        },
    ),
    "yarn rope whose original length stands outside": (
        "llama",
        {"rope_parameters": YARN, "original_max_position_embeddings": 32},
    ),
    "yarn rope with its own factor": (
        "llama",
        {"rope_parameters": YARN | {"attention_factor": 0.7, "beta_fast": 8.0, "beta_slow": 2.0}},
    ),
}
LENGTHS = (1, 5, 16, 33, 70)
STEPS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    """Ragged prompts in one batch, computed whole and in chunks, then decode steps."""
    family, changes = MODELS[name]
    changes = {"rope_parameters": {"rope_type": "default"}} | changes
    changes["rope_parameters"] = {"rope_theta": 1000.0} | changes["rope_parameters"]
    model = save_model(tmp_path, family, **changes)
    runner, _ = start_runner(tmp_path)
    for chunk in (1 << 20, 13):
        driver = Driver(runner)
        prompts = prompts_of(LENGTHS)
        numbers = [driver.add(prompt) for prompt in prompts]
        driver.generate(numbers, STEPS, chunk)
        for number, prompt in zip(numbers, prompts, strict=True):
            expected = expected_logits(model, prompt, driver.tokens[number])
            found = torch.stack(driver.logits[number])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        runner.reset()


def test_dynamic_rope_stretches_with_the_sequence_and_not_with_its_neighbours(
    tmp_path: Path,
) -> None:
    rope = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1000.0}
    save_model(tmp_path, "llama", max_position_embeddings=48, rope_parameters=rope)
    runner, ready = start_runner(tmp_path)
    assert ready.max_model_len == 144
    prompts = prompts_of((10, 47, 60, 100))
    together = Driver(runner)
    numbers = [together.add(prompt) for prompt in prompts]
    together.generate(numbers, 4, chunk=32)
    for number, prompt in zip(numbers, prompts, strict=True):
        # A model of its own each time: transformers' remembers the longest it has seen.
        model = load_reference(tmp_path)
        expected = step_by_step(model, prompt, together.tokens[number])
        torch.testing.assert_close(
            torch.stack(together.logits[number]), expected, rtol=1e-4, atol=1e-4
        )


def test_longrope_takes_the_long_factors_in_a_long_sequence_alone(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1000.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0],
        "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    }
    save_model(tmp_path, "llama", rope_parameters=rope)
    driver = Driver(start_runner(tmp_path)[0])
    prompts = prompts_of((10, 30, 33, 80))
    numbers = [driver.add(prompt) for prompt in prompts]
    driver.generate(numbers, 6, chunk=32)
    for number, prompt in zip(numbers, prompts, strict=True):
        expected = step_by_step(load_reference(tmp_path), prompt, driver.tokens[number])
        found = torch.stack(driver.logits[number])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def step_by_step(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """As `expected_logits`, but with a cache, as transformers generates."""
    rows, cache = [], None
    for ids in ([*prompt], *([token] for token in tokens[:-1])):
        with torch.no_grad():
            out = model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


def test_a_mixed_step_equals_separate_ones(tmp_path: Path) -> None:
    """Decode rows and chunks of prompts in one forward."""
    model = save_model(tmp_path, "llama")
    driver = Driver(start_runner(tmp_path)[0])
    prompts = prompts_of((20, 41, 90))
    first, second, third = (driver.add(prompt) for prompt in prompts)
    driver.prefill([first])
    driver.step({first: 1, second: 30})
    driver.step({second: 11, first: 1, third: 40})
    driver.step({third: 49, second: 1, first: 1})
    driver.step({third: 1, first: 1, second: 1})
    for number, prompt in zip((first, second, third), prompts, strict=True):
        expected = expected_logits(model, prompt, driver.tokens[number])
        found = torch.stack(driver.logits[number])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_preempted_sequence_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3")
    runner, _ = start_runner(tmp_path)
    prompt = prompts_of((30,))[0]
    driver = Driver(runner)
    whole = driver.add(prompt)
    driver.generate([whole], 12)
    driver.drop(whole)
    again = driver.add(prompt + driver.tokens[whole][:5], num_prompt=len(prompt))
    driver.generate([again], 7)
    assert driver.tokens[whole][5:] == driver.tokens[again]


def test_pages_that_another_left_full_of_nan_do_no_harm(tmp_path: Path) -> None:
    save_model(tmp_path, "mistral", sliding_window=21)
    runner, _ = start_runner(tmp_path)
    prompts = prompts_of((3, 18, 40))

    def tokens_of_a_run() -> dict[int, list[int]]:
        driver = Driver(runner)
        numbers = [driver.add(prompt, GREEDY) for prompt in prompts]
        driver.generate(numbers, 40, chunk=7)
        return driver.tokens

    clean = tokens_of_a_run()
    runner.reset()
    with torch.inference_mode():
        runner.loaded.pool.pages.fill_(float("nan"))
    assert tokens_of_a_run() == clean


def test_a_long_prompt_is_cut_where_its_mask_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path, "mistral", sliding_window=50)
    monkeypatch.setattr("loraconsole.pipeline.model.batch_torch.MASK_ENTRIES", 1000)
    driver = Driver(start_runner(tmp_path)[0])
    prompt = prompts_of((200,))[0]
    number = driver.add(prompt)
    driver.step({number: 120})
    driver.step({number: 80})
    driver.decode([number], 3)
    expected = expected_logits(model, prompt, driver.tokens[number])
    torch.testing.assert_close(torch.stack(driver.logits[number]), expected, rtol=1e-4, atol=1e-4)
