"""Hundreds of random adapters, written by peft, served in mixed batches and compared with peft."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, save_model, start_runner
from torch import Tensor

from loraconsole.pipeline.model.adapter import module_path, module_shapes
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runner.runner import ModelRunner

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {"num_key_value_heads": 3, "sliding_window": 21},
    "qwen2": {"num_key_value_heads": 1, "num_hidden_layers": 2},
    "qwen3": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 4},
}
"""Of each family one, with its own way of grouping heads."""
BATCHES = 7
ADAPTERS = 8
"""A batch."""
STEPS = 8
NEAR = 1e-4
"""Where the reference's two best logits are closer, rounding may choose either."""
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Tally:
    """What came of the comparisons."""

    configs: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    near_ties: int = 0
    mismatches: list[str] = field(default_factory=list)
    off: float = 0.0
    """The largest distance of a logit from peft's."""
    same_as_base: int = 0
    """Adapters whose tokens are what the base would have said."""


# --- random configurations ----------------------------------------------------------------------


def random_config(choose: random.Random, num_layers: int) -> dict[str, Any]:
    """Arguments of a LoraConfig; it may happen to target nothing."""
    config: dict[str, Any] = {
        "r": random_rank(choose),
        "lora_alpha": choose.choice((1, 2, 7.5, 8, 16, 64)),
        "use_rslora": choose.random() < 0.3,
        "target_modules": random_targets(choose, num_layers),
    }
    if choose.random() < 0.5:
        ranks = [random_rank(choose) for _ in range(3)]
        config["rank_pattern"] = random_patterns(choose, num_layers, ranks)
    if choose.random() < 0.5:
        config["alpha_pattern"] = random_patterns(choose, num_layers, (0.5, 3, 24, 100))
    if choose.random() < 0.2:
        names = random_names(choose)
        config["exclude_modules"] = choose.choice((names[:1], rf".*\.1\..*{names[0]}"))
    if isinstance(config["target_modules"], list) and choose.random() < 0.4:
        layers = choose.sample(range(num_layers), choose.randint(1, num_layers))
        config["layers_to_transform"] = choose.choice((layers, layers[0]))
        if choose.random() < 0.5:
            config["layers_pattern"] = choose.choice(("layers", ["h", "layers"]))
    return config


def random_rank(choose: random.Random) -> int:
    """1 to 64, small ones as often as large."""
    return min(64, int(2 ** choose.uniform(0, 6.1)))


def random_names(choose: random.Random) -> list[str]:
    return choose.sample(MODULES, choose.randint(1, len(MODULES)))


def random_targets(choose: random.Random, num_layers: int) -> str | list[str]:
    names = random_names(choose)
    kind = choose.randrange(6)
    if kind == 0:
        return rf".*\.({'|'.join(names)})"
    if kind == 1:
        return rf"model\.layers\.[{choose.randrange(num_layers)}1]\.\w+\.({'|'.join(names)})"
    if kind == 2:
        return choose.choice(("all-linear", r".*(self_attn|mlp)\.\w+_proj"))
    if kind == 3:
        return [module_path(choose.randrange(num_layers), name) for name in names]
    if kind == 4:
        return [".".join(module_path(0, name).split(".")[-2:]) for name in names]
    return names


def random_patterns(
    choose: random.Random, num_layers: int, values: Sequence[float]
) -> dict[str, float]:
    """The first that matches counts. In alphabetical order: in that peft saves them, so that of
    those in another it would not read what it wrote."""
    patterns = {random_pattern(choose, num_layers) for _ in range(choose.randint(1, 3))}
    return {pattern: choose.choice(values) for pattern in sorted(patterns)}


def random_pattern(choose: random.Random, num_layers: int) -> str:
    name, layer = choose.choice(MODULES), choose.randrange(num_layers)
    where = module_path(layer, name)
    return choose.choice(
        (
            name,
            where,
            where.partition(".")[2],
            rf"^{where}",
            rf"layers\.{layer}\..*",
            rf"({name}|{choose.choice(MODULES)})",
            r".*self_attn\.[qk]_proj",
        )
    )


def save_peft(base: Any, config: dict[str, Any], directory: Path, seed: int) -> bool:
    """Saves a random adapter as peft does; False where the configuration targets nothing."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    try:
        model = get_peft_model(
            copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(config))
        )
    except ValueError:
        return False
    for layer in model.modules():
        if hasattr(layer, "lora_B"):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            # B A of the size of the base's own weights, whatever its rank and its scale.
            size = 0.12 / (layer.scaling["default"] * a.std().item() * len(a) ** 0.5)
            torch.nn.init.normal_(b, std=size)
    model.save_pretrained(directory, save_embedding_layers=False)
    return True


# --- ours and theirs ----------------------------------------------------------------------------


def peft_logits(base: Any, directory: Path | None, ids: list[int], merged: bool) -> Tensor:
    """[num_tokens, vocab_size]"""
    from peft import PeftModel

    model = copy.deepcopy(base)
    if directory is not None:
        model = PeftModel.from_pretrained(model, directory).eval()
        if merged:
            model = model.merge_and_unload()
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def serve(
    runner: ModelRunner, directories: dict[str, Path], choose: random.Random, vocab_size: int
) -> Iterable[tuple[str | None, list[int], list[int], Tensor]]:
    """Adapters and two rows of the base in one batch, prompts of different length, some of them
    computed in pieces while others decode: (adapter, prompt, tokens, their logits) of each."""
    free = iter(range(runner.loaded.pool.num_pages - 1, 0, -1))
    for name, directory in directories.items():
        info = runner.adapters.read(name, str(directory))
        assert info.reason == ""
        runner.adapters.place(name, [next(free) for _ in range(info.pages)]).result()
    driver = Driver(runner)
    names: list[str | None] = [*directories, None, None]
    choose.shuffle(names)
    prompts = [[choose.randrange(vocab_size) for _ in range(choose.randint(1, 40))] for _ in names]
    numbers = [
        driver.add(prompt, adapter=name) for prompt, name in zip(prompts, names, strict=True)
    ]
    driver.prefill(numbers[:4], chunk=17)
    while any(not driver.tokens[number] for number in numbers[4:]):
        driver.step({n: min(11, driver.known[n] - driver.computed[n]) for n in numbers})
    driver.decode(numbers, STEPS)
    for number, prompt, name in zip(numbers, prompts, names, strict=True):
        yield name, prompt, driver.tokens[number], torch.stack(driver.logits[number])
    runner.reset()
    for info in runner.adapters.held():
        runner.adapters.drop(info.key)


def compare(
    tally: Tally, what: str, tokens: list[int], found: Tensor, expected: Tensor
) -> list[int]:
    """Every token against peft's choice behind the same tokens: equal all along, ours are the
    tokens that peft generates. Returns peft's."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, msg=lambda m: f"{what}\n{m}")
    tally.off = max(tally.off, (found - expected).abs().max().item())
    chosen: list[int] = expected.argmax(dim=-1).tolist()
    best = expected.topk(2).values
    for step, (ours, theirs) in enumerate(zip(tokens, chosen, strict=True)):
        tally.steps += 1
        if best[step, 0] - best[step, 1] < NEAR:
            tally.near_ties += 1  # their logits are compared above
        elif ours != theirs:
            tally.mismatches.append(f"{what}, token {step}: {ours} instead of {theirs}")
    return chosen


@pytest.mark.processes
@pytest.mark.filterwarnings(
    "ignore:The following .* keys did not match", "ignore:fan_in_fan_out is set to True"
)
@pytest.mark.parametrize("family", MODELS)
def test_mixed_batches_of_random_adapters_equal_peft(family: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "model", family, **MODELS[family])
    model_config = read_model_config(tmp_path / "model")
    assert [*module_shapes(model_config)] == [*MODULES]
    choose, tally = random.Random(f"{family} 1"), Tally()
    runner, _ = start_runner(tmp_path / "model", max_total_tokens=16 * 3000)
    for batch in range(BATCHES):
        directories: dict[str, Path] = {}
        while len(directories) < ADAPTERS:
            name = f"{batch}-{len(directories)}"
            config = random_config(choose, model_config.num_layers)
            if not save_peft(base, config, tmp_path / name, len(tally.configs)):
                continue
            if choose.random() < 0.25:
                # peft takes it back when it wraps a linear layer; other programs leave it there.
                path = tmp_path / name / "adapter_config.json"
                path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": True}))
                config["fan_in_fan_out"] = True
            directories[name] = tmp_path / name
            tally.configs.append(config)
        for adapter, prompt, tokens, found in serve(
            runner, directories, choose, model_config.vocab_size
        ):
            ids, start = prompt + tokens[:-1], len(prompt) - 1
            directory, merged = directories.get(adapter or ""), choose.random() < 0.3
            expected = peft_logits(base, directory, ids, merged)[start:]
            what = f"{family} {adapter}: {tally.configs[-ADAPTERS:]}" if adapter else family
            compare(tally, what, tokens, found, expected)
            if adapter:
                alone = peft_logits(base, None, ids, False)[start:]
                assert (alone - expected).abs().max() > 0.05, what
                tally.same_as_base += tokens == alone.argmax(dim=-1).tolist()
    print(
        f"{family}: {len(tally.configs)} adapters, {tally.steps} tokens, {len(tally.mismatches)} "
        f"mismatches, {tally.near_ties} near ties, logits within {tally.off:.1e}, "
        f"{tally.same_as_base} adapters that say what the base says"
    )
    assert not tally.mismatches
    assert tally.near_ties <= tally.steps // 100
    assert tally.same_as_base <= len(tally.configs) // 10
    check_variety(tally.configs)


def check_variety(configs: list[dict[str, Any]]) -> None:
    """That chance has left nothing out."""
    ranks = {config["r"] for config in configs}
    assert min(ranks) == 1 and max(ranks) > 40 and len(ranks) > 10
    for name in ("rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform"):
        assert sum(name in config for config in configs) >= 3, name
    for name in ("use_rslora", "fan_in_fan_out"):
        assert sum(config.get(name, False) for config in configs) >= 5, name
    assert {type(config["target_modules"]) for config in configs} == {str, list}


def test_there_are_hundreds_of_them() -> None:
    assert len(MODELS) * BATCHES * ADAPTERS >= 200
