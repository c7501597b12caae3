"""The processes of a ring as the kernel lists them: found by their command line, whoever started
them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ...pipeline.config import Config
from ...pipeline.handover.ring_record import start_ticks

MODULES = {
    "fetch": "pipeline.fetch.fetch",
    "server": "pipeline.server.server",
    "router": "pipeline.router.router",
    "detokenizer": "pipeline.detokenizer",
}
"""The module of each process except the workers."""
WORKER = "pipeline.worker"
SUPERVISOR = "console.supervisor.supervisor"
PACKAGE = "loraconsole."


def command_of(name: str, config: Config) -> list[str]:
    """The command line of a process of the ring, or of its supervisor."""
    if name.startswith("worker-"):
        return _command(WORKER, config, "--rank", name.removeprefix("worker-"))
    return _command({**MODULES, "supervisor": SUPERVISOR}[name], config)


def _command(module: str, config: Config, *more: str) -> list[str]:
    # -P: do not import modules from the current directory by accident.
    return [sys.executable, "-P", "-m", f"{PACKAGE}{module}", "--run", config.run, *more]


def find_processes(run: Path) -> dict[str, list[int]]:
    """The pids of the living processes of the ring in `run`, without supervisor, by name."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended
            if entry.stat().st_uid != os.getuid():
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
            name = _name_of([os.fsdecode(word) for word in words], run)
            if name and start_ticks(int(entry.name)):
                found.setdefault(name, []).append(int(entry.name))
    return found


def _name_of(words: Sequence[str], run: Path) -> str:
    """Which process of the ring in `run` has this command line; "" if none has."""
    values = dict(itertools.pairwise(words))
    module = values.get("-m", "").removeprefix(PACKAGE)
    name = next((name for name, known in MODULES.items() if known == module), "")
    if module == WORKER:
        name = f"worker-{values.get('--rank', '0')}"
    # The directory may have several names, by links.
    is_here = bool(name) and os.path.realpath(values.get("--run", "")) == os.path.realpath(run)
    return name if is_here else ""
