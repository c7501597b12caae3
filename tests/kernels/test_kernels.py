"""Each Triton kernel against plain PyTorch in float32: on a GPU where there is one, else through
Triton's interpreter (conftest sets TRITON_INTERPRET), on ragged and odd cases."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("triton")

from loraconsole.kernels import fused, lora, reference
from loraconsole.kernels.attention import (
    PREFILL_BLOCK,
    attend_decode_paged,
    attend_prefill_paged,
)
from loraconsole.kernels.fused import add_norm_, rotate_write, silu_mul
from loraconsole.kernels.layouts import AdapterTables, Groups, Shrunk, Site
from loraconsole.kernels.lora import GROUP_ROWS, Tiles, expand_paged, shrink_paged
from loraconsole.kernels.sampling import NO_TOKEN, best_tokens, forbid_tokens
from loraconsole.pipeline import messages

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAGE_SIZE = 16


def ints(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(DEVICE)


def scatter(pool: torch.Tensor, flat: torch.Tensor, pages: list[int]) -> None:
    """An adapter's elements into its pages."""
    padded = torch.zeros(len(pages) * pool.shape[1], device=DEVICE)
    padded[: len(flat)] = flat
    pool[pages] = padded.view(len(pages), -1)


OWNERS = {
    "one token": [0],
    "one adapter": [1] * 5,
    "more than a group": [2] * 37,
    "every adapter": [0, 1, 2, 3],
    "nobody": [-1, -1, -1],
    "mixed": [0, -1, 3, 1, 1, -1, 2, 0, 3, 3, 2],
    "skewed": [3] * 20 + [0, 1, 2],
}
SITES = {
    "three modules": (48, (96, 32, 32)),
    "two": (48, (80, 80)),
    "one": (80, (48,)),
}
UNIT = 16


class Adapters:
    """Four of ranks 1 to 40, some without some modules, in pages of a pool else full of NaN."""

    def __init__(self, in_features: int, outs: tuple[int, ...], page: int = 64) -> None:
        self.outs = outs
        self.pool = torch.full((400, page), torch.nan, device=DEVICE)
        self.free = free = random.Random(0).sample(range(400), 400)
        ranks = [
            [8] * len(outs),
            [1, 40, 5][: len(outs)],
            [16] * len(outs),
            [0, 4, 0][-len(outs) :],
        ]
        tables_pages, tables_sites, tables_modules = [], [], []
        self.matrices = []
        for own in ranks:
            a = [randn(rank, in_features) for rank in own]
            b = [randn(rank, out) for rank, out in zip(own, outs, strict=True)]
            self.matrices.append((a, b))
            lead = randn(32)  # of another site, before it
            flat = torch.cat([lead, *(m.flatten() for m in a), *(m.flatten() for m in b)])
            pages = [free.pop() for _ in range(-(-len(flat) // page))]
            scatter(self.pool, flat, pages)
            modules, first, element = [], 0, len(lead) + sum(own) * in_features
            for rank, out in zip(own, outs, strict=True):
                modules.append([rank, first, element])
                first, element = first + rank, element + rank * out
            modules += [[0, 0, 0]] * (7 - len(modules))
            tables_pages.append(pages)
            tables_modules.append(modules)
            tables_sites.append([[len(lead), sum(own)]] * 4)
        most = max(map(len, tables_pages))
        self.tables = AdapterTables(
            torch.stack([ints(pages + [0] * (most - len(pages))) for pages in tables_pages]),
            torch.tensor(tables_sites, dtype=torch.int32, device=DEVICE),
            torch.tensor(tables_modules, dtype=torch.int32, device=DEVICE),
        )

    def groups(self, owners: list[int], block_m: int) -> Groups:
        """Base tokens have groups too, which shrink and expand leave alone."""
        slots, starts, counts, tokens = [], [], [], []
        for slot in range(-1, 4):
            own_tokens = [t for t, owner in enumerate(owners) if owner == slot]
            for start in range(0, len(own_tokens), block_m):
                part = own_tokens[start : start + block_m]
                slots.append(slot)
                starts.append(len(tokens))
                counts.append(len(part))
                tokens += part
        return Groups(
            ints([*slots, -1, -1]), ints([*starts, 0, 0]), ints([*counts, 0, 0]), ints(tokens)
        )

    def shrink(self, x: torch.Tensor, owners: list[int], block_m: int = GROUP_ROWS) -> Shrunk:
        groups, site = self.groups(owners, block_m), Site(2, 0, self.outs)
        tables = (self.tables, groups, ints(owners), site)
        return shrink_paged(x, self.pool, *tables, max_ranks=64, unit=UNIT, block_m=block_m)

    def add(self, y: torch.Tensor, x: torch.Tensor, owners: list[int]) -> torch.Tensor:
        """y[t] + (x[t] @ A.T) @ B.T"""
        y = y.clone()
        for token, owner in enumerate(owners):
            if owner >= 0:
                a, b = self.matrices[owner]
                y[token] += torch.cat([x[token] @ m.T @ n for m, n in zip(a, b, strict=True)])
        return y


def assert_base_rows_untouched(
    found: torch.Tensor, before: torch.Tensor, owners: list[int]
) -> None:
    for token, owner in enumerate(owners):
        assert owner >= 0 or torch.equal(found[token], before[token]), "a base row was touched"


@pytest.mark.slow
@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize(
    ("site", "block_m", "kind", "columns"),
    [
        *((site, 16, "token", 1024) for site in SITES),
        ("two", 16, "token", 32),  # many tiles, slow to interpret
        *((site, 64, "chunk", 32) for site in SITES),
        *((site, 64, "prompt", 16) for site in SITES),
    ],
)
def test_lora_is_added_from_pages(
    owners: list[int],
    site: str,
    block_m: int,
    kind: str,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the work is cut."""
    monkeypatch.setitem(lora.SHRINK, kind, Tiles(16, columns))
    monkeypatch.setitem(lora.EXPAND, kind, Tiles(16, columns))
    monkeypatch.setattr(lora, "FEW_GROUPS", 0 if kind == "prompt" else 64)
    torch.manual_seed(0)
    in_features, outs = SITES[site]
    adapters = Adapters(in_features, outs)
    x, y = randn(len(owners), in_features), randn(len(owners), sum(outs))
    expected, before = adapters.add(y, x, owners), y.clone()
    expand_paged(y, adapters.shrink(x, owners, block_m), block_m=block_m)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert_base_rows_untouched(y, before, owners)


@pytest.mark.slow
@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("size", [48, 80])
def test_the_sum_and_its_norm_with_adapters(owners: list[int], size: int) -> None:
    torch.manual_seed(6)
    adapters = Adapters(64, (size,))
    x, delta, hidden = randn(len(owners), 64), randn(len(owners), size), randn(len(owners), size)
    weight, out = randn(size), torch.full_like(hidden, torch.nan)
    total = hidden + adapters.add(delta, x, owners)
    base = add_norm_(hidden.clone(), delta, weight, 1e-5, torch.empty_like(hidden))
    add_norm_(hidden, delta, weight, 1e-5, out, adapters.shrink(x, owners))
    torch.testing.assert_close(hidden, total, rtol=1e-4, atol=1e-4)
    expected = torch.nn.functional.rms_norm(total, (size,), weight, 1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for token, owner in enumerate(owners):
        assert owner >= 0 or torch.allclose(out[token], base[token], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("owners", OWNERS.values(), ids=OWNERS)
@pytest.mark.parametrize("columns", [16, 32, 1024])
def test_the_gate_with_adapters(
    owners: list[int], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "GATE", Tiles(16, columns))
    torch.manual_seed(7)
    adapters = Adapters(48, (80, 80))
    x, gate_up = randn(len(owners), 48), randn(len(owners), 160)
    out = torch.full((len(owners), 80), torch.nan, device=DEVICE)
    silu_mul(gate_up, out, adapters.shrink(x, owners))
    gate, up = adapters.add(gate_up, x, owners).chunk(2, dim=1)
    torch.testing.assert_close(out, torch.nn.functional.silu(gate) * up, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "window"),
    [
        *((6, 2, 16, window) for window in (0, 7, 40)),
        *((4, 4, 24, window) for window in (0, 7)),
        (9, 3, 64, 40),
        *((8, 1, 128, window) for window in (0, 7, 40)),
    ],
)
def test_decode_attention_equals_the_plain_one(
    heads: int, kv_heads: int, dim: int, window: int
) -> None:
    torch.manual_seed(1)
    rng = random.Random(1)
    lengths = [1, 16, 17, 5, 130, 0, 64]
    num_pages, width = 40, 12
    pool = torch.full((num_pages, 2, kv_heads, PAGE_SIZE, dim), torch.nan, device=DEVICE)
    free = rng.sample(range(num_pages), num_pages)
    tables = torch.zeros(len(lengths), width, dtype=torch.int32, device=DEVICE)
    q = randn(len(lengths), heads, dim)
    expected = torch.zeros(len(lengths), heads, dim, device=DEVICE)
    for row, length in enumerate(lengths):
        k, v = randn(kv_heads, length, dim), randn(kv_heads, length, dim)
        pages = [free.pop() for _ in range(-(-length // PAGE_SIZE))]
        tables[row, : len(pages)] = ints(pages) if pages else tables[row, :0]
        for token in range(length):
            page, place = pages[token // PAGE_SIZE], token % PAGE_SIZE
            pool[page, 0, :, place], pool[page, 1, :, place] = k[:, token], v[:, token]
        if length:
            first = max(0, length - window) if window else 0
            group = heads // kv_heads
            keys = k[:, first:].repeat_interleave(group, 0)
            values = v[:, first:].repeat_interleave(group, 0)
            scores = torch.einsum("hd,hnd->hn", q[row], keys) * dim**-0.5
            expected[row] = torch.einsum("hn,hnd->hd", scores.softmax(-1), values)
    out = torch.full((len(lengths), heads * dim), torch.nan, device=DEVICE)
    attend_decode_paged(q, pool, tables, ints(lengths), out, scale=dim**-0.5, window=window)
    torch.testing.assert_close(out, expected.flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "window", "splits"),
    [
        *((6, 2, 16, window, splits) for window in (0, 9) for splits in (1, 4)),
        *((9, 3, 64, 0, 1), (9, 3, 64, 9, 1), (9, 3, 64, 9, 4)),
    ],
)
def test_prefill_attention_equals_the_plain_one(
    heads: int, kv_heads: int, dim: int, window: int, splits: int
) -> None:
    """Whole prompts and pieces of prompts whose first tokens are in the pages already."""
    torch.manual_seed(2)
    rng = random.Random(2)
    sequences = [(0, 5), (0, 100), (30, 17), (16, 1)]  # tokens before, tokens now
    num_pages = 40
    pool = torch.full((num_pages, 2, kv_heads, PAGE_SIZE, dim), torch.nan, device=DEVICE)
    free = rng.sample(range(num_pages), num_pages)
    total = 3 + sum(count for _, count in sequences)  # three tokens of others lead
    q = randn(total, heads, dim)
    tables = torch.zeros(len(sequences), 12, dtype=torch.int32, device=DEVICE)
    expected = torch.full((total, heads, dim), torch.nan, device=DEVICE)
    firsts, blocks, first = [], ([], []), 3
    for row, (before, count) in enumerate(sequences):
        length = before + count
        k, v = randn(kv_heads, length, dim), randn(kv_heads, length, dim)
        pages = [free.pop() for _ in range(-(-length // PAGE_SIZE))]
        tables[row, : len(pages)] = ints(pages)
        for token in range(length):
            page, place = pages[token // PAGE_SIZE], token % PAGE_SIZE
            pool[page, 0, :, place], pool[page, 1, :, place] = k[:, token], v[:, token]
        group = heads // kv_heads
        scores = torch.einsum(
            "nhd,hmd->hnm", q[first : first + count], k.repeat_interleave(group, 0)
        ) * (dim**-0.5)
        here = torch.arange(before, length, device=DEVICE)[:, None]
        there = torch.arange(length, device=DEVICE)[None, :]
        seen = there <= here
        if window:
            seen &= there > here - window
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        expected[first : first + count] = torch.einsum(
            "hnm,hmd->nhd", weights, v.repeat_interleave(group, 0)
        )
        firsts.append(first)
        for start in range(0, count, PREFILL_BLOCK):
            blocks[0].append(row)
            blocks[1].append(start)
        first += count
    out = torch.full((total, heads * dim), torch.nan, device=DEVICE)
    attend_prefill_paged(
        q,
        pool,
        tables,
        (ints(blocks[0]), ints(blocks[1])),
        (ints(firsts), ints([b for b, _ in sequences]), ints([c for _, c in sequences])),
        out,
        scale=dim**-0.5,
        window=window,
        splits=splits,
        lead=3,
    )
    torch.testing.assert_close(out, expected.flatten(1), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("size", [48, 64, 100])
def test_the_sum_and_its_norm(size: int) -> None:
    torch.manual_seed(3)
    hidden, delta, weight = randn(7, size), randn(7, size), randn(size)
    total = hidden + delta
    out = torch.empty_like(hidden)
    add_norm_(hidden, delta, weight, 1e-5, out)
    torch.testing.assert_close(hidden, total)
    expected = torch.nn.functional.rms_norm(total, (size,), weight, 1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dim", "owners"), [(16, None), (24, None), (64, None), (16, [0, 3, -1, 1, 1]), (8, [2] * 5)]
)
def test_rotation_and_the_write_of_keys_and_values(dim: int, owners: list[int] | None) -> None:
    torch.manual_seed(4)
    heads, kv_heads, count = 6, 2, 5
    states = randn(count, heads + 2 * kv_heads, dim)
    angle = randn(count, dim // 2)
    rotation = torch.polar(torch.ones_like(angle), angle)
    expected, shrunk = states.clone(), None
    pool = torch.zeros(4, 2, kv_heads, PAGE_SIZE, dim, device=DEVICE)
    pages = [2, 0, 3, -1, 2]
    if owners:  # keys and values lie in the pool that holds the adapters
        x, page = randn(count, 48), pool[0].numel()
        adapters = Adapters(48, (heads * dim, kv_heads * dim, kv_heads * dim), page)
        expected = adapters.add(states.flatten(1), x, owners).view_as(states)
        shrunk = adapters.shrink(x, owners)
        pool = adapters.pool.view(-1, *pool.shape[1:])
        pages = [page if page < 0 else adapters.free[page] for page in pages]
    written = pool.clone()
    reference.rotate_(expected[:, : heads + kv_heads], rotation.unsqueeze(1))
    places = [0, 15, 7, 3, 1]
    turn = torch.view_as_real(rotation).contiguous()
    rotate_write(states, turn, pool, ints(pages), ints(places), heads, shrunk)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)
    for token, (page, place) in enumerate(zip(pages, places, strict=True)):
        if page >= 0:
            written[page, 0, :, place] = expected[token, heads : heads + kv_heads]
            written[page, 1, :, place] = expected[token, heads + kv_heads :]
    torch.testing.assert_close(pool, written, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_gate() -> None:
    torch.manual_seed(5)
    gate_up = randn(5, 200)
    out = torch.empty(5, 100, device=DEVICE)
    gate, up = gate_up.chunk(2, dim=1)
    torch.testing.assert_close(
        silu_mul(gate_up, out), torch.nn.functional.silu(gate) * up, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [5, 4096, 9000])
def test_the_best_token_is_the_lowest_of_equals(size: int) -> None:
    torch.manual_seed(8)
    logits = randn(4, size)
    logits[1] = logits[1].round()  # many are equal
    logits[2] = -torch.inf
    logits[2, size - 1] = -3.0
    logits[3, size // 2 :] = 9.0
    history = torch.full((20,), -1, dtype=torch.int32, device=DEVICE)
    places = [7, 0, -1, 19]
    found = best_tokens(logits, ints(places), history)
    expected = [(row == row.max()).nonzero()[0].item() for row in logits]
    assert found.tolist() == expected
    written = [-1] * 20
    for place, token in zip(places, expected, strict=True):
        if place >= 0:
            written[place] = int(token)
    assert history.tolist() == written


@pytest.mark.parametrize("size", [5, 9000])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_or_all_alike_has_no_best_token(size: int, value: float) -> None:
    torch.manual_seed(9)
    logits = randn(5, size)
    logits[1, size // 2] = value
    logits[2] = -torch.inf
    logits[3, 1:] = -torch.inf  # one token is left, and its logit is finite
    logits[4] = 0.0  # what a norm makes of states that overflow
    history = torch.full((5,), 7, dtype=torch.int32, device=DEVICE)
    found = best_tokens(logits, ints([0, 1, 2, 3, 4]), history)
    best = int(logits[0].argmax())
    assert found.tolist() == [best, NO_TOKEN, NO_TOKEN, 0, NO_TOKEN]
    assert history.tolist() == [best, 0, 0, 0, 0]  # what the next step reads must be a token


def test_kernels_and_messages_agree_on_what_stands_for_no_token() -> None:
    assert NO_TOKEN == messages.NO_TOKEN


@pytest.mark.parametrize("size", [5, 4096, 9001])
def test_tokens_that_are_not_allowed_are_ruled_out(size: int) -> None:
    torch.manual_seed(10)
    logits, rows = randn(6, size), ints([4, 0, 3])
    bits = torch.randint(0, 256, (3, size // 8 + 5), dtype=torch.uint8, device=DEVICE)
    expected = logits.clone()
    for place, row in enumerate(rows.tolist()):
        for token in range(size):
            if not int(bits[place, token // 8]) >> token % 8 & 1:
                expected[row, token] = -torch.inf
    plain = logits.clone()
    reference.forbid_tokens(plain, bits, rows)
    forbid_tokens(logits, bits, rows)
    assert torch.equal(plain, expected) and torch.equal(logits, expected)
