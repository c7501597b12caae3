"""`open_checkpoint`: which files of a model directory are its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ..config import OperatorError
from .checkpoint import Checkpoint, DummyCheckpoint
from .gguf_checkpoint import GgufCheckpoint
from .safetensors_checkpoint import SafetensorsCheckpoint


def open_checkpoint(
    directory: Path, *, dummy: bool, device: torch.device | None = None
) -> Checkpoint:
    """The weights of a model directory; dummy ones are made on `device`. Raises `OperatorError`
    where there are none."""
    if dummy:
        return DummyCheckpoint(device)
    if (directory / "model.gguf").exists():
        return GgufCheckpoint(directory / "model.gguf")
    if any(directory.glob("*.safetensors")):
        return SafetensorsCheckpoint(directory)
    raise OperatorError(
        f"{directory} holds no weights",
        "a model directory has *.safetensors or model.gguf; --dummy makes random ones",
    )
