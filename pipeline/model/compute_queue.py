"""`ComputeQueue`: the device as the runner sees it. Work goes in, is done in order, and the caller
does not wait. A GPU has a stream for that; a CPU gets one thread, which calls others to help only
where that pays (`helpers`).
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
"""Products (multiplications of a matrix product) from which a second thread helps: about a
millisecond's work. Calling it costs 50 µs where it sleeps, and milliseconds where anything else
wants its core: at 8 and 32 mixed rows on two cores, two threads for every operation gave 85 to 96
and 187 to 218 tokens/s while other processes took 30 % of a core, one thread 126 to 146 and 182 to
278. Idle, it was 128 and 283 against 169 and 300. More helpers are worth it sooner."""


class ComputeQueue:
    """The device, its streams or threads, and the work submitted to them."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads, self.helpers = device, threads, Helpers(threads)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copies = ThreadPoolExecutor(1, "copy")
        # OpenMP keeps a team of threads for every thread that computes: so one alone does.
        self._thread = ThreadPoolExecutor(1, "compute", torch.set_num_threads, (1,))

    @property
    def stream(self) -> torch.cuda.Stream:
        """The stream of a GPU's steps."""
        assert self._stream is not None
        return self._stream

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Starts work behind what was submitted before. On a GPU the future is done at once: it
        holds what was issued, not what was computed."""
        if self._stream is None:
            return self._thread.submit(_without_gradients, work)
        future: Future[T] = Future()
        try:
            with torch.cuda.stream(self._stream):
                future.set_result(_without_gradients(work))
        except Exception as error:  # raised where the future is read, as a thread's would be
            future.set_exception(error)
        return future

    def copy(self, work: Callable[[], T]) -> Future[T]:
        """Starts work as `submit` does, but nothing submitted later waits for it, and the future is
        done when the work is. On a CPU it takes its turn among the rest."""
        if self._stream is None or self._copy_stream is None:
            return self.submit(work)
        behind = self._stream.record_event()  # steps that still use what it overwrites
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
        """Does work that touches only what no step writes, in the caller's thread; returns when it
        is done."""
        if self._copy_stream is None:
            return _without_gradients(work)
        with torch.cuda.stream(self._copy_stream):
            result = _without_gradients(work)
        self._copy_stream.synchronize()
        return result

    def issuing(self) -> AbstractContextManager[object]:
        """For work on tensors outside of `submit`: on a GPU it takes its turn in the stream; on a
        CPU it is done beside what computes, so it may touch only what no step writes."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """Waits until all that was submitted is done."""
        if self._stream is None:
            self._thread.submit(lambda: None).result()
        else:
            self._stream.synchronize()
            assert self._copy_stream is not None
            self._copy_stream.synchronize()


class Helpers:
    """`with helpers:` computes with all threads; elsewhere the computing thread is alone."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def worth(self, products: float) -> bool:
        """Whether calling them pays for an operation of this many multiplications."""
        return self._threads > 1 and products * (self._threads - 1) >= WORTH_HELP

    def __enter__(self) -> None:
        torch.set_num_threads(self._threads)  # a tenth of a microsecond

    def __exit__(self, *raised: object) -> None:
        torch.set_num_threads(1)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on a device, without waiting for what is queued there."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _without_gradients(work: Callable[[], T]) -> T:
    with torch.inference_mode():
        return work()


def choose_queue(config: Config, rank: int) -> ComputeQueue:
    """The device that `config` asks for, or the best there is. Raises `OperatorError`."""
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
    """Cores this process may keep busy: by its affinity, its control group, and good sense."""
    cores = min(len(os.sched_getaffinity(0)), torch.get_num_threads(), MOST_THREADS)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            cores = min(cores, int(limit) // int(period))
    return max(1, cores)
