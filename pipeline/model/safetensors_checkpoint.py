"""`SafetensorsCheckpoint`: the weights of a Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import OperatorError
from .checkpoint import check_shape, missing_tensor
from .layers import Int4Blocks


class SafetensorsCheckpoint:
    """One file, or several with an index, as Hugging Face lays them."""

    paired_heads = False
    has_int4 = False

    def __init__(self, directory: Path) -> None:
        index = directory / "model.safetensors.index.json"
        self._where = directory
        self._files: dict[str, Path] = {}
        if index.exists():
            try:
                shards = json.loads(index.read_text())["weight_map"]
            except (OSError, ValueError, KeyError) as error:
                raise OperatorError(f"{index} is not readable: {error}") from error
            self._where = index
            self._files = {name: directory / file for name, file in shards.items()}
        else:
            for path in sorted(directory.glob("*.safetensors")):
                with self._open(path) as file:
                    self._files |= dict.fromkeys(file.keys(), path)

    @staticmethod
    def _open(path: Path) -> safe_open:
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise OperatorError(
                f"{path} cannot be read: {error}", "fetch the model anew"
            ) from error

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._files:
            raise missing_tensor(self._where, name)
        path = self._files[name]
        with self._open(path) as file:
            try:
                tensor: Tensor = file.get_tensor(name)
            except SafetensorError as error:
                raise OperatorError(f"{path}: {name}: {error}", "fetch the model anew") from error
        check_shape(path, name, tuple(tensor.shape), shape)
        return tensor

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        return None
