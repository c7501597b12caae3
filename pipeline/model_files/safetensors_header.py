"""`read_tensor_table`: the names, types and shapes in a safetensors file, from its header alone.
Knows no torch and reads no weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OperatorError
from ..runtime.text_files import LFS_POINTER

MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""
TYPE_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16},
    **{"I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor of a safetensors file: its type, shape and place."""

    name: str
    file: Path
    dtype: str
    """The type as safetensors spells it: BF16, F32, I8, F8_E4M3."""
    shape: tuple[int, ...]
    start: int
    """Offset of its bytes in the file."""
    num_bytes: int


def read_tensor_table(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name. Raises `OperatorError` if it is truncated, a Git LFS
    pointer, or not a safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(max(8, len(LFS_POINTER)))
            if head.startswith(LFS_POINTER):
                raise OperatorError(
                    f"{path} is a Git LFS pointer: the weights themselves were not downloaded",
                    "run git lfs pull, or fetch the model again",
                )
            length = int.from_bytes(head[:8], "little")
            if len(head) < 8 or length > MOST_HEADER_BYTES:
                raise OperatorError(f"{path} is not a safetensors file", "fetch the model again")
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) < length:
        raise _cut_short(path, size, 8 + length)
    try:
        tensors = dict(_entries(path, json.loads(text), 8 + length))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise OperatorError(
            f"{path} is not a safetensors file: its table is not readable ({error!r})",
            "fetch the model again",
        ) from error
    end = max((entry.start + entry.num_bytes for entry in tensors.values()), default=0)
    if end > size:
        raise _cut_short(path, size, end)
    return tensors


def _entries(path: Path, table: Any, data: int) -> Iterator[tuple[str, StoredTensor]]:
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        dtype, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        start, end = (int(offset) for offset in entry["data_offsets"])
        bits = TYPE_BITS.get(dtype, 0) * math.prod(shape)
        if start < 0 or end < start or (bits and end - start != -(-bits // 8)):
            raise ValueError(f"{name}: {end - start} bytes for {dtype} {list(shape)}")
        yield name, StoredTensor(name, path, dtype, shape, data + start, end - start)


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same bytes; stops reading at the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    piece = 1 << 20
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for at in range(0, one.num_bytes, piece):
            count = min(piece, one.num_bytes - at)
            if left.read(count) != right.read(count):
                return False
    return True


def _cut_short(path: Path, size: int, needed: int) -> OperatorError:
    return OperatorError(
        f"{path} is cut short: it has {size} bytes of {needed}", "fetch the model again"
    )
