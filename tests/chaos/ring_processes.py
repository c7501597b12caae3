"""The processes of one pipeline as /proc shows them, by their run directory: also those that no
supervisor knows. Knows no HTTP and no socket of the ring."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

NAMES = {
    b"loraconsole.console.supervisor.supervisor": "supervisor",
    b"loraconsole.pipeline.worker": "worker",
    b"loraconsole.pipeline.router.router": "router",
    b"loraconsole.pipeline.server.server": "server",
    b"loraconsole.pipeline.detokenizer": "detokenizer",
}
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Footprint:
    """What one process holds."""

    rss_mib: int
    descriptors: int
    threads: int


def _name(words: list[bytes]) -> str | None:
    for word in words:
        if name := NAMES.get(word):
            if name != "worker":
                return name
            rank = words[words.index(b"--rank") + 1].decode() if b"--rank" in words else "0"
            return f"worker-{rank}"
    return None


def find_processes(run: Path) -> dict[str, list[int]]:
    """Pids by name of all living processes of the pipeline in `run`; zombies are left out."""
    found: dict[str, list[int]] = {}
    wanted = os.fsencode(run)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if wanted in words and (name := _name(words)) and is_alive(int(entry.name)):
                found.setdefault(name, []).append(int(entry.name))
    return found


def find_ring(run: Path) -> dict[str, int]:
    """The pid of each process that runs exactly once."""
    return {name: pids[0] for name, pids in find_processes(run).items() if len(pids) == 1}


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def measure(pid: int) -> Footprint | None:
    """None if the process has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None
    return Footprint(pages * PAGE_BYTES >> 20, descriptors, threads)


def send_signal(pid: int, number: int = signal.SIGKILL) -> bool:
    """False if the process has ended already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
