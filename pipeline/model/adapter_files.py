"""`TensorFile` and `read_config_file`: an adapter's two files, believed in nothing before it is
checked.

They may come from anywhere, so nothing here follows a length, an offset or a link out of a file
unseen. Knows file systems and the safetensors format; not what a tensor means.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import torch
from torch import Tensor

from ..guarded_file import AdapterError, _open, _size, brief, printable

__all__ = ["AdapterError", "TensorFile", "brief", "printable", "read_config_file"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

MOST_CONFIG_BYTES = 1 << 20
MOST_HEADER_BYTES = 16 << 20
"""A header takes 150 bytes a tensor; 80 layers with seven modules are 170 kB."""

DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def read_config_file(directory: str, roots: Sequence[str] = ()) -> bytes:
    """adapter_config.json's bytes. Raises `AdapterError`."""
    path = Path(directory) / CONFIG
    with _open(path, directory, roots) as file:
        if (size := _size(file)) > MOST_CONFIG_BYTES:
            raise AdapterError(f"{path} has {size} bytes: more than {MOST_CONFIG_BYTES} is no JSON")
        try:
            # Once more than is allowed: files of the kernel's own have no size to look at.
            text = file.read(MOST_CONFIG_BYTES + 1)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from error
    if text is None or len(text) > MOST_CONFIG_BYTES:
        raise AdapterError(f"{path} is no file that ends")
    return text


class TensorEntry(msgspec.Struct, frozen=True):
    """A tensor as the header has it. Offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class TensorFile:
    """adapter_model.safetensors, open, its header read: `entries` by key.

    The file is read, not mapped: one that is cut short while it is read raises an error here, where
    a mapped one would end the process with a SIGBUS.
    """

    def __init__(self, directory: str, config_text: bytes, roots: Sequence[str] = ()) -> None:
        """Opens the file and reads its header. Raises `AdapterError`."""
        self.path = Path(directory) / WEIGHTS
        if not os.path.lexists(self.path) and os.path.lexists(Path(directory) / PICKLE):
            raise AdapterError(
                f"{directory} holds {PICKLE}, a pickle, which may run code when read: save it as "
                f"safetensors, {WEIGHTS}"
            )
        self._file = _open(self.path, directory, roots)
        try:
            self._digest = hashlib.sha256(config_text)
            self.entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def check_layout(self) -> None:
        """That the entries' bytes follow one another, none shared and none unused, to the file's
        end. Call it once dtypes and shapes are known to be sane."""
        end = 0
        for key, entry in self._in_order():
            start, stop = entry.data_offsets
            needed = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
            if stop - start != needed:
                raise AdapterError(
                    f"{self.path}: {key} {list(entry.shape)} of {entry.dtype} needs {needed} bytes,"
                    f" its offsets are {start} to {stop}"
                )
            if start < end:
                raise AdapterError(f"{self.path}: {key} overlaps the tensor before it")
            if start > end:
                raise AdapterError(
                    f"{self.path}: the bytes from {end} to {start}, before {key}, are no tensor's"
                )
            end = stop
        data = _size(self._file) - self._start
        if data < end:
            raise AdapterError(
                f"{self.path} is cut short: its header names {end} bytes of tensors, {data} are "
                "there"
            )
        if data > end:
            raise AdapterError(f"{self.path} goes on for {data - end} bytes after its last tensor")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in the file's order, read one by one. Only after `check_layout`; behind
        the last, `digest` is that of the whole files."""
        for key, entry in self._in_order():
            tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
            content = tensor.view(-1).view(torch.uint8).numpy().data
            self._read_into(content)
            self._digest.update(content)
            yield key, tensor

    @property
    def digest(self) -> str:
        """sha256 of the config's bytes and the weights', as they were read."""
        return self._digest.hexdigest()

    def _in_order(self) -> list[tuple[str, TensorEntry]]:
        return sorted(self.entries.items(), key=lambda item: item[1].data_offsets)

    def _read_header(self) -> dict[str, TensorEntry]:
        size = _size(self._file)
        if size < 8:
            raise AdapterError(f"{self.path} is no safetensors file: it has {size} bytes")
        first = self._read(8)
        if first == b"version ":
            raise AdapterError(
                f"{self.path} is a Git LFS pointer, not the file: fetch it (git lfs)"
            )
        length = int.from_bytes(first, "little")
        if length > MOST_HEADER_BYTES:
            raise AdapterError(
                f"{self.path} is no safetensors file: its first 8 bytes announce a header of "
                f"{length} bytes, more than {MOST_HEADER_BYTES}"
            )
        if length > size - 8:
            raise AdapterError(
                f"{self.path} is cut short: its header is {length} bytes, {size - 8} are there"
            )
        self._start = 8 + length
        entries = {}
        key = "its header"
        try:
            # Raw: what an entry holds is not built before its type is known.
            for key, raw in msgspec.json.decode(
                self._read(length), type=dict[str, msgspec.Raw]
            ).items():
                if key != "__metadata__":
                    entries[key] = msgspec.json.decode(raw, type=TensorEntry)
        except (ValueError, RecursionError) as error:  # msgspec's and Unicode's are ValueErrors
            raise AdapterError(f"{self.path}: {brief(key)}: {error}") from error
        return entries

    def _read(self, count: int) -> bytes:
        content = bytearray(count)
        self._read_into(memoryview(content))
        self._digest.update(content)
        return bytes(content)

    def _read_into(self, content: memoryview) -> None:
        try:
            while content:
                if not (count := self._file.readinto(content)):
                    raise AdapterError(f"{self.path} became shorter while it was read")
                content = content[count:]
        except OSError as error:
            raise AdapterError(f"{self.path}: {error.strerror}") from error
