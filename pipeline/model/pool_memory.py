"""`PoolMemory`: the memory of a CPU's page pool, which outlives the worker that made it.

It is a file without a name in any directory. The router opens it too (`HeldMemory`), so a worker
that is killed leaves its KV to the next one, and nothing is left once both have ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from ..runtime.held_memory import is_pool, link_of, pool_name


class PoolMemory:
    """An anonymous file, zero until written, and mapped. A page takes no memory until then."""

    def __init__(self, fd: int) -> None:
        self.fd, self.num_bytes = fd, os.fstat(fd).st_size
        self.mapped = mmap.mmap(fd, 0)

    def discard(self) -> None:
        """Gives the memory back at once, though the router still holds it. Not used afterwards."""
        self.mapped.close()
        os.ftruncate(self.fd, 0)
        os.close(self.fd)


class PoolKeeper:
    """Makes one rank's memory, and finds that of the worker before it."""

    def __init__(self, run: Path, directory: Path, rank: int, *, may_find: bool) -> None:
        """`directory`: the model's. `may_find`: whether memory may be taken over: no warm-up will
        write to it."""
        self._run, self._directory, self._rank = run, directory, rank
        self._may_find = may_find
        self._identity = ""

    def describe(self, *parts: object) -> None:
        """Sets what the KV depends on: `parts`, this start of the pipeline, and the model's files.
        Called first."""
        digest = hashlib.sha256(repr((self._rank, *map(str, parts))).encode())
        with contextlib.suppress(OSError):
            files = sorted(path for path in self._directory.iterdir() if path.is_file())
            for path in (self._run / "config.json", *files):
                status = path.stat()
                digest.update(repr((str(path), status.st_size, status.st_mtime_ns)).encode())
            self._identity = digest.hexdigest()[:32]

    def find(self) -> PoolMemory | None:
        """The memory that the worker before this one has left, with the KV of the same model; None
        if there is none. What is of no use is emptied."""
        with self._left() as fd:
            if fd is None:
                return None
            is_same = self._identity and is_pool(fd, self._run, self._identity)
            if self._may_find and is_same and os.fstat(fd).st_size:
                return PoolMemory(os.dup(fd))
            os.ftruncate(fd, 0)
        return None

    def held_bytes(self) -> int:
        """Memory that is still taken by what the worker before this one has left."""
        with self._left() as fd:
            return os.fstat(fd).st_blocks * 512 if fd is not None else 0

    @contextlib.contextmanager
    def _left(self) -> Iterator[int | None]:
        """The open file that the worker before this one has left; None if there is none."""
        try:
            fd = os.open(link_of(self._run, self._rank), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            yield fd if is_pool(fd, self._run) else None
        finally:
            os.close(fd)

    def create(self, num_bytes: int) -> PoolMemory | None:
        """New memory; None where the system has no such files, or limits their size."""
        if not self._identity or not hasattr(os, "memfd_create"):
            return None
        try:
            fd = os.memfd_create(pool_name(self._run, self._identity))
        except OSError:
            return None
        try:
            os.ftruncate(fd, num_bytes)
            return PoolMemory(fd)
        except OSError:
            os.close(fd)
            return None
