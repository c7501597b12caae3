"""Measures a device's copy rate, the memory bandwidth that steps are compared with.

A copy is the best case for memory; bytes read and bytes written both count.
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
"""Source and target together are four times a chiplet's last-level cache. First touching them takes
as long as all copies together."""
COPIES = 7
ENOUGH_SECONDS = 0.08
"""Copying stops early after this many seconds, on a slow machine."""


def measure_copy_rate(queue: ComputeQueue) -> float:
    """Bytes per second, read plus written; 0 if there is no memory for the test. Takes less than
    0.2 s; call it from work submitted to the queue."""
    num_bytes = CPU_BYTES
    if queue.device.type == "cuda":
        num_bytes = min(CUDA_BYTES, torch.cuda.mem_get_info(queue.device)[0] // 8)
    try:
        source = torch.zeros(num_bytes, dtype=torch.uint8, device=queue.device)
        target = torch.zeros_like(source)
    except (MemoryError, RuntimeError):  # torch's out-of-memory error is a RuntimeError
        return 0.0
    on_gpu = queue.device.type == "cuda"
    times = [*(_on_gpu if on_gpu else _on_cpu)(queue, source, target)]
    if on_gpu:
        del source, target
        torch.cuda.empty_cache()  # the pool is sized from free memory
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
    """Seconds of each copy, using all compute threads."""
    begun = time.perf_counter()
    with queue.helpers:
        for _ in range(COPIES):
            started = time.perf_counter()
            target.copy_(source)
            yield (done := time.perf_counter()) - started
            if done - begun > ENOUGH_SECONDS:
                break
