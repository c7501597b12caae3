"""`ComputeQueue`: an ordered queue of device work; the caller does not wait. On a GPU it is a
stream, on a CPU one thread, which uses other threads only for work large enough (`helpers`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..config import Config
from ..errors import OperatorError

T = TypeVar("T")

MOST_THREADS = 16
"""Decoding is bound by memory, which a few cores saturate."""
WORTH_HELP = 64e6
"""Multiplications from which one more thread helps: about a millisecond's work. Waking it costs
50 µs if it sleeps, and milliseconds if another process wants its core. At 8 and 32 mixed rows on
two cores, with other processes taking 30 % of a core, two threads for every operation gave 85 to 96
and 187 to 218 tokens/s, one thread 126 to 146 and 182 to 278; on an idle machine 128 and 283
against 169 and 300. With more helpers the threshold is lower."""


class ComputeQueue:
    """The device, its streams or threads, and the work submitted to them."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads, self.helpers = device, threads, Helpers(threads)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copies = ThreadPoolExecutor(1, "copy")
        # OpenMP keeps a thread team for every computing thread, so only one thread computes.
        self._thread = ThreadPoolExecutor(1, "compute", torch.set_num_threads, (1,))

    @property
    def stream(self) -> torch.cuda.Stream:
        """The stream of a GPU's steps."""
        assert self._stream is not None
        return self._stream

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Runs work after all work submitted before. On a GPU the future is done as soon as the
        work is issued, before it is computed."""
        if self._stream is None:
            return self._thread.submit(_without_gradients, work)
        future: Future[T] = Future()
        try:
            with torch.cuda.stream(self._stream):
                future.set_result(_without_gradients(work))
        except Exception as error:  # re-raised by future.result(), as on the CPU
            future.set_exception(error)
        return future

    def copy(self, work: Callable[[], T]) -> Future[T]:
        """Like `submit`, but later work does not wait for it, and the future is done only when the
        work is. On a CPU it is the same as `submit`."""
        if self._stream is None or self._copy_stream is None:
            return self.submit(work)
        behind = self._stream.record_event()  # earlier steps may read what this overwrites
        try:
            with torch.cuda.stream(self._copy_stream):
                self._copy_stream.wait_event(behind)
                result = _without_gradients(work)
                done = self._copy_stream.record_event()
        except Exception as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            return failed

        def wait() -> T:
            done.synchronize()
            return result

        return self._copies.submit(wait)

    def beside(self, work: Callable[[], T]) -> T:
        """Does work in the caller's thread, concurrently with steps, and returns when it is done.
        It may only touch memory that no step writes."""
        if self._copy_stream is None:
            return _without_gradients(work)
        with torch.cuda.stream(self._copy_stream):
            result = _without_gradients(work)
        self._copy_stream.synchronize()
        return result

    def issuing(self) -> AbstractContextManager[object]:
        """A context for tensor work outside `submit`. On a GPU it is queued in the stream.
        On a CPU it runs concurrently with steps, so it may only touch what no step writes."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """Waits until all submitted work is done."""
        if self._stream is None:
            self._thread.submit(lambda: None).result()
        else:
            self._stream.synchronize()
            assert self._copy_stream is not None
            self._copy_stream.synchronize()


class Helpers:
    """`with helpers:` computes with all threads; outside it only one thread computes."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def worth(self, products: float) -> bool:
        """Whether an operation of this many multiplications is faster with all threads."""
        return self._threads > 1 and products * (self._threads - 1) >= WORTH_HELP

    def __enter__(self) -> None:
        torch.set_num_threads(self._threads)  # takes 0.1 µs

    def __exit__(self, *raised: object) -> None:
        torch.set_num_threads(1)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a small host tensor to a device, without waiting for work queued there."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _without_gradients(work: Callable[[], T]) -> T:
    with torch.inference_mode():
        return work()


def choose_queue(config: Config, rank: int) -> ComputeQueue:
    """The queue of the configured device, or of the best available. Raises `OperatorError`."""
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise OperatorError(
            "--device cuda, but torch sees no GPU",
            "check nvidia-smi and that the installed torch is built for cuda, or --device cpu",
        )
    if config.device != "cpu" and there:
        count = torch.cuda.device_count()
        if config.tp > count:
            raise OperatorError(f"no GPU for rank {count}", f"--tp {count} fits")
        torch.cuda.set_device(rank)
        return ComputeQueue(torch.device("cuda", rank), config.threads or torch.get_num_threads())
    return ComputeQueue(torch.device("cpu"), config.threads or max(1, usable_cores() // config.tp))


def usable_cores() -> int:
    """Cores this process may use: limited by its affinity, its cgroup and `MOST_THREADS`."""
    cores = min(len(os.sched_getaffinity(0)), torch.get_num_threads(), MOST_THREADS)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            cores = min(cores, int(limit) // int(period))
    return max(1, cores)
