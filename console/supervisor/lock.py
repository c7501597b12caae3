"""Whether a pipeline runs in a run directory, and the error of a second start."""

from __future__ import annotations

import os
from pathlib import Path

from ...pipeline.errors import OperatorError
from ...pipeline.handover.ring_record import RECORD
from ...pipeline.handover.run_lock import LOCK_VARIABLE, Lock
from ...pipeline.run_directory import spell
from .ring_processes import find_processes


def already_runs(run: Path) -> OperatorError:
    """The error of a second start in `run`."""
    hint = f"{spell('attach', run)}: open the console on it; {spell('down', run)}: stop it"
    return OperatorError(f"a pipeline already runs in {run}", hint)


def inherited_or_taken(run: Path) -> Lock:
    """The supervisor's lock. Raises `OperatorError` if another supervisor holds it."""
    if inherited := os.environ.pop(LOCK_VARIABLE, None):
        os.set_inheritable(int(inherited), False)
        return Lock(int(inherited))
    lock = Lock.take(run)
    if lock is None:
        raise already_runs(run)
    return lock


def is_supervised(run: Path) -> bool:
    """Whether a supervisor is running in this run directory."""
    if not (run / "lock").exists():
        return False
    lock = Lock.take(run)
    if lock is None:
        return True
    lock.release()
    return False


def is_orphaned(run: Path) -> bool:
    """Whether processes of a pipeline run here without a supervisor."""
    return (run / RECORD).exists() and not is_supervised(run) and bool(find_processes(run))


def is_running(run: Path) -> bool:
    """Whether a pipeline runs in this run directory, be it for a moment without a supervisor."""
    return is_supervised(run) or is_orphaned(run)
