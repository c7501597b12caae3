"""Chooses Triton kernels or plain torch for attention, norms and adapters, with the reason."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from ..config import Config

LEAST_TILE = 16
"""Smallest tile of our kernels, in elements; all sizes of a model must be multiples of it."""


@dataclass(frozen=True)
class KernelChoice:
    """The chosen kernels. `paged`: our own kernels, which read pages, captured in graphs."""

    paged: bool
    what: str
    why: str = ""
    """Why the fastest kernels were not chosen; empty if they were."""

    def __str__(self) -> str:
        return f"{self.what} ({self.why})" if self.why else self.what


def choose_kernels(
    config: Config, device: str, tile: int, has_triton: bool | None = None
) -> KernelChoice:
    """The kernels for `device` (cpu or cuda). `tile`: the largest that divides all model sizes."""
    if has_triton is None:
        has_triton = importlib.util.find_spec("triton") is not None
    if device == "cpu":
        why = "--device cpu" if config.device == "cpu" else "no GPU"
        return KernelChoice(False, "plain PyTorch", why)
    if not has_triton:
        return KernelChoice(False, "plain PyTorch", "Triton is not installed")
    reasons = {
        "--no-kernel": config.no_kernel,
        "--no-mem-pool": config.no_mem_pool,
        "--bmm": config.bmm,
        f"a size of this model is not a multiple of {LEAST_TILE}": tile < LEAST_TILE,
    }
    for why, holds in reasons.items():
        if holds:
            return KernelChoice(False, "plain PyTorch, norms by Triton", why)
    return KernelChoice(True, "Triton kernels over pages, CUDA graphs")
