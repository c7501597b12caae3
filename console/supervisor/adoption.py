"""Adoption: a supervisor takes over the processes that another has started and left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...pipeline.handover.ring_record import EXIT, RECORD, RingRecord, boot_id, start_ticks
from ...pipeline.messages import ProcessState
from ...pipeline.run_directory import REQUEST_JOURNAL, ROUTER_RECORD
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.wording import counted
from .adopted_process import AdoptedProcess
from .child import Child
from .ring_processes import find_processes

LEFT_OVER = (RECORD, ROUTER_RECORD, REQUEST_JOURNAL)
"""What a pipeline keeps in its run directory for the time it runs."""


@dataclass(frozen=True)
class Adoption:
    """What was found of a ring."""

    record: RingRecord
    alive: tuple[str, ...]
    """The processes that run."""
    dead: tuple[str, ...]
    """Those that have died since the supervisor before."""

    def __str__(self) -> str:
        died = f"; {' and '.join(self.dead)} died meanwhile" if self.dead else ""
        return f"supervisor restarted; it adopted {counted(len(self.alive), 'process')}{died}"


def adopt_ring(run: Path, children: Mapping[str, Child]) -> Adoption:
    """Gives each child the process that runs under its name in `run`, and what the supervisor
    before knew of it. A process that has died since is adopted as well: its end is then handled
    like any other. A second process of a name is killed."""
    record = RingRecord.read(run) or RingRecord(boot_id=boot_id(), started_at=unix_time())
    rows = {row.view.name: row for row in record.processes}
    found = find_processes(run)
    alive, dead = [], []
    for name, child in children.items():
        row, pids = rows.get(name), found.get(name, [])
        if row is not None:
            child.restore(row)
        known = row.view.pid if row and start_ticks(row.view.pid) == row.start_ticks else 0
        pid = known if known in pids else max(pids, default=0)
        for other in pids:
            if other != pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
        if pid:
            child.adopt(AdoptedProcess(run, pid, is_alive=True), start_ticks(pid))
            alive.append(name)
            if pid != known:  # started just before that supervisor died
                child.become(ProcessState.STARTING)
                child.started_at = unix_time()
        elif row is not None and row.view.pid:
            child.adopt(AdoptedProcess(run, row.view.pid, is_alive=False), row.start_ticks)
            dead.append(name)
    return Adoption(record, tuple(alive), tuple(dead))


def remove_left_over(run: Path, but: str = "") -> None:
    """Removes what a pipeline that has ended left in its run directory, be it killed: records and
    sockets, all but those of process `but`."""
    for name in LEFT_OVER:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    sockets = [path for end in ("inbox", "stats") for path in run.glob(f"*.{end}")]
    of_the_ring = [path for path in sockets if not path.name.startswith(("console-", f"{but}."))]
    patterns = (f"{EXIT}*", "ranks-*", "warm-up-*", "pool-*")
    for path in (*(path for pattern in patterns for path in run.glob(pattern)), *of_the_ring):
        path.unlink(missing_ok=True)
