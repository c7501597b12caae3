"""`WarmUpRecord`: what a worker's warm-up measured, kept in the run directory, so that a worker
that is killed and started again need not measure it again.

It holds from one start of the pipeline to its end, for one device. Without it, or if it cannot be
read, everything is measured again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import torch

from ..model.compute_queue import ComputeQueue
from ..private_files import replace_private

log = logging.getLogger(__name__)


class MeasuredSteps(msgspec.Struct, frozen=True):
    """Rates, and times of decode steps without adapters."""

    copy_bytes_s: float = 0.0
    """Rate of a copy within device memory, counting bytes read and written."""
    kv_bytes_s: float = 0.0
    """Rate at which a step reads KV."""
    steps: dict[int, list[tuple[int, int]]] = {}
    """Row count to (kv_bytes, busy_us) of its steps."""
    newest_at: dict[int, float] = {}
    """Row count to the end of its newest step, unix seconds."""


class _Content(msgspec.Struct, frozen=True):
    start: int
    """When the pipeline was started: config.json's modification, ns."""
    device: str
    threads: int
    torch: str
    measured: MeasuredSteps


class WarmUpRecord:
    """One rank's record, `RUN/warm-up-RANK.json`."""

    def __init__(self, run: Path, rank: int, queue: ComputeQueue) -> None:
        self._path, self._config = run / f"warm-up-{rank}.json", run / "config.json"
        self._queue = queue

    def read(self) -> MeasuredSteps | None:
        """What an earlier worker of this start of the pipeline measured; None if unknown."""
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
            expected = self._content(content.measured)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None
        return content.measured if content == expected else None

    def write(self, measured: MeasuredSteps) -> None:
        """Keeps the measurements; a full disk only costs the next worker its time."""
        try:
            replace_private(self._path, msgspec.json.encode(self._content(measured)))
        except OSError as error:
            log.warning("cannot keep what the warm-up measured: %s", error)

    def remove(self) -> None:
        """Makes the next worker measure again."""
        for path in (self._path, self._path.with_suffix(".new")):
            path.unlink(missing_ok=True)

    def _content(self, measured: MeasuredSteps) -> _Content:
        queue, start = self._queue, self._config.stat().st_mtime_ns
        name = "cpu"
        if queue.device.type == "cuda":
            name = torch.cuda.get_device_name(queue.device)
        return _Content(start, name, queue.threads, str(torch.__version__), measured)
