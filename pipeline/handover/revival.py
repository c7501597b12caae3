"""`Revival`: starts a new supervisor when the one of this ring is gone.

Every process of a ring waits, in a thread, for the lock that its supervisor holds. When the
supervisor dies, the kernel gives the lock to exactly one of them, which starts the next supervisor
and passes lock and listening socket on to it. Knows a command, not what it starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path

import msgspec

from ..errors import OperatorError
from ..private_files import write_private
from ..run_directory import make_run_directory
from .listener import listener_fds
from .ring_record import MOST_STARTS, RingRecord, boot_id
from .run_lock import LOCK_VARIABLE, Lock

SUPERVISOR_COMMAND = "LORACONSOLE_SUPERVISOR"
"""Environment variable of every process of a ring: the shell command of a new supervisor."""
ADOPTS = "LORACONSOLE_ADOPTS"
"""Environment variable of a supervisor that adopts a ring that runs: "1"."""
CONFIG = "config.json"
GONE_SECONDS = 3.0
"""A supervisor makes its run directory again within a second, if that is removed."""
LOOK_SECONDS = 1.0
"""Pause before the next look when too many supervisors have died."""
UNCOUNTED_SECONDS = 5.0
"""Pause before a start that cannot be written down: the disk is full."""

log = logging.getLogger("revival")


class Revival:
    """Waits in a thread of its own, which costs nothing until the supervisor dies."""

    def __init__(self, run: Path, command: str) -> None:
        self._run = run
        self._command = shlex.split(command)
        self._was_refused = False
        self._config = b""
        """The settings, in case the directory is removed together with the supervisor."""
        with contextlib.suppress(OSError):
            self._config = (run / CONFIG).read_bytes()

    @classmethod
    def begin(cls, run: Path) -> bool:
        """Starts to wait if a supervisor has started this process. Returns whether one has."""
        command = os.environ.get(SUPERVISOR_COMMAND)
        if command:
            revival = cls(run, command)
            threading.Thread(target=revival._wait_forever, name="revival", daemon=True).start()
        return bool(command)

    def _wait_forever(self) -> None:
        while True:
            try:
                lock = Lock.wait(self._run)
            except OSError:  # the directory was removed
                self._make_directory()
                continue
            try:
                supervisor = self._start(lock)
            except OSError as error:
                log.error("cannot start a supervisor: %s", error)
                supervisor = None
            finally:
                lock.release()
            if supervisor is None:
                time.sleep(LOOK_SECONDS)
            else:
                supervisor.wait()  # until it ends, so that none is left as a zombie

    def _make_directory(self) -> None:
        """Makes the run directory again with its config, unless a supervisor is there to do so."""
        time.sleep(GONE_SECONDS)
        if (self._run / "lock").exists() or not self._config:
            return
        with contextlib.suppress(OSError, OperatorError):
            make_run_directory(self._run)
            write_private(self._run / CONFIG, self._config)

    def _start(self, lock: Lock) -> subprocess.Popen[bytes] | None:
        """The new supervisor, which has the lock; None if too many have died within a minute."""
        record = RingRecord.read(self._run) or RingRecord(boot_id=boot_id())
        recent = record.recent_starts()
        if len(recent) >= MOST_STARTS:
            if not self._was_refused:
                log.error("no new supervisor: %d died within a minute", len(recent))
            self._was_refused = True
            return None
        self._was_refused = False
        try:
            counted = msgspec.structs.replace(record, supervisor_starts=(*recent, time.monotonic()))
            counted.write(self._run)
        except OSError:  # nothing counts the starts, so that only a pause bounds them
            time.sleep(UNCOUNTED_SECONDS)
        return self._open(lock)

    def _open(self, lock: Lock) -> subprocess.Popen[bytes]:
        log.warning("the supervisor is gone: starting a new one")
        more = {LOCK_VARIABLE: str(lock.descriptor), ADOPTS: "1"}
        path = self._run / "logs" / "supervisor.log"
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment_at_start() | more,
                pass_fds=(lock.descriptor, *listener_fds()),
                start_new_session=True,
            )


def environment_at_start() -> dict[str, str]:
    """This process's environment as it was started with: libraries add to it later."""
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(pair).partition("=") for pair in block.split(b"\0") if b"=" in pair)
    return {name: value for name, _, value in pairs}
