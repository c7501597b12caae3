"""`Remote`: the command line's connection to a running pipeline: questions, orders, telemetry.

Knows sockets, no screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ...pipeline.config import Config, check_protocol
from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    Abort,
    AdapterReply,
    AskSnapshot,
    Drain,
    Heartbeat,
    Message,
    Order,
    Resume,
    Snapshot,
    SpansOrder,
    SpansReply,
    Telemetry,
    ToConsole,
)
from ...pipeline.run_directory import spell
from ...pipeline.runtime.sockets import Inbox, InboxFull, Outbox, Watch, make_context
from ..supervisor.lock import is_running
from ..supervisor.orphans import ensure_supervised

T = TypeVar("T")
ANSWER_SECONDS = 5.0


class NotRunning(OperatorError):
    """No pipeline is running in the run directory (exit status 3)."""


def none_runs(run: str) -> NotRunning:
    """The error of a command that needs a pipeline when none runs in `run`."""
    return NotRunning(f"no pipeline runs in {run}", f"start one with: {spell('up', run)}")


class Remote:
    """`async with Remote(config) as remote:`. `name` is its inbox, which gets the answers."""

    def __init__(self, config: Config, *, any_protocol: bool = False) -> None:
        """Raises `NotRunning` if no pipeline runs, and `OperatorError` if it has another protocol
        version, unless `any_protocol`: for messages that every version understands."""
        self.config = config
        if not ensure_supervised(config.run_path):
            raise none_runs(config.run)
        if not any_protocol:
            check_protocol(config.run)

    async def __aenter__(self) -> Remote:
        self._context = make_context()
        self.name = f"console-{os.getpid()}"
        run = self.config.run_path
        self._inbox: Inbox[Snapshot | AdapterReply | SpansReply] = Inbox(
            self._context, run, self.name, ToConsole
        )
        self._supervisor = Outbox(self._context, run, "supervisor")
        self._watches: list[Watch] = []
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inbox.close()
        self._supervisor.close()
        for watch in self._watches:
            watch.close()
        self._context.term()

    async def snapshot(
        self, log_lines: int = 0, history_s: float = 0.0, steps: int = 0
    ) -> Snapshot:
        """The supervisor's current snapshot. Raises `OperatorError` if it does not answer."""
        self.tell(AskSnapshot(self.name, log_lines, history_s, steps))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not isinstance(answer := await self._inbox.receive(), Snapshot):
                    pass
                return answer
        except TimeoutError:
            raise OperatorError(
                f"the supervisor in {self.config.run} does not answer",
                f"see: {spell('logs supervisor', self.config.run)}",
            ) from None

    async def when(self, pick: Callable[[Snapshot], T | None]) -> T:
        """What `pick` takes from a snapshot, once that is not None. Asks ten times a second, for
        ever: callers have timeouts of their own."""
        while (picked := pick(await self.snapshot())) is None:
            await asyncio.sleep(0.1)
        return picked

    def tell(self, message: Message) -> None:
        """Sends a message to the supervisor."""
        self._supervisor.send(message)

    def abort(self, request_id: str) -> None:
        """Asks the router to end a request; the next snapshots show that it has ended."""
        self.tell_router(Abort(request_id, "aborted from the command line"))

    def tell_router(self, order: Abort | Drain | Resume) -> None:
        """Sends an order that the router does not answer."""
        with contextlib.closing(Outbox(self._context, self.config.run_path, "router")) as router:
            router.send(order)

    async def order(
        self, order: Order, show: Callable[[Telemetry], None] = lambda _: None
    ) -> AdapterReply:
        """Sends an order to the router and waits for its reply without a timeout.

        `show` is called with all telemetry meanwhile. A router that is restarted gets the order
        again, and carries it out once. Raises `OperatorError` if the pipeline ends."""
        router = Outbox(self._context, self.config.run_path, "router")
        again = functools.partial(router.send, order)
        listening = asyncio.create_task(self._until_the_pipeline_ends(show, again))
        answering = asyncio.create_task(self._answer_to(order.order))
        try:
            router.send(order)
            await asyncio.wait({listening, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise listening.result()
        finally:
            listening.cancel()
            answering.cancel()
            router.close()

    async def order_spans(self, order: SpansOrder) -> dict[str, SpansReply]:
        """Sends an order about spans to every process of the ring. Returns the replies within
        `ANSWER_SECONDS` by process; a process that is still loading does not reply."""
        names = self.config.process_names()
        replies: dict[str, SpansReply] = {}
        outboxes = [Outbox(self._context, self.config.run_path, name) for name in names]
        try:
            for outbox in outboxes:
                outbox.send(order)
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(replies) < len(names):
                    reply = await self._inbox.receive()
                    if isinstance(reply, SpansReply) and reply.order == order.order:
                        replies[reply.name] = reply
        except TimeoutError:
            pass
        finally:
            for outbox in outboxes:
                outbox.close()
        return replies

    async def _answer_to(self, order: str) -> AdapterReply:
        while True:
            answer = await self._inbox.receive()
            if isinstance(answer, AdapterReply) and answer.order == order:
                return answer

    async def _until_the_pipeline_ends(
        self, show: Callable[[Telemetry], None], meet_router: Callable[[], None]
    ) -> OperatorError:
        """Returns the error to raise, once the pipeline has ended. Calls `meet_router` for each
        router that replaces another."""
        watch = self.watch()
        incarnation, began = 0, time.time_ns()
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    heard = await watch.receive()
            except TimeoutError:
                if is_running(self.config.run_path):
                    continue
                return NotRunning(f"the pipeline in {self.config.run} has ended")
            for message in heard:
                show(message)
                if isinstance(message, Heartbeat) and message.name == "router":
                    # An incarnation is the time of a start: the first one heard may be new, too.
                    is_new = message.incarnation != incarnation
                    if is_new and (incarnation or message.incarnation > began):
                        with contextlib.suppress(InboxFull):  # of a router that hangs
                            meet_router()
                    incarnation = message.incarnation

    def watch(self) -> Watch:
        """The telemetry of every process of the run."""
        names = ("supervisor", "fetch", *self.config.process_names())
        watch = Watch(self._context, self.config.run_path, names)
        self._watches.append(watch)
        return watch
