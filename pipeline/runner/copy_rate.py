"""How fast a device's memory is: the rate of a copy within it, what steps are held against.

A copy is what a memory does at its best; read and written bytes count, as both pass.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

import torch

from ..model.compute_queue import ComputeQueue

CUDA_BYTES = 256 << 20
"""Five times an H200's cache."""
CPU_BYTES = 64 << 20
"""Read and written: four times the last cache of a chiplet; first touching them takes as long as
all copies together."""
COPIES = 7
ENOUGH_SECONDS = 0.08
"""Seconds of copying after which fewer copies are enough, on a slow machine."""


def measure_copy_rate(queue: ComputeQueue) -> float:
    """Bytes a second, read and written ones; 0 where there is no memory to try it in. Takes less
    than 0.2 s; to be called within the queue's own work."""
    num_bytes = CPU_BYTES
    if queue.device.type == "cuda":
        num_bytes = min(CUDA_BYTES, torch.cuda.mem_get_info(queue.device)[0] // 8)
    try:
        source = torch.zeros(num_bytes, dtype=torch.uint8, device=queue.device)
        target = torch.zeros_like(source)
    except (MemoryError, RuntimeError):  # torch's out of memory is runtime
        return 0.0
    on_gpu = queue.device.type == "cuda"
    times = [*(_on_gpu if on_gpu else _on_cpu)(queue, source, target)]
    if on_gpu:
        del source, target
        torch.cuda.empty_cache()  # the pool is sized from what is free
    return 2 * num_bytes / statistics.median(times)


def _on_gpu(queue: ComputeQueue, source: torch.Tensor, target: torch.Tensor) -> Iterator[float]:
    """Seconds of each copy."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(COPIES + 1)]
    target.copy_(source)
    for event in events:
        event.record()
        target.copy_(source)
    torch.cuda.current_stream(queue.device).synchronize()
    for before, after in itertools.pairwise(events):
        yield before.elapsed_time(after) / 1e3


def _on_cpu(queue: ComputeQueue, source: torch.Tensor, target: torch.Tensor) -> Iterator[float]:
    """Seconds of each copy, by all threads that compute."""
    begun = time.perf_counter()
    with queue.helpers:
        for _ in range(COPIES):
            started = time.perf_counter()
            target.copy_(source)
            yield (done := time.perf_counter()) - started
            if done - begun > ENOUGH_SECONDS:
                break
