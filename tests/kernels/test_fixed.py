"""Products that give a row the same bits in every batch, beside torch's."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from loraconsole.kernels.fixed import fixed_product
from loraconsole.pipeline.model.fixed_order import (
    MOST_ROWS,
    SIZES,
    Padding,
    find_padding,
    size_for,
    trial_inputs,
    trial_weight,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("rows", [1, 17, 40, 130])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_torchs_for_any_number_of_rows(rows: int, has_bias: bool) -> None:
    """Sizes that no tile divides."""
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 100, generator=generator), torch.randn(70, 100)
    bias = torch.randn(70) if has_bias else None
    x, weight = x.to(DEVICE), weight.to(DEVICE)
    bias = None if bias is None else bias.to(DEVICE)
    torch.testing.assert_close(
        fixed_product(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4
    )


def test_a_trial_sums_to_zero_but_for_what_rounding_leaves() -> None:
    weight, x = trial_weight(300, 96), trial_inputs(20, 96)
    assert weight.abs().max() <= 7 and weight.any(dim=1).all()
    exact = x.double() @ weight.double().t()
    assert exact.abs().max() < 1e-9 * (x.abs().double() @ weight.abs().double().t()).max()


def test_padding_is_the_least_with_which_a_trial_agrees() -> None:
    """A product in one order; one that differs for a single row; one that differs for all."""
    weight = trial_weight(48, 96)

    def forward(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(x), len(weight))
        for column in range(96):  # one order, whatever library
            total += x[:, column, None] * weight[:, column]
        return total

    def single(x: torch.Tensor) -> torch.Tensor:
        return forward(x) + (len(x) == 1)

    def every(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 48) + len(x)

    assert find_padding(forward, 96) == Padding()
    assert find_padding(single, 96) == Padding(2)
    assert find_padding(every, 96) is None


def test_every_number_of_rows_has_a_size_that_was_tried() -> None:
    for rows in range(1, MOST_ROWS + 1):
        assert rows <= size_for(rows) in SIZES
        assert not any(rows <= size < size_for(rows) for size in SIZES)
