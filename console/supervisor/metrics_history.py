"""`MetricsHistory`: the last hour of a run as a `Moment` a second, and the events of a day, for a
console that comes late.

In memory and, as JSON lines, in `RUN/history`, both bounded; a supervisor that starts again reads
what the one before it wrote. Knows files and messages, no socket and no clock.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from ...pipeline.messages import Event, Message, Moment, RouterStats, ServerStats, Step
from ...pipeline.runtime.step_statistics import StepMeans

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
EVENTS_KEPT = 1000
MOMENTS_BYTES = 1 << 20
"""Most bytes of one file; the one before it is kept. A moment takes at most 190 bytes, an hour
0.7 MB."""
EVENTS_BYTES = 1 << 20
RETRY_SECONDS = 30.0
"""Time between two tries to write to a disk that was full."""

T = TypeVar("T")


class JsonLinesFile(Generic[T]):
    """Rows of one type as JSON lines in a file of bounded size: a full one becomes `NAME.1`, in
    place of the one before it. At most twice `max_bytes` lie on the disk."""

    def __init__(self, path: Path, kind: type[T], max_bytes: int) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._max_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._descriptor: int | None = None
        self._size = 0

    def read(self) -> Iterator[T]:
        """Oldest first. A line that is no row (torn by a crash or a full disk) is left out."""
        for path in (self._older, self._path):
            with contextlib.suppress(OSError), path.open("rb") as lines:
                for line in lines:
                    with contextlib.suppress(msgspec.MsgspecError):
                        yield self._decoder.decode(line)

    def append(self, row: T) -> None:
        """Raises `OSError` where the disk does not take the whole line; none of it is left then."""
        line = self._encoder.encode(row) + b"\n"
        if self._descriptor is None or self._size + len(line) > self._max_bytes:
            self._open(turns_over=self._descriptor is not None)
        assert self._descriptor is not None
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(28, "no space left on the device")
        self._size += written

    def _open(self, turns_over: bool) -> None:
        self.close()
        if turns_over:
            self._path.replace(self._older)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            self._size += os.write(self._descriptor, b"\n")  # the torn line ends here

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class MetricsHistory:
    """`take` what is heard, `tick` once a second."""

    def __init__(
        self,
        directory: Path,
        now: float,
        tell: Callable[[str, str], None] = lambda level, text: None,
    ) -> None:
        """Reads the files in `directory`. `tell(level, text)` is called when the disk takes nothing
        any more, and when it does again."""
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._moments: deque[Moment] = deque(maxlen=HOUR_SECONDS)
        self._moment_file = JsonLinesFile(directory / "moments.jsonl", Moment, MOMENTS_BYTES)
        self._event_file = JsonLinesFile(directory / "events.jsonl", Event, EVENTS_BYTES)
        self._tell = tell
        self._failed_at: float | None = None
        self._router: RouterStats | None = None
        self._before: RouterStats | None = None
        self._requests = self._requests_before = 0
        self._steps: list[Step] = []
        """The steps of rank 0 in the current second."""
        for moment in self._moment_file.read():
            if now - HOUR_SECONDS < moment.at <= now:
                self._moments.append(moment)
        for event in self._event_file.read():
            if now - DAY_SECONDS < event.at <= now:
                self.events.append(event)

    def take(self, message: Message) -> None:
        match message:
            case Step(rank=0):
                self._steps.append(message)
            case RouterStats():
                self._router = message
            case ServerStats(requests=requests):
                self._requests = requests
            case Event(at=at):
                self.events.append(message)
                self._write(self._event_file, message, at)

    def tick(self, now: float) -> None:
        """Makes a moment of the second that ends now, unless the router was not heard in it."""
        steps, self._steps = self._steps, []
        router, before = self._router, self._before
        if router is None or router is before:
            return
        self._before = router
        arrived, self._requests_before = self._requests - self._requests_before, self._requests
        if before is None or router.steps < before.steps or router.at <= before.at:
            return  # a router that is new: what it counted before we looked has no second
        elapsed = router.at - before.at
        moment = _moment(
            steps,
            at=now,
            running=router.running,
            waiting=router.waiting,
            decode_tokens_s=round((router.decode_tokens - before.decode_tokens) / elapsed, 2),
            prefill_tokens_s=round((router.prefill_tokens - before.prefill_tokens) / elapsed, 2),
            requests_s=round(max(0, arrived) / elapsed, 2),
            pages_kv=router.pages_kv,
            pages_adapters=router.pages_adapters,
        )
        self._moments.append(moment)
        self._write(self._moment_file, moment, now)

    def moments(self, since: float) -> tuple[Moment, ...]:
        """The moments after `since`, oldest first."""
        return tuple(moment for moment in self._moments if moment.at > since)

    def close(self) -> None:
        self._moment_file.close()
        self._event_file.close()

    def _write(self, file: JsonLinesFile[T], row: T, now: float) -> None:
        """Appends to a file. What the disk does not take stays in memory; `tell` is called once,
        and writing is tried again later."""
        if self._failed_at is not None and now - self._failed_at < RETRY_SECONDS:
            return
        has_failed, self._failed_at = self._failed_at is not None, now  # `tell` comes back here
        try:
            file.append(row)
        except OSError as error:
            file.close()
            if not has_failed:
                self._tell("warning", f"history is kept in memory alone: {error.strerror}")
            return
        self._failed_at = None
        if has_failed:
            self._tell("info", "history is written to the disk again")


def _moment(steps: Sequence[Step], **counts: float) -> Moment:
    """A second's moment: `counts` are its other fields."""
    if not steps:
        return Moment(**counts, steps=0)  # type: ignore[arg-type]
    means = StepMeans.of(steps)
    rate, overhead = means.read_bytes_s, means.lora_overhead
    return Moment(
        **counts,  # type: ignore[arg-type]
        steps=means.steps,
        host_ms=round(means.host_ms, 3),
        copy_ms=round(means.copy_ms, 3),
        launch_ms=round(means.launch_ms, 3),
        busy_ms=round(means.busy_ms, 3),
        sync_ms=round(means.sync_ms, 3),
        most_sync_ms=means.most_sync_ms,
        read_bytes_s=None if rate is None else round(rate),
        lora_overhead=None if overhead is None else round(overhead, 4),
    )
