"""`Lock`: the lock on `RUN/lock`, which a running supervisor holds.

An flock belongs to the open file, not to a process: one process takes it and passes it to the
supervisor that it starts, so that two starts at once cannot both succeed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

LOCK_VARIABLE = "LORACONSOLE_LOCK_FD"
"""Environment variable of a starting supervisor: the descriptor of the lock that it gets."""


class Lock:
    """An exclusive lock on a run directory, held as long as the file stays open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, run: Path) -> Lock | None:
        """The lock; None if another process holds it."""
        descriptor = _open(run)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    @classmethod
    def wait(cls, run: Path) -> Lock:
        """The lock, once no other process holds it; blocks the calling thread. Exactly one of those
        that wait gets it. Raises `OSError` if the directory is gone."""
        while True:
            lock = cls(_open(run))
            fcntl.flock(lock.descriptor, fcntl.LOCK_EX)
            if lock.is_on(run):
                return lock
            lock.release()  # the directory was removed meanwhile, and made again

    def is_on(self, run: Path) -> bool:
        """Whether `RUN/lock` is still this lock's file: not if the directory was removed."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(run / "lock"))
        except OSError:
            return False

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def _open(run: Path) -> int:
    return os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
