"""A fatal signal to any process of a pipeline leaves its stack where an operator looks for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring import Ring
from waiting import wait_for

from loraconsole.console.client.remote import Remote
from loraconsole.console.state.board import Board
from loraconsole.console.state.store import Store
from loraconsole.console.ui.panels.processes import ProcessDetails
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Snapshot
from loraconsole.pipeline.runtime.process import PARENT

pytestmark = pytest.mark.processes

SIGNALS = {
    "detokenizer": (signal.SIGSEGV, "Segmentation fault"),
    "router": (signal.SIGABRT, "Aborted"),
    "worker-0": (signal.SIGBUS, "Bus error"),
    "server": (signal.SIGFPE, "Floating point exception"),
}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("s"), "--dtype", "float32") as ring:
        yield ring


def board_of(run: Path) -> Board:
    async def ask() -> Snapshot:
        async with Remote(Config.load(run)) as remote:
            return await remote.snapshot(log_lines=1000)

    store, now = Store(str(run)), time.time()
    store.fold_snapshot(asyncio.run(ask()), now)
    return store.board(now)


@pytest.mark.parametrize("name", SIGNALS)
def test_the_stack_is_in_the_log_and_on_the_details_page(ring: Ring, name: str) -> None:
    number, error = SIGNALS[name]
    ring.kill(name, number)
    row = wait_for(lambda: ring.process(name) if ring.process(name)["falls"] else None)
    assert row is not None
    assert row["fall_reason"].startswith(f"killed by {number.name} in ")
    assert row["fall_reason"].endswith(")")  # select (selectors.py:468)
    assert f"Fatal Python error: {error}" in ring.cli("logs", name, "-n", "200").stdout
    board = board_of(ring.run)
    process = board.process(name)
    assert process is not None
    page = ["".join(t for t, _ in line.spans) for line in ProcessDetails(process).lines(board, 80)]
    at = next(y for y, text in enumerate(page) if text.startswith("where it crashed"))
    assert page[at + 1] == error
    assert page[at + 2].strip() in row["fall_reason"]
    assert sum("Fatal Python error" in text for text in page) <= 1  # said once, not in two lists


def test_the_supervisor_leaves_its_own(ring: Ring) -> None:
    """The last test here: nothing restarts a supervisor."""
    command = ["pgrep", "-f", f"console.supervisor.supervisor --run {ring.run}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    os.kill(int(found.stdout), signal.SIGSEGV)
    wait_for(lambda: ring.cli("status", check=False).returncode == 3)
    assert "Fatal Python error: Segmentation fault" in ring.cli("logs", "supervisor").stdout


def test_a_process_whose_supervisor_died_before_it_began_does_not_run(ring: Ring) -> None:
    """Else it would serve for ever: the kernel ends a process only with a parent it still has."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "loraconsole.pipeline.detokenizer",
        "--run",
        str(ring.run),
    ]
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()
    done = subprocess.run(command, env={**os.environ, PARENT: gone}, timeout=30)
    assert done.returncode == 1
