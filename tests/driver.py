"""For tests of the model: tiny random checkpoints, random adapters, and `Driver`, which takes the
router's place for a `ModelRunner` and keeps its logits.
"""

from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterInfo,
    Admission,
    Batch,
    BatchRow,
    Message,
    SampledToken,
    SamplingParams,
)
from loraconsole.pipeline.model.adapter import module_path, module_shapes
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runner.pending_step import PendingStep
from loraconsole.pipeline.runner.runner import ModelRunner

GREEDY = SamplingParams(temperature=0.0)

SMALL: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.15,
}
"""A model in which all dimensions differ, so that mixed-up shapes are detected."""


def save_model(directory: Path, family: str, seed: int = 0, **changes: Any) -> Any:
    """Saves a random transformers model of this family as a checkpoint; returns the model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **(SMALL | changes))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    return model


def save_adapter(directory: Path, model: Path, seed: int = 0, **changes: Any) -> Path:
    """Saves a random PEFT adapter for a checkpoint; `changes` go into its adapter_config.json."""
    model_config = read_model_config(model)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": [*module_shapes(model_config)],
    } | changes
    targets, ranks = config["target_modules"], config.get("rank_pattern", {})
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(model_config.num_layers):
        for module, (out_features, in_features) in module_shapes(model_config).items():
            where = module_path(layer, module)
            if module not in targets:
                continue
            rank = next((r for key, r in ranks.items() if where.endswith(key)), config["r"])
            for side, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
                tensor = torch.randn(shape, generator=generator) * 0.2
                tensors[f"base_model.model.{where}.lora_{side}.weight"] = tensor
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


class Started(NamedTuple):
    """The result of loading."""

    max_model_len: int
    adapters: list[AdapterInfo]


def start_runner(
    directory: Path | str, heard: list[Message] | None = None, rank: int = 0, **settings: Any
) -> tuple[ModelRunner, Started]:
    """A loaded runner on one CPU thread (or $LORACONSOLE_TEST_DEVICE), in float32 by default. Its
    adapters take every second page from the pool's end downwards, beyond the pages of `Driver`."""
    tokens = 8192 if settings.get("adapter") else 2048
    device = os.environ.get("LORACONSOLE_TEST_DEVICE", "cpu")
    defaults = {"device": device, "dtype": "float32", "threads": 1, "max_total_tokens": tokens}
    listener = [].append if heard is None else heard.append
    config = Config(**(defaults | settings))
    runner = ModelRunner(config, Path(directory), rank, listener)
    if config.device == "cuda":  # an old graph, freed while a new one is captured, ends the capture
        gc.collect()
    ready = runner.load()
    pages = iter(range(ready.num_pages - 1, 0, -2))
    given = config.adapters() if settings.get("adapter") else {}
    infos = [runner.adapters.read(name, path) for name, path in given.items()]
    for info in infos:
        if info.num_bytes:
            runner.adapters.place(info.key, [next(pages) for _ in range(info.pages)]).result()
    return runner, Started(ready.max_model_len, infos)


def start_paged_runner(directory: Path) -> ModelRunner:
    """A runner whose steps read pages by our kernels: without a GPU in Triton's interpreter, with
    its steps in buckets as if each had a graph."""
    runner, _ = start_runner(directory)
    if not torch.cuda.is_available():
        runner.loaded.store.tables = runner.loaded.store.make_tables(8)
        runner.compute.paged = runner.compute.make_paged()
        assert runner.compute.paged is not None
        buckets = runner.compute.paged.to_capture(8, with_adapters=True)
        runner.compute.paged._captured = dict.fromkeys(buckets)
    return runner


class Driver:
    """Sequences of one runner: assigns pages in random order, launches steps."""

    def __init__(self, runner: ModelRunner, num_pages: int = 128) -> None:
        self.runner = runner
        self.free = list(range(num_pages))
        random.Random(0).shuffle(self.free)
        self.pages: dict[int, list[int]] = {}
        self.computed: dict[int, int] = {}
        self.known: dict[int, int] = {}
        self.tokens: dict[int, list[int]] = {}
        self.logits: dict[int, list[Tensor]] = {}
        self.entries: dict[int, SampledToken] = {}
        self._admit: list[Admission] = []
        self._release: list[int] = []

    def add(
        self,
        prompt: Iterable[int],
        params: SamplingParams = GREEDY,
        adapter: str | None = None,
        num_prompt: int | None = None,
    ) -> int:
        """Adds a sequence, admitted with the next step; returns its number."""
        number, prompt = len(self.known), tuple(prompt)
        count = len(prompt) if num_prompt is None else num_prompt
        self._admit.append(Admission(number, prompt, count, params, adapter))
        self.known[number], self.computed[number] = len(prompt), 0
        self.pages[number], self.tokens[number], self.logits[number] = [], [], []
        return number

    def drop(self, number: int) -> None:
        """Releases a sequence with the next step; its pages are free at once, as in the router."""
        self._release.append(number)
        self.free.extend(self.pages.pop(number))

    def launch(self, counts: Mapping[int, int]) -> PendingStep:
        """Launches one step; `counts` maps sequences to numbers of tokens."""
        rows = []
        for number, count in counts.items():
            self.computed[number] += count
            needed = -(-self.computed[number] // 16) - len(self.pages[number])
            new = tuple(self.free.pop() for _ in range(needed))
            self.pages[number].extend(new)
            rows.append(BatchRow(number, count, new))
            if self.computed[number] == self.known[number]:
                self.known[number] += 1
        batch = Batch(1, 1, tuple(self._release), tuple(self._admit), tuple(rows))
        self._admit, self._release = [], []
        return self.runner.launch(batch, keep_logits=True)

    def read(self, pending: PendingStep) -> None:
        """Waits for a step and stores its tokens and logits."""
        sampled, self.last_step = pending.wait()
        assert pending.logits is not None
        for token, logits in zip(sampled, pending.logits.cpu(), strict=True):
            self.tokens[token.sequence].append(token.token_id)
            self.logits[token.sequence].append(logits)
            self.entries[token.sequence] = token

    def step(self, counts: Mapping[int, int]) -> None:
        self.read(self.launch(counts))

    def prefill(self, numbers: Sequence[int], chunk: int = 1 << 20) -> None:
        """Computes prompts, at most `chunk` tokens of each per step, until each has a token."""
        while left := [n for n in numbers if not self.tokens[n]]:
            self.step({n: min(chunk, self.known[n] - self.computed[n]) for n in left})

    def decode(self, numbers: Sequence[int], steps: int) -> None:
        for _ in range(steps):
            self.step(dict.fromkeys(numbers, 1))

    def generate(self, numbers: Sequence[int], count: int, chunk: int = 1 << 20) -> None:
        """Generates `count` tokens of each sequence."""
        self.prefill(numbers, chunk)
        self.decode(numbers, count - 1)
