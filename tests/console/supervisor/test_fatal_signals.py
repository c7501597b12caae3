"""A fatal signal to any process of a pipeline leaves its stack where an operator looks for it."""

from __future__ import annotations

import asyncio
import os
import signal
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
    os.kill(ring.supervisor(), signal.SIGSEGV)
    wait_for(lambda: "it adopted 4 processes" in ring.cli("logs", "supervisor").stdout)
    assert "Fatal Python error: Segmentation fault" in ring.cli("logs", "supervisor").stdout


def test_an_adopted_process_leaves_its_stack_as_well(ring: Ring) -> None:
    """Only its parent would get to know the signal: the stack in its log tells."""
    before = ring.process("detokenizer")["falls"]
    ring.kill("detokenizer", signal.SIGSEGV)
    row = wait_for(lambda: row if (row := ring.process("detokenizer"))["falls"] > before else None)
    assert row is not None
    assert row["fall_reason"].startswith("killed by a signal in ")
    ring.wait_ready()
