"""torch's products of packed weights: tried before they are used, left out where they differ."""

import subprocess
import sys
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


MANY_LENGTHS = """
import loraconsole.pipeline.model
import torch

from loraconsole.pipeline.model.cpu_kernels import pack, packed_product

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

weight = pack(torch.randn(64, 64))
before = resident_mib()
for rows in range(1, 1200):
    packed_product(torch.randn(rows, 64), weight, None)
print(resident_mib() - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_prompts_of_many_lengths_do_not_fill_the_memory() -> None:
    """600 MiB with the default sizes of the caches."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", MANY_LENGTHS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 350
