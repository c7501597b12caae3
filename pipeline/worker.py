"""Process `worker-RANK`: Batch → ModelRunner → Tokens.

Holds weights, adapters and the KV pool, or one rank's part of each. It knows requests only from
batches and decides nothing. By hand:
`python -m loraconsole.pipeline.worker --run DIR --rank 0`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .config import Config
from .messages import (
    AdapterChecked,
    AdapterMeasured,
    AdapterPlaced,
    AdapterRead,
    Batch,
    CheckAdapter,
    DropAdapter,
    EvictAdapter,
    Introduce,
    KeptSequence,
    MeasureAdapter,
    MergeWeights,
    Message,
    PlaceAdapter,
    ProcessState,
    ReadAdapter,
    Reset,
    SampledToken,
    Step,
    Tokens,
    ToWorker,
    UseMerged,
    WeightsMerged,
    WorkerReady,
)
from .runtime.process import Process, run_process

if TYPE_CHECKING:
    from .model.verification import VerificationRun
    from .runner.pending_step import PendingStep
    from .runner.runner import ModelRunner
    from .runner.step_launcher import MergedModel

T = TypeVar("T")

BESIDE_NICENESS = 10
"""Niceness of threads that work beside the steps; on Linux it is per thread. At 10 the steps get
nine tenths of a core that both want."""
RESET_SECONDS = 20.0
"""Launched steps end within this time, unless they wait for a rank that did not get the same steps:
a router that is killed may have sent a step to one rank and not to the other."""


def stand_back() -> None:
    """Thread initializer for work beside the steps: one intra-op torch thread, nice 10."""
    import torch  # already imported by the thread that loaded the model

    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BESIDE_NICENESS)


class Worker(Process):
    """Two threads compute: one launches steps in order, one waits for their tokens, so that step
    n+1 is launched before step n's tokens are read. A third reads adapters, beside all steps. The
    event loop only moves messages."""

    accepts = ToWorker

    def __init__(self, config: Config, rank: int) -> None:
        super().__init__(config, f"worker-{rank}")
        self.rank = rank
        self.epoch = 0
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix="launch")
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="wait")
        self._reader = ThreadPoolExecutor(1, "read", stand_back)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: set[asyncio.Task[None]] = set()
        """Of the steps under way."""
        self._has_failed = False
        """Whether a step has failed since the last `Reset`, so that pages may lack KV."""
        self._runner: ModelRunner | None = None
        self._ready: WorkerReady | None = None
        self._merged: MergedModel | None = None
        self._merging = asyncio.Lock()

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self.set_state(ProcessState.STARTING, "loading the model")
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._runner, ready = await self._loop.run_in_executor(self._launcher, self._load)
        self._ready = ready
        self.outbox("router").send(ready)
        self.set_state(ProcessState.READY)

    def _load(self) -> tuple[ModelRunner, WorkerReady]:
        # Imports make a million objects and no garbage. Looking through them takes a sixth of the
        # start, and later 150 ms of each full collection, in which no step is launched.
        gc.disable()
        try:
            # Imported here, since it takes a second in which the process must send heartbeats.
            from .runner.runner import ModelRunner

            directory, publish = self.run / "model", self._publish_from_thread
            with self.spans.span("init_model(rank_id_{})", self.rank):
                runner = ModelRunner(
                    self.config, directory, self.rank, publish, self.spans, self.run
                )
                return runner, runner.load()
        finally:
            gc.freeze()
            gc.enable()

    async def main(self) -> None:
        await asyncio.gather(self._receive_forever(), self._broken)

    async def _receive_forever(self) -> None:
        while True:
            match await self.receive():
                case Batch() as batch if batch.epoch == self.epoch:
                    await self._launch(batch)
                case Batch() as batch:
                    self.log.info("dropped step %d of another epoch", batch.step)
                case ReadAdapter() as order:
                    self._beside(self._read_adapter(order))
                case PlaceAdapter() as order:
                    await self._place_adapter(order)
                case MeasureAdapter() as order:
                    self._beside(self._measure_adapter(order))
                case MergeWeights(key=""):
                    await self._unmerge()
                case MergeWeights(key=key):
                    self._beside(self._merge(key))
                case UseMerged(key=key):
                    if self._merged is not None and self._merged.key == key:
                        await self._on_launcher(self.runner.use_merged, self._merged)
                case CheckAdapter() as order:
                    self._start_verification(order)
                case EvictAdapter(key=key):
                    await self._on_launcher(self.runner.adapters.evict, key)
                case DropAdapter(key=key):
                    await self._on_launcher(self.runner.adapters.drop, key)
                case Reset(epoch=epoch):
                    await self._reset(epoch)
                    self._has_failed = False
                case Introduce():
                    await self._meet_router()

    @property
    def runner(self) -> ModelRunner:
        assert self._runner is not None, "messages are read once it is loaded"
        return self._runner

    async def shutdown(self) -> None:
        if self.runner.record:
            self.runner.record.remove()
        self._launcher.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._waiter.shutdown(wait=False, cancel_futures=True)

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts work that runs while the next messages are read."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _on_launcher(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._launcher, work, *arguments)

    # -- adapters

    async def _read_adapter(self, order: ReadAdapter) -> None:
        read = self.runner.adapters.read
        with self.spans.span("read_adapter({})", order.key):
            info = await self._loop.run_in_executor(self._reader, read, order.key, order.path)
        self.outbox("router").send(AdapterRead(self.rank, order.order, info))

    async def _measure_adapter(self, order: MeasureAdapter) -> None:
        measure = self.runner.adapters.measure
        info = await self._loop.run_in_executor(self._reader, measure, order.path)
        self.outbox("router").send(AdapterMeasured(order.order, info))

    async def _merge(self, key: str) -> None:
        """Makes a merged copy beside all steps."""
        error = ""
        if self.config.deterministic:
            error = "with --deterministic no answer may depend on whether its steps are its own"
            self.outbox("router").send(WeightsMerged(self.rank, key, error))
            return
        try:
            async with self._merging:
                # A router that died may have ordered the same.
                if self._merged is None or self._merged.key != key:
                    self._merged = await self._make_merged(key)
        except (MemoryError, RuntimeError, KeyError) as raised:  # torch's out of memory is runtime
            self.log.exception("adapter %s was not merged", key, exc_info=raised)
            error = f"{type(raised).__name__}: {raised}"
        self.outbox("router").send(WeightsMerged(self.rank, key, error))

    async def _make_merged(self, key: str) -> MergedModel:
        with self.spans.span("merge_adapter({})", key):
            merge = self.runner.adapters.merge
            return await self._loop.run_in_executor(self._reader, merge, key)

    async def _unmerge(self) -> None:
        self._merged = None
        await self._on_launcher(self.runner.use_merged, None)
        self.outbox("router").send(WeightsMerged(self.rank, ""))

    def _start_verification(self, order: CheckAdapter) -> None:
        """Launches a verification's batches. A single worker interleaves them with all others.
        Several ranks must launch everything in the same order, so all batches are launched here at
        once, and running streams wait for some thirty small steps."""
        verification = self.runner.adapters.new_verification(order)
        launch = functools.partial(self.runner.launch, keep_logits=True)
        steps: Iterable[Awaitable[PendingStep]] = (
            self._loop.run_in_executor(self._launcher, launch, batch)
            for batch in verification.batches()
            if order.epoch == self.epoch  # else its pages have another owner now
        )
        issued = [*steps] if self.config.tp > 1 else steps
        self._beside(self._check_adapter(order, verification, issued))

    async def _check_adapter(
        self,
        order: CheckAdapter,
        verification: VerificationRun,
        steps: Iterable[Awaitable[PendingStep]],
    ) -> None:
        runner, has_run = self.runner, False
        try:
            for step in steps:
                pending = await step
                tokens, _ = await self._loop.run_in_executor(self._waiter, pending.wait)
                verification.take(tokens, pending.logits)
            has_run = True
            if self.rank or order.epoch != self.epoch:
                return
            found, is_right = await self._loop.run_in_executor(
                self._reader, runner.adapters.compare, verification
            )
            answer = AdapterChecked(order.epoch, order.order, found, runner.dtype, is_right)
        except Exception as raised:  # any error: the router waits for an answer
            self.log.exception("could not verify %s", order.key, exc_info=raised)
            text = f"{type(raised).__name__}: {raised}"
            answer = AdapterChecked(order.epoch, order.order, (), runner.dtype, error=text)
            if self.config.tp > 1 and not has_run:
                self._end(raised)
        self.outbox("router").send(answer)

    async def _place_adapter(self, order: PlaceAdapter) -> None:
        """Starts the copy in order with the steps; later steps are launched before it is done."""
        if order.epoch != self.epoch:
            return
        placing = await self._on_launcher(self.runner.adapters.place, order.key, order.pages)
        self._beside(self._placed(order, placing))

    async def _placed(self, order: PlaceAdapter, placing: Future[None]) -> None:
        error = ""
        try:
            with self.spans.span("load_adapter({})", order.key):
                await asyncio.wrap_future(placing)
        except Exception as raised:  # a missing key, no memory: the router frees the pages
            self.log.exception("adapter %s was not placed", order.key, exc_info=raised)
            error = f"{type(raised).__name__}: {raised}"
        self.outbox("router").send(AdapterPlaced(self.rank, order.epoch, order.key, error))

    # -- steps

    async def _launch(self, batch: Batch) -> None:
        try:
            pending = await self._on_launcher(self._launch_step, batch)
        except Exception as error:
            self._fail(batch, error)
            return
        answer = self._beside(self._answer(batch, pending))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    def _launch_step(self, batch: Batch) -> PendingStep:
        with self.spans.span("launch", step=batch.step, rows=len(batch.rows)):
            return self.runner.launch(batch)

    def _wait_for_step(
        self, batch: Batch, pending: PendingStep
    ) -> tuple[tuple[SampledToken, ...], Step]:
        with self.spans.span("wait", step=batch.step):
            return pending.wait()

    async def _answer(self, batch: Batch, pending: PendingStep) -> None:
        try:
            wait = self._wait_for_step
            tokens, step = await self._loop.run_in_executor(self._waiter, wait, batch, pending)
        except Exception as error:
            self._fail(batch, error)
            return
        if batch.epoch == self.epoch:
            scores = () if self.rank else pending.prompt_logprobs
            answer = Tokens(
                batch.epoch,
                batch.step,
                self.rank,
                tokens,
                busy_us=step.busy_us,
                prompt_logprobs=scores,
            )
            self.outbox("router").send(answer)
        self.beacon.publish(step)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Reports a failed step, which ends its requests but not the worker: the router resets it.
        One of several ranks exits too, since the others wait for it in the middle of the step. If
        another rank died (`RankLost`), nothing is reported and the requests go on after restart."""
        from .model.parallel import RankLost

        self.log.exception("step %d failed", batch.step, exc_info=error)
        self._has_failed = True
        if batch.epoch == self.epoch and not isinstance(error, RankLost):
            text = f"{type(error).__name__}: {error}"
            self.outbox("router").send(Tokens(batch.epoch, batch.step, self.rank, (), text))
            self.epoch = 0  # drops the batches queued behind it, which depend on what failed
        if self.config.tp > 1:
            self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    async def _meet_router(self) -> None:
        """Announces itself to a new router, which orders adapters and requests again. The KV of
        the requests, adapters in host memory and the merged copy are kept for it."""
        kept = await self._reset(0)
        if self._answers:
            await asyncio.wait(self._answers)
        await self._on_launcher(self.runner.use_merged, None)
        assert self._ready is not None
        ready = msgspec.structs.replace(
            self._ready,
            adapters=self.runner.adapters.held(),
            merged=self._merged.key if self._merged else "",
            kept=() if self._has_failed else kept,
        )
        self.outbox("router").send(ready)

    async def _reset(self, epoch: int) -> tuple[KeptSequence, ...]:
        """Drops all sequences and placed adapters. Steps of other epochs are dropped from now on.
        Returns what the pages hold of the sequences."""
        self.epoch = 0
        try:
            async with asyncio.timeout(RESET_SECONDS if self.config.tp > 1 else None):
                kept = await self._on_launcher(self.runner.reset)
        except TimeoutError:
            raise RuntimeError("a step waits for ranks that did not get it") from None
        self.epoch = epoch
        return kept

    # -- telemetry

    def _publish_from_thread(self, message: Message) -> None:
        """Publishes from a thread of the runner: a socket belongs to the loop's thread."""
        self._loop.call_soon_threadsafe(self.beacon.publish, message)

    def publish_stats(self) -> None:
        if self._runner is not None:
            self.beacon.publish(self._runner.stats())


if __name__ == "__main__":
    logging.getLogger("torch").setLevel(logging.WARNING)
    run_process(Worker, __doc__)
