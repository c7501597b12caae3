"""`HeldMemory`: holds open what the workers' pools are in, so that it outlives a worker.

Knows file descriptors only: neither pages nor KV.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PREFIX = "loraconsole-kv-"
"""Of the names of pools' memory, as /proc shows them."""


def pool_name(identity: str) -> str:
    """The name of a pool's memory, which says what is in it."""
    return PREFIX + identity


def is_pool(fd: int, identity: str = "") -> bool:
    """Whether a file descriptor is that of a pool's memory; with `identity`, of that one's."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    name = target.removeprefix("/memfd:").removesuffix(" (deleted)")
    return name == pool_name(identity) if identity else name.startswith(PREFIX)


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
        if not is_pool(own):
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
