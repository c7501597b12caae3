"""`open_checkpoint`: opens a model directory's weights in any supported format."""

from __future__ import annotations

from pathlib import Path

import torch

from ..model_files.checkpoint_files import find_checkpoint
from ..model_files.checkpoint_tensors import checkpoint_findings
from ..model_files.findings import require_good
from ..model_files.model_config import ModelConfig
from .checkpoint import Checkpoint, DummyCheckpoint
from .gguf_checkpoint import GgufCheckpoint
from .safetensors_checkpoint import SafetensorsCheckpoint


def open_checkpoint(
    directory: Path,
    *,
    dummy: bool,
    device: torch.device | None = None,
    model_config: ModelConfig | None = None,
) -> Checkpoint:
    """The weights of a model directory; dummy ones are made on `device`. Raises `OperatorError` if
    there are none or, with a model config, if they do not match it exactly."""
    if dummy:
        return DummyCheckpoint(device)
    files = find_checkpoint(directory)
    if files.gguf is not None:
        return GgufCheckpoint(files.gguf)
    if model_config is not None:
        require_good(checkpoint_findings(model_config, files.tensors, files.where), directory)
    return SafetensorsCheckpoint(files)
