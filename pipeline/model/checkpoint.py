"""Where weights come from: `Checkpoint`, what every kind of them gives, and the dummy one.

All speak Hugging Face's names (`model.layers.0.self_attn.q_proj.weight`). They give what the files
hold, checked for name and shape; what becomes of it is the loader's.
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
    """Rows of q and k already lie pair by pair, not in Hugging Face's halves."""
    has_int4: bool
    """Some weights are stored in 4-bit blocks."""

    def has(self, name: str) -> bool:
        """Whether the files hold it."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A weight as it is stored, or float32. Raises `OperatorError` naming file, tensor and
        shapes where it is missing or of another shape."""

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        """A weight in its 4-bit blocks; None where it is not stored so."""


def check_shape(path: Path, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises `OperatorError` naming both shapes where they differ."""
    if found != shape:
        raise OperatorError(
            f"{path}: {name} has shape {list(found)}, config.json needs {list(shape)}",
            "config.json and weights are of different models",
        )


def missing_tensor(path: Path, name: str) -> OperatorError:
    """What to raise for a tensor that the files do not hold."""
    return OperatorError(f"{path}: {name} is missing", "fetch the model again")


class DummyCheckpoint:
    """Random weights, the same in every run and for every rank: each seeded by its name. Another
    kind of device makes others."""

    paired_heads = False
    has_int4 = False

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")

    def has(self, name: str) -> bool:
        """Any; but an embedding that is the head too has no second one."""
        return name != "lm_head.weight"

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Normal with deviation 0.02; ones for norms."""
        if len(shape) == 1 and name.endswith("norm.weight"):
            return torch.ones(shape, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        return torch.empty(shape, device=self._device).normal_(std=0.02, generator=generator)

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        return None
