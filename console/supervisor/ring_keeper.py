"""`RingKeeper`: starts the processes of a ring, restarts those that fall, and stops them. Receives
no message; what changes it reports to the process that it runs in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import Protocol

from ...pipeline.config import MEETING, Config
from ...pipeline.handover.listener import LISTENER, refuse_connections
from ...pipeline.handover.ring_record import start_ticks, take_exit
from ...pipeline.messages import Heartbeat, ProcessState
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.process import OPERATOR_EXIT
from ..state.signals import how
from .child import FALLS_ALLOWED, HELD, ROUTER, SERVER, Child, environment
from .fall_reasons import FallReasons
from .ring import Ring

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 4.0)
"""Pause before a restart, by the number of falls in the last minute."""
FALL_WINDOW_SECONDS = 60.0
GRACE_SECONDS = 5.0
SILENCE_SECONDS = 30.0
"""A process without a heartbeat for this long is considered hung: it is killed and restarted."""


class SupervisingProcess(Protocol):
    """What the parts of the supervisor use of its process."""

    log: logging.Logger

    def event(self, level: str, text: str) -> None:
        """Publishes and logs a change that matters to an operator."""

    def publish_log(self) -> None:
        """Reads and publishes what the processes have logged since the last call."""

    def record_change(self) -> None:
        """Writes down and publishes that a child has another state, or has recovered."""


class RingKeeper:
    """Keeps the children of a ring alive: a task for each, its minder, starts it, waits for its
    exit, and starts it again."""

    def __init__(
        self,
        config: Config,
        ring: Ring,
        listener: socket.socket,
        reasons: FallReasons,
        supervisor: SupervisingProcess,
    ) -> None:
        self._config = config
        self._run = config.run_path
        self._ring = ring
        self._listener = listener
        self._reasons = reasons
        self._supervisor = supervisor
        self._minders: dict[str, asyncio.Task[None]] = {}
        self._is_fetched = asyncio.Event()
        """Set once RUN/model is there, which the processes of the ring read."""

    # -- the whole ring

    async def start_all(self) -> None:
        """Fetches the model's files, then starts all processes of the ring; each waits for the ones
        it needs."""
        if self._ring.fetch.process is None:
            self.mind(self._ring.fetch)
        await self._minders["fetch"]
        if self._ring.fetch.state is ProcessState.DONE:
            self._start_members()

    def mind_adopted(self) -> None:
        """Minds the processes that were adopted."""
        if any(child.process for child in self._ring.members):
            self._ring.fetch.become(ProcessState.DONE)  # also if nothing is recorded
        for child in self._ring.children.values():
            if child.process is not None:
                self.mind(child)

    async def complete_adopted(self) -> None:
        """Starts what is missing in a ring that was adopted, and stops what was to be stopped."""
        ending = (child for child in self._ring.members if child.held or child.restart_wanted)
        await asyncio.gather(self._start_missing(), *map(self.stop, ending))

    async def _start_missing(self) -> None:
        is_linked = (self._run / "model").exists()
        if self._ring.fetch.state is ProcessState.DONE and is_linked:
            self._start_members()
        elif self._ring.fetch.state is not ProcessState.FAILED:
            await self.start_all()

    def _start_members(self) -> None:
        self._is_fetched.set()
        for child in self._ring.members:
            is_given_up = child.held or child.state is ProcessState.FAILED
            minder = self._minders.get(child.name)
            is_minded = minder is not None and not minder.done()  # adopted dead: it restarts it
            if child.process is None and not is_given_up and not is_minded:
                self.mind(child)

    async def stop_all(self) -> None:
        """Stops all children in reverse start order, so that none sends to a stopped one."""
        for child in (self._ring.fetch, *reversed(self._ring.members)):
            await self.stop(child)
        if self._minders:  # a minder notes its child's exit, or still waits to restart it
            await asyncio.wait(self._minders.values(), timeout=0.2)
        for minder in self._minders.values():
            minder.cancel()

    # -- a child: starts, exits, falls

    def mind(self, child: Child) -> None:
        """Starts the minder of a child that runs or is to run."""
        self._minders[child.name] = asyncio.create_task(self._keep_alive(child))

    def cancel_restart(self, child: Child) -> None:
        """Ends the minder of a child that does not run: it may be waiting to restart it."""
        if minder := self._minders.get(child.name):
            minder.cancel()
        child.retry_at = None

    async def _keep_alive(self, child: Child) -> None:
        """Starts the child, waits for its exit, and restarts it at once, after a pause, or not at
        all."""
        while not self._ring.is_stopping:
            if child.process is None:  # else it was adopted
                if child is not self._ring.fetch:
                    await self._is_fetched.wait()
                await self._start(child)
            assert child.process is not None
            code = await child.process.wait()
            self._supervisor.publish_log()
            child.exit_code = code
            take_exit(self._run, child.process.pid)
            child.process = None
            if self._ring.is_stopping:
                self.refuse_clients(child)
                self.become(child, ProcessState.STOPPED, how(code))
                return
            if child.held:
                child.restart_wanted = False
                self.refuse_clients(child)
                self.become(child, ProcessState.STOPPED, HELD)
                return
            if child.one_shot and code == 0:
                self.become(child, ProcessState.DONE)
                return
            if child.restart_wanted:
                child.restart_wanted = False
                child.falls.clear()
                self.become(child, ProcessState.STOPPED, child.restart_reason)
                child.restarts += 1
                continue
            if not await self._after_a_fall(child, code):
                return

    async def _start(self, child: Child) -> None:
        child.retry_at = None
        path, meeting = self._run / "logs" / f"{child.name}.log", self._ring.meeting
        with path.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._config)
                | {MEETING: str(meeting), LISTENER: str(self._listener.fileno())},
                pass_fds=(self._listener.fileno(),),
            )
        child.start_ticks = start_ticks(child.process.pid)
        child.beat_at, child.started_at = time.monotonic(), unix_time()
        self.become(child, ProcessState.STARTING, "")
        self._supervisor.log.info("started %s, pid %d", child.name, child.pid)
        if child.is_rank and meeting != self._ring.meeting:
            # Another rank fell while this one was started: it would wait for dead ranks.
            child.restart_wanted, child.restart_reason = True, "restarting with the other ranks"
            child.process.kill()

    async def stop(self, child: Child) -> None:
        """Sends SIGTERM, and SIGKILL after `GRACE_SECONDS`. Returns when the child has exited."""
        process = child.process
        if process is None:
            return
        self.become(child, ProcessState.STOPPING)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            self._supervisor.event(
                "warning", f"{child.name} ignored SIGTERM for {GRACE_SECONDS:.0f} s: killed"
            )
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _after_a_fall(self, child: Child, code: int | None) -> bool:
        """Returns whether to start the child again, after a pause that grows with its falls."""
        reason = self._reasons.explain(child, code)
        now = time.monotonic()
        child.fall(now, reason)
        self.kill_other_ranks(child)
        if code == OPERATOR_EXIT:
            self.refuse_clients(child)
            self.become(child, ProcessState.FAILED, reason)
            self._supervisor.event("error", f"{child.name} cannot run: {reason}")
            return False
        recent = sum(1 for fall in child.falls if now - fall < FALL_WINDOW_SECONDS)
        if recent >= FALLS_ALLOWED:
            self.refuse_clients(child)
            self.become(child, ProcessState.FAILED, f"died {recent} times in a minute: {reason}")
            self._supervisor.event(
                "error", f"{child.name} not restarted after {recent} deaths: {reason}"
            )
            return False
        delay = BACKOFF_SECONDS[recent - 1]
        child.retry_at = unix_time() + delay
        self.become(child, ProcessState.BACKOFF, reason)
        when = f"in {delay:.0f} s" if delay else "at once"
        self._supervisor.event("error", f"{child.name} died ({reason}); restarting {when}")
        await asyncio.sleep(delay)
        child.restarts += 1
        return True

    def kill_other_ranks(self, child: Child) -> None:
        """Kills the other ranks of a worker that fell or is restarted. All then use a fresh
        rendezvous file."""
        if not child.is_rank:
            return
        self._ring.renew_meeting()
        for other in self._ring.group(child):
            if other is not child and other.process:
                other.restart_wanted = True
                other.restart_reason = f"restarting with {child.name}"
                with contextlib.suppress(ProcessLookupError):  # it exited at the same time
                    other.process.kill()

    def become(self, child: Child, state: ProcessState, reason: str = "") -> None:
        """Changes the state of a child, and what follows from it for the ring."""
        if child.become(state, reason):
            self._ring.note_recovery()
            self._supervisor.record_change()

    def refuse_clients(self, child: Child) -> None:
        """Has connections refused if `child` is the server: it has ended, and stays away."""
        if child.name == SERVER:
            refuse_connections(self._listener)

    # -- heartbeats

    def note_beat(self, beat: Heartbeat) -> None:
        """Takes over the state that a child says it has."""
        child = self._ring.children[beat.name]
        if beat.pid != child.pid:
            return  # from a process that has ended
        child.beat_at = time.monotonic()
        if child.state is ProcessState.STOPPING or child.one_shot:
            return
        was = child.state
        self.become(child, beat.state, beat.reason)
        if child.name == ROUTER and self._ring.note_recovery():
            self._supervisor.record_change()
        if beat.state is ProcessState.READY and was is not ProcessState.READY:
            self._supervisor.event("info", f"{child.name} is ready")

    async def kill_the_silent(self) -> None:
        """Kills what hangs, for ever; it is then restarted like any other."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            slept, looked_at = now - looked_at > 5.0, now
            for child in self._ring.children.values():
                if slept:  # the machine was suspended, and no heartbeat could be sent
                    child.beat_at = now
                elif child.process and now - child.beat_at > SILENCE_SECONDS:
                    silence = f"sent no heartbeat for {SILENCE_SECONDS:.0f} s"
                    self._supervisor.event("error", f"{child.name} {silence}: killed")
                    child.process.kill()
