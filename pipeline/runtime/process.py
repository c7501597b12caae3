"""`Process`: the base of all processes of a run: config, log, heartbeats, SIGTERM.

A process is a subclass with `startup`, `main` and `shutdown`, run by `run_process`. It does not
know what the others do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import zmq.asyncio

from ..config import Config
from ..errors import OperatorError
from ..handover.listener import keep_from_children
from ..handover.revival import Revival
from ..handover.ring_record import note_exit
from ..machine.descriptors import DescriptorReports, raise_descriptor_limit
from ..messages import (
    Event,
    Heartbeat,
    Message,
    ProcessState,
    RouterMessage,
    SocketStats,
    SpansOrder,
    SpansReply,
    StartSpans,
    StopSpans,
)
from ..private_files import keep_files_private
from .clock import unix_time, unix_time_ns
from .log_lines import LineFormatter
from .sockets import Beacon, Inbox, InboxFull, Outbox, inbox_path, make_context
from .spans import Recording, Spans, is_profiled, load_nvtx, recording_name, remove_old_recordings

BEAT_SECONDS = 0.5
OPERATOR_EXIT = 2
"""Exit status of a failure that only an operator can fix; the supervisor does not retry it."""

LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
LOG_TIME = "%Y-%m-%dT%H:%M:%S"
CONSOLE = "console-"
"""With this begin the names of consoles' inboxes."""
REFUSED_LOG = "process"
"""The logger for errors that end a process; the supervisor leaves its name out of the reason."""


class Process:
    """One process of the ring. `accepts` is the union of messages its inbox takes."""

    accepts: ClassVar[Any] = Message

    def __init__(self, config: Config, name: str) -> None:
        self.config = config
        self.name = name
        self.run: Path = config.run_path
        self.incarnation = unix_time_ns()
        self.clock: Callable[[], float] = unix_time
        """Clock of its telemetry; a replay sets the log's."""
        self.log = logging.getLogger(name)
        self.context: zmq.asyncio.Context = make_context()
        self.inbox: Inbox[Any] = Inbox(self.context, self.run, name, self.accepts)
        self.beacon = Beacon(self.context, self.run, name)
        self.state = ProcessState.STARTING
        self.reason = ""
        self.loop_lag_ms = 0.0
        self.spans = Spans()
        self._recorded: Recording | None = None
        self._outboxes: dict[str, Outbox] = {}
        self._router = 0
        """Incarnation of the newest router that was heard."""

    # -- to be overridden

    async def startup(self) -> None:
        """Makes the process ready; heartbeats show STARTING meanwhile."""

    async def main(self) -> None:
        """The loop. If it returns, the process exits with status 0."""

    async def shutdown(self) -> None:
        """Undoes `startup`. Called if `startup` returned, also after errors."""

    # -- for subclasses

    async def receive(self) -> Any:
        """The next message of the inbox. Orders about spans are handled here, and what a router
        sent that has a successor is dropped."""
        while True:
            message = await self.inbox.receive()
            if isinstance(message, SpansOrder):
                self.order_spans(message)
            elif not (isinstance(message, RouterMessage) and self._is_outdated(message.router)):
                return message

    def _is_outdated(self, router: int) -> bool:
        """Whether a message is of an earlier router than the newest that was heard. Incarnations
        are times of the pipeline's clock, so a later router has the larger one; the first message
        that a process hears may be the new router's, and the old one's last may follow."""
        if 0 < router < self._router:
            self.log.info("dropped a message of an earlier router")
            return True
        self._router = max(router, self._router)
        return False

    def outbox(self, name: str) -> Outbox:
        """The outbox to another process's inbox, opened once. Those of consoles that have ended
        are closed: a command line that loads an adapter every minute is a console each time."""
        if name not in self._outboxes:
            for other in [*self._outboxes]:
                if other.startswith(CONSOLE) and not inbox_path(self.run, other).exists():
                    self._outboxes.pop(other).close()
            self._outboxes[name] = Outbox(self.context, self.run, name)
        return self._outboxes[name]

    def set_state(self, state: ProcessState, reason: str = "") -> None:
        """Changes the state and publishes it at once."""
        self.state, self.reason = state, reason
        self.beat()

    def event(self, level: str, text: str) -> None:
        """Publishes and logs a change that matters to an operator."""
        self.beacon.publish(Event(self.clock(), level, self.name, text))
        self.log.log(getattr(logging, level.upper()), "%s", text)

    def socket_stats(self) -> tuple[SocketStats, ...]:
        return (self.inbox.stats(), *(outbox.stats() for outbox in self._outboxes.values()))

    def beat(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.beacon.publish(
            Heartbeat(
                name=self.name,
                pid=os.getpid(),
                incarnation=self.incarnation,
                at=self.clock(),
                state=self.state,
                reason=self.reason,
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                rss_bytes=_rss_bytes(),
                loop_lag_ms=round(self.loop_lag_ms, 2),
                hops=self.socket_stats(),
                is_recording=self.spans.recording is not None,
            )
        )

    def publish_stats(self) -> None:
        """Called with every heartbeat; a subclass publishes its own `…Stats` here."""

    def write_files_again(self) -> None:
        """Called after the run directory was removed and made again: a subclass writes there what
        must be found again."""

    def _mend_directory(self) -> None:
        """Opens the log again and binds the sockets again if the run directory was removed and the
        supervisor has made it again. Open connections have gone on."""
        if not self.inbox.is_lost() or not (self.run / "logs").is_dir():
            return
        with contextlib.suppress(OSError, zmq.ZMQError):  # removed again; the next beat tries again
            reopen_log(self.run / "logs" / f"{self.name}.log")  # first: what follows may be logged
            self.inbox.bind()
            self.beacon.bind()
            self.write_files_again()

    # -- spans

    def order_spans(self, order: SpansOrder) -> None:
        """Starts or stops recording, unless already done; replies with the present state."""
        error = ""
        match order:
            case StartSpans():
                path = self.run / "spans" / order.recording / f"{self.name}.jsonl"
                try:
                    self._record(path, nvtx=order.nvtx, layers=order.layers)
                except OSError as raised:
                    error = f"cannot write {path}: {raised.strerror}"
            case StopSpans():
                self._stop_recording()
        reply = self._spans_reply(order.order, error)
        with contextlib.suppress(InboxFull):  # the sender has exited
            self.outbox(order.reply_to).send(reply)

    def _record_from_the_start(self) -> None:
        """Starts recording with --profile. A process that starts again appends to its file."""
        config = self.config
        wanted = config.profile or config.profile_layers
        if wanted and self.name in config.process_names():
            born = (self.run / "config.json").stat().st_mtime
            path = self.run / "spans" / recording_name(born) / f"{self.name}.jsonl"
            try:
                self._record(path, layers=config.profile_layers)
            except OSError as error:  # the process serves without spans
                self.event("warning", f"no spans: cannot write {path}: {error.strerror}")

    def _record(self, path: Path, *, nvtx: bool = False, layers: bool = False) -> None:
        remove_old_recordings(self.run / "spans", path.parent.name)
        sink = load_nvtx() if nvtx or is_profiled() else None
        self._recorded = self.spans.start(path, sink, layers=layers)

    def _stop_recording(self) -> None:
        if recording := self.spans.stop():
            self._recorded = recording
            self.log.info("recorded %d spans in %s", recording.ended, recording.path)

    def _spans_reply(self, order: str, error: str) -> SpansReply:
        recording = self._recorded
        reply = SpansReply(order=order, name=self.name, is_on=self.spans.recording is not None)
        if recording is None:
            return msgspec.structs.replace(reply, error=error)
        return msgspec.structs.replace(
            reply,
            path=str(recording.path),
            spans=recording.ended,
            dropped=recording.dropped,
            layers=recording.layers,
            nvtx=recording.has_nvtx,
            error=error or recording.error,
        )

    # -- running

    async def _beat_forever(self) -> None:
        due = time.monotonic()
        while True:
            self.beat()
            self.publish_stats()
            self.spans.flush()
            self._mend_directory()
            due += BEAT_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.loop_lag_ms = max(0.0, time.monotonic() - due) * 1e3
            if self.loop_lag_ms > 1e4:  # the machine slept: do not catch up on missed heartbeats
                due = time.monotonic()

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(DescriptorReports().handle)
        life = asyncio.current_task()
        assert life is not None

        def stop() -> None:
            if not life.cancelling():  # a second signal must not interrupt the shutdown
                life.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(
            signal.SIGHUP, self.log.info, "SIGHUP is ignored: settings are read at the start alone"
        )
        self._record_from_the_start()
        beating = asyncio.create_task(self._beat_forever())
        try:
            await self.startup()
            try:
                await self.main()
            finally:
                self.set_state(ProcessState.STOPPING)
                await self.shutdown()
        except asyncio.CancelledError:
            self.log.info("asked to stop")
        except Exception as error:
            self.set_state(ProcessState.FAILED, str(error) or type(error).__name__)
            raise
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            self._stop_recording()

    def close(self) -> None:
        """Closes the sockets; frames already queued still leave within the linger time."""
        for outbox in self._outboxes.values():
            outbox.close()
        self.inbox.close()
        self.beacon.close()
        self.context.term()


def run_process(
    make: Callable[[Config, int], Process], description: str | None, child: bool = True
) -> None:
    """The `main` of every process: flags, config, log, the process itself, exit status.

    `make(config, rank)` creates it. A `child` outlives its supervisor, and starts the next one; by
    hand it dies with its parent. Exit 0: asked to stop. 1: a bug (a traceback is in the log). 2: an
    error that the operator can fix.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", required=True, help="the run directory (holds config.json)")
    parser.add_argument("--rank", type=int, default=0, help="tensor-parallel rank of a worker")
    given = parser.parse_args()
    keep_files_private()
    set_up_log()
    keep_from_children()
    run = Path(given.run)
    is_supervised = child and Revival.begin(run)
    if child and not is_supervised:
        die_with_parent()
    faulthandler.enable()  # a fatal signal leaves the stacks of all threads in the log
    faulthandler.register(signal.SIGUSR1)  # shows where a process hangs, without a debugger
    code = _exit_status(make, given.run, given.rank)
    if is_supervised:
        note_exit(run, code)
    logging.shutdown()
    # Not sys.exit: it waits for every thread, and one may still be loading weights.
    os._exit(code)


def _exit_status(make: Callable[[Config, int], Process], run: str, rank: int) -> int:
    log = logging.getLogger(REFUSED_LOG)
    try:
        raise_descriptor_limit()
        process = make(Config.load(run), rank)
        try:
            asyncio.run(process._live())
        finally:
            process.close()
    except OperatorError as error:
        log.error("%s", error)
        return OPERATOR_EXIT
    except Exception:
        log.exception("died")
        return 1
    return 0


def set_up_log() -> None:
    """Log lines go to stderr, which the supervisor points at `RUN/logs/NAME.log`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(LOG_FORMAT, LOG_TIME))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.setLogRecordFactory(make_record)
    logging.raiseExceptions = False  # a full disk must not take the process down
    logging.captureWarnings(True)


def make_record(*values: Any, **named: Any) -> logging.LogRecord:
    """A log record with the pipeline's time."""
    record = logging.LogRecord(*values, **named)
    record.created = unix_time()
    record.msecs = int(record.created % 1 * 1000)
    return record


def die_with_parent() -> None:
    """Asks the kernel to end this process when its parent dies. No effect if prctl is missing."""
    parent = os.getppid()
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # the parent died before the call
        sys.exit(1)


def reopen_log(path: Path) -> None:
    """Has standard output and error written to `path` if they went to a file that was removed."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no /proc: only the largest size so far is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
