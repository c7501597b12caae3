"""`Telemetry`: the console's sockets. What comes goes to the `Store`; orders go to their inbox.

Knows addresses and when to ask again, not what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

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
    Resume,
    Snapshot,
    SpanEnds,
    SpansOrder,
    StopPipeline,
    ToConsole,
)
from ...pipeline.runtime.sockets import Inbox, InboxFull, Outbox, Watch, make_context
from ..state.alerts import SYNC_STEPS
from ..state.board import SUPERVISOR
from ..state.store import HISTORY_S, Store
from .pending_orders import READ_ONLY

ASK_SECONDS = 1.0
SILENCE_SECONDS = 3.0
"""After so long without the supervisor, what it says may have changed unheard: ask anew."""
DRAIN_SECONDS = 10.0
BUSY_SECONDS = 0.05
IDLE_SECONDS = 0.4
"""Between two looks at what came, while the picture moves and while it does not: no message wakes
us, which took an idle console from 0.9 to 0.6 % of a core."""


class Telemetry:
    """Subscribes to every process of a run, asks for what was missed, carries orders."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Callable[[], float] = time.time,
        on_news: Callable[[], None] = lambda: None,
        on_reply: Callable[[AdapterReply], None] = lambda _: None,
        inbox_name: str = "",
        is_read_only: bool = False,
    ) -> None:
        """`on_news` is called after every entry into the books, `on_reply` with each answer to an
        order about adapters. Where it `is_read_only` no order goes out."""
        self._run = config.run_path
        self._names = (SUPERVISOR, "fetch", *config.process_names())
        self._ledger = store
        self._clock = clock
        self._on_news = on_news
        self._on_reply = on_reply
        self._is_read_only = is_read_only
        self.inbox_name = inbox_name or f"console-{os.getpid()}"
        """Where answers are sent."""
        self._context = make_context()
        self._watch: Watch | None = None
        self._inbox: Inbox[ToConsole] | None = None
        self._outboxes: dict[str, Outbox] = {}
        self._answered: int | None = None
        """Incarnation of the supervisor whose snapshot we hold."""

    @property
    def refused(self) -> int:
        """Frames that were no telemetry."""
        return self._watch.refused if self._watch else 0

    async def run(self) -> None:
        """Works until cancelled; the pipeline may come and go meanwhile."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._keep_snapshot())
        finally:
            self.close()

    def order_process(self, order: ProcessOrder) -> None:
        """Raises `InboxFull` where the supervisor does not listen, or nothing may be changed from
        here; so do all orders."""
        self._order(SUPERVISOR, order)

    def stop(self, drain_s: float = DRAIN_SECONDS) -> None:
        self._order(SUPERVISOR, StopPipeline(drain_s))

    def abort(self, request_id: str) -> None:
        self._order("router", Abort(request_id, "aborted from the console"))

    def tell_router(self, order: Drain | Resume) -> None:
        self._order("router", order)

    def tell_ring(self, order: SpansOrder) -> None:
        """To every process that serves."""
        for name in self._names:
            if name not in (SUPERVISOR, "fetch"):
                self._order(name, order)

    def order(self, order: Order) -> None:
        """Its `reply_to` must be `inbox_name`; the answer comes to `on_reply`. A plan only asks."""
        (self._send if isinstance(order, PlanAdapters) else self._order)("router", order)

    def ask_text(self, request_id: str, offset: int) -> None:
        """What a request says, from a character on; the answer goes to the books."""
        question = AskText(
            request_id=request_id,
            reply_to=self.inbox_name,
            offset=offset,
            with_prompt=not offset,
        )
        with contextlib.suppress(InboxFull):  # it is asked again soon
            self._send("server", question)

    def ask_spans(self, stamp: str) -> None:
        """The newest spans, unless they are those of `stamp`; the answer goes to the books."""
        with contextlib.suppress(InboxFull):  # it is asked again soon
            self._send(SUPERVISOR, AskSpanEnds(self.inbox_name, stamp))

    def forget_orders(self) -> None:
        """What the router has not taken yet it shall not find later, when nobody expects it."""
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

    def _order(self, name: str, order: Message) -> None:
        if self._is_read_only:
            raise InboxFull(READ_ONLY)
        self._send(name, order)

    def _send(self, name: str, message: Message) -> None:
        if name not in self._outboxes:
            self._outboxes[name] = Outbox(self._context, self._run, name)
        self._outboxes[name].send(message)

    async def _listen(self) -> None:
        self._watch = Watch(self._context, self._run, self._names)
        while True:
            moves = self._ledger.moves
            now = self._clock()
            for message in self._watch.drain():
                self._ledger.take(message, now)
            self._on_news()
            moved = self._ledger.moves != moves
            await asyncio.sleep(BUSY_SECONDS if moved else IDLE_SECONDS)

    async def _keep_snapshot(self) -> None:
        """Asks until answered, and again whenever another supervisor, or the same after a
        silence, is heard."""
        receiving: asyncio.Task[None] | None = None
        looked_at = self._clock()
        try:
            while True:
                now = self._clock()
                if now - looked_at > SILENCE_SECONDS:
                    self._answered = None  # we slept, and what was said meanwhile is lost
                looked_at = now
                if receiving is None and self._run.is_dir():
                    remove_dead_inboxes(self._run)
                    self._inbox = Inbox(self._context, self._run, self.inbox_name, ToConsole)
                    receiving = asyncio.create_task(self._receive_answers(self._inbox))
                if receiving is not None and receiving.done():
                    receiving.result()
                if receiving is not None and self._must_ask():
                    self._ask()
                await asyncio.sleep(ASK_SECONDS)
        finally:
            if receiving is not None:
                receiving.cancel()

    async def _receive_answers(self, inbox: Inbox[ToConsole]) -> None:
        while True:
            match await inbox.receive():
                case AdapterReply() as reply:
                    self._on_reply(reply)
                case RequestText() as text:
                    self._ledger.take_text(text)
                case SpanEnds() as ends:
                    self._ledger.take_spans(ends)
                case Snapshot() as snapshot:
                    self._ledger.take_snapshot(snapshot, self._clock())
                    beats = [beat for beat in snapshot.beats if beat.name == SUPERVISOR]
                    known = self._ledger.supervisor
                    self._answered = beats[0].incarnation if beats else known[0] if known else None
            self._on_news()

    def _must_ask(self) -> bool:
        supervisor = self._ledger.supervisor
        if supervisor is None:
            return (self._run / f"{SUPERVISOR}.inbox").exists()
        incarnation, heard_at = supervisor
        if self._clock() - heard_at > SILENCE_SECONDS:
            self._answered = None
            return False
        return self._answered != incarnation

    def _ask(self) -> None:
        """Through a fresh socket each time: an old one may hold a question nobody took, and a
        supervisor that comes up would answer every one of them."""
        if outbox := self._outboxes.pop(SUPERVISOR, None):
            outbox.close()
        ask = AskSnapshot(self.inbox_name, history_s=HISTORY_S, steps=SYNC_STEPS)
        self._send(SUPERVISOR, ask)


def remove_dead_inboxes(run: Path) -> None:
    """Consoles that were killed could not take their inboxes away: where nobody listens any more,
    we do."""
    for path in run.glob("console-*.inbox"):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(0.2)
            try:
                caller.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue  # busy, or not ours to judge
