"""`ModelRunner`: the one door to the model. A `Batch` goes in, its tokens come out.

Launching and reading are apart: `launch` issues the work of a step, `PendingStep.wait` blocks for
its tokens, so the next step is launched before this one's tokens are read. Knows neither sockets
nor requests.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor

from ..config import Config
from ..errors import OperatorError
from ..messages import (
    AdapterInfo,
    Admission,
    Batch,
    BatchRow,
    CheckAdapter,
    Comparison,
    Logprob,
    Message,
    SampledToken,
    SamplingParams,
    Step,
    SyncPoint,
    WorkerReady,
    WorkerStats,
)
from ..model_files.model_config import ModelConfig, read_model_config
from ..runtime.progress import ProgressBar
from ..runtime.spans import Spans
from .adapter_store import AdapterStore
from .batch_torch import Staging, StepPlan, StepRow
from .compute_queue import choose_queue
from .copy_rate import measure_copy_rate
from .kernel_choice import choose_kernels
from .layer_spans import with_layer_spans
from .layers import Rotary
from .llama import Llama, layer_windows
from .loader import ModelLoader, choose_precision
from .lora_overhead import BaseTimes
from .merged import merge, merged_bytes
from .open_checkpoint import open_checkpoint
from .page_pool import PAGE_SIZE, PagePool, choose_num_pages, free_bytes, pages_for
from .parallel import join_ranks
from .sampler import NOTHING_SAMPLED, Sampled, SampleRow, sample
from .shard import check_divides
from .step_bytes import StepBytes
from .verification import VerificationRun, compare, reference_logits

if TYPE_CHECKING:  # they need Triton
    from .batch_kernels import Bucket, PagedPlan
    from .cuda_graphs import PagedSteps

MOST_GPU_ROWS = 256
FIRST_SLOTS = 32
"""Rows of the token history at first; they double when more sequences live."""
SWITCH_SECONDS = 0.0005
"""A CPU step takes the interpreter's lock back after each of some 600 operations; Python's own
5 ms would let the process's other threads keep it for that long each time."""
WARM_UP_ROWS = (1, 2, 4, 8, 16, 32)
WARM_UP_PROMPTS = (8, 64, 256)
WARM_UP_DECODES = 3
"""Steps of each number of rows: the first is slow, and what a base step takes is their median."""
LONG_ROWS = {"cpu": (4, 256), "cuda": (64, 512)}
"""Rows, at most, and tokens of each that tell, beside short ones, what KV costs: a third of such a
step on two cores, by its bytes a millisecond on an H200 (8B)."""


@dataclass
class LiveSequence:
    """What the runner holds of a sequence: where its tokens and pages are, and how far it is."""

    number: int
    slot: int
    params: SamplingParams
    adapter: str | None
    num_prompt: int
    admitted: int
    """Tokens it came with; those after were sampled here."""
    known: int
    """Tokens in the history, the one still being sampled included."""
    computed: int = 0
    pages: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Issued:
    """A step as the device got it: its tokens on their way to the host, and what it took."""

    sampled: Sampled
    copy_us: int = 0
    busy_us: int = 0
    events: tuple[torch.cuda.Event, ...] = ()
    """On a GPU: before the inputs' copy, after it, and behind the tokens' copy to the host; the
    last alone with --no-step-times."""
    logits: Tensor | None = None
    """[num_samples, vocab_size], where they were asked for."""


class PendingStep:
    """A launched step, to be read once, from any thread."""

    def __init__(
        self,
        issued: Future[Issued],
        sequences: list[int],
        step: Step,
        base_us: Callable[[Step], int] | None,
    ) -> None:
        """`base_us` is told the step as it was measured; None where that would teach nothing."""
        self._issued, self._sequences, self._step = issued, sequences, step
        self._base_us = base_us

    @property
    def logits(self) -> Tensor | None:
        """After `wait`, what the tokens were chosen from, where that was asked for."""
        return self._issued.result().logits

    def wait(self) -> tuple[tuple[SampledToken, ...], Step]:
        """Blocks until the tokens are on the host. Raises what the step raised."""
        started = time.perf_counter()
        issued = self._issued.result()
        copy_us, busy_us = issued.copy_us, issued.busy_us
        if issued.events:
            issued.events[-1].synchronize()
        if len(issued.events) == 3:
            begun, copied, done = issued.events
            copy_us = int(begun.elapsed_time(copied) * 1e3)
            busy_us = int(copied.elapsed_time(done) * 1e3)
        sync_us = _microseconds_since(started)
        step = msgspec.structs.replace(
            self._step, at=time.time(), copy_us=copy_us, busy_us=busy_us, sync_us=sync_us
        )
        if self._base_us is not None:
            step = msgspec.structs.replace(step, base_us=self._base_us(step))
        return tuple(_tokens(issued.sampled, self._sequences)), step


@dataclass(frozen=True)
class MergedModel:
    """The model with an adapter in its weights, for steps in which every row has that adapter."""

    key: str
    model: Llama
    num_bytes: StepBytes


class ModelRunner:
    """Weights, adapters, KV pool and live sequences of one worker, or its shard of them where
    several ranks share a model; all of those must be given the same steps in the same order.

    `load`, `reset` and `launch` belong to one thread.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        rank: int,
        publish: Callable[[Message], None],
        spans: Spans | None = None,
    ) -> None:
        self._config, self._directory, self._rank, self._publish = config, directory, rank, publish
        self._spans = spans or Spans()
        self._queue = choose_queue(config, rank)
        self._live: dict[int, LiveSequence] = {}
        self._free_slots: list[int] = []
        self._num_slots = 0
        self._merged: MergedModel | None = None
        self._paged: PagedSteps | None = None
        self._times_steps = not config.no_step_times

    # -- load

    def load(self) -> WorkerReady:
        """Reads the weights, makes the pool, warms up. Raises `OperatorError`."""
        sys.setswitchinterval(SWITCH_SECONDS)
        model_config = self._queue.submit(self._load).result()
        self.reset()
        self._warm_up()
        return WorkerReady(
            rank=self._rank,
            incarnation=time.time_ns(),
            device=self._queue.device.type,
            num_pages=self._pool.num_pages,
            page_size=PAGE_SIZE,
            max_model_len=self._max_model_len,
            vocab_size=model_config.vocab_size,
            eos_token_ids=model_config.eos_token_ids,
        )

    def _load(self) -> ModelConfig:
        config, device = self._config, self._queue.device
        self._copy_bytes_s = measure_copy_rate(self._queue) if self._times_steps else 0.0
        self._base_times = BaseTimes(self._copy_bytes_s)
        self._whole = read_model_config(self._directory, config.ignore_key)
        check_divides(self._whole, config.tp)
        self._ranks = join_ranks(config, self._rank, device)
        model_config = self._ranks.shard.model_config(self._whole)
        checkpoint = open_checkpoint(
            self._directory, dummy=config.dummy, device=device, model_config=self._whole
        )
        # Ranks must decide alike, and what is free is not so by itself.
        free = self._ranks.least(self._free_bytes(), device)
        precision = choose_precision(config, model_config, device, checkpoint.has_int4, free)
        with self._bar("weights", model_config.num_layers + 1, "layer") as bar:
            loader = ModelLoader(
                self._whole, checkpoint, precision, self._queue, bar.update, self._ranks
            )
            self._model: Llama = loader.load()
        self._weights_bytes = loader.num_bytes
        self._precision = precision
        self._rotary = Rotary(model_config, device)
        self._windows = tuple(sorted(set(layer_windows(model_config))))
        longest = choose_max_model_len(config, model_config)
        free = self._ranks.least(self._free_bytes(), device)
        num_pages = choose_num_pages(
            config, model_config, longest, precision.activations, device, free
        )
        self._pool = PagePool(model_config, num_pages, precision.activations, device)
        self._model_config = model_config
        self._num_bytes = StepBytes(self._model, self._pool, layer_windows(model_config))
        self._store = AdapterStore(
            self._whole, precision.activations, self._pool, config, self._ranks.shard
        )
        self._max_model_len = min(longest, num_pages * PAGE_SIZE)
        width = self._max_model_len + 1  # a token may be sampled behind the last place
        slots = FIRST_SLOTS
        if device.type == "cuda":  # never moved: graphs remember where it is
            slots += 2 * (config.max_running or MOST_GPU_ROWS)
        self._history = torch.zeros((slots, width), dtype=torch.int32, device=device)
        self._kernels = choose_kernels(config, device.type, self._store.unit)
        self._paged = self._make_paged() if self._kernels.paged else None
        return model_config

    def _free_bytes(self) -> int:
        """Memory that this rank may take; those of a CPU share it."""
        device = self._queue.device
        return free_bytes(device) // (1 if device.type == "cuda" else self._config.tp)

    def _make_paged(self) -> PagedSteps:
        from .cuda_graphs import PagedSteps  # which needs Triton

        return PagedSteps(
            self._model_config,
            self._pool,
            self._store,
            self._rotary,
            self._history,
            self._queue,
            max_pages=pages_for(self._max_model_len),
        )

    def _bar(self, stage: str, total: int, unit: str) -> ProgressBar:
        return ProgressBar(
            publish=self._publish,
            source=f"worker-{self._rank}",
            stage=stage,
            total=total,
            unit=unit,
        )

    def _warm_up(self) -> None:
        """Runs representative steps, so that the first request finds every kernel made."""
        if self._paged is not None:
            self._make_kernels(self._paged)
        steps = [*self._warm_up_steps()]
        with self._bar("warm-up", len(steps), "step") as bar:
            for step in steps:
                pending = self.launch(step)
                self._synchronize("warm-up")
                pending.wait()
                bar.update()
        self.reset()
        counts: Sequence[int] = WARM_UP_ROWS
        if self._paged is not None:
            counts = self._capture(self._paged)
        if self._times_steps:
            most, length = LONG_ROWS[self._queue.device.type]
            self._time_kv(max(count for count in counts if count <= most), length)

    def _buckets(self, paged: PagedSteps) -> list[Bucket]:
        config = self._config
        return paged.to_capture(
            config.max_running or MOST_GPU_ROWS,
            with_adapters=not (config.no_lora or config.no_lora_compute),
        )

    def _make_kernels(self, paged: PagedSteps) -> None:
        with self._bar("kernels", 0, "kernel") as bar:

            def begun() -> None:
                bar.total = (bar.total or 0) + 1

            work = functools.partial(
                paged.make_kernels, self._model, self._buckets(paged), begun, bar.update
            )
            self._queue.submit(work).result()

    def _capture(self, paged: PagedSteps) -> Sequence[int]:
        """The numbers of rows that there are graphs of."""
        buckets = self._buckets(paged)
        with self._bar("graphs", len(buckets), "graph") as bar:
            work = functools.partial(paged.capture, self._model, buckets, bar.update)
            self._queue.submit(work).result()
            self._queue.synchronize()
        counts = sorted({bucket.rows for bucket in buckets if not bucket.prompt_tokens})
        self._base_times = BaseTimes(self._copy_bytes_s)  # what was learnt without graphs is gone
        if self._times_steps:
            self._run_ahead(self._decode_steps(counts))
        return counts

    def _time_kv(self, count: int, length: int) -> None:
        """What KV costs: by long sequences, beside the short ones that were timed already. They are
        taken as computed, over zeros: prompts would take seconds on a CPU."""
        size = pages_for(length + 1 + WARM_UP_DECODES)
        if count * size > self._pool.num_pages or size * PAGE_SIZE > self._max_model_len:
            return
        device = self._queue.device  # zeros that were written are memory, on a CPU too
        self._queue.submit(lambda: self._pool.clean(torch.arange(count * size, device=device)))
        greedy, prompt = SamplingParams(temperature=0.0), (0,) * length
        admit = tuple(Admission(row, prompt, length, greedy, None) for row in range(count))
        self.launch(Batch(0, 0, (), admit, ())).wait()
        for row, sequence in self._live.items():
            sequence.pages.extend(range(row * size, row * size + size))
            sequence.computed, sequence.known = length, length + 1
        rows = tuple(BatchRow(row, 1) for row in range(count))
        self._run_ahead(Batch(0, 0, (), (), rows) for _ in range(WARM_UP_DECODES))
        self._base_times.learn_kv(count)

    def _run_ahead(self, steps: Iterable[Batch]) -> None:
        """With two in flight, as when serving: else the device would wait for the host."""
        flight: deque[PendingStep] = deque()
        for step in steps:
            flight.append(self.launch(step))
            if len(flight) > 2:
                flight.popleft().wait()
        for pending in flight:
            pending.wait()
        self.reset()

    def _warm_up_steps(self) -> Iterator[Batch]:
        """One prompt of each length, then rows that decode, as far as the pool has room."""
        greedy = SamplingParams(temperature=0.0)
        for length in WARM_UP_PROMPTS:
            if length < self._max_model_len:
                pages = tuple(range(pages_for(length)))
                admission = Admission(0, (0,) * length, length, greedy, None)
                yield Batch(0, 0, (), (admission,), (BatchRow(0, length, pages),))
                yield Batch(0, 0, (0,), (), ())
        yield from self._decode_steps(WARM_UP_ROWS)

    def _decode_steps(self, counts: Sequence[int]) -> Iterator[Batch]:
        """Of so many rows of the base, as far as the pool has room."""
        greedy = SamplingParams(temperature=0.0)
        for count in counts:
            if count <= self._pool.num_pages:
                yield Batch(
                    0,
                    0,
                    (),
                    tuple(Admission(row, (0, 0), 2, greedy, None) for row in range(count)),
                    tuple(BatchRow(row, 2, (row,)) for row in range(count)),
                )
                for _ in range(WARM_UP_DECODES):
                    yield Batch(0, 0, (), (), tuple(BatchRow(row, 1) for row in range(count)))
                yield Batch(0, 0, tuple(range(count)), (), ())

    # -- adapters

    def read_adapter(self, key: str, path: str) -> AdapterInfo:
        """An adapter's files to the host, checked; from any thread. Never raises."""
        info = self._store.read(key, path)
        if self._config.no_lora and not info.reason:  # checked, and its name is still answered
            self._store.drop(key)
            info = msgspec.structs.replace(info, num_bytes=0, pages=0)
        return info

    def measure_adapter(self, path: str) -> AdapterInfo:
        """What `read_adapter` would say, from the headers alone; from any thread. Never raises."""
        return self._store.measure(path)

    def place_adapter(self, key: str, pages: Sequence[int]) -> Future[None]:
        """Starts copying an adapter into pages, behind the steps launched before; those launched
        after do not wait for it."""
        # Memory of its own is given out by the stream that will use it.
        start = self._queue.submit if self._config.no_mem_pool else self._queue.copy
        return start(lambda: self._store.place(key, pages))

    def evict_adapter(self, key: str) -> None:
        """Gives up its pages; no step launched later names it."""
        self._store.evict(key)

    def drop_adapter(self, key: str) -> None:
        """Forgets it, on the host too."""
        self._store.drop(key)

    def drop_adapters(self) -> None:
        """Forgets all of them."""
        self.use_merged(None)
        self._store.drop_all()

    # -- merged weights

    def merge(self, key: str) -> MergedModel:
        """A second model with an adapter in its weights, beside all steps; from the reading thread.
        Raises `MemoryError` where there is no room for it."""
        adapter = self._store[key]
        needed = merged_bytes(adapter, self._model_config, self._precision.weights)
        if needed > (free := self._free_bytes()):
            raise MemoryError(
                f"a merged copy takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            )
        model = self._queue.beside(lambda: merge(self._model, adapter, self._model_config))
        return MergedModel(
            key, model, StepBytes(model, self._pool, layer_windows(self._model_config))
        )

    def use_merged(self, merged: MergedModel | None) -> None:
        """From the next step on. Waits for the device before and after, as it must: steps under way
        still read the copy that is given up, whose memory another stream may be given."""
        if merged is None and self._merged is None:
            return
        for name in ("merge: before", "merge: after"):
            self._synchronize(name)
            self._merged = merged

    def _synchronize(self, name: str) -> None:
        """Waits until all that was issued is done, and says how long."""
        started = time.perf_counter()
        with self._spans.span("synchronize({})", name):
            self._queue.synchronize()
        wait_us = _microseconds_since(started)
        self._publish(SyncPoint(self._rank, name, time.time(), wait_us))

    # -- verification

    def new_trial(self, order: CheckAdapter) -> VerificationRun:
        return VerificationRun(order, self._model_config.vocab_size)

    def compare(self, trial: VerificationRun) -> tuple[tuple[Comparison, ...], bool]:
        """What was generated against the merged weights; from the reading thread. Raises
        `AdapterError` where an adapter's files are not those that were read."""
        directories = {}
        for key in {s.key for s in trial.sequences if s.key}:
            known = self._store[key].info
            self._store.check_digest(known)
            directories[key] = known.path
        dummy, device = self._config.dummy, self._queue.device
        checkpoint = open_checkpoint(self._directory, dummy=dummy, device=device)
        with (
            self._bar("verify", self._model_config.num_layers, "layer") as bar,
            torch.inference_mode(),
        ):
            references = reference_logits(
                checkpoint, self._whole, trial.sequences, directories, bar.update
            )
        return compare(trial, references)

    @property
    def dtype(self) -> str:
        """The types it computes in, as the screen shows them."""
        return self._precision.name

    # -- steps

    def reset(self) -> None:
        """Waits for what was launched, then forgets every sequence and empties every page; the
        host keeps its adapters."""
        self._queue.synchronize()
        self._store.evict_all()
        self._live.clear()
        self._num_slots = 0
        self._free_slots.clear()

    def launch(self, batch: Batch, *, keep_logits: bool = False) -> PendingStep:
        """Issues a step. Does not wait for the device, except before prompts with --sync-points."""
        if batch.admit and self._config.sync_points:
            self._synchronize("prefill: before")
        started = time.perf_counter()
        for number in batch.release:
            self._free_slots.append(self._live.pop(number).slot)
        staging = Staging()
        admitted = [self._admit(admission, staging) for admission in batch.admit]
        sequences = [self._live[row.sequence] for row in batch.rows]
        step = self._describe(batch, sequences)
        unclean: list[int] = []
        rows = [
            self._advance(sequence, row, unclean)
            for sequence, row in zip(sequences, batch.rows, strict=True)
        ]
        merged = self._merged
        if merged is not None and all(row.adapter == merged.key for row in rows):
            rows = [replace(row, adapter=None) for row in rows]  # it is in the weights
        else:
            merged = None
        if self._times_steps:
            step = self._count_bytes(step, rows, merged.num_bytes if merged else self._num_bytes)
        by_slot = {sequence.slot: sequence for sequence in sequences}
        spans_layers = self._spans.layers
        plan: StepPlan | PagedPlan | None = None
        sampling: list[LiveSequence] = []
        choices: list[SampleRow] = []
        if rows and self._paged is not None:
            plan = self._paged.plan(rows, may_replay=merged is None)
        elif rows:
            with self._queue.issuing():  # it may gather adapters
                plan = StepPlan(
                    rows,
                    staging,
                    self._pool,
                    self._store,
                    windows=self._windows,
                    history_width=self._history.shape[1],
                )
        if plan is not None:
            sampling = [by_slot[row.slot] for row in plan.samples]
            choices = [SampleRow(s.params, s.slot, s.num_prompt, s.known) for s in sampling]
        for sequence in sampling:
            sequence.known += 1
        clean = staging.add(unclean) if unclean else None
        num_slots = self._num_slots
        model = self._model if merged is None else merged.model
        if spans_layers:
            model = with_layer_spans(model, self._spans, self._settle)
        host_us = _microseconds_since(started)
        started = time.perf_counter()

        def issue() -> Issued:
            return self._issue(
                staging, num_slots, admitted, clean, plan, choices, model, keep_logits
            )

        issued = self._queue.submit(issue)
        step = msgspec.structs.replace(
            step, host_us=host_us, launch_us=_microseconds_since(started)
        )
        compares = (
            self._times_steps
            and merged is None
            and not spans_layers
            and rows
            and step.phase == "decode"
        )
        base_us = self._base_us(rows) if compares else None
        return PendingStep(issued, [sequence.number for sequence in sampling], step, base_us)

    def _count_bytes(self, step: Step, rows: Sequence[StepRow], about: StepBytes) -> Step:
        keys = {row.adapter for row in rows if row.adapter is not None}
        return msgspec.structs.replace(
            step,
            weight_bytes=about.weights(step.tokens) if rows else 0,
            adapter_bytes=sum(self._store[key].nbytes for key in keys),
            kv_bytes=about.kv(rows),
        )

    def _base_us(self, rows: Sequence[StepRow]) -> Callable[[Step], int]:
        """For a decode step: learns from it, or says what it would have taken without adapters."""
        count = len(rows) if self._paged is None else self._paged.base_rows(len(rows))
        has_adapters = any(row.adapter is not None for row in rows)

        def take(step: Step) -> int:
            return self._base_times.take(
                count, step.busy_us, step.kv_bytes, has_adapters=has_adapters
            )

        return take

    def _admit(self, admission: Admission, staging: Staging) -> tuple[int, int]:
        """Takes a sequence in; (slot, ticket of its tokens)."""
        assert admission.sequence not in self._live, f"{admission.sequence} is already here"
        adapter = None if self._config.no_lora else admission.adapter
        if adapter is not None and adapter not in self._store:
            raise ValueError(f"adapter {adapter!r} is not placed")
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot, self._num_slots = self._num_slots, self._num_slots + 1
        count = len(admission.token_ids)
        self._live[admission.sequence] = LiveSequence(
            admission.sequence,
            slot,
            admission.params,
            adapter,
            admission.num_prompt,
            admitted=count,
            known=count,
        )
        return slot, staging.add(admission.token_ids)

    def _advance(self, sequence: LiveSequence, row: BatchRow, unclean: list[int]) -> StepRow:
        """Moves a sequence by one row; new pages that the row does not fill go to `unclean`."""
        start, stop = sequence.computed, sequence.computed + row.num_tokens
        assert row.num_tokens > 0 and stop <= sequence.known, (
            f"sequence {sequence.number}: tokens {start} to {stop} of {sequence.known} known"
        )
        full = stop // PAGE_SIZE
        sequence.pages.extend(row.new_pages)
        unclean.extend(sequence.pages[max(full, len(sequence.pages) - len(row.new_pages)) :])
        assert stop <= len(sequence.pages) * PAGE_SIZE, (
            f"sequence {sequence.number}: {stop} tokens in {len(sequence.pages)} pages"
        )
        sequence.computed = stop
        adapter = None if self._config.no_lora_compute else sequence.adapter
        return StepRow(
            sequence.slot, start, row.num_tokens, sequence.known, sequence.pages, adapter
        )

    def _describe(self, batch: Batch, sequences: Sequence[LiveSequence]) -> Step:
        """What is known of a step before it runs."""
        admitted = [sequence.computed < sequence.admitted for sequence in sequences]
        names = {sequence.adapter for sequence in sequences if sequence.adapter}
        return Step(
            rank=self._rank,
            step=batch.step,
            at=0.0,
            phase="mixed" if len(set(admitted)) == 2 else "prefill" if any(admitted) else "decode",
            rows=len(sequences),
            tokens=sum(row.num_tokens for row in batch.rows),
            adapters=len(names),
            adapter_bytes=0,
            host_us=0,
            copy_us=0,
            launch_us=0,
            busy_us=0,
            sync_us=0,
        )

    # -- on the device

    def _settle(self) -> None:
        """For spans of layers: a file holds what the device took only where it is waited for. A
        profiler that hears NVTX knows what ran for each range, and must not be disturbed."""
        recording = self._spans.recording
        if self._queue.device.type == "cuda" and recording and not recording.has_nvtx:
            torch.cuda.current_stream().synchronize()

    def _issue(
        self,
        staging: Staging,
        num_slots: int,
        admitted: Sequence[tuple[int, int]],
        clean: int | None,
        plan: StepPlan | PagedPlan | None,
        choices: Sequence[SampleRow],
        model: Llama,
        keep_logits: bool,
    ) -> Issued:
        """A step from its staged inputs to its tokens' way back. Runs in the queue's order."""
        on_gpu = self._queue.device.type == "cuda"
        times = self._times_steps
        events: tuple[torch.cuda.Event, ...] = ()
        if on_gpu:
            events = tuple(torch.cuda.Event(enable_timing=times) for _ in range(3 if times else 1))
        started = time.perf_counter()
        if len(events) == 3:
            events[0].record()
        tensors = staging.ship(self._queue.device)
        if len(events) == 3:
            events[1].record()
        self._grow_history(num_slots)
        for slot, ticket in admitted:
            tokens = tensors[ticket]
            self._history[slot, : len(tokens)] = tokens
        if clean is not None and self._paged is None:  # our kernels do not look beyond a length
            self._pool.clean(tensors[clean])
        sampled, kept = NOTHING_SAMPLED, None
        if plan is not None:
            with self._spans.span("forward"):
                logits, places, best = self._forward(plan, tensors, model)
            if keep_logits:
                kept = logits.float().clone()
            if best is not None and all(row.takes_best for row in choices):
                sampled = replace(NOTHING_SAMPLED, token_ids=best)
            elif choices:
                with self._spans.span("sample"):
                    sampled = sample(logits.float(), choices, self._history)
                # The next step may be launched already: it must find a token that there is.
                token_ids = sampled.token_ids.int().clamp(min=0)
                self._history.view(-1).index_copy_(0, places.long(), token_ids)
        if events:
            sampled = sampled.to_host()
            events[-1].record()
        busy_us = _microseconds_since(started) if times else 0
        return Issued(sampled, busy_us=busy_us, events=events, logits=kept)

    def _forward(
        self, plan: StepPlan | PagedPlan, tensors: list[Tensor], model: Llama
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits [num_samples, vocab_size], where the tokens chosen from them are kept, and the
        most probable ones where they were found and kept already."""
        if isinstance(plan, StepPlan):
            batch = plan.to_device(
                tensors, self._history, self._rotary, self._precision.activations
            )
            return model(batch, self._pool.pages), batch.sample_history, None
        assert self._paged is not None
        # Ranks are told to span layers at different moments: padded alike, they still sum alike.
        result = self._paged.run(plan, model, replay=model is self._model)
        return result.logits, result.places, result.best

    def _grow_history(self, num_slots: int) -> None:
        old = self._history
        if num_slots > len(old):
            assert self._paged is None, f"{num_slots} sequences at once, and graphs know {len(old)}"
            self._history = old.new_zeros((2 * num_slots, old.shape[1]))
            self._history[: len(old)] = old

    # -- what it tells

    def stats(self) -> WorkerStats:
        """What it runs on and the memory it takes."""
        device = self._queue.device
        return WorkerStats(
            at=time.time(),
            rank=self._rank,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            dtype=self._precision.name,
            model=Path(self._config.model).name,
            threads=self._queue.threads,
            weights_bytes=self._weights_bytes,
            pool_bytes=self._pool.nbytes,
            adapter_bytes=self._store.nbytes,
            kernels=str(self._kernels),
            copy_bytes_s=self._copy_bytes_s,
            times_steps=self._times_steps,
        )


def choose_max_model_len(config: Config, model_config: ModelConfig) -> int:
    """`config.max_model_len`, or the model's own. Raises `OperatorError` where the model was not
    made for so many tokens."""
    longest = model_config.max_model_len
    if config.max_model_len > longest:
        raise OperatorError(
            f"--max-model-len {config.max_model_len} is more than the model's {longest}",
            "lower it",
        )
    return config.max_model_len or longest


def _tokens(sampled: Sampled, sequences: Sequence[int]) -> Iterator[SampledToken]:
    """A step's tokens, from tensors on the host."""
    logprobs: dict[int, tuple[Logprob, ...]] = {}
    token_ids: list[int] = sampled.token_ids.tolist()
    for place, row in enumerate(sampled.logprob_rows):
        wanted = sampled.logprob_counts[place]
        best = zip(
            sampled.best_ids[place, :wanted].tolist(),
            sampled.best_logprobs[place, :wanted].tolist(),
            strict=True,
        )
        chosen = Logprob(token_ids[row], float(sampled.chosen_logprobs[place]))
        logprobs[row] = (chosen, *(Logprob(token, value) for token, value in best))
    for row, (sequence, token) in enumerate(zip(sequences, token_ids, strict=True)):
        yield SampledToken(sequence, token, logprobs.get(row, ()))


def _microseconds_since(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)
