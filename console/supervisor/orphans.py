"""Orphans: processes of a ring whose supervisor is gone. They start a new one themselves; a command
waits for it, or ends them if none comes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.handover.ring_record import RECORD, RingRecord
from ...pipeline.handover.run_lock import Lock
from ...pipeline.run_directory import spell
from .adoption import remove_left_over
from .lock import is_orphaned, is_supervised
from .ring_processes import find_processes

REVIVAL_SECONDS = 15.0
GRACE_SECONDS = 5.0
ORDER = ("fetch", "server", "router", "detokenizer")
"""Processes are ended in this order, workers last, so that none sends to one that has ended."""


def ensure_supervised(run: Path) -> bool:
    """Whether a supervisor runs in `run`. If there are only orphans, returns once they have started
    one. Raises `OperatorError` if none comes."""
    if is_supervised(run):
        return True
    if not is_orphaned(run):
        return False
    _allow_starts(run)
    deadline = time.monotonic() + REVIVAL_SECONDS
    while not is_supervised(run):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"the pipeline in {run} has no supervisor, and does not start one",
                f"{spell('logs supervisor', run)}: why; {spell('down', run)}: end the pipeline",
            )
        time.sleep(0.1)
    return True


def _allow_starts(run: Path) -> None:
    """Lets the orphans start a supervisor at once, also if several have just died."""
    lock = Lock.take(run)
    if lock is None:
        return  # one has just been started
    try:
        record = RingRecord.read(run)
        if record and record.supervisor_starts:
            with contextlib.suppress(OSError):
                msgspec.structs.replace(record, supervisor_starts=()).write(run)
    finally:
        lock.release()


def end_orphans(run: Path) -> bool:
    """Ends all processes of a ring without a supervisor, by SIGTERM and after `GRACE_SECONDS` by
    SIGKILL, and removes what they left. Returns whether it was done: not if a supervisor runs."""
    deadline = time.monotonic() + GRACE_SECONDS
    # Held meanwhile, so that none of them starts a supervisor. They take it for a moment as well.
    while (lock := Lock.take(run)) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    try:
        found = find_processes(run)
        names = [name for name in ORDER if name in found]
        names += sorted(found.keys() - set(ORDER))
        for name in names:
            for pid in found[name]:
                _end(pid)
        remove_left_over(run)
    finally:
        lock.release()
    return True


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if _has_ended(descriptor, GRACE_SECONDS):
                    return
        finally:
            os.close(descriptor)


def _has_ended(descriptor: int, seconds: float) -> bool:
    ended, _, _ = select.select([descriptor], [], [], seconds)
    return bool(ended)


def remove_remains(run: Path) -> None:
    """Removes what a killed pipeline left in `run`, unless one runs there."""
    lock = Lock.take(run) if (run / RECORD).exists() else None
    if lock is None:
        return
    try:
        if not find_processes(run):
            remove_left_over(run)
    finally:
        lock.release()
