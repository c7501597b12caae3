"""torch's products of packed weights: tried before they are used, left out where they differ."""

from collections.abc import Iterator

import pytest
import torch

from loraconsole.pipeline.model.cpu_kernels import why_not_int4, why_not_packed


@pytest.fixture(autouse=True)
def tried_again() -> Iterator[None]:
    """What was found out of the installed torch holds for one test."""
    for why in (why_not_packed, why_not_int4):
        why.cache_clear()
    yield
    for why in (why_not_packed, why_not_int4):
        why.cache_clear()


def test_the_installed_torch_has_both() -> None:
    assert why_not_int4() == ""
    if torch.backends.mkldnn.is_available():
        assert why_not_packed() == ""


@pytest.mark.parametrize("how", ["missing", "other parameters", "wrong"])
def test_a_product_that_is_missing_or_wrong_is_named(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "_weight_int4pack_mm_for_cpu"
    if how == "missing":
        monkeypatch.delattr(torch, name)
    elif how == "other parameters":
        monkeypatch.setattr(torch, name, lambda x, packed: x)
    else:
        monkeypatch.setattr(torch, name, lambda x, packed, group, scale: torch.zeros(2, 16))
    assert why_not_int4().startswith(f"torch {torch.__version__}, 4-bit product: ")
