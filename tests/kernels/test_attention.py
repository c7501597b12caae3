"""Paged attention, beside the textbook, over ragged pages."""

import numpy as np
import pytest
import torch
from torch import Tensor

from loraconsole.kernels import reference
from loraconsole.pipeline.model.page_pool import PAGE_SIZE, PagePool
from loraconsole.pipeline.model_files.model_config import ModelConfig

HEADS, KV_HEADS, DIM = 6, 2, 8


@pytest.fixture
def pool() -> PagePool:
    model_config = ModelConfig(
        family="llama",
        vocab_size=10,
        hidden_size=HEADS * DIM,
        intermediate_size=16,
        num_layers=2,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=DIM,
        max_position_embeddings=128,
        max_model_len=128,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
    )
    return PagePool(model_config, 20, torch.float32, torch.device("cpu"))


def textbook(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """q [n, heads, dim], keys, values [length, kv_heads, dim], mask bool [n, length]."""
    keys = keys.repeat_interleave(HEADS // KV_HEADS, dim=1)
    values = values.repeat_interleave(HEADS // KV_HEADS, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, keys) * DIM**-0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("hnm,mhd->nhd", weights, values).flatten(1)


def store(pool: PagePool, pages: list[int], kv: Tensor) -> None:
    """Writes tokens 0 … n-1 of a sequence; kv [n, 2 kv_heads, dim]."""
    positions = np.arange(len(kv))
    index = pool.write_index(np.array(pages)[positions // PAGE_SIZE], positions)
    reference.write_pages(pool.pages[1], kv, torch.from_numpy(index))


def test_what_is_written_is_gathered_in_order(pool: PagePool) -> None:
    kv = torch.randn(40, 2 * KV_HEADS, DIM)
    store(pool, [7, 3, 11], kv)
    index = torch.from_numpy(pool.gather_index(np.array([[7, 3, 11]])))
    keys, values = reference.gather_pages(pool.pages[1], index, num_rows=1)
    assert keys.shape == (1, KV_HEADS, 48, DIM)
    torch.testing.assert_close(keys[0, :, :40], kv[:, :KV_HEADS].transpose(0, 1))
    torch.testing.assert_close(values[0, :, :40], kv[:, KV_HEADS:].transpose(0, 1))
    assert not pool.pages[0].any(), "another layer was written"


def test_cleaned_pages_are_zero_in_every_layer(pool: PagePool) -> None:
    pool.pages.fill_(float("nan"))
    pool.clean(torch.tensor([4, 9]))
    assert not pool.pages[:, [4, 9]].any()
    assert pool.pages[:, 5].isnan().all()


@pytest.mark.parametrize("lengths", [(1,), (16,), (17, 3, 40), (40, 40, 40, 40)])
def test_decode_rows_of_unequal_length_equal_the_textbook(
    pool: PagePool, lengths: tuple[int, ...]
) -> None:
    free = list(range(20))[::-1]
    width = -(-max(lengths) // PAGE_SIZE)
    contexts, table = [], []
    for length in lengths:
        pages = [free.pop() for _ in range(-(-length // PAGE_SIZE))]
        contexts.append(torch.randn(length, 2 * KV_HEADS, DIM))
        store(pool, pages, contexts[-1])
        table.append(pages + pages[:1] * (width - len(pages)))
    q = torch.randn(len(lengths), HEADS, DIM)
    index = torch.from_numpy(pool.gather_index(np.array(table)))
    keys, values = reference.gather_pages(pool.pages[1], index, num_rows=len(lengths))
    slots = torch.arange(width * PAGE_SIZE)
    hidden = slots >= torch.tensor(lengths)[:, None]
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
    mask = mask.repeat_interleave(KV_HEADS, dim=0).unsqueeze(1)
    found = reference.attend_decode(q, keys, values, mask, DIM**-0.5)
    for row, (length, kv) in enumerate(zip(lengths, contexts, strict=True)):
        seen = torch.ones(1, length, dtype=torch.bool)
        expected = textbook(q[row : row + 1], kv[:, :KV_HEADS], kv[:, KV_HEADS:], seen)
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 31])
def test_a_prompt_looks_back_only(count: int) -> None:
    heads = torch.randn(count, HEADS + 2 * KV_HEADS, DIM)
    q, keys, values = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    found = reference.attend_prefill(
        q, keys.transpose(0, 1), values.transpose(0, 1), None, DIM**-0.5
    )
    expected = textbook(q, keys, values, torch.ones(count, count, dtype=torch.bool).tril())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_chunk_sees_what_its_mask_says() -> None:
    q, length = torch.randn(5, HEADS, DIM), 23
    keys, values = torch.randn(2, length, KV_HEADS, DIM)
    mask = torch.rand(5, length) < 0.5
    mask[:, 0] = True
    found = reference.attend_prefill(
        q, keys.transpose(0, 1), values.transpose(0, 1), mask, DIM**-0.5
    )
    torch.testing.assert_close(found, textbook(q, keys, values, mask), rtol=1e-4, atol=1e-5)


def test_rotation_turns_pairs_as_complex_numbers() -> None:
    heads = torch.randn(3, 2, 8, dtype=torch.float64).float()
    angle = torch.randn(3, 1, 4)
    rotation = torch.polar(torch.ones_like(angle), angle)
    expected = torch.empty_like(heads)
    cos, sin = angle.cos(), angle.sin()
    expected[..., 0::2] = heads[..., 0::2] * cos - heads[..., 1::2] * sin
    expected[..., 1::2] = heads[..., 0::2] * sin + heads[..., 1::2] * cos
    narrow = reference.rotate_(heads.bfloat16(), rotation)
    torch.testing.assert_close(reference.rotate_(heads.clone(), rotation), expected)
    torch.testing.assert_close(narrow.float(), expected, rtol=2e-2, atol=2e-2)


def test_norm_and_activation_equal_torch() -> None:
    x, weight = torch.randn(7, 48) * 3, torch.rand(48)
    gain, floor = weight * 48**0.5, torch.tensor((48 * 1e-5) ** 0.5)
    torch.testing.assert_close(
        reference.rms_norm(x, gain, floor), torch.rms_norm(x, (48,), weight, 1e-5)
    )
    gate, up = x.clone().chunk(2, dim=-1)
    torch.testing.assert_close(reference.silu_mul(x), torch.nn.functional.silu(gate) * up)
