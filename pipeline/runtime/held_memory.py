"""`HeldMemory`: holds open what the workers' pools are in, so that it outlives a worker.

Knows file descriptors only: neither pages nor KV.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

PREFIX = "loraconsole-kv"
"""Of the names of pools' memory, as /proc shows them."""


def pool_name(run: Path, identity: str) -> str:
    """The name of the memory of a pool: its run directory's digest, and `identity`, which says what
    is in it."""
    directory = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    return f"{PREFIX}-{directory}-{identity}"


def is_pool(fd: int, run: Path, identity: str = "") -> bool:
    """Whether a file descriptor is that of a pool's memory in this run directory; with `identity`,
    of that one's."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    name, wanted = target.removeprefix("/memfd:"), pool_name(run, identity)
    name = name.removesuffix(" (deleted)")
    return name != target and (name == wanted if identity else name.startswith(wanted))


def link_of(run: Path, rank: int) -> Path:
    """The link through which the next worker of a rank finds the memory."""
    return run / f"pool-{rank}"


class HeldMemory:
    """One file descriptor a rank. Where there is no /proc nothing is held, and the KV of a worker
    is lost with it."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._held: dict[int, int] = {}

    def hold(self, rank: int, pid: int, fd: int) -> None:
        """Holds the memory that process `pid` has open as `fd`, instead of what was held for this
        rank."""
        self._release(rank)
        if fd < 0:
            return
        try:
            own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        if not is_pool(own, self._run):
            os.close(own)
            return
        self._held[rank] = own
        link = link_of(self._run, rank)
        new = link.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
            new.symlink_to(f"/proc/{os.getpid()}/fd/{own}")
            new.replace(link)

    def close(self) -> None:
        """Releases everything."""
        for rank in [*self._held]:
            self._release(rank)

    def _release(self, rank: int) -> None:
        if (own := self._held.pop(rank, None)) is not None:
            link_of(self._run, rank).unlink(missing_ok=True)
            os.close(own)
