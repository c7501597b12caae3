"""`ReadingBar`: the progress bar of adapters that the workers read at a start."""

from __future__ import annotations

from collections.abc import Callable

from ..messages import Progress
from ..runtime.progress import ProgressBar
from .effects import ShowReading


class ReadingBar:
    """Counts the adapters of a start that all workers have read."""

    def __init__(self, publish: Callable[[Progress], None]) -> None:
        self._publish = publish
        self._bar: ProgressBar | None = None

    def show(self, reading: ShowReading) -> None:
        """Starts a bar if none is read yet, else advances it; the last one read closes it."""
        if reading.left == reading.total:
            self.abandon()
            self._bar = ProgressBar(
                publish=self._publish,
                source="router",
                stage="adapters",
                total=reading.total,
                unit="adapter",
            )
        elif self._bar is not None:
            self._bar.update()
        if self._bar is not None and not reading.left:
            self._bar.close()
            self._bar = None

    def abandon(self) -> None:
        """Drops an unfinished bar without a last message."""
        if self._bar is not None:
            self._bar.disable = True
            self._bar = None
