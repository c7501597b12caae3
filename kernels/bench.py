"""Each LoRA kernel alone: microseconds, and bytes per second against the GPU's copy rate, at
Llama-3.1-8B shapes. `python -m loraconsole.kernels.bench`; needs a GPU.

A graph launches the kernel for each of several layers, so that no data stays in the L2 and no time
is spent on launches; then the graph is replayed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import fused, lora
from .attention import attend_decode_paged
from .fused import add_norm_, rotate_write, silu_mul
from .layouts import AdapterTables, Groups, Shrunk, Site
from .lora import (
    GROUP_ROWS,
    PROMPT_GROUP_ROWS,
    RANK_BLOCK,
    Tiles,
    expand_paged,
    shrink_paged,
)

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, DIM, PAGE_SIZE = 4096, 14336, 32, 8, 128, 16
PAGE = 2 * KV_HEADS * PAGE_SIZE * DIM
SITES = {
    "qkv": (HIDDEN, (HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM)),
    "output": (HIDDEN, (HIDDEN,)),
    "gate_up": (HIDDEN, (INTERMEDIATE, INTERMEDIATE)),
    "down": (INTERMEDIATE, (HIDDEN,)),
}
LAYERS = 6
MIXED = (8, 16, 32, 64)


class Adapters(NamedTuple):
    """Adapters in the pages of a pool, in a worker's layout."""

    pool: Tensor
    """[LAYERS, num_pages, PAGE]"""
    tables: AdapterTables
    ranks: list[int]


def make_adapters(ranks: list[int]) -> Adapters:
    """Random adapters of these ranks, all different."""
    pages, sites, modules = [], [], []
    used = 0
    for rank in ranks:
        element, own_sites, own_modules = 0, [], []
        for in_features, outs in SITES.values():
            own_sites.append([element, rank * len(outs)])
            element += rank * len(outs) * in_features
            for index, out in enumerate(outs):
                own_modules.append([rank, index * rank, element])
                element += rank * out
        count = -(-element // PAGE)
        pages.append(list(range(used, used + count)))
        used += count
        sites.append(own_sites)
        modules.append(own_modules)
    most = max(map(len, pages))
    order = torch.randperm(used, device="cuda", dtype=torch.int64)
    table = torch.tensor([own + [0] * (most - len(own)) for own in pages], device="cuda")
    tables = AdapterTables(
        order[table].int(),
        torch.tensor(sites, dtype=torch.int32, device="cuda"),
        torch.tensor(modules, dtype=torch.int32, device="cuda"),
    )
    pool = torch.randn(LAYERS, used, PAGE, dtype=torch.bfloat16, device="cuda")
    return Adapters(pool, tables, ranks)


def make_groups(owners: list[int], rows: int = GROUP_ROWS, most: int = 0) -> Groups:
    """Groups of at most `rows` tokens, padded to `most` groups (default: one per token)."""
    found: list[tuple[int, int, int]] = []
    tokens: list[int] = []
    order = sorted(range(len(owners)), key=lambda token: owners[token])
    for slot, members in itertools.groupby(order, key=lambda token: owners[token]):
        own = list(members)
        for start in range(0, len(own), rows):
            part = own[start : start + rows]
            found.append((slot, len(tokens), len(part)))
            tokens += part
    found += [(-1, 0, 0)] * ((most or len(owners)) - len(found))
    slots, starts, counts = torch.tensor(found, dtype=torch.int32, device="cuda").t().contiguous()
    return Groups(slots, starts, counts, ints(tokens))


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def microseconds(launch: Callable[[int], object]) -> float:
    """Median microseconds of one `launch`, which is called with the layer's number."""
    for layer in range(LAYERS):
        launch(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(4):
            for layer in range(LAYERS):
                launch(layer)
    times = []
    for _ in range(9):
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        done.record()
        done.synchronize()
        times.append(begun.elapsed_time(done) * 1e3 / (4 * LAYERS))
    return float(statistics.median(times))


class Case:
    """Rows and their adapters. Each `time_` method times one kernel and returns (microseconds,
    bytes that it must read and write)."""

    def __init__(self, adapters: Adapters, owners: list[int]) -> None:
        self.adapters, self.owners = adapters, owners
        self.groups, self.owner_ids = make_groups(owners), ints(owners)
        self.rows = len(owners)
        self.max_rank = max(adapters.ranks[owner] for owner in owners)
        self.rank_sum = sum(adapters.ranks[owner] for owner in set(owners))

    def randn(self, width: int) -> Tensor:
        return torch.randn(self.rows, width, dtype=torch.bfloat16, device="cuda")

    def shrink(self, name: str, layer: int, x: Tensor, block_m: int = GROUP_ROWS) -> Shrunk:
        index = list(SITES).index(name)
        outs = SITES[name][1]
        first = sum(len(own) for _, own in list(SITES.values())[:index])
        return shrink_paged(
            x,
            self.adapters.pool[layer],
            self.adapters.tables,
            self.groups,
            self.owner_ids,
            Site(index, first, outs),
            max_ranks=-(-self.max_rank * len(outs) // RANK_BLOCK) * RANK_BLOCK,
            unit=256,
            block_m=block_m,
        )

    def time_shrink(self, name: str) -> tuple[float, int]:
        in_features, outs = SITES[name]
        x = self.randn(in_features)
        took = microseconds(lambda layer: self.shrink(name, layer, x))
        return took, 2 * (self.rank_sum * len(outs) * in_features + x.numel())

    def time_add_norm(self, name: str, lora: bool = True) -> tuple[float, int]:
        x, hidden, delta = self.randn(SITES[name][0]), self.randn(HIDDEN), self.randn(HIDDEN)
        weight, out = self.randn(HIDDEN)[0], torch.empty_like(hidden)
        shrunk = [self.shrink(name, layer, x) if lora else None for layer in range(LAYERS)]
        took = microseconds(lambda n: add_norm_(hidden, delta, weight, 1e-5, out, shrunk[n]))
        return took, 2 * (lora * self.rank_sum * HIDDEN + 4 * hidden.numel())

    def time_rotate(self, lora: bool = True) -> tuple[float, int]:
        x, heads = self.randn(HIDDEN), self.randn((HEADS + 2 * KV_HEADS) * DIM)
        states = heads.unflatten(1, (-1, DIM))
        rotation = torch.randn(self.rows, DIM // 2, 2, device="cuda")
        pages = torch.full((self.rows,), -1, dtype=torch.int32, device="cuda")
        shrunk = [self.shrink("qkv", layer, x) if lora else None for layer in range(LAYERS)]
        pool = self.adapters.pool.view(LAYERS, -1, 2, KV_HEADS, PAGE_SIZE, DIM)
        took = microseconds(
            lambda n: rotate_write(states, rotation, pool[n], pages, pages, HEADS, shrunk[n])
        )
        return took, 2 * (lora * self.rank_sum * 6144 + 2 * heads.numel())

    def time_gate(self, lora: bool = True) -> tuple[float, int]:
        x, gate_up = self.randn(HIDDEN), self.randn(2 * INTERMEDIATE)
        out = self.randn(INTERMEDIATE)
        shrunk = [self.shrink("gate_up", layer, x) if lora else None for layer in range(LAYERS)]
        took = microseconds(lambda n: silu_mul(gate_up, out, shrunk[n]))
        return took, 2 * (lora * self.rank_sum * 2 * INTERMEDIATE + 3 * out.numel())

    def all(self) -> dict[str, tuple[float, int]]:
        return {
            **{f"shrink {name}": self.time_shrink(name) for name in SITES},
            "rotate": self.time_rotate(),
            "norm, output": self.time_add_norm("output"),
            "gate": self.time_gate(),
            "norm, down": self.time_add_norm("down"),
        }


class PromptCase(Case):
    """A prompt's tokens for each adapter. `most` pads the groups, as for a piece of a prompt in a
    step that also decodes."""

    def __init__(self, adapters: Adapters, tokens: int, most: int = 0) -> None:
        super().__init__(
            adapters, [slot for slot in range(len(adapters.ranks)) for _ in range(tokens)]
        )
        count = -(-tokens // PROMPT_GROUP_ROWS) * len(adapters.ranks)
        self.groups = make_groups(self.owners, PROMPT_GROUP_ROWS, most or count)

    def time_site(self, name: str) -> tuple[float, float, float]:
        """Microseconds of shrink and of expand, and operations per feature."""
        in_features, outs = SITES[name]
        x, y = self.randn(in_features), self.randn(sum(outs))
        pieces = [self.shrink(name, layer, x, PROMPT_GROUP_ROWS) for layer in range(LAYERS)]
        operations = 2.0 * self.rows * self.max_rank
        return (
            microseconds(lambda n: self.shrink(name, n, x, PROMPT_GROUP_ROWS)),
            microseconds(lambda n: expand_paged(y, pieces[n], block_m=PROMPT_GROUP_ROWS)),
            operations,
        )


def show_prompts(adapters: Adapters, tokens: int, most: int, what: str) -> None:
    case = PromptCase(adapters, tokens, most)
    for name, (in_features, outs) in SITES.items():
        shrink, expand, each = case.time_site(name)
        stats = {"kernel": f"prompt {name}", "tokens": case.rows, "case": what}
        stats |= {"shrink_us": round(shrink, 1), "expand_us": round(expand, 1)}
        stats["shrink_tflops"] = round(each * len(outs) * in_features / shrink / 1e6, 1)
        stats["expand_tflops"] = round(each * sum(outs) / expand / 1e6, 1)
        print(json.dumps(stats), flush=True)


def tune_prompts(adapters: Adapters) -> None:
    kinds = lora.SHRINK["chunk"], lora.EXPAND["chunk"]
    for unit, columns in ((64, 512), (64, 1024), (128, 512), (128, 1024), (128, 2048)):
        lora.SHRINK["chunk"] = Tiles(unit, columns)
        show_prompts(adapters, 256, 36, f"shrink {unit} {columns}")
    lora.SHRINK["chunk"] = kinds[0]
    for unit, columns in ((64, 64), (128, 128), (128, 256), (256, 256)):
        lora.EXPAND["chunk"] = Tiles(unit, columns)
        show_prompts(adapters, 256, 36, f"expand {unit} {columns}")
    lora.EXPAND["chunk"] = kinds[1]


def time_attention(rows: int, length: int) -> tuple[float, int]:
    """Decode attention over `length` tokens a row."""
    each = -(-length // PAGE_SIZE)
    pool = torch.randn(
        LAYERS, rows * each, 2, KV_HEADS, PAGE_SIZE, DIM, dtype=torch.bfloat16, device="cuda"
    )
    tables = torch.randperm(rows * each, device="cuda").int().view(rows, each)
    lengths = torch.full((rows,), length, dtype=torch.int32, device="cuda")
    q = torch.randn(rows, HEADS, DIM, dtype=torch.bfloat16, device="cuda")
    out = torch.empty(rows, HEADS * DIM, dtype=torch.bfloat16, device="cuda")
    took = microseconds(
        lambda n: attend_decode_paged(q, pool[n], tables, lengths, out, scale=DIM**-0.5, window=0)
    )
    return took, rows * length * 2 * KV_HEADS * DIM * 2


def copy_rate() -> float:
    """Bytes per second of a copy, read plus written."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source)
    begun.record()
    for _ in range(10):
        target.copy_(source)
    done.record()
    done.synchronize()
    return float(20 * source.nbytes / (begun.elapsed_time(done) * 1e-3))


CASES: dict[str, Callable[[int], list[int]]] = {
    "distinct": lambda rows: list(range(rows)),
    "same": lambda rows: [0] * rows,
}


def print_timing(what: str, rows: int, name: str, took: float, size: int, copy: float) -> None:
    rate = size / took * 1e6
    stats = {"kernel": name, "rows": rows, "case": what, "us": round(took, 2)}
    stats |= {"gb_s": round(rate / 1e9), "of_copy": round(rate / copy, 2)}
    print(json.dumps(stats), flush=True)


def total(found: dict[str, tuple[float, int]]) -> tuple[float, int]:
    return sum(took for took, _ in found.values()), sum(size for _, size in found.values())


def tune(case: Case, what: str, copy: float) -> None:
    """Times other tile sizes than those in use."""
    shrink, gate, rotate = lora.SHRINK["token"], fused.GATE, fused.ROTATE_COLUMNS
    for columns in (512, 1024, 2048):
        lora.SHRINK["token"] = Tiles(256, columns)
        for name in SITES:
            print_timing(what, case.rows, f"shrink {name} {columns}", *case.time_shrink(name), copy)
    lora.SHRINK["token"] = shrink
    for columns in (256, 512, 1024):
        fused.GATE = Tiles(256, columns)
        print_timing(what, case.rows, f"gate {columns}", *case.time_gate(), copy)
    fused.GATE = gate
    for columns in (256, 512, 1024):
        fused.ROTATE_COLUMNS = columns
        print_timing(what, case.rows, f"rotate {columns}", *case.time_rotate(), copy)
    fused.ROTATE_COLUMNS = rotate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--tune", action="store_true", help="try other tile sizes")
    given = parser.parse_args()
    copy = copy_rate()
    print(json.dumps({"device": torch.cuda.get_device_name(), "copy_gb_s": round(copy / 1e9)}))
    with torch.inference_mode():
        one = make_adapters([16])
        if given.tune:
            tune_prompts(one)
        show_prompts(one, 256, 36, "a piece")
        if not given.tune:
            show_prompts(make_adapters([16] * 128), 256, 0, "distinct")
        most = max(given.rows)
        adapters = make_adapters([16] * most)
        for rows, (what, owners) in itertools.product(given.rows, CASES.items()):
            case = Case(adapters, owners(rows))
            if given.tune:
                tune(case, what, copy)
                continue
            found = case.all()
            for name, (took, size) in found.items():
                print_timing(what, rows, name, took, size, copy)
            print_timing(what, rows, "all", *total(found), copy)
        for rows in given.rows:
            case = Case(adapters, [0] * rows)
            for name, stats in (
                ("norm", case.time_add_norm("output", lora=False)),
                ("rotate", case.time_rotate(lora=False)),
                ("gate", case.time_gate(lora=False)),
                ("attention, 320 tokens", time_attention(rows, 320)),
            ):
                print_timing("base", rows, name, *stats, copy)
        del adapters, case
        mixed = make_adapters([MIXED[index % 4] for index in range(min(most, 128))])
        for rows in given.rows:
            if rows <= 128 and not given.tune:
                case = Case(mixed, list(range(rows)))
                print_timing("mixed ranks", rows, "all", *total(case.all()), copy)


if __name__ == "__main__":
    main()
