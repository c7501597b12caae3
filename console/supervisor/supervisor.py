"""Process `supervisor`: starts the ring, restarts processes that fall, and outlives the console.

It leads its own session, so that a lost SSH connection kills nothing. Its children outlive it: one
of them starts the next supervisor, which adopts them. It keeps the telemetry for consoles that
attach later. It imports neither Textual nor torch. By hand:
`python -P -m loraconsole.console.supervisor.supervisor --run DIR`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from ...pipeline.config import MEETING, Config
from ...pipeline.handover.listener import (
    LISTENER,
    bind_listener,
    inherited_listener,
    refuse_connections,
)
from ...pipeline.handover.revival import ADOPTS
from ...pipeline.handover.ring_record import RECORD, RingRecord, boot_id, start_ticks, take_exit
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
    RestartProcess,
    SignalProcess,
    Snapshot,
    SpanEnds,
    StartProcess,
    StopPipeline,
    StopProcess,
    ToSupervisor,
)
from ...pipeline.runtime.clock import ClockWatch, unix_time
from ...pipeline.runtime.process import OPERATOR_EXIT, Process, run_process
from ...pipeline.runtime.sockets import InboxFull, Outbox, Watch
from ..state.signals import SIGNALS, how
from .adoption import Adoption, adopt_ring, remove_left_over
from .child import FALLS_ALLOWED, HELD, ROUTER, SERVER, UP, Child, environment
from .directory_guard import UNMADE, DirectoryGuard
from .fall_reasons import FallReasons
from .lock import inherited_or_taken
from .log_tail import LogTail
from .metrics_history import MetricsHistory
from .ring import Ring
from .snapshot_cache import SnapshotCache
from .span_files import span_ends

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 4.0)
"""Pause before a restart, by the number of falls in the last minute."""
FALL_WINDOW_SECONDS = 60.0
GRACE_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""A process without a heartbeat for this long is considered hung: it is killed and restarted."""
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
        self._fall_reasons = FallReasons(self.snapshots.latest, self.log_tail)
        self._minders: dict[str, asyncio.Task[None]] = {}
        self._stop_asked = asyncio.Event()
        self._is_fetched = asyncio.Event()
        """Set once RUN/model is there, which the processes of the ring read."""
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
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, self.log.info, "SIGHUP is ignored: settings are read at the start alone"
        )
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
                    self._kill_the_silent(),
                    self._grow_old(),
                    self._guard_directory(),
                )
            ]
            starting = tasks.create_task(self._begin())
            await self._stop_asked.wait()
            self.ring.is_stopping = True
            starting.cancel()
            await self._drain()
            await self._stop_all()
            for helper in helpers:
                helper.cancel()

    async def shutdown(self) -> None:
        self.ring.is_stopping = True
        self._ask_to_stop(0.0)
        await self._stop_all()
        self._publish_log()
        self._watch.close()
        self.snapshots.history.close()
        if self._directory.is_well():
            remove_left_over(self.run, but=self.name)
        self._listener.close()
        self._directory.release()

    async def _begin(self) -> None:
        """Starts the ring, or continues with the one that was adopted."""
        if self._adoption is None:
            await self._start_all()
            return
        if not self._adoption.alive and "fetch" not in self._adoption.dead:
            self.log.warning("no process of the ring is left to adopt")
            self._stop_asked.set()
            return
        self.event("warning", str(self._adoption))
        if any(child.process for child in self.ring.members):
            self.ring.fetch.become(ProcessState.DONE)  # also if nothing is recorded
        for child in self.ring.children.values():
            if child.process is not None:
                self._mind(child)
        self._write_record()
        ending = (child for child in self.ring.members if child.held or child.restart_wanted)
        await asyncio.gather(self._complete(), *map(self._stop, ending))

    async def _complete(self) -> None:
        """Starts what is missing in a ring that was adopted."""
        is_linked = (self.run / "model").exists()
        if self.ring.fetch.state is ProcessState.DONE and is_linked:
            self._start_ring()
        elif self.ring.fetch.state is not ProcessState.FAILED:
            await self._start_all()

    async def _start_all(self) -> None:
        """Fetches the model's files, then starts all processes of the ring; each waits for the ones
        it needs."""
        if self.ring.fetch.process is None:
            self._mind(self.ring.fetch)
        await self._minders["fetch"]
        if self.ring.fetch.state is ProcessState.DONE:
            self._start_ring()

    def _start_ring(self) -> None:
        self._is_fetched.set()
        for child in self.ring.members:
            is_given_up = child.held or child.state is ProcessState.FAILED
            minder = self._minders.get(child.name)
            is_minded = minder is not None and not minder.done()  # adopted dead: it restarts it
            if child.process is None and not is_given_up and not is_minded:
                self._mind(child)

    async def _grow_old(self) -> None:
        await asyncio.sleep(YOUNG_SECONDS)
        if self._starts:
            self._starts = ()
            self._write_record()
        await asyncio.Event().wait()  # until cancelled with the others

    def _mind(self, child: Child) -> None:
        self._minders[child.name] = asyncio.create_task(self._keep_alive(child))

    # -- starting and restarting a child

    async def _keep_alive(self, child: Child) -> None:
        """Starts the child, waits for its exit, and restarts it at once, after a pause, or not at
        all."""
        while not self.ring.is_stopping:
            if child.process is None:  # else it was adopted
                if child is not self.ring.fetch:
                    await self._is_fetched.wait()
                await self._start(child)
            assert child.process is not None
            code = await child.process.wait()
            self._publish_log()
            child.exit_code = code
            take_exit(self.run, child.process.pid)
            child.process = None
            if self.ring.is_stopping:
                self._refuse_clients(child)
                self._become(child, ProcessState.STOPPED, how(code))
                return
            if child.held:
                child.restart_wanted = False
                self._refuse_clients(child)
                self._become(child, ProcessState.STOPPED, HELD)
                return
            if child.one_shot and code == 0:
                self._become(child, ProcessState.DONE)
                return
            if child.restart_wanted:
                child.restart_wanted = False
                child.falls.clear()
                self._become(child, ProcessState.STOPPED, child.restart_reason)
                child.restarts += 1
                continue
            if not await self._after_a_fall(child, code):
                return

    async def _start(self, child: Child) -> None:
        child.retry_at = None
        path, meeting = self.run / "logs" / f"{child.name}.log", self.ring.meeting
        with path.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.config)
                | {MEETING: str(meeting), LISTENER: str(self._listener.fileno())},
                pass_fds=(self._listener.fileno(),),
            )
        child.start_ticks = start_ticks(child.process.pid)
        child.beat_at, child.started_at = time.monotonic(), unix_time()
        self._become(child, ProcessState.STARTING, "")
        self.log.info("started %s, pid %d", child.name, child.pid)
        if child.is_rank and meeting != self.ring.meeting:
            # Another rank fell while this one was started: it would wait for dead ranks.
            child.restart_wanted, child.restart_reason = True, "restarting with the other ranks"
            child.process.kill()

    async def _after_a_fall(self, child: Child, code: int | None) -> bool:
        """Returns whether to start the child again, after a pause that grows with its falls."""
        reason = self._fall_reasons.explain(child, code)
        now = time.monotonic()
        child.fall(now, reason)
        self._kill_other_ranks(child)
        if code == OPERATOR_EXIT:
            self._refuse_clients(child)
            self._become(child, ProcessState.FAILED, reason)
            self.event("error", f"{child.name} cannot run: {reason}")
            return False
        recent = sum(1 for fall in child.falls if now - fall < FALL_WINDOW_SECONDS)
        if recent >= FALLS_ALLOWED:
            self._refuse_clients(child)
            self._become(child, ProcessState.FAILED, f"died {recent} times in a minute: {reason}")
            self.event("error", f"{child.name} not restarted after {recent} deaths: {reason}")
            return False
        delay = BACKOFF_SECONDS[recent - 1]
        child.retry_at = unix_time() + delay
        self._become(child, ProcessState.BACKOFF, reason)
        when = f"in {delay:.0f} s" if delay else "at once"
        self.event("error", f"{child.name} died ({reason}); restarting {when}")
        await asyncio.sleep(delay)
        child.restarts += 1
        return True

    def _kill_other_ranks(self, child: Child) -> None:
        """Kills the other ranks of a worker that fell or is restarted. All then use a fresh
        rendezvous file."""
        if not child.is_rank:
            return
        self.ring.renew_meeting()
        for other in self.ring.group(child):
            if other is not child and other.process:
                other.restart_wanted = True
                other.restart_reason = f"restarting with {child.name}"
                with contextlib.suppress(ProcessLookupError):  # it exited at the same time
                    other.process.kill()

    def _become(self, child: Child, state: ProcessState, reason: str = "") -> None:
        if child.become(state, reason):
            self.ring.note_recovery()
            self._write_record()
            self._publish_table()

    def _refuse_clients(self, child: Child) -> None:
        """Has connections refused if `child` is the server: it has ended, and stays away."""
        if child.name == SERVER:
            refuse_connections(self._listener)

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

    async def _stop_all(self) -> None:
        """Stops all children in reverse start order, so that none sends to a stopped one."""
        for child in (self.ring.fetch, *reversed(self.ring.members)):
            await self._stop(child)
        if self._minders:  # a minder notes its child's exit, or still waits to restart it
            await asyncio.wait(self._minders.values(), timeout=0.2)
        for minder in self._minders.values():
            minder.cancel()

    async def _stop(self, child: Child) -> None:
        """Sends SIGTERM, and SIGKILL after `GRACE_SECONDS`. Returns when the child has exited."""
        process = child.process
        if process is None:
            return
        self._become(child, ProcessState.STOPPING)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            self.event("warning", f"{child.name} ignored SIGTERM for {GRACE_SECONDS:.0f} s: killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # -- orders about one child

    async def _obey(self, order: ProcessOrder) -> None:
        child = self.ring.children.get(order.name)
        match order:
            case _ if child is None:
                self.event("warning", f"no process {order.name!r}")
            case RestartProcess(hard=hard):
                self.event("info", f"restarting {child.name} on request")
                await self._restart(child, hard)
            case _ if child.one_shot:
                self.event(
                    "warning", f"{child.name} exits by itself: it cannot be stopped or restarted"
                )
            case StopProcess():
                await self._hold(child)
            case StartProcess():
                self.event("info", f"starting {child.name} on request")
                self._release(child)
            case SignalProcess(signal=name):
                self._signal(child, name)
        self._write_record()

    async def _restart(self, child: Child, hard: bool) -> None:
        if child.one_shot:
            if child.process is None:
                await self._start_all()
        elif child.process is None:
            self._release(child)
        else:
            self._release(child)
            child.restart_wanted, child.restart_reason = True, "restarting on request"
            self._kill_other_ranks(child)
            if hard:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
            else:
                await self._stop(child)

    async def _hold(self, child: Child) -> None:
        """Stops the child and its group, and keeps them stopped."""
        group = self.ring.group(child)
        for each in group:
            each.held = True
        if child.is_rank:
            self.ring.renew_meeting()
        await asyncio.gather(*(self._put_down(each) for each in group))
        self.event("warning", f"{' and '.join(each.name for each in group)} {HELD}")

    async def _put_down(self, child: Child) -> None:
        if child.process is not None:
            await self._stop(child)
            return
        if minder := self._minders.get(child.name):  # it may be waiting to restart the child
            minder.cancel()
        child.retry_at = None
        self._refuse_clients(child)
        self._become(child, ProcessState.STOPPED, HELD)

    def _release(self, child: Child) -> None:
        """Undoes `_hold`; also starts a failed child, and one that waits for its restart, at
        once."""
        for each in self.ring.group(child):
            each.held = False
            if each.process is not None:
                if each.state is ProcessState.STOPPING and not each.restart_wanted:
                    each.restart_wanted, each.restart_reason = True, "starting on request"
                continue
            if minder := self._minders.get(each.name):
                minder.cancel()
            each.falls.clear()
            each.retry_at = None
            self._become(each, ProcessState.PENDING)
            if self.ring.fetch.state is ProcessState.DONE:  # otherwise it starts after the fetch
                each.restarts += 1
                self._mind(each)

    def _signal(self, child: Child, name: str) -> None:
        if child.process is None or name not in SIGNALS:
            what = "does not run" if name in SIGNALS else f"is not sent {name!r}"
            self.event("warning", f"{child.name} {what}")
            return
        self.event("info", f"sending SIG{name} to {child.name} on request")
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(signal.Signals[f"SIG{name}"])

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

    async def _watch_forever(self) -> None:
        while True:
            for message in await self._watch.receive():
                self.snapshots.fold_message(message)
                if isinstance(message, Heartbeat):
                    self._note_beat(message)

    def _note_beat(self, beat: Heartbeat) -> None:
        child = self.ring.children[beat.name]
        if beat.pid != child.pid:
            return  # from a process that has ended
        child.beat_at = time.monotonic()
        if child.state is ProcessState.STOPPING or child.one_shot:
            return
        was = child.state
        self._become(child, beat.state, beat.reason)
        if child.name == ROUTER and self.ring.note_recovery():
            self._write_record()
            self._publish_table()
        if beat.state is ProcessState.READY and was is not ProcessState.READY:
            self.event("info", f"{child.name} is ready")

    async def _kill_the_silent(self) -> None:
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            slept, looked_at = now - looked_at > 5.0, now
            for child in self.ring.children.values():
                if slept:  # the machine was suspended, and no heartbeat could be sent
                    child.beat_at = now
                elif child.process and now - child.beat_at > SILENCE_SECONDS:
                    silence = f"sent no heartbeat for {SILENCE_SECONDS:.0f} s"
                    self.event("error", f"{child.name} {silence}: killed")
                    child.process.kill()

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
            self._publish_log()
            await asyncio.sleep(LOG_SECONDS)

    async def _history_forever(self) -> None:
        due, clock = time.monotonic(), ClockWatch()
        while True:
            due = max(due + 1.0, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self.snapshots.history.tick(unix_time())
            if text := clock.look():
                self.event("warning", text)

    def _publish_log(self) -> None:
        fresh = self.log_tail.read_new()
        for start in range(0, len(fresh), LOG_LINES_A_FRAME):
            self.beacon.publish(LogLines(tuple(fresh[start : start + LOG_LINES_A_FRAME])))

    # -- what goes out

    def event(self, level: str, text: str) -> None:
        super().event(level, text)
        self.snapshots.history.take(Event(unix_time(), level, self.name, text))

    def publish_stats(self) -> None:
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
