"""`stop`, `start`, `restart`, `signal`: orders about one process of the ring.

The supervisor does not answer orders: its process table shows whether one was carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    ProcessState,
    ProcessView,
    SignalProcess,
    Snapshot,
    StartProcess,
    StopProcess,
)
from ...pipeline.run_directory import spell
from ..client.remote import Remote
from ..commands.processes import ProcessCommand
from .documents import ProcessDocument, ProcessWord
from .printing import say

STOP_SECONDS = 15.0
"""Timeout of `stop`. The supervisor kills a process that has not ended after 5 s."""

Rows = Sequence[ProcessView]


def order_process(config: Config, command: ProcessCommand) -> int:
    """Sends the order; returns when it is carried out."""
    state, text = asyncio.run(_carry_out(config, command))
    say(ProcessDocument(command.process, state), text, command.json)
    return 0


async def _carry_out(config: Config, command: ProcessCommand) -> tuple[ProcessWord, str]:
    """Sends the order and waits; returns the process's new state and a sentence."""
    async with Remote(config) as remote:
        rows: Rows = (await remote.snapshot()).processes.processes
        order = command.order([row.name for row in rows])
        name = order.name
        pid = _row(rows, name).pid
        match order:
            case SignalProcess(signal=signal):
                if not pid:
                    hint = f"see: {spell('status', config.run)}"
                    raise OperatorError(f"{name} does not run", hint)
                remote.tell(order)
                return "sent", f"SIG{signal} is sent to {name}, pid {pid}"
            case StopProcess():
                remote.tell(order)
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await _until(remote, lambda rows: _is_stopped(rows, name))
                except TimeoutError:
                    hint = f"see: {spell('status', config.run)}"
                    raise OperatorError(f"{name} does not stop", hint) from None
                start = spell(f"start {name}", config.run)
                return "stopped", f"{name} stopped until: {start}"
            case StartProcess() if pid:
                before = 0
            case _:
                before = pid
                remote.tell(order)
        rows = await _until(remote, lambda rows: _is_up(rows, name, before, config.run))
        if _row(rows, name).state is ProcessState.READY:
            return "ready", f"{name} is READY"
        missing = ", ".join(row.name for row in rows if _is_missing(row))
        return "starting", f"{name} is running, without {missing}"


async def _until(remote: Remote, holds: Callable[[Rows], bool]) -> Rows:
    def pick(snapshot: Snapshot) -> Rows | None:
        rows = snapshot.processes.processes
        return rows if holds(rows) else None

    await asyncio.sleep(0.1)  # for the order to arrive
    return await remote.when(pick)


def _is_stopped(rows: Rows, name: str) -> bool:
    row = _row(rows, name)
    return row.held and row.state is ProcessState.STOPPED


def _is_up(rows: Rows, name: str, before: int, run: str) -> bool:
    """Whether the process is up again: READY, or only running while it may wait for another that is
    missing. Raises `OperatorError` if it has failed."""
    row = _row(rows, name)
    if row.state is ProcessState.FAILED:
        hint = f"see: {spell(f'logs {name}', run)}"
        raise OperatorError(f"{name} failed: {row.reason}", hint)
    if row.pid in (0, before):
        return row.name == "fetch" and row.state is ProcessState.DONE
    return row.state is ProcessState.READY or any(_is_missing(other) for other in rows)


def _is_missing(row: ProcessView) -> bool:
    return row.held or row.state is ProcessState.FAILED


def _row(rows: Rows, name: str) -> ProcessView:
    return next(row for row in rows if row.name == name)
