"""`ProgressBar`: a tqdm that publishes its progress for the console."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ..messages import Progress

PUBLISH_SECONDS = 0.1


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A tqdm that publishes its refreshes as `Progress` messages, at most ten a second.

    `publish` is usually `Beacon.publish`. By default nothing is drawn: the stderr of a child is its
    log.
    """

    def __init__(
        self,
        *arguments: Any,
        publish: Callable[[Progress], None],
        source: str,
        stage: str,
        **options: Any,
    ) -> None:
        self._publish, self._source, self._stage = publish, source, stage
        self._published_at = 0.0
        self._has_raised = False
        options.setdefault("file", io.StringIO())
        options.setdefault("mininterval", PUBLISH_SECONDS)
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.publish_now()

    def publish_now(self, done: bool = False, failed: bool = False) -> None:
        now = time.monotonic()
        if not done and now - self._published_at < PUBLISH_SECONDS:
            return
        self._published_at = now
        self._publish(
            Progress(
                source=self._source,
                stage=self._stage,
                label=self.desc.rstrip(": ") if self.desc else self._stage,
                current=float(self.n),
                total=None if self.total is None else float(self.total),
                unit=self.unit,
                elapsed_s=self.format_dict["elapsed"],
                done=done,
                failed=failed,
            )
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the bar: as failed if its work has raised, whatever its count."""
        self._has_raised = kind is not None
        super().__exit__(kind, error, trace)

    def close(self) -> None:
        if not self.disable:
            failed = self._has_raised or (self.total is not None and self.n < self.total)
            self.publish_now(done=True, failed=failed)
        super().close()
