"""`Remote`: a running pipeline as the command line sees it: ask, tell, watch.

Knows the supervisor's inbox and the telemetry, no screen.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType

from ..pipeline.config import Config, OperatorError
from ..pipeline.messages import AdapterReply, AskSnapshot, Message, Snapshot, ToConsole
from ..pipeline.sockets import Inbox, Outbox, Watch, make_context
from .lock import is_running

ANSWER_SECONDS = 5.0


class NotRunning(OperatorError):
    """No pipeline lives in the run directory (exit status 3)."""


class Remote:
    """`async with Remote(config) as remote:`. Raises `NotRunning` on entering where none is.
    `name` is its inbox, where answers go."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if not is_running(config.run_path):
            raise NotRunning(f"no pipeline runs in {config.run}", "start one with: loraconsole up")

    async def __aenter__(self) -> Remote:
        self._context = make_context()
        self.name = f"console-{os.getpid()}"
        run = self.config.run_path
        self._inbox: Inbox[Snapshot | AdapterReply] = Inbox(
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

    async def snapshot(self, log_lines: int = 0) -> Snapshot:
        """Everything that holds now. Raises `OperatorError` where the supervisor is silent."""
        self.tell(AskSnapshot(self.name, log_lines))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not isinstance(answer := await self._inbox.receive(), Snapshot):
                    pass
                return answer
        except TimeoutError:
            raise OperatorError(
                f"the supervisor in {self.config.run} does not answer", "see: loraconsole logs"
            ) from None

    def tell(self, message: Message) -> None:
        """To the supervisor."""
        self._supervisor.send(message)

    async def order(self, order: Message) -> AdapterReply:
        """An order about adapters to the router, and its answer, however long that takes."""
        router = Outbox(self._context, self.config.run_path, "router")
        try:
            router.send(order)
            while not isinstance(answer := await self._inbox.receive(), AdapterReply):
                pass
            return answer
        finally:
            router.close()

    def watch(self) -> Watch:
        """The telemetry of every process of the run."""
        names = ("supervisor", "fetch", *self.config.process_names())
        watch = Watch(self._context, self.config.run_path, names)
        self._watches.append(watch)
        return watch
