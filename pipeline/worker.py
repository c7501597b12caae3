"""Process `worker-RANK`: Batch → ModelRunner → Tokens.

Holds weights, adapters and the KV pool; of a request it knows only what a batch told it. It
decides nothing. By hand: `python -m loraconsole.pipeline.worker --run DIR --rank 0`.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .config import Config
from .messages import Batch, Introduce, Message, ProcessState, Reset, Tokens, ToWorker, WorkerReady
from .process import Process, run_process

if TYPE_CHECKING:
    from .model.runner import ModelRunner, PendingStep


class Worker(Process):
    """Two threads compute: one launches steps in order, one waits for their tokens, so that step
    n+1 is launched before step n's tokens are read. The event loop only moves messages."""

    accepts = ToWorker

    def __init__(self, config: Config, rank: int) -> None:
        super().__init__(config, f"worker-{rank}")
        self.rank = rank
        self.epoch = 0
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="launch")
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="wait")
        self._answering: set[asyncio.Task[None]] = set()
        self._runner: ModelRunner | None = None
        self._ready: WorkerReady | None = None

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self.set_state(ProcessState.STARTING, "loading the model")
        self._loop = asyncio.get_running_loop()
        self._runner, ready = await self._loop.run_in_executor(self._launcher, self._load)
        self._ready = ready
        if self.config.tp > 1 and self.rank == 0:
            self.event("warning", "weights are not split: every rank computes the whole model")
        self.outbox("router").send(ready)
        self.set_state(ProcessState.READY)

    def _load(self) -> tuple[ModelRunner, WorkerReady]:
        # Imported here, seconds late, so that the process beats from its first moment.
        from .model.runner import ModelRunner

        runner = ModelRunner(self.config, self.run / "model", self.rank, self._publish_from_thread)
        return runner, runner.load()

    async def main(self) -> None:
        while True:
            match await self.inbox.receive():
                case Batch() as batch if batch.epoch == self.epoch:
                    await self._launch(batch)
                case Batch() as batch:
                    self.log.info("dropped step %d of another epoch", batch.step)
                case Reset(epoch=epoch):
                    await self._reset(epoch)
                case Introduce():
                    await self._reset(0)
                    assert self._ready is not None
                    self.outbox("router").send(self._ready)

    async def shutdown(self) -> None:
        self._launcher.shutdown(wait=False, cancel_futures=True)
        self._waiter.shutdown(wait=False, cancel_futures=True)

    # -- steps

    async def _launch(self, batch: Batch) -> None:
        assert self._runner is not None
        try:
            pending = await self._loop.run_in_executor(self._launcher, self._runner.launch, batch)
        except Exception as error:
            self._fail(batch, error)
            return
        answering = asyncio.create_task(self._answer(batch, pending))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _answer(self, batch: Batch, pending: PendingStep) -> None:
        try:
            tokens, step = await self._loop.run_in_executor(self._waiter, pending.wait)
        except Exception as error:
            self._fail(batch, error)
            return
        if batch.epoch == self.epoch:
            self.outbox("router").send(Tokens(batch.epoch, batch.step, self.rank, tokens))
        self.beacon.publish(step)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """A step that raised ends its requests, not the worker: the router resets us."""
        self.log.exception("step %d failed", batch.step, exc_info=error)
        if batch.epoch == self.epoch:
            word = f"{type(error).__name__}: {error}"
            self.outbox("router").send(Tokens(batch.epoch, batch.step, self.rank, (), word))
            self.epoch = 0  # whatever is queued behind it counts on what failed

    async def _reset(self, epoch: int) -> None:
        assert self._runner is not None
        self.epoch = 0
        await self._loop.run_in_executor(self._launcher, self._runner.reset)
        self.epoch = epoch

    # -- telemetry

    def _publish_from_thread(self, message: Message) -> None:
        """For the runner's threads: a socket belongs to the loop's thread."""
        self._loop.call_soon_threadsafe(self.beacon.publish, message)

    def publish_stats(self) -> None:
        if self._runner is not None:
            self.beacon.publish(self._runner.stats())


if __name__ == "__main__":
    logging.getLogger("torch").setLevel(logging.WARNING)
    run_process(Worker, __doc__)
