"""Process `supervisor`: starts the ring, restarts processes that fall, and outlives the console.
Here are its sockets, record and run directory; the children are the `RingKeeper`'s.

It leads its own session, so that a lost SSH connection kills nothing. Its children outlive it: one
of them starts the next supervisor, which adopts them. It keeps the telemetry for consoles that
attach later. It imports neither Textual nor torch. By hand:
`python -P -m loraconsole.console.supervisor.supervisor --run DIR`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

from ...pipeline.config import Config
from ...pipeline.handover.listener import bind_listener, inherited_listener
from ...pipeline.handover.revival import ADOPTS
from ...pipeline.handover.ring_record import RECORD, RingRecord, boot_id
from ...pipeline.messages import (
    AskSnapshot,
    AskSpanEnds,
    Drain,
    Event,
    Heartbeat,
    LogLines,
    ProcessOrder,
    ProcessState,
    ProcessTable,
    Snapshot,
    SpanEnds,
    StopPipeline,
    ToSupervisor,
)
from ...pipeline.runtime.clock import ClockWatch, unix_time
from ...pipeline.runtime.process import Process, run_process
from ...pipeline.runtime.sockets import InboxFull, Outbox, Watch
from .adoption import Adoption, adopt_ring, remove_left_over
from .child import ROUTER, UP
from .directory_guard import UNMADE, DirectoryGuard
from .fall_reasons import FallReasons
from .lock import inherited_or_taken
from .log_tail import LogTail
from .metrics_history import MetricsHistory
from .process_orders import ProcessOrders
from .ring import Ring
from .ring_keeper import RingKeeper
from .snapshot_cache import SnapshotCache
from .span_files import span_ends

DRAIN_SECONDS = 10.0
"""Time for running requests if another pipeline has taken the run directory."""
YOUNG_SECONDS = 10.0
"""A supervisor that lives longer does not count as one of those that die young."""
LOG_SECONDS = 0.2
LOG_LINES_A_FRAME = 500


class Supervisor(Process):
    """The process that starts, watches and restarts all others."""

    accepts = ToSupervisor

    def __init__(self, config: Config, rank: int = 0) -> None:
        # Held until the end: if the lock is free, no supervisor runs here.
        self._directory = DirectoryGuard(config, inherited_or_taken(config.run_path))
        self._listener = inherited_listener() or bind_listener(config.host, config.port)
        super().__init__(config, "supervisor")
        self.snapshots = SnapshotCache(
            MetricsHistory(self.run / "history", unix_time(), self.event)
        )
        self.ring = Ring(config, self.snapshots.latest)
        self.log_tail = LogTail(self.run / "logs", turns_over=True)
        reasons = FallReasons(self.snapshots.latest, self.log_tail)
        self._keeper = RingKeeper(config, self.ring, self._listener, reasons, self)
        self._orders = ProcessOrders(self.ring, self._keeper, self)
        self._stop_asked = asyncio.Event()
        self._adoption: Adoption | None = None
        if os.environ.pop(ADOPTS, None):
            self._adoption = adopt_ring(self.run, self.ring.children)
            self.log_tail.catch_up()
        else:
            remove_left_over(self.run, but=self.name)
        self._continue_from(self._adoption.record if self._adoption else None)

    def _continue_from(self, record: RingRecord | None) -> None:
        """Takes over what the supervisor before knew of the ring; None: there was none."""
        self.started_at = record.started_at if record else unix_time()
        self._restarts = record.restarts + 1 if record else 0
        self._starts = record.recent_starts() if record else ()
        self._stop_by = record.stop_by if record else None
        """Monotonic time until which running requests may finish; None: no stop is asked for."""
        self.ring.continue_from(record)
        self._is_recorded = True
        """Whether the last record could be written."""
        if self._stop_by is not None:
            self._stop_asked.set()

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self._watch = Watch(self.context, self.run, tuple(self.ring.children))
        self.log.info("run directory %s, model %s", self.run, self.config.model)
        self.set_state(ProcessState.READY)

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(helper)
                for helper in (
                    self._receive_forever(),
                    self._watch_forever(),
                    self._log_forever(),
                    self._history_forever(),
                    self._keeper.kill_the_silent(),
                    self._grow_old(),
                    self._guard_directory(),
                )
            ]
            starting = tasks.create_task(self._begin())
            await self._stop_asked.wait()
            self.ring.is_stopping = True
            starting.cancel()
            await self._drain()
            await self._keeper.stop_all()
            for helper in helpers:
                helper.cancel()

    async def shutdown(self) -> None:
        self.ring.is_stopping = True
        self._ask_to_stop(0.0)
        await self._keeper.stop_all()
        self.publish_log()
        self._watch.close()
        self.snapshots.history.close()
        if self._directory.is_well():
            remove_left_over(self.run, but=self.name)
        self._listener.close()
        self._directory.release()

    async def _begin(self) -> None:
        """Starts the ring, or continues with the one that was adopted."""
        if self._adoption is None:
            await self._keeper.start_all()
            return
        if not self._adoption.alive and "fetch" not in self._adoption.dead:
            self.log.warning("no process of the ring is left to adopt")
            self._stop_asked.set()
            return
        self.event("warning", str(self._adoption))
        self._keeper.mind_adopted()
        self._write_record()
        await self._keeper.complete_adopted()

    async def _grow_old(self) -> None:
        await asyncio.sleep(YOUNG_SECONDS)
        if self._starts:
            self._starts = ()
            self._write_record()
        await asyncio.Event().wait()  # until cancelled with the others

    # -- stopping

    def _ask_to_stop(self, drain_s: float) -> None:
        """Notes that the pipeline is to be stopped once requests have finished, or in `drain_s`
        seconds. A later order may only shorten that."""
        by = time.monotonic() + drain_s
        self._stop_by = by if self._stop_by is None else min(by, self._stop_by)
        self._write_record()
        self._stop_asked.set()

    async def _drain(self) -> None:
        """Lets live requests finish until `_stop_by`."""
        seconds = (self._stop_by or 0.0) - time.monotonic()
        if seconds <= 0 or self.ring.children[ROUTER].state not in UP:
            return
        if self.ring.is_held:
            return  # requests cannot finish while a process is stopped
        self.event("info", f"draining for at most {seconds:.0f} s")
        with contextlib.suppress(InboxFull):
            self.outbox("router").send(Drain())
        await asyncio.sleep(0.6)  # one heartbeat, so that the router's counts follow the order
        while time.monotonic() < (self._stop_by or 0.0):
            router = self.snapshots.latest.router
            if router is None or router.running + router.waiting == 0:
                return
            await asyncio.sleep(0.1)

    # -- what comes in

    async def _receive_forever(self) -> None:
        obeying: set[asyncio.Task[None]] = set()
        while True:
            match await self.inbox.receive():
                case AskSnapshot() as ask:
                    lines, table = self.log_tail.lines, self.table()
                    known = self.snapshots.snapshot(ask, self.started_at, table, lines)
                    self._answer(ask.reply_to, known)
                case AskSpanEnds(reply_to=reply_to, stamp=stamp):
                    ends = span_ends(self.run)
                    if ends.stamp != stamp:
                        self._answer(reply_to, ends)
                case StopPipeline(drain_s=drain_s):
                    self._ask_to_stop(drain_s)
                case order:
                    task = asyncio.create_task(self._obey(order))
                    obeying.add(task)
                    task.add_done_callback(obeying.discard)

    async def _obey(self, order: ProcessOrder) -> None:
        await self._orders.obey(order)
        self._write_record()

    async def _watch_forever(self) -> None:
        while True:
            for message in await self._watch.receive():
                self.snapshots.fold_message(message)
                if isinstance(message, Heartbeat):
                    self._keeper.note_beat(message)

    async def _guard_directory(self) -> None:
        """Makes the run directory again if it is removed. Every process then binds its sockets
        again and opens its log; connections have gone on meanwhile."""
        failed = False
        while True:
            await asyncio.sleep(1.0)
            if self._directory.is_well():
                continue
            try:
                if not self._directory.make_again():
                    self.event("error", f"another pipeline was started in {self.run}: stopping")
                    self._ask_to_stop(DRAIN_SECONDS)
                    return
            except UNMADE as error:
                if not failed:
                    self.event("error", f"{self.run} was removed and cannot be made again: {error}")
                failed = True
                continue
            failed = False
            self._mend_directory()
            text = "its older logs and history are lost, requests are not"
            self.event(
                "error", f"{self.run} was removed while the pipeline runs: made again; {text}"
            )

    def write_files_again(self) -> None:
        self.snapshots.history.close()
        self._write_record()

    async def _log_forever(self) -> None:
        while True:
            self.publish_log()
            await asyncio.sleep(LOG_SECONDS)

    async def _history_forever(self) -> None:
        due, clock = time.monotonic(), ClockWatch()
        while True:
            due = max(due + 1.0, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self.snapshots.history.tick(unix_time())
            if text := clock.look():
                self.event("warning", text)

    def publish_log(self) -> None:
        fresh = self.log_tail.read_new()
        for start in range(0, len(fresh), LOG_LINES_A_FRAME):
            self.beacon.publish(LogLines(tuple(fresh[start : start + LOG_LINES_A_FRAME])))

    # -- what goes out

    def event(self, level: str, text: str) -> None:
        super().event(level, text)
        self.snapshots.history.take(Event(unix_time(), level, self.name, text))

    def publish_stats(self) -> None:
        self._publish_table()

    def record_change(self) -> None:
        self._write_record()
        self._publish_table()

    def _publish_table(self) -> None:
        self.beacon.publish(self.table())

    def table(self) -> ProcessTable:
        views = tuple(child.view() for child in self.ring.children.values())
        return ProcessTable(
            unix_time(),
            self.ring.state(),
            views,
            self.ring.down_since,
            self.started_at,
            self._restarts,
        )

    def _write_record(self) -> None:
        """Writes down what the next supervisor must know, if this one dies."""
        record = RingRecord(
            boot_id=boot_id(),
            supervisor_starts=self._starts,
            started_at=self.started_at,
            restarts=self._restarts,
            is_up=self.ring.is_up,
            down_since=self.ring.down_since,
            stop_by=self._stop_by,
            meeting=str(self.ring.meeting),
            processes=tuple(child.record() for child in self.ring.children.values()),
        )
        was_recorded, self._is_recorded = self._is_recorded, True
        try:
            record.write(self.run)
        except OSError as error:
            self._is_recorded = False
            if was_recorded:
                lost = "a new supervisor would not know restarts and stopped processes"
                self.event("warning", f"cannot write {RECORD}: {error.strerror}; {lost}")

    def _answer(self, reply_to: str, message: Snapshot | SpanEnds) -> None:
        """Sends an answer to an inbox of this run directory; a name outside of it is refused."""
        name = os.path.basename(reply_to)
        if name != reply_to or not (self.run / f"{name}.inbox").exists():
            self.log.warning("no inbox %r to send a %s to", reply_to, type(message).__name__)
            return
        reply = Outbox(self.context, self.run, name)
        with contextlib.suppress(InboxFull):
            reply.send(message)
        reply.close()


if __name__ == "__main__":
    run_process(Supervisor, __doc__, child=False)
