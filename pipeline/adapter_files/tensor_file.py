"""`WeightFiles` and `read_config_file`: read an adapter's untrusted files.

Every length, offset and link in a file is checked before use. Knows file systems and the
safetensors format; not what a tensor means.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import torch
from torch import Tensor

from ..runtime.guarded_file import AdapterError, brief, file_size, open_guarded, read_bounded

CONFIG = "adapter_config.json"

MOST_CONFIG_BYTES = 1 << 20
MOST_HEADER_BYTES = 16 << 20
"""A header takes 150 bytes per tensor, so 170 kB for 80 layers with seven modules."""

DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def read_config_file(directory: str, roots: Sequence[str] = ()) -> bytes:
    """adapter_config.json's bytes. Raises `AdapterError`."""
    text = read_bounded(directory, CONFIG, MOST_CONFIG_BYTES, roots)
    if text is None:
        raise AdapterError(f"{Path(directory) / CONFIG}: No such file or directory")
    return text


class TensorEntry(msgspec.Struct, frozen=True):
    """A tensor's entry in the header. Offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class WeightFiles:
    """An adapter's open safetensors files (one, or its shards) with their headers read: `entries`
    by key."""

    def __init__(
        self, paths: Sequence[Path], directory: str, config_text: bytes, roots: Sequence[str] = ()
    ) -> None:
        """Opens the files and reads their headers. Raises `AdapterError`."""
        self._digest = hashlib.sha256(config_text)
        self._files: list[TensorFile] = []
        self._owner: dict[str, TensorFile] = {}
        self.path = paths[0]
        self.entries: dict[str, TensorEntry] = {}
        try:
            for path in paths:
                file = TensorFile(path, directory, roots, self._digest)
                self._files.append(file)
                if twice := file.entries.keys() & self._owner.keys():
                    key = min(twice)
                    raise AdapterError(
                        f"{path} has {brief(key)}, which {self._owner[key].path.name} has too"
                    )
                self.entries |= file.entries
                self._owner |= dict.fromkeys(file.entries, file)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def path_of(self, key: str) -> Path:
        """The file with this key; the first file if no file has it."""
        return self._owner[key].path if key in self._owner else self.path

    def check_layout(self) -> None:
        """Checks each file as `TensorFile.check_layout` does."""
        for file in self._files:
            file.check_layout()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Reads every tensor, file by file. Call `check_layout` first. After the last tensor,
        `digest` covers the whole files."""
        for file in self._files:
            yield from file.tensors()

    @property
    def digest(self) -> str:
        """sha256 of the config's bytes and the weights' bytes read so far."""
        return self._digest.hexdigest()


class TensorFile:
    """An open safetensors file with its header read: `entries` by key.

    The file is read, not mapped: if it is truncated meanwhile, a read raises an error, while a
    mapping would kill the process with SIGBUS.
    """

    def __init__(
        self, path: Path, directory: str, roots: Sequence[str], digest: hashlib._Hash
    ) -> None:
        """Opens the file and reads its header; every read updates `digest`. Raises
        `AdapterError`."""
        self.path = path
        self._digest = digest
        self._file = open_guarded(self.path, directory, roots)
        try:
            self.entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def check_layout(self) -> None:
        """Checks that the tensors are contiguous up to the file's end, without overlaps or gaps.
        Call it after dtypes and shapes have been checked."""
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
                    f"{self.path}: the bytes from {end} to {start}, before {key}, "
                    "belong to no tensor"
                )
            end = stop
        data = file_size(self._file) - self._start
        if data < end:
            raise AdapterError(
                f"{self.path} is cut short: its header names {end} bytes of tensors, {data} are "
                "there"
            )
        if data > end:
            raise AdapterError(f"{self.path} goes on for {data - end} bytes after its last tensor")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Reads every tensor, in the file's order. Call `check_layout` first."""
        for key, entry in self._in_order():
            tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
            content = tensor.view(-1).view(torch.uint8).numpy().data
            self._read_into(content)
            self._digest.update(content)
            yield key, tensor

    def _in_order(self) -> list[tuple[str, TensorEntry]]:
        return sorted(self.entries.items(), key=lambda item: item[1].data_offsets)

    def _read_header(self) -> dict[str, TensorEntry]:
        size = file_size(self._file)
        if size < 8:
            raise AdapterError(f"{self.path} is not a safetensors file: it has {size} bytes")
        first = self._read(8)
        if first == b"version ":
            raise AdapterError(
                f"{self.path} is a Git LFS pointer, not the file: fetch it (git lfs)"
            )
        length = int.from_bytes(first, "little")
        if length > MOST_HEADER_BYTES:
            raise AdapterError(
                f"{self.path} is not a safetensors file: its first 8 bytes announce a header of "
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
            # Raw, so that an entry is decoded only as a `TensorEntry`.
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
