"""`RingRecord`: what a supervisor writes down of its ring in `RUN/processes.json`, so that the next
one continues from it. Knows files and process ids, starts nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from ..messages import ProcessView
from ..private_files import replace_private

RECORD = "processes.json"
EXIT = "exit-"
"""Prefix of the files in which processes leave their exit status."""
MOST_STARTS = 5
"""Supervisors that die young are started this often within `STARTS_SECONDS`."""
STARTS_SECONDS = 60.0


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the ring."""

    view: ProcessView
    start_ticks: int = 0
    """When the kernel started it, in clock ticks since boot: with the pid it names one process."""
    falls: tuple[float, ...] = ()
    """Monotonic times of the last falls."""
    restart_wanted: bool = False
    restart_reason: str = ""


class RingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The ring as its supervisor last knew it. Monotonic times hold for one boot of the machine."""

    boot_id: str = ""
    supervisor_starts: tuple[float, ...] = ()
    """Monotonic times at which a supervisor was started in place of one that had died."""
    started_at: float = 0.0
    """Unix time at which the pipeline was started."""
    restarts: int = 0
    """Supervisors before the present one."""
    is_up: bool = False
    down_since: float | None = None
    stop_by: float | None = None
    """Monotonic time by which the pipeline is to be stopped, if it was asked to."""
    meeting: str = ""
    """The rendezvous file of the workers."""
    processes: tuple[ProcessRecord, ...] = ()

    @classmethod
    def read(cls, run: Path) -> RingRecord | None:
        """The record; None if there is none of this boot, or it is not readable."""
        try:
            record = msgspec.json.decode((run / RECORD).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None
        return record if record.boot_id == boot_id() else None

    def write(self, run: Path) -> None:
        """Replaces the record atomically. Raises `OSError`."""
        data = msgspec.json.format(msgspec.json.encode(self)) + b"\n"
        replace_private(run / RECORD, data)

    def recent_starts(self) -> tuple[float, ...]:
        """The starts of supervisors within the last `STARTS_SECONDS`."""
        now = time.monotonic()
        return tuple(at for at in self.supervisor_starts if now - at < STARTS_SECONDS)


def boot_id() -> str:
    """The kernel's name of this boot of the machine; "" if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """When the process was started, in clock ticks since boot; 0 if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *fields = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])


def note_exit(run: Path, code: int) -> None:
    """Leaves this process's exit status: a supervisor that adopted it is not its parent, and does
    not get it from the kernel."""
    with contextlib.suppress(OSError):  # the reason of the exit is then not known
        (run / f"{EXIT}{os.getpid()}").write_text(f"{code}\n")


def take_exit(run: Path, pid: int) -> int | None:
    """The exit status that process `pid` has left, which is removed; None if it was killed."""
    path = run / f"{EXIT}{pid}"
    try:
        code = int(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        return None
    return code
