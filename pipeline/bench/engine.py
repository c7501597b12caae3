"""The engine alone, as fast as it goes: scheduler and worker without sockets or HTTP, with dummy
weights and random adapters.

`make bench-gpu` runs a model's shapes on one device: steps of requests with distinct adapters, one
adapter or none; prompts; and S-LoRA's own workload. Every result is printed as a line of JSON, a
table at the end. Numbers of other engines are only those recorded here.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..config import MEETING, Config
from ..grammar.specification import json_schema_grammar
from ..grammar.token_table import make_token_table, write_token_table
from ..messages import (
    AdapterInfo,
    AdapterState,
    EvictAdapter,
    Message,
    PlaceAdapter,
    Progress,
    Request,
    SamplingParams,
    Step,
    Tokens,
)
from ..model.adapter import SITES, Adapter, Part, module_shapes
from ..model.page_pool import PAGE_SIZE, page_elements
from ..model_files.model_config import ModelConfig, read_model_config
from ..runner.runner import ModelRunner
from ..runner.step_limits import CHUNK_TOKENS
from ..runtime.stdout import ends_with_its_reader
from ..schedule.adapter_registry import AdapterRegistry
from ..schedule.scheduler import Scheduler, SchedulerLimits
from ..text.tokenizer import Tokenizer, make_byte_tokenizer
from .ablation import COSTS, flags_text, stand_ins
from .kernel_breakdown import measure_kernels
from .stats import SLO_SECONDS
from .workload import slora

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
LLAMA2_7B = LLAMA_8B | {
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
SHAPES = {"llama-3.1-8b": LLAMA_8B, "llama-2-7b": LLAMA2_7B, "smollm2-135m": SMOLLM2_135M}
MIXED_RANKS = (8, 16, 32, 64)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

VLLM_8B: dict[str, dict[int, float]] = {
    "base": {1: 4.93, 8: 5.11, 32: 5.70, 64: 6.31, 128: 7.67, 256: 12.0},
    "same": {1: 9.41, 8: 9.91, 32: 10.59, 64: 12.67, 128: 15.66, 256: 24.5},
    "distinct": {1: 9.40, 8: 12.34, 32: 22.80, 64: 38.02, 128: 58.19, 256: 128.0},
}
"""Milliseconds per step of vLLM 0.26.0 on one H200: rank 16 on all linear modules, 256 tokens in,
128 out, dummy weights, `max_loras=128`."""


CONSTRAINED_TURNS = 5
ENDLESS: dict[str, Any] = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "count": {"type": "integer"},
            "kind": {"enum": ["one", "two", "three"]},
        },
        "required": ["name", "count", "kind"],
        "additionalProperties": False,
    },
}
"""A schema whose answers are longer than any that is measured."""

SETTLED = 4
"""Steps after which earlier planning no longer affects the timing."""


class Engine:
    """One runner and its scheduler, with placed adapters."""

    def __init__(
        self,
        shape: dict[str, Any],
        config: dict[str, Any],
        heard: Callable[..., None],
        rank: int = 0,
    ) -> None:
        """`config`: settings of `Config`, including `tp`."""
        self._directory = tempfile.TemporaryDirectory()
        self.directory = directory = Path(self._directory.name)
        (directory / "config.json").write_text(json.dumps(shape))
        self.model_config: ModelConfig = read_model_config(directory)
        self.config = Config(dummy=True, **config)
        self.runner = ModelRunner(self.config, directory, rank, heard)
        self.ready = self.runner.load()
        prefetch = not self.config.no_prefetch
        self.scheduler = Scheduler(
            AdapterRegistry({}, now=time.time()), policy="fcfs", prefetch=prefetch
        )
        self._limits = SchedulerLimits.of_workers([self.ready])
        self.scheduler.reset(1, self._limits, time.time())
        self._number = 0
        self._ranks = config["tp"]
        self._loads: deque[tuple[str, Future[None]]] = deque()
        self._asked: dict[str, float] = {}
        self.first_token_s: list[float] = []
        """Seconds from `ask` to the first token, for each ended request."""

    def add_adapters(
        self, count: int, rank: int, modules: tuple[str, ...], first: int = 0
    ) -> list[str]:
        """Places `count` adapters with the same random weights, each in its own pages, numbered
        from `first` on; returns their names."""
        model_config = self.runner.loaded.config  # the part of one rank
        shapes, parts, size = module_shapes(model_config), [], 0
        for members in SITES.values():
            own = [member for member in members if member in modules]
            b = size + sum(rank * shapes[member][1] for member in own)
            for member in own:
                parts.append(Part(member, rank, size, b))
                size, b = size + rank * shapes[member][1], b + rank * shapes[member][0]
            size = b
        elements = page_elements(model_config)
        pages = -(-size // elements)
        dtype = self.runner.loaded.pool.pages.dtype
        host = (torch.randn(self.model_config.num_layers, pages * elements) * 0.01).to(dtype)
        if self.runner.loaded.pool.pages.is_cuda:
            host = host.pin_memory()
        names = [f"r{rank}-{number:04}" for number in range(first, first + count)]
        registry, residency = self.scheduler.registry, self.scheduler.residency
        for name in names:
            record = registry.register_adapter(name, "", time.time())
            num_bytes = size * self.model_config.num_layers * dtype.itemsize
            info = AdapterInfo(record.key, "", rank, modules, num_bytes, pages, "-")
            info = self.runner.loaded.store._as_placed(info)
            padded = max(8, 1 << (rank - 1).bit_length())
            if self.config.no_lora:
                info = AdapterInfo(record.key, "", rank, modules, 0, 0, "-")
            else:
                adapter = Adapter(info, tuple(parts), padded, host)
                self.runner.loaded.store._adapters[record.key] = adapter
            record.change_state(AdapterState.VALIDATING, time.time())
            record.note_read(0, info, 1, time.time())
            residency.place(record, time.time())
            self._obey(wait=True)
        return names

    def _obey(self, *, wait: bool = False) -> None:
        """Executes the scheduler's orders about adapters; reports finished placements to it."""
        for order in self.scheduler.residency.orders:
            match order:
                case PlaceAdapter():
                    load = self.runner.adapters.place(order.key, order.pages)
                    self._loads.append((order.key, load))
                case EvictAdapter():
                    self.runner.adapters.evict(order.key)
                case _:
                    raise AssertionError(order)
        self.scheduler.residency.orders.clear()
        # Ranks stay in step only if no decision depends on timing, so several ranks always wait.
        wait = wait or self._ranks > 1
        while self._loads and (wait or self._loads[0][1].done()):
            key, load = self._loads.popleft()
            load.result()
            placed = self.scheduler.registry.find(key)
            assert placed is not None
            placed.note_placed(0, 1, time.time())
            wait = wait and self._ranks > 1

    def replace_adapters(self, names: list[str]) -> list[Future[None]]:
        """Copies adapters into their pages again, concurrently with steps."""
        found: list[Future[None]] = []
        for name in names:
            record = self.scheduler.registry.acquire(name)
            self.runner.adapters.evict(record.key)
            found.append(self.runner.adapters.place(record.key, record.pages))
        return found

    def write_tokens(self) -> None:
        """Makes tokens for constrained answers: bytes and words, as many as the model has."""
        make_byte_tokenizer(self.model_config.vocab_size).save(
            str(self.directory / "tokenizer.json")
        )
        write_token_table(self.directory, make_token_table(Tokenizer(self.directory)))

    def ask(
        self,
        adapter: str | None,
        prompt_tokens: int,
        new_tokens: int,
        prompt_seed: int | None = None,
        **sampling: Any,
    ) -> tuple[int, ...]:
        """Adds one request, greedy unless `sampling` has another temperature; its prompt is random
        by `prompt_seed`, by default another one each time. Returns the prompt."""
        self._number += 1
        rng = random.Random(self._number if prompt_seed is None else prompt_seed)
        prompt = tuple(rng.randrange(self.model_config.vocab_size) for _ in range(prompt_tokens))
        usual = {"max_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True}
        params = SamplingParams(**(usual | sampling))
        request = Request(
            request_id=f"{self._number}",
            adapter=adapter,
            prompt_ids=prompt,
            params=params,
            arrived_at=float(self._number),
        )
        self.scheduler.add_request(request, time.time())
        self._asked[request.request_id] = time.time()
        return prompt

    def run(
        self, arrive: Callable[[], float | None] = lambda: None
    ) -> Iterator[tuple[float, Step]]:
        """Runs all requests to their end with two steps in flight; yields each step and the time it
        was done. `arrive` may add requests; it returns the seconds to its next one, None if there
        is none."""
        flight: deque[Any] = deque()
        while True:
            pause = arrive()
            while len(flight) < 2:
                batch = self.scheduler.next_batch(time.time())
                self._obey()
                if batch is None:
                    break
                flight.append((batch, self.runner.launch(batch)))
            if not flight and self._loads:
                self._obey(wait=True)
                continue
            if not flight and pause is not None:
                time.sleep(pause)
                continue
            if not flight:
                assert not len(self.scheduler), "requests are left that cannot progress"
                return
            batch, pending = flight.popleft()
            tokens, step = pending.wait()
            self.scheduler.accept_tokens(Tokens(batch.epoch, batch.step, 0, tokens), time.time())
            for sequence in self.scheduler.ended:
                asked = self._asked.pop(sequence.request.request_id)
                self.first_token_s.append((sequence.first_token_at or asked) - asked)
            yield time.perf_counter(), step


def kinds_of(names: list[str]) -> dict[str, Callable[[int], str | None]]:
    """For each kind of load, a function from request number to adapter."""
    return {
        "base": lambda i: None,
        "same": lambda i: names[0],
        "distinct": lambda i: names[i % len(names)],
    }


def steps_table(
    engine: Engine,
    batches: list[int],
    names: list[str],
    prompt: int,
    new: int,
    wanted: tuple[str, ...] = ("base", "same", "distinct"),
) -> dict[str, dict[int, dict[str, float]]]:
    """Times per step for base, same and distinct adapters at each number of requests."""
    kinds = {kind: adapter for kind, adapter in kinds_of(names).items() if kind in wanted}
    found: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in kinds}
    for count in batches:
        for kind, adapter in kinds.items():
            for tokens in (2, new):  # the first pass may compile kernels for these sizes
                for number in range(count):
                    engine.ask(adapter(number), prompt, tokens)
                if tokens < new:
                    deque(engine.run(), maxlen=0)
            started = time.perf_counter()
            done = list(engine.run())
            prefill = [at for at, step in done if step.phase != "decode"]
            decode = [(at, step) for at, step in done if step.phase == "decode"]
            gaps = [(b[0] - a[0]) * 1e3 for a, b in itertools.pairwise(decode)]
            steps = [step for _, step in decode[2:]]
            stats = {
                "ms": statistics.median(gaps),
                "p99_ms": sorted(gaps)[int(len(gaps) * 0.99)],
                "busy_ms": statistics.median(step.busy_us for step in steps) / 1e3,
                "host_ms": statistics.median(s.host_us + s.launch_us for s in steps) / 1e3,
                "prefill_s": (prefill[-1] if prefill else started) - started,
                # All bytes that must be read, at this GPU's copy rate.
                "limit_ms": statistics.median(step.read_bytes for step in steps)
                / engine.runner.stats().copy_bytes_s
                * 1e3,
            }
            found[kind][count] = stats
            write_result("steps", adapters=kind, requests=count, **stats)
    return found


def constrained_table(engine: Engine, batches: list[int], prompt: int, new: int) -> None:
    """Prints milliseconds per decode step of plain and of constrained requests, in turns."""
    engine.write_tokens()
    grammar = json_schema_grammar(ENDLESS)
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {},
        "greedy, constrained": {"grammar": grammar},
        "random": {"temperature": 1.0},
        "random, constrained": {"temperature": 1.0, "grammar": grammar},
    }
    for count in batches:
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(CONSTRAINED_TURNS + 1):
            for kind, params in kinds.items():
                for number in range(count):
                    engine.ask(None, prompt, new, seed=number, **params)
                done = [at for at, step in engine.run() if step.phase == "decode"]
                if turn:  # the first one compiles grammars and may compile kernels
                    gaps = [(b - a) * 1e3 for a, b in itertools.pairwise(done)]
                    found[kind].append(statistics.median(gaps))
        for kind, values in found.items():
            plain = found[kind.partition(",")[0]]
            added = statistics.median(a / b - 1 for a, b in zip(values, plain, strict=True))
            write_result(
                "constrained",
                sampling=kind,
                requests=count,
                ms=statistics.median(values),
                added_percent=100 * added,
            )


def interference(engine: Engine, names: list[str], streams: int) -> None:
    """Prints the milliseconds between a stream's tokens while other work runs: a prompt of 4 000
    tokens, and 50 adapters being copied into their pages."""

    def gaps(count: int) -> list[float]:
        """Runs `count` + 1 steps of the streams; the milliseconds between them."""
        done = [at for at, _ in itertools.islice(steps, count + 1)]
        return [(b - a) * 1e3 for a, b in itertools.pairwise(done)]

    def report_gaps(what: str, found: list[float]) -> None:
        ordered = sorted(found)
        p99 = ordered[int(len(ordered) * 0.99)]
        write_result(
            "interference", what=what, p50_ms=statistics.median(found), p99_ms=p99, ms=ordered[-1]
        )

    for number in range(streams):
        engine.ask(names[number % len(names)], 256, 1500)
    steps = engine.run()
    while next(steps)[1].phase != "decode":
        pass
    gaps(SETTLED)
    for _ in range(3):
        report_gaps("undisturbed", gaps(200))
        engine.ask(None, 4000, 1)
        began = time.perf_counter()
        found: list[float] = []
        while not found or any(s.num_scheduled < s.num_prompt for s in engine.scheduler.running):
            found += gaps(1)
        report_gaps("a prompt of 4000 tokens", found)
        write_result("its first token", ms=(time.perf_counter() - began) * 1e3)
        gaps(SETTLED)
        loads = engine.replace_adapters(names[streams : streams + 50])
        found = gaps(1)
        while not all(load.done() for load in loads):
            found += gaps(1)
        report_gaps(f"{len(loads)} adapters load", found)
        gaps(SETTLED)
    deque(steps, maxlen=0)


def slora_workload(
    engine: Engine, names: list[str | None], count: int, rate: float = 0.0
) -> dict[str, float]:
    """Runs `count` requests of S-LoRA's generator, with its adapters and lengths, all at once or at
    a rate. Returns throughput, mean time to first token, and the share within six seconds."""
    pace, duration = (rate, count / rate) if rate else (count, 1)
    workload = slora(num_adapters=len(names), alpha=1, rate=pace, cv=1, duration=duration)
    coming = deque(workload.arrivals)
    started = time.perf_counter()

    def arrive() -> float | None:
        """Adds the requests that are due; seconds to the next arrival."""
        while coming:
            wait = coming[0].at - (time.perf_counter() - started) if rate else 0.0
            if wait > 0:
                return wait
            arrival = coming.popleft()
            assert arrival.adapter is not None  # names may hold the base model, as None
            engine.ask(names[arrival.adapter], arrival.input_len, arrival.output_len)
        return None

    engine.first_token_s.clear()
    for _ in engine.run(arrive):
        pass
    seconds = time.perf_counter() - started
    waits = engine.first_token_s
    return {
        "requests_s": len(workload) / seconds,
        "tokens_s": sum(arrival.output_len for arrival in workload.arrivals) / seconds,
        "seconds": seconds,
        "first_token_s": statistics.mean(waits),
        "slo_attainment": sum(wait < SLO_SECONDS for wait in waits) / len(waits),
    }


def ablate(
    make: Callable[[tuple[str, ...]], Engine],
    batches: list[int],
    prompt: int,
    new: int,
    *,
    has_kernels: bool,
) -> None:
    """Prints milliseconds per step with distinct adapters, and per adapter load, for each set of
    ablation flags, one engine at a time; then the cost of each part. A quarter of the adapters each
    has rank 8, 16, 32 and 64 on attention, S-LoRA's mixture; all fit, so none is swapped or
    prefetched."""
    found: dict[tuple[str, ...], dict[int, float]] = {}
    loads: dict[tuple[str, ...], float] = {}
    idle = {"no_lora_swap", "no_prefetch"} | (set() if has_kernels else {"no_kernel"})
    stood_for = stand_ins(idle)
    for flags in dict.fromkeys(stood_for.values()):
        engine = make(flags)
        quarter = -(-max(batches) // len(MIXED_RANKS))
        by_rank = [engine.add_adapters(quarter, rank, ATTENTION) for rank in MIXED_RANKS]
        names = [name for names in zip(*by_rank, strict=True) for name in names]
        if not engine.config.no_lora:
            loads[flags] = load_ms(engine, names)
        table = steps_table(engine, batches, names, prompt, new, ("distinct",))["distinct"]
        found[flags] = {count: table[count]["ms"] for count in batches}
        stats = {f"ms_at_{count}": ms for count, ms in found[flags].items()}
        write_result("ablate", flags=flags_text(flags), load_ms=loads.get(flags, 0.0), **stats)
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    heads = "  ".join(f"{count:4} rows" for count in batches)
    print(f"\nmilliseconds   a load  {heads}   lacking")
    for flags, row in found.items():
        cells = "  ".join(f"{row[count]:9.2f}" for count in batches)
        print(f"{'':12} {loads.get(flags, 0.0):8.2f}  {cells}   {flags_text(flags)}")
    for cost in COSTS:
        having, lacking = stood_for[cost.having], stood_for[cost.lacking]
        if having != lacking:
            gaps = "  ".join(f"{found[having][n] - found[lacking][n]:+9.2f}" for n in batches)
            print(f"{cost.part:12} {'':8}  {gaps}   {cost.about}")


def pool_for(shape: dict[str, Any], batches: list[int], tokens: int) -> int:
    """Size in tokens of a pool that just holds the mixture of adapters and `tokens` for each
    request: some baselines need memory outside the pool."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(shape))
        model_config = read_model_config(Path(directory))
    sizes = sum(sum(module_shapes(model_config)[module]) for module in ATTENTION)
    pages = sum(-(-rank * sizes // page_elements(model_config)) for rank in MIXED_RANKS)
    quarter = -(-max(batches) // len(MIXED_RANKS))
    return max(batches) * (tokens + PAGE_SIZE) + quarter * pages * PAGE_SIZE


def load_ms(engine: Engine, names: list[str]) -> float:
    """Mean milliseconds to copy an adapter from the host into its pages, all copied in sequence."""
    for _ in range(2):  # the first pass may allocate memory
        started = time.perf_counter()
        for load in engine.replace_adapters(names):
            load.result()
        engine.runner.queue.synchronize()
        seconds = time.perf_counter() - started
    return seconds / len(names) * 1e3


def account_for(engine: Engine, batches: list[int], names: list[str], prompt: int) -> None:
    """Prints the kernel breakdown of a decode step for base, same and distinct adapters, and of a
    step with a piece of a prompt beside 32 streams."""

    def report_kernels(
        kind: str, count: int, steps: Iterator[tuple[float, Step]], measured: int
    ) -> None:
        found = measure_kernels(itertools.islice(steps, measured), measured)
        deque(steps, maxlen=0)
        write_result(
            "account", adapters=kind, requests=count, us=found.step_us, idle_us=found.idle_us
        )
        for name, (launches, spent) in found.kernels.items():
            if spent >= 5:
                print(f"    {spent:9.1f} us  {launches:6.1f} x  {name}", flush=True)

    def started(kind: str, count: int, new: int) -> Iterator[tuple[float, Step]]:
        adapter = kinds_of(names)[kind]
        for number in range(count):
            engine.ask(adapter(number), prompt, new)
        steps = engine.run()
        while next(steps)[1].phase != "decode":
            pass
        return steps

    for count, kind in itertools.product(batches, kinds_of(names)):
        report_kernels(kind, count, started(kind, count, 24), 12)
    engine.scheduler.limits = replace(engine.scheduler.limits, chunk_tokens=CHUNK_TOKENS)
    for kind, own in (("base", None), ("distinct", None), ("distinct", names[0])):
        steps = started(kind, 32, 40)
        engine.ask(own, engine.ready.max_model_len - 2, 1)
        while next(steps)[1].phase == "decode":
            pass
        report_kernels(f"{kind}, and a prompt of {own or 'the base'}", 32, steps, 5)


def write_result(kind: str, **stats: Any) -> None:
    """Writes a result as a line of JSON to stdout and, if given, to `--out`."""
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in stats.items()}
    line = json.dumps({"figures": kind, **shown})
    print(line, flush=True)
    if OUT:
        with OUT[0].open("a") as out:
            out.write(f"{line}\n")


OUT: list[Path] = []
"""Empty, or the file of `--out`."""


def print_steps(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """Prints our steps, the limit by this GPU's copy rate, and vLLM's numbers."""
    print(
        "\nms per step           ours                      limit here        vLLM 0.26 on an H200"
    )
    print(
        "requests      base      same  distinct      base  distinct      base      same  distinct"
    )
    for count in found["base"]:
        ours = [found[kind][count]["ms"] for kind in found]
        limits = [found[kind][count]["limit_ms"] for kind in ("base", "distinct")]
        peer = [VLLM_8B[kind].get(count, float("nan")) for kind in found]
        cells = "  ".join(f"{value:8.2f}" for value in (*ours, *limits, *peer))
        print(f"{count:8}  {cells}")


@ends_with_its_reader()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument(
        "--workload",
        choices=("steps", "slora", "account", "interference", "ablate", "constrained"),
        default="steps",
    )
    parser.add_argument("--layers", type=int, default=0, help="fewer layers, to try it out")
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--no-kernel", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tp", type=int, default=1, help="ranks that share the model")
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS)
    parser.add_argument("--max-running", type=int, default=256)
    about = parser.add_argument_group("slora")
    about.add_argument("--adapters", type=int, nargs="+", default=[1000], metavar="N")
    about.add_argument("--requests", type=int, default=1000, metavar="N")
    about.add_argument("--rate", type=float, default=0.0, help="requests/s; 0: all at once")
    parser.add_argument("--out", type=Path, help="append every result as a line of JSON")
    given = parser.parse_args()
    if given.workload == "ablate" and given.tp > 1:
        parser.error("--workload ablate measures one rank: leave --tp out")
    if given.out:
        OUT.append(given.out)
    with tempfile.TemporaryDirectory() as meeting:
        # Every rank has its own scheduler. All get the same requests and sample the same tokens, so
        # all decide alike.
        os.environ[MEETING] = str(Path(meeting) / "ranks")
        context = multiprocessing.get_context("spawn")
        for rank in range(1, given.tp):
            context.Process(target=measure_silently, args=(given, rank), daemon=True).start()
        measure_engine(given, 0)


def measure_silently(given: argparse.Namespace, rank: int) -> None:
    """Measures without output: only rank 0 prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        measure_engine(given, rank)


def measure_engine(given: argparse.Namespace, rank: int) -> None:
    shape = SHAPES[given.shape] | ({"num_hidden_layers": given.layers} if given.layers else {})
    config = {
        "device": given.device,
        "max_model_len": given.max_model_len,
        "no_kernel": given.no_kernel,
        "tp": given.tp,
        "max_running": given.max_running,
        "max_prefill_tokens": 8192,
        # In a table of steps, all prompts are computed before decoding, as in vLLM's numbers.
        "chunk_tokens": given.chunk_tokens if given.workload in ("slora", "interference") else 8192,
    }
    started = time.perf_counter()
    stages: dict[str, float] = {}

    def heard(message: Message) -> None:
        if isinstance(message, Progress):
            stages[message.stage] = time.perf_counter() - started

    if given.workload == "ablate":
        config["max_total_tokens"] = pool_for(shape, given.batches, given.prompt + given.new)

        def make(flags: tuple[str, ...]) -> Engine:
            return Engine(shape, config | dict.fromkeys(flags, True), heard, rank)

        on_gpu = given.device != "cpu" and torch.cuda.is_available()
        has_kernels = on_gpu and not given.no_kernel
        ablate(make, given.batches, given.prompt, given.new, has_kernels=has_kernels)
        return
    engine = Engine(shape, config, heard, rank)
    write_result(
        "start", seconds=time.perf_counter() - started, pages=engine.ready.num_pages, **stages
    )
    if given.workload == "constrained":
        constrained_table(engine, given.batches, given.prompt, given.new)
    elif given.workload != "slora":
        count = max(given.batches)
        started = time.perf_counter()
        names = engine.add_adapters(count, given.rank, tuple(module_shapes(engine.model_config)))
        write_result("adapters", count=count, seconds=time.perf_counter() - started)
        if given.workload == "account":
            account_for(engine, given.batches, names, given.prompt)
        elif given.workload == "interference":
            interference(engine, names, min(given.batches))
        else:
            print_steps(steps_table(engine, given.batches, names, given.prompt, given.new))
    else:
        slora_table(engine, given)


def slora_table(engine: Engine, given: argparse.Namespace) -> None:
    """Runs S-LoRA's workload without adapters, then with each number of adapters."""
    names: list[str] = []
    slora_workload(engine, [None], 100)  # warm-up: libraries may have to choose kernels
    for count in (0, *given.adapters):
        names += engine.add_adapters(count - len(names), 8, ATTENTION, first=len(names))
        stats = slora_workload(engine, [*names] or [None], given.requests, given.rate)
        write_result("slora", adapters=count, requests=given.requests, rate=given.rate, **stats)


if __name__ == "__main__":
    main()
