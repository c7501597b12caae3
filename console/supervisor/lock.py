"""`Lock`: the lock on `RUN/lock`, which a running supervisor holds; if free, no pipeline runs.

An flock belongs to the open file, not to a process: the command line takes it, writes the config,
and passes it to the supervisor that it starts, so that two starts at once cannot both succeed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ...pipeline.errors import OperatorError
from ...pipeline.run_directory import spell

LOCK_VARIABLE = "LORACONSOLE_LOCK_FD"


class Lock:
    """An exclusive lock on a run directory, held as long as the file stays open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, run: Path) -> Lock | None:
        """The lock; None if another process holds it."""
        descriptor = os.open(run / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    @classmethod
    def inherited_or_taken(cls, run: Path) -> Lock:
        """The supervisor's lock. Raises `OperatorError` if another supervisor holds it."""
        if inherited := os.environ.pop(LOCK_VARIABLE, None):
            return cls(int(inherited))
        lock = cls.take(run)
        if lock is None:
            raise already_runs(run)
        return lock

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def already_runs(run: Path) -> OperatorError:
    """The error of a second start in `run`."""
    hint = f"{spell('attach', run)}: open the console on it; {spell('down', run)}: stop it"
    return OperatorError(f"a pipeline already runs in {run}", hint)


def is_running(run: Path) -> bool:
    """Whether a supervisor is running in this run directory."""
    if not (run / "lock").exists():
        return False
    lock = Lock.take(run)
    if lock is None:
        return True
    lock.release()
    return False
