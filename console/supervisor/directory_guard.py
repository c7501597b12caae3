"""`DirectoryGuard`: makes the run directory again if it is removed while its pipeline runs."""

from __future__ import annotations

import contextlib
import os

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.handover.run_lock import Lock
from ...pipeline.run_directory import make_run_directory


class DirectoryGuard:
    """Holds the lock of a run directory, and knows what is in it that a process needs to start."""

    def __init__(self, config: Config, lock: Lock) -> None:
        self._config = config
        self._run = config.run_path
        self._locks = [lock]
        """The last one is on the present directory. The others stay held: processes of the ring
        wait for them."""
        self._model = ""
        """What RUN/model links to; "" before it was fetched."""
        self.is_well()

    def is_well(self) -> bool:
        """Whether the directory is still there and this pipeline's."""
        if not self._locks[-1].is_on(self._run):
            return False
        if not self._model:
            with contextlib.suppress(OSError):
                self._model = os.readlink(self._run / "model")
        return True

    def make_again(self) -> bool:
        """Makes directory, lock, config and link to the model again. False: another pipeline has
        been started there. Raises `OSError` or `OperatorError` if it cannot be made."""
        run = make_run_directory(self._run)
        lock = Lock.take(run)
        if lock is None:
            return False
        self._locks.append(lock)
        self._config.save()
        link = run / "model"
        if self._model and not link.is_symlink():
            link.symlink_to(self._model)
        return True

    def release(self) -> None:
        for lock in self._locks:
            lock.release()


UNMADE = (OSError, OperatorError)
"""What `make_again` raises."""
