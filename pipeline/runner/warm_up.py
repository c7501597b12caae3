"""`WarmUp`: representative steps before the first request. They compile every kernel, capture
every graph, and measure the time of steps without adapters."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from ..messages import Admission, Batch, BatchRow, SamplingParams
from ..model.compute_queue import ComputeQueue
from ..model.page_pool import PAGE_SIZE, pages_for
from .loaded_model import LoadedModel, MakeBar
from .pending_step import PendingStep
from .step_launcher import StepLauncher
from .step_timer import StepTimer

if TYPE_CHECKING:  # these modules need Triton
    from ..model.batch_kernels import Bucket
    from ..model.cuda_graphs import PagedSteps

WARM_UP_ROWS = (1, 2, 4, 8, 16, 32)
WARM_UP_PROMPTS = (8, 64, 256)
CPU_SECONDS = 4.0
"""On a CPU no further number of rows is measured after this. The default model's 24 steps take less
than a second on two idle cores; those of a model of 8B would take a minute."""
WARM_UP_DECODES = 3
"""Decode steps per number of rows. The first is slow; the median gives the base step's time."""
LONG_ROWS = {"cpu": (4, 256), "cuda": (64, 512)}
"""Maximum rows, and tokens of each, of the steps that are compared with short ones to measure the
cost of KV: a third of such a step on two cores, by its bytes a millisecond on an H200 (8B)."""


class WarmUp:
    """Runs once, after loading and before any adapter is placed."""

    def __init__(
        self,
        loaded: LoadedModel,
        launcher: StepLauncher,
        paged: PagedSteps | None,
        queue: ComputeQueue,
        timer: StepTimer,
        make_bar: MakeBar,
        *,
        max_rows: int,
        with_adapters: bool,
    ) -> None:
        """`max_rows`: rows of the largest graph. `with_adapters`: also capture graphs of steps
        with adapters."""
        self._loaded, self._launcher, self._paged = loaded, launcher, paged
        self._queue, self._timer, self._make_bar = queue, timer, make_bar
        self._max_rows, self._with_adapters = max_rows, with_adapters

    def repeat(self) -> None:
        """After a restart: compiles and captures what a GPU needs, and measures nothing. On a CPU
        there is nothing to do: a step's first use of a shape takes milliseconds."""
        if self._paged is not None:
            self._make_kernels(self._paged)
            self._capture(self._paged)

    def run(self) -> None:
        if self._paged is not None:
            self._make_kernels(self._paged)
        counts = self._take_steps()
        if self._paged is not None:
            num_pages = self._loaded.pool.num_pages
            counts = [count for count in self._capture(self._paged) if count <= num_pages]
            self._timer.forget()  # steps without graphs took longer
            if self._timer.is_on:
                self._run_ahead(step for count in counts for step in self._decode_steps(count))
        if self._timer.is_on:
            most, length = LONG_ROWS[self._queue.device.type]
            self._time_kv(max(count for count in counts if count <= most), length)

    def _take_steps(self) -> list[int]:
        """Runs steps one by one, on a CPU until its time is over; returns the numbers of rows of
        its decode steps."""
        due, is_bounded = time.monotonic() + CPU_SECONDS, self._queue.device.type == "cpu"
        # A prompt compiles a GPU's kernels. On a CPU it would only take time.
        prompts = [] if is_bounded else [*self._prompts()]
        counts = [count for count in WARM_UP_ROWS if count <= self._loaded.pool.num_pages]
        groups = [[*self._decode_steps(count)] for count in counts]
        done = 0
        with self._make_bar("warm-up", len(prompts) + sum(map(len, groups)), "step") as bar:
            for steps in (prompts, *groups):
                for step in steps:
                    pending = self._launcher.launch(step)
                    self._launcher.synchronize("warm-up")
                    pending.wait()
                    bar.update()
                done += steps is not prompts
                if is_bounded and done and self._is_over(due):
                    bar.total = bar.n
                    break
        self._launcher.reset()
        return counts[:done]

    def _is_over(self, due: float) -> bool:
        """Whether it is later than `due` on any rank: all must run the same steps."""
        ranks, device = self._loaded.ranks, self._queue.device
        left = int(time.monotonic() < due)
        return not self._queue.submit(lambda: ranks.least(left, device)).result()

    def _buckets(self, paged: PagedSteps) -> list[Bucket]:
        return paged.to_capture(self._max_rows, with_adapters=self._with_adapters)

    def _make_kernels(self, paged: PagedSteps) -> None:
        with self._make_bar("kernels", 0, "kernel") as bar:

            def begun() -> None:
                bar.total = (bar.total or 0) + 1

            work = functools.partial(
                paged.make_kernels, self._loaded.model, self._buckets(paged), begun, bar.update
            )
            self._queue.submit(work).result()

    def _capture(self, paged: PagedSteps) -> list[int]:
        """Captures the graphs; returns the numbers of rows that have a decode graph."""
        buckets = self._buckets(paged)
        with self._make_bar("graphs", len(buckets), "graph") as bar:
            work = functools.partial(paged.capture, self._loaded.model, buckets, bar.update)
            self._queue.submit(work).result()
            self._queue.synchronize()
        return sorted({bucket.rows for bucket in buckets if not bucket.prompt_tokens})

    def _time_kv(self, count: int, length: int) -> None:
        """Measures the cost of KV with long sequences, against the short ones already timed. Their
        KV is zeros, not computed: prompts would take seconds on a CPU."""
        loaded, size = self._loaded, pages_for(length + 1 + WARM_UP_DECODES)
        if count * size > loaded.pool.num_pages or size * PAGE_SIZE > loaded.max_model_len:
            return
        device = self._queue.device  # written zeros are backed by memory, on a CPU too
        self._queue.submit(lambda: loaded.pool.clean(torch.arange(count * size, device=device)))
        greedy, prompt = SamplingParams(temperature=0.0), (0,) * length
        admit = tuple(Admission(row, prompt, length, greedy, None) for row in range(count))
        self._launcher.launch(Batch(0, 0, (), admit, ())).wait()
        for row in range(count):
            sequence = self._launcher.sequences[row]
            sequence.pages.extend(range(row * size, row * size + size))
            sequence.computed, sequence.known = length, length + 1
        rows = tuple(BatchRow(row, 1) for row in range(count))
        self._run_ahead(Batch(0, 0, (), (), rows) for _ in range(WARM_UP_DECODES))
        self._timer.learn_kv(count)

    def _run_ahead(self, steps: Iterable[Batch]) -> None:
        """Runs steps with two in flight, as in serving, so that the device does not wait for the
        host."""
        flight: deque[PendingStep] = deque()
        for step in steps:
            flight.append(self._launcher.launch(step))
            if len(flight) > 2:
                flight.popleft().wait()
        for pending in flight:
            pending.wait()
        self._launcher.reset()

    def _prompts(self) -> Iterator[Batch]:
        """One prompt of each length that the model and the pool have room for."""
        greedy = SamplingParams(temperature=0.0)
        for length in WARM_UP_PROMPTS:
            if length < self._loaded.max_model_len:
                pages = tuple(range(pages_for(length)))
                admission = Admission(0, (0,) * length, length, greedy, None)
                yield Batch(0, 0, (), (admission,), (BatchRow(0, length, pages),))
                yield Batch(0, 0, (0,), (), ())

    def _decode_steps(self, count: int) -> Iterator[Batch]:
        """Decode steps of `count` rows of the base model."""
        greedy = SamplingParams(temperature=0.0)
        rows = range(count)
        admit = tuple(Admission(row, (0, 0), 2, greedy, None) for row in rows)
        yield Batch(0, 0, (), admit, tuple(BatchRow(row, 2, (row,)) for row in rows))
        for _ in range(WARM_UP_DECODES):
            yield Batch(0, 0, (), (), tuple(BatchRow(row, 1) for row in rows))
        yield Batch(0, 0, tuple(rows), (), ())
