"""`WeightFiles` and `read_config_file`: an adapter's files, believed in nothing before it is
checked.

They may come from anywhere, so nothing here follows a length, an offset or a link out of a file
unseen. Knows file systems and the safetensors format; not what a tensor means.
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
"""A header takes 150 bytes a tensor; 80 layers with seven modules are 170 kB."""

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
    """A tensor as the header has it. Offsets count from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class WeightFiles:
    """An adapter's safetensors files, open, their headers read: `entries` by key.

    One file, or the shards of one adapter.
    """

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
        """The file that has a key; of a key that none has, the first."""
        return self._owner[key].path if key in self._owner else self.path

    def check_layout(self) -> None:
        """Checks each file as `TensorFile.check_layout` does."""
        for file in self._files:
            file.check_layout()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, file by file, read one by one. Only after `check_layout`; behind the last,
        `digest` is that of the whole files."""
        for file in self._files:
            yield from file.tensors()

    @property
    def digest(self) -> str:
        """sha256 of the config's bytes and the weights', as they were read."""
        return self._digest.hexdigest()


class TensorFile:
    """A safetensors file, open, its header read: `entries` by key.

    The file is read, not mapped: one that is cut short while it is read raises an error here, where
    a mapped one would end the process with a SIGBUS.
    """

    def __init__(
        self, path: Path, directory: str, roots: Sequence[str], digest: hashlib._Hash
    ) -> None:
        """Opens the file and reads its header; all that is read updates `digest`. Raises
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
        """Checks that the entries' bytes follow one another, none shared and none unused, to the
        file's end. Call it once dtypes and shapes are known to be sane."""
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
        data = file_size(self._file) - self._start
        if data < end:
            raise AdapterError(
                f"{self.path} is cut short: its header names {end} bytes of tensors, {data} are "
                "there"
            )
        if data > end:
            raise AdapterError(f"{self.path} goes on for {data - end} bytes after its last tensor")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in the file's order, read one by one. Only after `check_layout`."""
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
