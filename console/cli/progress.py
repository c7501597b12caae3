"""`StageBar`: a tqdm bar of one stage of a process's start.

Uses no clock: the elapsed time is in the message.
"""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from ...pipeline.messages import Progress
from ...pipeline.runtime.text_output import visible


class StageBar(tqdm):  # type: ignore[type-arg]
    """Shows the last `Progress` message, whenever it is drawn."""

    def __init__(self, first: Progress) -> None:
        self._elapsed_s = first.elapsed_s
        super().__init__(
            desc=f"{visible(first.stage):<10}",
            total=_whole(first.total),
            unit=first.unit if first.unit == "B" else f" {first.unit}",
            unit_scale=first.unit == "B",
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that tqdm draws. Without a rate, tqdm divides the work done by the elapsed
        time."""
        return {**super().format_dict, "elapsed": self._elapsed_s, "rate": None}

    def show(self, message: Progress) -> None:
        self.total, self.n = _whole(message.total), int(message.current)
        self._elapsed_s = message.elapsed_s
        if message.failed:
            self.desc = f"{visible(message.stage)} failed: "
        self.refresh()


def _whole(total: float | None) -> int | None:
    return None if total is None else int(total)
