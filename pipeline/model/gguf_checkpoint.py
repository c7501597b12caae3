"""`GgufCheckpoint`: the weights of a llama.cpp file, under Hugging Face's names."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from ..config import OperatorError
from .checkpoint import check_shape, missing_tensor
from .layers import INT4_GROUP, Int4Blocks

GGUF_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
INT4_KINDS = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1)
GGUF_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def _hugging_face_name(name: str) -> str:
    if name.startswith("blk."):
        _, layer, module, kind = name.split(".", 3)
        return f"model.layers.{layer}.{GGUF_MODULES.get(module, module)}.{kind}"
    return GGUF_TENSORS.get(name, name)


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in the file. `shape` as torch has it, slowest dimension first."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int


class GgufCheckpoint:
    """llama.cpp's file, mapped into memory.

    Only the table of tensors is read: `gguf.GGUFReader` also makes an array of every token and
    merge, which takes two seconds where this takes 0.05.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with ExitStack() as stack:
                file = stack.enter_context(path.open("rb"))
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            architecture, self._tensors = _read_table(self._bytes)
        except OSError as error:
            raise OperatorError(f"cannot read {path}: {error.strerror}") from error
        except (struct.error, ValueError, KeyError) as error:
            raise OperatorError(
                f"{path} is not a whole GGUF file: {error}", "fetch it anew"
            ) from error
        # llama.cpp permutes q and k of this architecture alone, for its own rotary kernel.
        self.paired_heads = architecture == "llama"
        self.has_int4 = any(tensor.kind in INT4_KINDS for tensor in self._tensors.values())

    def has(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found = self._find(name, shape)
        try:
            values = dequantize(self._data(name, found), found.kind)
        except NotImplementedError as error:
            raise OperatorError(f"{self._path}: {name}: {error}", "use another GGUF") from error
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))

    def int4(self, name: str, shape: tuple[int, ...]) -> Int4Blocks | None:
        found = self._find(name, shape)
        if found.kind not in INT4_KINDS:
            return None
        # A block: scale, in Q4_1 also the minimum (float16), then 16 bytes with the first 16
        # weights in their low halves and the last 16 in their high ones.
        blocks = self._data(name, found).reshape(shape[0], -1, _block_bytes(found.kind))
        nibbles = blocks[..., -INT4_GROUP // 2 :]
        q = np.concatenate((nibbles & 15, nibbles >> 4), axis=-1).reshape(shape)
        heads = blocks[..., : -INT4_GROUP // 2].copy().view(np.float16).astype(np.float32)
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

    def _data(self, name: str, found: GgufTensor) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, [rows, bytes of a row]."""
        block, num_bytes = GGML_QUANT_SIZES[found.kind]
        row = found.shape[-1] // block * num_bytes
        rows = int(np.prod(found.shape[:-1], dtype=np.int64))
        if found.offset + rows * row > len(self._bytes):
            raise OperatorError(f"{self._path}: {name} is cut off", "fetch it anew")
        data = np.frombuffer(self._bytes, np.uint8, rows * row, found.offset).reshape(rows, row)
        types = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        return data.view(types[found.kind]) if found.kind in types else data


def _block_bytes(kind: GGMLQuantizationType) -> int:
    return int(GGML_QUANT_SIZES[kind][1])


MAGIC = int.from_bytes(b"GGUF", "little")
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Sizes of GGUF's scalar types; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9


def _read_table(data: mmap.mmap) -> tuple[str, dict[str, GgufTensor]]:
    """(architecture, tensors by Hugging Face name). Raises ValueError, KeyError or struct.error
    where the file is not of version 2 or 3 or ends early."""
    reader = _Cursor(data)
    magic, version = reader.unpack("<II")
    if magic != MAGIC or version not in (2, 3):
        raise ValueError("it does not begin as one")
    num_tensors, num_fields = reader.unpack("<QQ")
    architecture, alignment = "", 32
    for _ in range(num_fields):
        key, kind = reader.string(), reader.unpack("<I")[0]
        if key == "general.architecture" and kind == STRING:
            architecture = reader.string()
        elif key == "general.alignment" and kind == 4:
            alignment = reader.unpack("<I")[0]
        else:
            reader.skip(kind)
    found = [*_tensor_entries(reader, num_tensors)]
    start = -(-reader.at // alignment) * alignment
    return architecture, {
        _hugging_face_name(name): GgufTensor(shape, kind, start + offset)
        for name, shape, kind, offset in found
    }


def _tensor_entries(
    reader: _Cursor, count: int
) -> Iterator[tuple[str, tuple[int, ...], GGMLQuantizationType, int]]:
    for _ in range(count):
        name = reader.string()
        shape = reader.unpack(f"<{reader.unpack('<I')[0]}Q")[::-1]
        kind, offset = reader.unpack("<IQ")
        yield name, shape, GGMLQuantizationType(kind), offset


class _Cursor:
    """Reads a GGUF header from front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        self.at += length
        return self._data[self.at - length : self.at].decode()

    def skip(self, kind: int) -> None:
        """Past a value of that type."""
        if kind == STRING:
            (length,) = self.unpack("<Q")
            self.at += length
        elif kind == ARRAY:
            inner, count = self.unpack("<IQ")
            if inner in SCALAR_BYTES:
                self.at += SCALAR_BYTES[inner] * count
            else:
                for _ in range(count):
                    self.skip(inner)
        else:
            self.at += SCALAR_BYTES[kind]
