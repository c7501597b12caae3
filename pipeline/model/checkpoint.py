"""Sources of weights: the protocol `Checkpoint`, and the dummy one.

All use Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`). They return the tensors of
the files, checked for name and shape; the loader transforms them.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OperatorError
from .layers import Int4Blocks


class Checkpoint(Protocol):
    """Named weights. `shape` is what the model needs, and is checked."""

    paired_heads: bool
    """Rows of q and k are already ordered pair by pair, not in Hugging Face's halves."""
    has_int4: bool
    """Some weights are stored in 4-bit blocks."""

    def has(self, name: str) -> bool:
        """Whether the files have a tensor of this name."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A weight in its stored type or in float32. Raises `OperatorError` naming file, tensor and
        shapes if it is missing or of another shape."""

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        """A weight's 4-bit blocks; None if it is stored in another format."""


def check_shape(path: Path, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises `OperatorError` naming both shapes if they differ."""
    if found != shape:
        raise OperatorError(
            f"{path}: {name} has shape {list(found)}, config.json needs {list(shape)}",
            "config.json and weights are of different models",
        )


def missing_tensor(path: Path, name: str) -> OperatorError:
    """The error to raise for a tensor missing from the files."""
    return OperatorError(f"{path}: {name} is missing", "fetch the model again")


class DummyCheckpoint:
    """Random weights, each seeded by its name, so equal in every run and on every rank. CPU and GPU
    generate different ones."""

    paired_heads = False
    has_int4 = False

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")

    def has(self, name: str) -> bool:
        """True for any name but the head's: a tied model uses its embedding as the head."""
        return name != "lm_head.weight"

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Normally distributed with deviation 0.02; ones for norms."""
        if len(shape) == 1 and name.endswith("norm.weight"):
            return torch.ones(shape, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        return torch.empty(shape, device=self._device).normal_(std=0.02, generator=generator)

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        return None
