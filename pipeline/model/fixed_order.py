"""How a library's products are called so that each row's sums have one order, whatever other rows
are computed with it.

Libraries choose their code, and with it the order of a sum, by the shape of a product: one row is
often a case of its own. Which shapes agree bit for bit depends on the library and the processor,
so it is found by trials.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PAGE = 16
"""Attention reads a multiple of this many keys."""
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 24, 31, 32, 33, 48, 64, 65, 128)
"""Rows of the products that a trial compares."""


@dataclass(frozen=True)
class FixedOrder:
    """Torch's products over a multiple of `rows` rows, and over at most `keys` keys, give a row the
    same bits in every batch."""

    rows: int
    keys: int

    def padded(self, x: Tensor) -> Tensor:
        """x [..., m, n] with more rows, of any finite values, up to a multiple of `rows`."""
        if x.shape[-2] == 1:  # no copy of its own
            return x.expand(*x.shape[:-2], self.rows, -1)
        missing = -x.shape[-2] % self.rows
        return F.pad(x, (0, 0, 0, missing)) if missing else x


@dataclass(frozen=True)
class Padding:
    """Rows that are added to a product."""

    least: int = 1
    """A product has at least this many rows."""
    multiple: int = 1

    def missing(self, num_rows: int) -> int:
        """How many rows of zeros to add to `num_rows`."""
        count = max(num_rows, self.least)
        return count + -count % self.multiple - num_rows


MOST_ROWS = 2048
"""Rows of a product on a GPU; more are computed in parts."""
SIZES = (*range(8, 769, 8), *range(896, MOST_ROWS + 1, 128))
"""Numbers of rows that a GPU's library is called with, all of them tried: it may choose other code
for any of them."""


def without_workspace() -> None:
    """Leaves a GPU's library no memory for parts of a sum, so that it does not cut sums. To be
    called before the process's first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "1")


def size_for(num_rows: int) -> int:
    """The least of `SIZES` that holds this many rows, at most `MOST_ROWS`."""
    step = 8 if num_rows <= 768 else 128
    return num_rows + -num_rows % step


def sizes_agree(product: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether products of all `SIZES` give a row the same bits. product: x [num_rows, in_features]
    -> x times a `trial_weight`; x: `trial_inputs` of `MOST_ROWS` rows, on the device."""
    whole, same = product(x), x[:1].expand_as(x).contiguous()
    agree = (_agrees(product, x, size, whole) and _is_even(product(same[:size])) for size in SIZES)
    return all(agree)


PADDINGS = (Padding(), Padding(2), Padding(4, 4), Padding(8, 8), Padding(16, 16), Padding(32, 32))
"""What is tried, the cheapest first."""
ORDERS = (FixedOrder(4, 128), FixedOrder(8, 128), FixedOrder(16, 128), FixedOrder(32, 64))
"""The same for attention and adapters. MKL cuts a sum of more than 192 into equal parts."""


def trial_weight(out_features: int, in_features: int) -> Tensor:
    """Whole numbers from -7 to 7, float32 [out_features, in_features], to make a product of for
    `find_padding`.

    With the inputs of a trial each sum's true value is zero, so that the result is what rounding
    leaves, which the order of the sum decides. Of another sum, a result in bfloat16 would show a
    difference in float32 in one case of thousands.
    """
    generator, (first, second) = torch.Generator().manual_seed(1), _halves(in_features)
    few = torch.zeros(min(out_features, 256), in_features)
    few[:, first] = torch.randint(-7, 8, (len(few), len(first)), generator=generator).float()
    few[:, second] = -few[:, first]
    return few.repeat(-(-out_features // len(few)), 1)[:out_features]


def trial_inputs(num_rows: int, in_features: int) -> Tensor:
    """Rows that a `trial_weight` multiplies to zero, float32 [num_rows, in_features]."""
    first, second = _halves(in_features)
    x, some = torch.zeros(num_rows, in_features), _random(2, num_rows, len(first))
    x[:, first] = some[0] * some[1].mul(4).exp2()  # of very different sizes
    x[:, second] = x[:, first]
    return x


def find_padding(product: Callable[[Tensor], Tensor], in_features: int) -> Padding | None:
    """The least padding with which a product gives a row the same bits in every batch; None if
    there is none. product: x float32 [num_rows, in_features] -> x times a `trial_weight`."""
    x = trial_inputs(max(COUNTS), in_features)
    same = x[:1].expand(len(x), -1).contiguous()
    for padding in PADDINGS:
        padded = functools.partial(_with_padding, product, padding)
        if _agree(padded, x) and _agree_within(padded, same):
            return padding
    return None


@functools.cache
def find_order(head_dim: int, in_features: tuple[int, ...]) -> FixedOrder | None:
    """The order in which torch's own products for attention and adapters are called; None if no
    trial agrees. `in_features`: the sizes of inputs that adapters multiply."""
    for order in ORDERS:
        if _attention_agrees(order, head_dim) and all(
            _adapters_agree(order, size) for size in in_features
        ):
            return order
    return None


def _with_padding(product: Callable[[Tensor], Tensor], padding: Padding, x: Tensor) -> Tensor:
    missing = padding.missing(len(x))
    return product(F.pad(x, (0, 0, 0, missing)))[: len(x)] if missing else product(x)


def _agree(product: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether the first rows of x alone give what they give among all."""
    whole = product(x)
    return all(_agrees(product, x, count, whole) for count in COUNTS)


def _agrees(product: Callable[[Tensor], Tensor], x: Tensor, count: int, whole: Tensor) -> bool:
    return torch.equal(product(x[:count].contiguous()), whole[:count])


def _is_even(y: Tensor) -> bool:
    return torch.equal(y, y[:1].expand_as(y))


def _agree_within(product: Callable[[Tensor], Tensor], same: Tensor) -> bool:
    """Whether equal rows give equal rows."""
    return all(_is_even(product(same[:count])) for count in COUNTS)


def _attention_agrees(order: FixedOrder, head_dim: int) -> bool:
    """Whether scores and sums over values depend neither on the number of rows or sequences, nor on
    masked keys behind the last."""
    rows, longest = 32 * order.rows, order.keys
    q, keys, values = _random(3, rows, head_dim), *_random(2, 3, longest, head_dim)

    def attend(known: int, batch: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """The weights of `length` keys, of which `known` are seen, and the sums of their values."""
        bias = torch.zeros(batch, rows, length)
        bias[..., known:] = float("-inf")
        seen = keys[:batch, :length].transpose(1, 2)
        weights = torch.baddbmm(bias, q[:batch, :rows], seen, alpha=head_dim**-0.5).softmax(dim=-1)
        return weights, torch.bmm(weights, values[:batch, :length])

    for known in (1, 10, longest // 2 - 3, longest - 27, longest - 3, longest):
        weights, sums = attend(known, len(q), rows, longest)
        for length in range(known + -known % PAGE, longest + 1, PAGE):
            for batch, times in ((1, 1), (1, 2), (2, 3), (3, 1), (3, 32)):
                own = times * order.rows
                found = attend(known, batch, own, length)
                if not torch.equal(found[0], weights[:batch, :own, :length]):
                    return False
                if not torch.equal(found[1], sums[:batch, :own]):
                    return False
    return True


def _adapters_agree(order: FixedOrder, in_features: int) -> bool:
    """Whether an adapter's products depend neither on the number of rows nor of adapters."""
    for rank in (8, 64):
        x, a, b = (
            _random(32 * order.rows, in_features),
            _random(rank, in_features),
            _random(rank, 64),
        )
        whole = torch.mm(torch.mm(x, a.t()), b)
        for times in (1, 2, 3, 8, 32):
            rows = x[: times * order.rows]
            if not torch.equal(torch.mm(torch.mm(rows, a.t()), b), whole[: len(rows)]):
                return False
            for count in (1, 2, 5):
                many = torch.bmm(
                    torch.bmm(rows.expand(count, -1, -1), a.t().expand(count, -1, -1)),
                    b.expand(count, -1, -1),
                )
                if not torch.equal(many, whole[: len(rows)].expand_as(many)):
                    return False
    return True


def _halves(size: int) -> tuple[Tensor, Tensor]:
    """Two halves of all indices below `size`, in a random order."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    return order[: size // 2], order[size // 2 : size // 2 * 2]


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
