"""`ReadingBar`: the progress bar of a start, adapters that the workers have read of all."""

from __future__ import annotations

from collections.abc import Callable

from ..messages import Progress
from ..runtime.progress import ProgressBar
from .effects import ShowReading


class ReadingBar:
    """See the module."""

    def __init__(self, publish: Callable[[Progress], None]) -> None:
        self._publish = publish
        self._bar: ProgressBar | None = None

    def show(self, reading: ShowReading) -> None:
        """Begins a bar where nothing is read yet, else moves it on; all read ends it."""
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
        """A bar that has not ended says nothing more."""
        if self._bar is not None:
            self._bar.disable = True
            self._bar = None
