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
from .gguf_blocks import HEAD_BYTES, INT4_KINDS, Q4_1, codes_of, dequantize_blocks, heads_of
from .layers import Int4Blocks


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
        found, scale = self._find(name, shape), self._scale(name)
        kind = GGMLQuantizationType(found.kind)
        if kind in HEAD_BYTES:
            weight = dequantize_blocks(self._blocks(found), kind).view(shape)
        else:
            values = dequantize(self._data(found), kind)
            weight = torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))
        return weight if scale == 1.0 else weight.mul_(scale)

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        found = self._find(name, shape)
        kind = GGMLQuantizationType(found.kind)
        if kind not in INT4_KINDS:
            return None
        blocks = self._blocks(found)
        q = codes_of(blocks, kind, torch.empty(len(blocks), INT4_GROUP, dtype=torch.uint8))
        heads = (
            heads_of(blocks, kind).mul_(self._scale(name)).view(shape[0], -1, HEAD_BYTES[kind] // 2)
        )
        scale = heads[..., 0].contiguous()
        middle = heads[..., 1] + 8 * scale if kind == Q4_1 else torch.zeros_like(scale)
        return Int4Blocks(q.view(shape), scale, middle)

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

    def _blocks(self, found: GgufTensor) -> Tensor:
        """A copy of the tensor's blocks, uint8 [num_blocks, bytes of a block]."""
        _, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(found.kind)]
        return torch.from_numpy(self._data(found).reshape(-1, num_bytes).copy())

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
