"""`TelemetryClient`: the console's sockets. Messages go to the `Store`, orders to their inbox.

Knows addresses and when to ask again, not the meaning of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ...pipeline.config import Config
from ...pipeline.messages import (
    Abort,
    AdapterReply,
    AskSnapshot,
    AskSpanEnds,
    AskText,
    Drain,
    Message,
    Order,
    PlanAdapters,
    ProcessOrder,
    RequestText,
    RestartProcess,
    Resume,
    SignalProcess,
    Snapshot,
    SpanEnds,
    SpansOrder,
    StartProcess,
    StartSpans,
    StopPipeline,
    StopProcess,
    StopSpans,
    ToConsole,
)
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.latest_telemetry import STEPS_KEPT
from ...pipeline.runtime.sockets import Inbox, InboxFull, Outbox, Watch, make_context
from ..commands.read_only import READ_ONLY
from ..state.board import SUPERVISOR
from ..state.playback import PlaybackControls
from ..state.store import HISTORY_S, Store
from .pipeline_clock import PipelineClock

PipelineOrder: TypeAlias = Order | ProcessOrder | SpansOrder | Abort | Drain | Resume | StopPipeline
"""Any order to a pipeline."""
ASK_SECONDS = 1.0
SILENCE_SECONDS = 3.0
"""After this long without the supervisor, a new snapshot is requested: messages may be lost."""
DRAIN_SECONDS = 10.0
"""Time for running requests to finish when the console stops the pipeline."""
ABORTED = "aborted from the console"
"""The reason sent to the client of a request that the console aborts."""
BUSY_SECONDS = 0.05
IDLE_SECONDS = 0.5
"""Polling intervals while the data on screen changes and while it does not. Polling instead of
waking at each message took an idle console from 0.9 to 0.6 % of a core. Processes beat twice a
second, so polls between beats bring nothing."""


class TelemetryClient:
    """Subscribes to every process of a run, requests snapshots, sends orders."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Callable[[], float] = unix_time,
        on_news: Callable[[], None] = lambda: None,
        on_reply: Callable[[AdapterReply], None] = lambda _: None,
        inbox_name: str = "",
        is_read_only: bool = False,
    ) -> None:
        """`on_news` is called after messages were stored, `on_reply` with each reply to an order
        about adapters. If `is_read_only`, no order is sent except a plan."""
        self._run = config.run_path
        self._names = (SUPERVISOR, "fetch", *config.process_names())
        self._store = store
        self._clock = clock
        self._on_news = on_news
        self._on_reply = on_reply
        self._is_read_only = is_read_only
        self.inbox_name = inbox_name or f"console-{os.getpid()}"
        """This console's inbox, which gets the answers."""
        self._context = make_context()
        self._watch: Watch | None = None
        self._inbox: Inbox[ToConsole] | None = None
        self._outboxes: dict[str, Outbox] = {}
        self.controls: PlaybackControls | None = None
        """Set if it plays a recording."""
        self._answered: int | None = None
        """Incarnation of the supervisor that sent the current snapshot."""
        self._looked_at = self._clock()
        """When the snapshot was last looked after."""

    @property
    def refused(self) -> int:
        """Number of frames that were not telemetry."""
        return self._watch.refused if self._watch else 0

    async def run(self) -> None:
        """Runs until cancelled; the pipeline may stop and start meanwhile. One loop reads telemetry
        and keeps the snapshot: each of its own wakes an idle process more often."""
        self._watch = Watch(self._context, self._run, self._names)
        due = 0.0
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    if time.monotonic() >= due:
                        due = time.monotonic() + ASK_SECONDS
                        self._keep_snapshot(tasks)
                    is_moving = self._drain(self._watch)
                    await asyncio.sleep(BUSY_SECONDS if is_moving else IDLE_SECONDS)
        finally:
            self.close()

    def send_order(self, order: PipelineOrder) -> None:
        """Sends an order to the process that carries it out; one about spans to every process of
        the ring. `on_reply` gets the reply to an order whose `reply_to` is `inbox_name`.

        Raises `InboxFull` if that process does not listen, or if this console is read-only and the
        order is not a plan."""
        if self._is_read_only and not isinstance(order, PlanAdapters):
            raise InboxFull(READ_ONLY)
        match order:
            case StartSpans() | StopSpans():
                for name in self._names:
                    if name not in (SUPERVISOR, "fetch"):
                        self._send(name, order)
            case RestartProcess() | StopProcess() | StartProcess() | SignalProcess():
                self._send(SUPERVISOR, order)
            case StopPipeline():
                self._send(SUPERVISOR, order)
            case _:
                self._send("router", order)

    def ask_text(self, request_id: str, offset: int) -> None:
        """Asks for a request's text from character `offset` on; the answer goes to the store."""
        question = AskText(
            request_id=request_id,
            reply_to=self.inbox_name,
            offset=offset,
            with_prompt=not offset,
        )
        with contextlib.suppress(InboxFull):  # the caller asks again soon
            self._send("server", question)

    def ask_spans(self, stamp: str) -> None:
        """Asks for the newest spans, unless they are those of `stamp`; the answer goes to the
        store."""
        with contextlib.suppress(InboxFull):  # the caller asks again soon
            self._send(SUPERVISOR, AskSpanEnds(self.inbox_name, stamp))

    def forget_orders(self) -> None:
        """Drops orders that the router has not received yet, so that it does not get them later."""
        if outbox := self._outboxes.pop("router", None):
            outbox.close()

    def close(self) -> None:
        for outbox in self._outboxes.values():
            outbox.close()
        self._outboxes.clear()
        if self._inbox is not None:
            self._inbox.close()
            self._inbox = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._context.term()

    def _send(self, name: str, message: Message) -> None:
        if name not in self._outboxes:
            self._outboxes[name] = Outbox(self._context, self._run, name)
        self._outboxes[name].send(message)

    def _drain(self, watch: Watch) -> bool:
        """Stores all telemetry that has arrived; returns whether it changes the screen."""
        moves, now = self._store.moves, self._clock()
        for message in watch.drain():
            self._store.fold_message(message, now)
        self._on_news()
        return self._store.moves != moves

    def _keep_snapshot(self, tasks: asyncio.TaskGroup) -> None:
        """Asks for a snapshot until it arrives; again after a restart or a silence of the
        supervisor."""
        now = self._clock()
        if now - self._looked_at > SILENCE_SECONDS:
            self._answered = None  # this machine slept: messages were lost
        self._looked_at = now
        if self._inbox is None and self._run.is_dir():
            remove_dead_inboxes(self._run)
            self._inbox = Inbox(self._context, self._run, self.inbox_name, ToConsole)
            tasks.create_task(self._receive_answers(self._inbox))
        elif self._inbox is not None and self._inbox.is_lost() and self._run.is_dir():
            self._inbox.bind()  # the run directory was removed, and made again
        if self._inbox is not None and self._must_ask():
            self._ask()

    async def _receive_answers(self, inbox: Inbox[ToConsole]) -> None:
        while True:
            answer = await inbox.receive()
            if self._watch is not None:
                self._drain(self._watch)  # what was published before the answer
            match answer:
                case AdapterReply() as reply:
                    self._on_reply(reply)
                case RequestText() as text:
                    self._store.fold_text(text)
                case SpanEnds() as ends:
                    self._store.fold_spans(ends)
                case Snapshot() as snapshot:
                    if isinstance(self._clock, PipelineClock):
                        self._clock.hear(snapshot.at)
                    self._store.fold_snapshot(snapshot, self._clock())
                    beats = [beat for beat in snapshot.beats if beat.name == SUPERVISOR]
                    known = self._store.supervisor
                    self._answered = beats[0].incarnation if beats else known[0] if known else None
            self._on_news()

    def _must_ask(self) -> bool:
        supervisor = self._store.supervisor
        if supervisor is None:
            return (self._run / f"{SUPERVISOR}.inbox").exists()
        incarnation, heard_at = supervisor
        if self._clock() - heard_at > SILENCE_SECONDS:
            self._answered = None
            return False
        return self._answered != incarnation

    def _ask(self) -> None:
        """Asks through a new socket each time: an old one may hold undelivered questions, and a
        starting supervisor would answer all of them."""
        if outbox := self._outboxes.pop(SUPERVISOR, None):
            outbox.close()
        ask = AskSnapshot(self.inbox_name, history_s=HISTORY_S, steps=STEPS_KEPT)
        self._send(SUPERVISOR, ask)


def remove_dead_inboxes(run: Path) -> None:
    """Removes inboxes that refuse a connection: those of killed consoles."""
    for path in run.glob("console-*.inbox"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(0.2)
            try:
                caller.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # busy, or another user's
