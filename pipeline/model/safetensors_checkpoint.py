"""`SafetensorsCheckpoint`: the weights of a Hugging Face directory."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import OperatorError
from ..model_files.checkpoint_files import CheckpointFiles
from ..model_files.checkpoint_tensors import PLAIN
from .checkpoint import check_shape, missing_tensor
from .layers import Int4Blocks


class SafetensorsCheckpoint:
    """The tensors listed by `find_checkpoint`, read one by one."""

    paired_heads = False
    has_int4 = False

    def __init__(self, files: CheckpointFiles) -> None:
        self._where, self._tensors = files.where, files.tensors

    def has(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._tensors:
            raise missing_tensor(self._where, name)
        stored = self._tensors[name]
        check_shape(stored.file, name, stored.shape, shape)
        if stored.dtype not in PLAIN:
            raise OperatorError(
                f"{stored.file}: {name} holds {stored.dtype} codes, not weights",
                "take a revision that is not quantised",
            )
        try:
            with safe_open(stored.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored.name)
        except (OSError, SafetensorError) as error:
            raise OperatorError(
                f"{stored.file} cannot be read: {name}: {error}", "fetch the model again"
            ) from error
        return tensor

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        return None
