"""`ProcessOrders`: what an operator may have done to one process: restart, stop, start, signal.
Knows no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

from ...pipeline.messages import (
    ProcessOrder,
    ProcessState,
    RestartProcess,
    SignalProcess,
    StartProcess,
    StopProcess,
)
from ..state.signals import SIGNALS
from .child import HELD, Child
from .ring import Ring
from .ring_keeper import RingKeeper, SupervisingProcess


class ProcessOrders:
    """Carries out the orders about one process of a ring, or about all ranks by one of them."""

    def __init__(self, ring: Ring, keeper: RingKeeper, supervisor: SupervisingProcess) -> None:
        self._ring = ring
        self._keeper = keeper
        self._supervisor = supervisor

    async def obey(self, order: ProcessOrder) -> None:
        """Carries out one order; returns when what it stops has ended."""
        child = self._ring.children.get(order.name)
        match order:
            case _ if child is None:
                self._supervisor.event("warning", f"no process {order.name!r}")
            case RestartProcess(hard=hard):
                self._supervisor.event("info", f"restarting {child.name} on request")
                await self._restart(child, hard)
            case _ if child.one_shot:
                self._supervisor.event(
                    "warning", f"{child.name} exits by itself: it cannot be stopped or restarted"
                )
            case StopProcess():
                await self._hold(child)
            case StartProcess():
                self._supervisor.event("info", f"starting {child.name} on request")
                self._release(child)
            case SignalProcess(signal=name):
                self._signal(child, name)

    async def _restart(self, child: Child, hard: bool) -> None:
        if child.one_shot:
            if child.process is None:
                await self._keeper.start_all()
        elif child.process is None:
            self._release(child)
        else:
            self._release(child)
            child.restart_wanted, child.restart_reason = True, "restarting on request"
            self._keeper.kill_other_ranks(child)
            if hard:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
            else:
                await self._keeper.stop(child)

    async def _hold(self, child: Child) -> None:
        """Stops the child and its group, and keeps them stopped."""
        group = self._ring.group(child)
        for each in group:
            each.held = True
        if child.is_rank:
            self._ring.renew_meeting()
        await asyncio.gather(*(self._put_down(each) for each in group))
        self._supervisor.event("warning", f"{' and '.join(each.name for each in group)} {HELD}")

    async def _put_down(self, child: Child) -> None:
        if child.process is not None:
            await self._keeper.stop(child)
            return
        self._keeper.cancel_restart(child)
        self._keeper.refuse_clients(child)
        self._keeper.become(child, ProcessState.STOPPED, HELD)

    def _release(self, child: Child) -> None:
        """Undoes `_hold`; also starts a failed child, and one that waits for its restart, at
        once."""
        for each in self._ring.group(child):
            each.held = False
            if each.process is not None:
                if each.state is ProcessState.STOPPING and not each.restart_wanted:
                    each.restart_wanted, each.restart_reason = True, "starting on request"
                continue
            self._keeper.cancel_restart(each)
            each.falls.clear()
            self._keeper.become(each, ProcessState.PENDING)
            if self._ring.fetch.state is ProcessState.DONE:  # otherwise it starts after the fetch
                each.restarts += 1
                self._keeper.mind(each)

    def _signal(self, child: Child, name: str) -> None:
        if child.process is None or name not in SIGNALS:
            what = "does not run" if name in SIGNALS else f"is not sent {name!r}"
            self._supervisor.event("warning", f"{child.name} {what}")
            return
        self._supervisor.event("info", f"sending SIG{name} to {child.name} on request")
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(signal.Signals[f"SIG{name}"])
