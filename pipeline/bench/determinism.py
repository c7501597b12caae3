"""Whether answers are the same bits alone and among others, and what that costs.

    python -m loraconsole.pipeline.bench.determinism [--shape llama-3.1-8b] [--batches 1 8 32 128]

Random weights. Exits with 1 if `--deterministic` does not hold.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..messages import Tokens
from ..model.adapter import module_shapes
from ..model.fixed_order import trial_inputs, trial_weight, without_workspace
from .engine import SHAPES, Engine, steps_table, write_result

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048)
ASKED = ((37, 0), (700, 1), (1, 2), (300, 3), (130, 1))
"""The requests that are compared: tokens of the prompt, and adapter (0: the base)."""
NEW = 24
"""Tokens of each answer that are compared."""


def compare_products(given: argparse.Namespace, *, workspace: bool) -> None:
    """Prints, for each matrix, the rows at which the library's product and ours give other bits
    than with the most rows, and the microseconds of both. For a GPU, in a process of its own.
    Without `workspace` the library cannot cut sums."""
    from ...kernels.fixed import fixed_product  # needs Triton

    products: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"library": F.linear}
    if not workspace:
        without_workspace()
        products = {
            "library without workspace": F.linear,
            "own kernel": lambda x, weight: fixed_product(x, weight, None),
        }
    shape = SHAPES[given.shape]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    head_dim = hidden // shape["num_attention_heads"]
    qkv = hidden + 2 * shape["num_key_value_heads"] * head_dim
    sizes = {
        "qkv": (qkv, hidden),
        "output": (hidden, hidden),
        "gate_up": (2 * inner, hidden),
        "down": (hidden, inner),
        "head": (shape["vocab_size"], hidden),
    }
    for (name, size), (kind, product) in itertools.product(sizes.items(), products.items()):
        with torch.inference_mode():
            weight = trial_weight(*size).to("cuda", torch.bfloat16)
            x = trial_inputs(max(ROWS), size[1]).to("cuda", torch.bfloat16)
            whole = product(x, weight)
            other = [n for n in ROWS if not torch.equal(product(x[:n], weight), whole[:n])]
            times = {n: round(_microseconds(product, x[:n], weight), 1) for n in ROWS}
        write_result("product", matrix=name, by=kind, differs_at=other, us=times)


def _microseconds(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    """The time of a product whose weight is not in the cache."""
    count = max(2, (256 << 20) // weight.nbytes)
    weights = [weight.clone() for _ in range(count)]
    for one in weights[:2]:
        product(x, one)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in weights:
            product(x, one)
    graph.replay()
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begun.record()
    for _ in range(5):
        graph.replay()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) * 1e3 / 5 / count


def logits_of(
    engine: Engine, names: list[str | None], company: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Tokens and logits of each of `ASKED` beside `company` other requests, which have started
    before; with none, one after the other."""
    alone = [[asked] for asked in enumerate(ASKED)]
    for group in alone if not company else [[asked for own in alone for asked in own]]:
        for number in range(company):
            engine.ask(names[number % len(names)], 20 + 7 * (number % 30), NEW + 20)
        wanted: dict[tuple[int, ...], int] = {}
        for place, (length, adapter) in group:
            wanted[engine.ask(names[adapter], length, NEW, prompt_seed=-1 - place)] = place
        yield from _run(engine, wanted)


def _run(engine: Engine, wanted: dict[tuple[int, ...], int]) -> Iterator[tuple[list[int], Tensor]]:
    """Runs all requests; tokens and logits of those with a prompt in `wanted`, in its order."""
    owners: dict[int, int] = {}
    tokens: dict[int, list[int]] = defaultdict(list)
    logits: dict[int, list[Tensor]] = defaultdict(list)
    while (batch := engine.scheduler.next_batch(time.time())) is not None:
        for admission in batch.admit:
            owners.pop(admission.sequence, None)
            if (place := wanted.get(admission.token_ids)) is not None:
                owners[admission.sequence] = place
        pending = engine.runner.launch(batch, keep_logits=True)
        sampled, _ = pending.wait()
        for index, token in enumerate(sampled):
            if (place := owners.get(token.sequence, -1)) >= 0:
                assert pending.logits is not None
                tokens[place].append(token.token_id)
                logits[place].append(pending.logits[index].cpu())
        engine.scheduler.accept_tokens(Tokens(batch.epoch, batch.step, 0, sampled), time.time())
    for place in wanted.values():
        yield tokens[place], torch.stack(logits[place])


def compare_answers(engine: Engine, names: list[str], sizes: list[int]) -> bool:
    """Prints, for each number of other requests, how many answers have other tokens or other bits
    than alone; returns whether none has."""
    adapters = [None, *names]
    alone, is_equal = [*logits_of(engine, adapters, 0)], True
    for size in sizes:
        found = [*logits_of(engine, adapters, size)]
        tokens = sum(a[0] != b[0] for a, b in zip(alone, found, strict=True))
        bits = sum(not torch.equal(a[1], b[1]) for a, b in zip(alone, found, strict=True))
        gap = max(float((a[1] - b[1]).abs().max()) for a, b in zip(alone, found, strict=True))
        write_result(
            "answers",
            deterministic=engine.runner.loaded.deterministic,
            others=size,
            answers=len(ASKED),
            other_tokens=tokens,
            other_bits=bits,
            largest_difference=f"{gap:.1e}",
        )
        is_equal = is_equal and not bits
    return is_equal


def measure_mode(
    given: argparse.Namespace, *, deterministic: bool
) -> tuple[bool, dict[str, dict[int, dict[str, float]]]]:
    """Whether all answers have the bits that they have alone, and the table of steps. In a process
    of its own: a library's settings are those of a process."""
    shape = SHAPES[given.shape] | ({"num_hidden_layers": given.layers} if given.layers else {})
    config: dict[str, Any] = {
        "device": given.device,
        "dtype": given.dtype,
        "threads": given.threads,
        "deterministic": deterministic,
        "max_model_len": 1024,
        "max_running": given.max_running,
        "max_prefill_tokens": 2048,
        "tp": 1,
    }
    engine = Engine(shape, config, lambda message: None)
    count = max(4, *given.batches)
    names = engine.add_adapters(count, given.rank, tuple(module_shapes(engine.model_config)))
    products = Counter(type(matrix).__name__ for matrix in engine.runner.loaded.model.matrices())
    write_result("engine", deterministic=deterministic, products=products)
    is_equal = compare_answers(engine, names, given.others)
    return is_equal, steps_table(engine, given.batches, names, given.prompt, given.new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers, to try it out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--others", type=int, nargs="+", default=[1, 7, 31, 100])
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--max-running", type=int, default=256)
    parser.add_argument("--products", action="store_true", help="single products too, on a GPU")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        for workspace in (True, False) if given.products else ():
            processes.submit(compare_products, given, workspace=workspace).result()
        _, plain = processes.submit(measure_mode, given, deterministic=False).result()
        is_equal, fixed = processes.submit(measure_mode, given, deterministic=True).result()
    for kind, batch in itertools.product(plain, given.batches):
        before, after = plain[kind][batch], fixed[kind][batch]
        write_result(
            "cost",
            adapters=kind,
            requests=batch,
            ms=before["ms"],
            deterministic_ms=after["ms"],
            more=after["ms"] / before["ms"] - 1,
            prefill_more=after["prefill_s"] / max(1e-9, before["prefill_s"]) - 1,
        )
    raise SystemExit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
