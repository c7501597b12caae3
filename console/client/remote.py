"""`Remote`: a running pipeline as the command line sees it: ask, tell, watch.

Knows the supervisor's inbox and the telemetry, no screen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from types import TracebackType

from ...pipeline.config import Config
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
from ...pipeline.runtime.sockets import Inbox, Outbox, Watch, make_context
from ..supervisor.lock import is_running

ANSWER_SECONDS = 5.0


class NotRunning(OperatorError):
    """No pipeline lives in the run directory (exit status 3)."""


def none_runs(run: str) -> NotRunning:
    """What is said to whoever asks one."""
    return NotRunning(f"no pipeline runs in {run}", f"start one with: {spell('up', run)}")


class Remote:
    """`async with Remote(config) as remote:`. Raises `NotRunning` on entering where none is.
    `name` is its inbox, where answers go."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if not is_running(config.run_path):
            raise none_runs(config.run)

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
        """Everything that holds now. Raises `OperatorError` where the supervisor is silent."""
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

    def tell(self, message: Message) -> None:
        """To the supervisor."""
        self._supervisor.send(message)

    def abort(self, request_id: str) -> None:
        """Tells the router to end a request; that it has ended, the next snapshots tell."""
        self.tell_router(Abort(request_id, "aborted from the command line"))

    def tell_router(self, order: Abort | Drain | Resume) -> None:
        """What the router does without a word back."""
        with contextlib.closing(Outbox(self._context, self.config.run_path, "router")) as router:
            router.send(order)

    async def order(
        self, order: Order, show: Callable[[Telemetry], None] = lambda _: None
    ) -> AdapterReply:
        """An order to the router, and its answer, however long that takes.

        `show` hears what the pipeline says meanwhile. Raises `OperatorError` where the router has
        ended: nobody will answer then.
        """
        router = Outbox(self._context, self.config.run_path, "router")
        listening = asyncio.create_task(self._until_the_router_ends(show))
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
        """An order about spans to every process of the ring; the answers of those that gave one in
        time. Who is still loading does not hear it."""
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

    async def _until_the_router_ends(self, show: Callable[[Telemetry], None]) -> OperatorError:
        """What is to be said once the router that was there is no more."""
        watch = self.watch()
        incarnation: int | None = None
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
                    if incarnation not in (None, message.incarnation):
                        return OperatorError(
                            "the router was restarted before it answered",
                            f"see: {spell('adapters list', self.config.run)}",
                        )
                    incarnation = message.incarnation

    def watch(self) -> Watch:
        """The telemetry of every process of the run."""
        names = ("supervisor", "fetch", *self.config.process_names())
        watch = Watch(self._context, self.config.run_path, names)
        self._watches.append(watch)
        return watch
