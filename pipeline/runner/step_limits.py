"""`StepLimits`: the size limits of a step, resolved once from the settings and the device.

The worker resolves them when it loads its model and reports them in `WorkerReady`; the router uses
the reported values. So CUDA graphs are captured for the largest batch the scheduler may build.
"""

from __future__ import annotations

from typing import NamedTuple

from ..config import Config

MAX_RUNNING = {"cpu": 64, "cuda": 256}
"""Requests in a batch if `--max-running` is 0."""
MAX_PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Prompt tokens in a step if `--max-prefill-tokens` is 0. On a CPU a step of 256 prompt tokens
takes most of a second, during which every running stream stalls."""
CHUNK_TOKENS = 192
"""Prompt tokens in a step that also decodes, if `--chunk-tokens` is 0. A step of an 8B model with
192 prompt tokens takes less than twice the time of its decode rows alone, however long the prompt
is (kernels/NOTES.md), so it never stalls running streams."""


class StepLimits(NamedTuple):
    """Upper limits of one step."""

    max_running: int
    """Requests."""
    max_prefill_tokens: int
    """Prompt tokens, if nothing decodes."""
    chunk_tokens: int
    """Prompt tokens, if other sequences decode."""


def choose_step_limits(config: Config, device: str) -> StepLimits:
    """The limits from the settings; 0 is replaced by the default of `device` (cpu or cuda)."""
    return StepLimits(
        max_running=config.max_running or MAX_RUNNING[device],
        max_prefill_tokens=config.max_prefill_tokens or MAX_PREFILL_TOKENS[device],
        chunk_tokens=config.chunk_tokens or CHUNK_TOKENS,
    )
