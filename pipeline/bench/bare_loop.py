"""The bare loop: the model without scheduler, sockets or HTTP, as a baseline for their cost.

    python -m loraconsole.pipeline.bench.bare_loop MODEL_DIRECTORY --dtype float32 auto

Prints decode tokens per second for each type and number of rows: all rows on the base model
("base"), or rows alternating between the base and each adapter ("mixed"). Steps are launched as in
the worker, one step ahead. Configurations alternate and medians are printed, so that other work on
the machine affects all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..config import Config
from ..messages import Admission, Batch, BatchRow, SamplingParams
from ..model.adapter import module_path, module_shapes
from ..model.page_pool import pages_for
from ..model_files.model_config import ModelConfig, read_model_config
from ..runner.runner import ModelRunner

GREEDY = SamplingParams(temperature=0.0)


class BareLoop:
    """One loaded model, and its decode and prefill measurements."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._runner = ModelRunner(config, directory, 0, lambda message: None)
        ready = self._runner.load()
        self.adapters = {name: self._read(name, path) for name, path in config.adapters().items()}
        self._num_pages = ready.num_pages
        self.name = self._runner.stats().dtype

    def _read(self, name: str, path: str) -> int:
        """Reads an adapter to the host; returns its number of pages."""
        info = self._runner.adapters.read(name, path)
        if info.reason:
            raise SystemExit(info.reason)
        return info.pages

    def _start_over(self) -> None:
        """Drops all sequences and places the adapters in the last pages, unused by sequences."""
        self._runner.reset()
        first = self._num_pages
        for name, pages in self.adapters.items():
            first -= pages
            self._runner.adapters.place(name, range(first, first + pages)).result()

    def decode(
        self,
        num_rows: int,
        steps: int,
        context: int,
        *,
        mixed: bool,
        params: SamplingParams = GREEDY,
    ) -> float:
        """Tokens per second over `steps` steps, for rows that begin with `context` tokens."""
        names = [None, *self.adapters] if mixed else [None]
        size = pages_for(context + steps + 1)
        admissions, rows = [], []
        for row in range(num_rows):
            prompt = tuple((row * 7 + place) % 1000 for place in range(context))
            adapter = names[row % len(names)]
            admissions.append(Admission(row, prompt, context, params, adapter))
            rows.append(BatchRow(row, context, tuple(range(row * size, (row + 1) * size))))
        self._start_over()
        self._runner.launch(Batch(0, 0, (), tuple(admissions), tuple(rows))).wait()
        step = Batch(0, 0, (), (), tuple(BatchRow(row, 1) for row in range(num_rows)))
        pending = self._runner.launch(step)
        pending.wait()
        started = time.perf_counter()
        pending = self._runner.launch(step)
        for _ in range(steps - 2):
            following = self._runner.launch(step)
            pending.wait()
            pending = following
        pending.wait()
        return (steps - 1) * num_rows / (time.perf_counter() - started)

    def prefill(self, num_tokens: int) -> float:
        """Tokens per second of one prompt."""
        prompt = tuple(place % 1000 for place in range(num_tokens))
        admission = Admission(0, prompt, num_tokens, GREEDY, None)
        row = BatchRow(0, num_tokens, tuple(range(pages_for(num_tokens))))
        self._start_over()
        started = time.perf_counter()
        self._runner.launch(Batch(0, 0, (), (admission,), (row,))).wait()
        return num_tokens / (time.perf_counter() - started)


def write_random_adapter(directory: Path, model_config: ModelConfig, rank: int, seed: int) -> None:
    """A PEFT directory with small random weights on all seven modules."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(model_config.num_layers):
        for module, (out_features, in_features) in module_shapes(model_config).items():
            key = f"base_model.model.{module_path(layer, module)}"
            for side, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
                tensors[f"{key}.lora_{side}.weight"] = (
                    torch.randn(shape, generator=generator) * 0.01
                )
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [*module_shapes(model_config)],
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all configurations and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="model directory: config.json and weights")
    parser.add_argument("--dtype", nargs="+", default=["float32", "auto"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=32, help="decode steps per measurement")
    parser.add_argument("--context", type=int, default=64, help="prompt tokens per row")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the measured prompt")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--adapters", type=int, default=4, help="random adapters beside the base")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dummy", action="store_true", help="random weights")
    given = parser.parse_args(arguments)
    model_config = read_model_config(given.directory)
    with tempfile.TemporaryDirectory() as scratch:
        entries = []
        for number in range(given.adapters):
            path = Path(scratch) / f"random-{number}"
            write_random_adapter(path, model_config, given.rank, number)
            entries.append(f"random-{number}={path}")
        loops = [
            BareLoop(
                Config(
                    dtype=dtype,
                    threads=given.threads,
                    adapter=tuple(entries),
                    device=given.device,
                    dummy=given.dummy,
                ),
                given.directory,
            )
            for dtype in given.dtype
        ]
    measured: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.repeat):
        for num_rows in given.rows:
            for mixed in (False, True):
                for loop in loops:
                    what = f"{num_rows:3d} rows {'mixed' if mixed else 'base'}"
                    speed = loop.decode(num_rows, given.steps, given.context, mixed=mixed)
                    measured.setdefault((what, loop.name), []).append(speed)
        for loop in loops:
            what = f"prompt of {given.prompt}"
            measured.setdefault((what, loop.name), []).append(loop.prefill(given.prompt))
    for (what, name), speeds in measured.items():
        print(
            f"{what:16s} {name:36s} {statistics.median(speeds):8.1f} tokens/s "
            f"({min(speeds):.1f} to {max(speeds):.1f})"
        )


if __name__ == "__main__":
    main()
