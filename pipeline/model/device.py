"""`ComputeQueue`: the device as the runner sees it. Work goes in, is done in order, and the caller
does not wait. A GPU has a stream for that; a CPU gets one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from ..config import Config, OperatorError

T = TypeVar("T")

MOST_THREADS = 16
"""Decoding is bound by memory, which a few cores saturate."""


class ComputeQueue:
    """Where tensors live and who computes them."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # OpenMP keeps a team of threads for every thread that computes: so one alone does.
        self._thread = ThreadPoolExecutor(1, "compute", torch.set_num_threads, (threads,))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Starts work behind what was submitted before. On a GPU the future is done at once: it
        holds what was issued, not what was computed."""
        if self._stream is None:
            return self._thread.submit(_without_gradients, work)
        future: Future[T] = Future()
        try:
            with torch.cuda.stream(self._stream):
                future.set_result(_without_gradients(work))
        except Exception as error:  # told to whoever reads the future, as a thread would
            future.set_exception(error)
        return future

    def synchronize(self) -> None:
        """Waits until all that was submitted is done."""
        if self._stream is None:
            self._thread.submit(lambda: None).result()
        else:
            self._stream.synchronize()


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
        if rank >= torch.cuda.device_count():
            raise OperatorError(f"no GPU for rank {rank}", f"--tp {torch.cuda.device_count()} fits")
        return ComputeQueue(torch.device("cuda", rank), config.threads or torch.get_num_threads())
    return ComputeQueue(torch.device("cpu"), config.threads or usable_cores())


def usable_cores() -> int:
    """Cores this process may keep busy: by its affinity, its control group, and good sense."""
    cores = min(len(os.sched_getaffinity(0)), torch.get_num_threads(), MOST_THREADS)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            cores = min(cores, int(limit) // int(period))
    return max(1, cores)
