"""`ModelRunner`: the interface to the model. A `Batch` goes in, its tokens come out.

Knows neither sockets nor requests. Its parts are modules of this package: `load_model`, `WarmUp`,
`StepLauncher`, `AdapterHost`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ..config import Config
from ..messages import Batch, KeptSequence, Message, WorkerReady, WorkerStats
from ..model.compute_queue import choose_queue
from ..model.fixed_order import without_workspace
from ..model.page_pool import PAGE_SIZE
from ..model.pool_memory import PoolKeeper
from ..runtime.clock import unix_time, unix_time_ns
from ..runtime.progress import ProgressBar
from ..runtime.spans import Spans
from .adapter_host import AdapterHost
from .copy_rate import measure_copy_rate
from .grammar_masks import GrammarMasks
from .loaded_model import LoadedModel, load_model
from .pending_step import PendingStep
from .step_compute import StepCompute
from .step_launcher import MergedModel, StepLauncher
from .step_limits import choose_step_limits
from .step_timer import StepTimer
from .warm_up import WarmUp
from .warm_up_record import MeasuredSteps, WarmUpRecord

SWITCH_SECONDS = 0.0005
"""Interpreter switch interval. A CPU step reacquires the interpreter's lock after each of its
roughly 600 operations; Python's default lets another thread hold it for 5 ms each time."""


class ModelRunner:
    """Weights, adapters, KV pool and live sequences of one worker, or its shard of them if several
    ranks share a model. All ranks must be given the same steps in the same order.

    `load`, `reset` and `launch` must be called from one thread.
    """

    adapters: AdapterHost
    """Set by `load`, like `loaded` and `timer`."""
    loaded: LoadedModel
    timer: StepTimer

    def __init__(
        self,
        config: Config,
        directory: Path,
        rank: int,
        publish: Callable[[Message], None],
        spans: Spans | None = None,
        run: Path | None = None,
    ) -> None:
        """`run`: directory in which a worker that starts again finds what the one before it has
        measured and computed; None: nothing is kept."""
        self._config, self._directory, self._rank, self._publish = config, directory, rank, publish
        self.spans = spans or Spans()
        if config.deterministic:
            without_workspace()
        self.queue = choose_queue(config, rank)
        self._run = run
        self.record = None if run is None else WarmUpRecord(run, rank, self.queue)

    def load(self) -> WorkerReady:
        """Reads the weights, makes the pool, warms up. Raises `OperatorError`."""
        sys.setswitchinterval(SWITCH_SECONDS)
        config, queue = self._config, self.queue
        limits = choose_step_limits(config, queue.device.type)
        known = self.record.read() if self.record else None
        self.compute = queue.submit(lambda: self._load(limits.max_running, known)).result()
        self.adapters = AdapterHost(config, self._directory, self.loaded, queue, self._make_bar)
        self._launcher = StepLauncher(
            config,
            self._rank,
            self.loaded,
            self.compute,
            queue,
            self.timer,
            self.spans,
            self._publish,
        )
        self.reset()
        self._warm_up(limits.max_running, known)
        memory = self.loaded.pool.memory
        return WorkerReady(
            rank=self._rank,
            incarnation=unix_time_ns(),
            device=queue.device.type,
            num_pages=self.loaded.pool.num_pages,
            page_size=PAGE_SIZE,
            max_model_len=self.loaded.max_model_len,
            max_running=limits.max_running,
            max_prefill_tokens=limits.max_prefill_tokens,
            chunk_tokens=limits.chunk_tokens,
            vocab_size=self.loaded.config.vocab_size,
            eos_token_ids=self.loaded.config.eos_token_ids,
            pid=os.getpid(),
            pool_fd=memory.fd if memory else -1,
            has_kept_kv=self.loaded.has_kept_kv,
        )

    def _load(self, max_rows: int, known: MeasuredSteps | None) -> StepCompute:
        """Runs in the queue, whose thread creates all tensors."""
        is_on = not self._config.no_step_times
        rate = measure_copy_rate(self.queue) if is_on and known is None else 0.0
        self.timer = StepTimer(rate, is_on=is_on)
        directory, rank, keeper = self._directory, self._rank, None
        if self._run:
            keeper = PoolKeeper(self._run, directory, rank, may_find=known is not None)
        self.loaded = load_model(self._config, directory, rank, self.queue, self._make_bar, keeper)
        whole = self.loaded.whole
        masks = GrammarMasks(
            self._run or directory,
            whole.vocab_size,
            whole.eos_token_ids,
            self.queue.threads,
            on_gpu=self.queue.device.type == "cuda",
        )
        return StepCompute(self.loaded, self.queue, self.spans, masks, max_rows)

    def _warm_up(self, max_rows: int, known: MeasuredSteps | None) -> None:
        """Warms up, as far as an earlier worker has not measured everything already."""
        queue = self.queue
        warm_up = WarmUp(
            self.loaded,
            self._launcher,
            self.compute.paged,
            queue,
            self.timer,
            self._make_bar,
            max_rows=max_rows,
            with_adapters=not (self._config.no_lora or self._config.no_lora_compute),
        )
        # All ranks must run the same steps, so one that has no record makes all measure.
        ranks, device = self.loaded.ranks, queue.device
        all_know = queue.submit(lambda: ranks.least(int(known is not None), device)).result()
        if known is not None:
            self.timer.restore(known)
        if all_know:
            warm_up.repeat()
            return
        self.timer.forget()
        warm_up.run()
        if self.record:
            self.record.write(self.timer.measured())

    def _make_bar(self, stage: str, total: int, unit: str) -> ProgressBar:
        return ProgressBar(
            publish=self._publish,
            source=f"worker-{self._rank}",
            stage=stage,
            total=total,
            unit=unit,
        )

    def reset(self) -> tuple[KeptSequence, ...]:
        """Waits for all launched steps, then drops every sequence and evicts every adapter; the
        host copies of the adapters are kept. Returns what the pages hold of the sequences, until
        the next step writes to them."""
        return self._launcher.reset()

    def launch(self, batch: Batch, *, keep_logits: bool = False) -> PendingStep:
        """Issues a step. Does not wait for the device, except before prompts with --sync-points."""
        return self._launcher.launch(batch, keep_logits=keep_logits)

    def use_merged(self, merged: MergedModel | None) -> None:
        """From the next step on, uses the merged copy for steps in which every row has its
        adapter; None drops the copy."""
        self._launcher.use_merged(merged)

    @property
    def dtype(self) -> str:
        """Names of the types it computes in, as the screen shows them."""
        return self.loaded.precision.name

    def stats(self) -> WorkerStats:
        """Its device, kernels and memory use."""
        device, loaded = self.queue.device, self.loaded
        return WorkerStats(
            at=unix_time(),
            rank=self._rank,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            dtype=self.dtype,
            model=Path(self._config.model).name,
            threads=self.queue.threads,
            weights_bytes=loaded.weights_bytes,
            pool_bytes=loaded.pool.nbytes,
            adapter_bytes=loaded.store.nbytes,
            kernels=f"{loaded.kernels}{', deterministic' if loaded.deterministic else ''}",
            copy_bytes_s=self.timer.copy_bytes_s,
            times_steps=self.timer.is_on,
            fingerprint=loaded.fingerprint,
        )
