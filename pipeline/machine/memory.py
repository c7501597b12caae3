"""Memory that this process may still take, and the kernel's kills for want of it.

Limits are those of its cgroups (v1 and v2, with those above them) and of the process itself
(`ulimit -v`, `ulimit -d`). Reads files of the kernel; knows no model.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


class MemoryFiles(NamedTuple):
    """The names of a cgroup's files in one version of the interface."""

    limit: str
    used: str
    reclaimable: str
    """The line of memory.stat with the bytes that Linux takes back on demand."""
    events: str
    """The file with the line `oom_kill`."""


V1 = MemoryFiles(
    "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control"
)
V2 = MemoryFiles("memory.max", "memory.current", "inactive_file", "memory.events")
PROCESS_LIMITS = {resource.RLIMIT_AS: "VmSize", resource.RLIMIT_DATA: "VmData"}
"""Limits of a process, and the line of /proc/self/status with what counts against each."""


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """What Linux reports as available, within the limits of our cgroups and of this process."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if meminfo := _fields(proc / "meminfo"):
        available = meminfo.get("MemAvailable:", 0) * 1024
    for directory, files in _memory_groups(proc, cgroups):
        limit, used = _number(directory / files.limit), _number(directory / files.used)
        if limit is not None and used is not None:
            # A cgroup counts inactive file pages as used, though Linux reclaims them on demand.
            reclaimable = _fields(directory / "memory.stat").get(files.reclaimable, 0)
            available = min(available, limit - used + reclaimable)
    status = _fields(proc / "self" / "status")
    for kind, name in PROCESS_LIMITS.items():
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            available = min(available, limit - status.get(f"{name}:", 0) * 1024)
    return max(available, 0)


class MemoryKills:
    """The processes that the kernel has killed because memory ran out: in our cgroup and those
    below it, or, if it counts none, on the machine."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        groups = list(_memory_groups(proc, cgroups))
        self._files = [directory / files.events for directory, files in groups]
        self._machine = proc / "vmstat"

    def count(self) -> int:
        """All kills so far."""
        for path in self._files:
            if (kills := _fields(path).get("oom_kill")) is not None:
                return kills
        return _fields(self._machine).get("oom_kill", 0)


def _memory_groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, MemoryFiles]]:
    """Our cgroup and those above it, the innermost first. In a container the outer ones cannot be
    seen; its own is then at the top."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, files = cgroups / "memory", V1
        elif not controllers:
            top, files = cgroups, V2
        else:
            continue
        inner = top / path.lstrip("/")
        for directory in (inner, *inner.parents):
            if (directory / files.used).exists():
                yield directory, files
            if directory == top:
                break


def _fields(path: Path) -> Mapping[str, int]:
    """The numbers of a file with a name and a number a line; empty if it cannot be read."""
    try:
        words = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in words if len(row) > 1 and row[1].isdecimal()}
    except OSError:
        return {}


def _number(path: Path) -> int | None:
    """The number in a file; None if it has none: `max` is no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
