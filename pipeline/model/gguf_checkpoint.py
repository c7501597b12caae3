"""`GgufCheckpoint`: the weights of a llama.cpp file, under Hugging Face's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from ..gguf.file import GgufTensor, open_gguf
from ..gguf.tensors import check_gguf_tensors, hugging_face_name
from .checkpoint import check_shape, missing_tensor
from .cpu_kernels import INT4_GROUP
from .layers import Int4Blocks

INT4_KINDS = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1)


class GgufCheckpoint:
    """A GGUF file, or all its parts, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Raises `OperatorError` naming a tensor that is unreadable or unused."""
        self._path = path
        file = open_gguf(path, arrays=False)
        check_gguf_tensors(file)
        self._parts = file.parts
        self._tensors = {hugging_face_name(name): found for name, found in file.tensors.items()}
        # llama.cpp permutes q and k for its own rotary kernel, in this architecture only.
        self.paired_heads = file.architecture == "llama"
        self.has_int4 = any(tensor.kind in INT4_KINDS for tensor in self._tensors.values())

    def has(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = self._find(name, shape)
        values = dequantize(self._data(found), GGMLQuantizationType(found.kind))
        weight = torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))
        scale = self._scale(name)
        return weight if scale == 1.0 else weight.mul_(scale)

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        found = self._find(name, shape)
        if found.kind not in INT4_KINDS:
            return None
        # A block: scale, in Q4_1 also the minimum (float16), then 16 bytes with the first 16
        # weights in their low halves and the last 16 in their high ones.
        blocks = self._data(found).reshape(
            shape[0], -1, GGML_QUANT_SIZES[GGMLQuantizationType(found.kind)][1]
        )
        nibbles = blocks[..., -INT4_GROUP // 2 :]
        q = np.concatenate((nibbles & 15, nibbles >> 4), axis=-1).reshape(shape)
        heads = blocks[..., : -INT4_GROUP // 2].copy().view(np.float16).astype(np.float32)
        heads *= self._scale(name)
        scale, middle = heads[..., 0], np.zeros_like(heads[..., 0])
        if found.kind == GGMLQuantizationType.Q4_1:
            middle = heads[..., 1] + 8 * scale
        return Int4Blocks(*(torch.from_numpy(part.copy()) for part in (q, scale, middle)))

    def _find(self, name: str, shape: tuple[int, ...]) -> GgufTensor:
        if name not in self._tensors:
            raise missing_tensor(self._path, name)
        found = self._tensors[name]
        check_shape(self._path, name, found.shape, shape)
        return found

    def _scale(self, name: str) -> float:
        """The factor of a weight, from its `.scale` tensor; 1 if it has none."""
        found = self._tensors.get(f"{name.removesuffix('weight')}scale")
        if found is None or not name.endswith("weight"):
            return 1.0
        check_shape(self._path, f"{name.removesuffix('weight')}scale", found.shape, (1,))
        return float(dequantize(self._data(found), GGMLQuantizationType(found.kind)).item())

    def _data(self, found: GgufTensor) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, [rows, bytes of a row]."""
        kind = GGMLQuantizationType(found.kind)
        block, num_bytes = GGML_QUANT_SIZES[kind]
        row = found.shape[-1] // block * num_bytes
        rows = int(np.prod(found.shape[:-1], dtype=np.int64))
        part = self._parts[found.part]
        data = np.frombuffer(part, np.uint8, rows * row, found.offset).reshape(rows, row)
        types = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        return data.view(types[kind]) if kind in types else data
