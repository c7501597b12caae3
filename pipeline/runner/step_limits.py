"""`StepLimits`: how much a step may take, resolved from the settings and the device once.

The worker resolves them where it loads its model and reports them in `WorkerReady`; the router
takes what it is given. So CUDA graphs are captured for the batch that the scheduler may fill.
"""

from __future__ import annotations

from typing import NamedTuple

from ..config import Config

MAX_RUNNING = {"cpu": 64, "cuda": 256}
"""Requests in a batch where `--max-running` is 0."""
MAX_PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Prompt tokens in a step where `--max-prefill-tokens` is 0. On a CPU a step of 256 prompt tokens
takes the better part of a second, during which every running stream stands still."""
CHUNK_TOKENS = 192
"""Prompt tokens in a step in which others decode, where `--chunk-tokens` is 0. A step of an 8B
model with 192 prompt tokens takes less than twice the time of its decode rows alone, however long
the prompt is (kernels/NOTES.md), so it never stalls running streams."""


class StepLimits(NamedTuple):
    """What one step may hold at most."""

    max_running: int
    """Requests."""
    max_prefill_tokens: int
    """Prompt tokens, where nothing decodes."""
    chunk_tokens: int
    """Prompt tokens beside sequences that decode."""


def choose_step_limits(config: Config, device: str) -> StepLimits:
    """The settings, with those that are 0 chosen by the device (cpu or cuda)."""
    return StepLimits(
        max_running=config.max_running or MAX_RUNNING[device],
        max_prefill_tokens=config.max_prefill_tokens or MAX_PREFILL_TOKENS[device],
        chunk_tokens=config.chunk_tokens or CHUNK_TOKENS,
    )
