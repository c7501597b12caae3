"""`Chronicle`: what happened in a run, for a console that comes late: the last hour as a `Moment` a
second, the events of a day.

In memory and, as JSON lines, in `RUN/history`, both bounded; a supervisor that starts again reads
what the one before it wrote. Knows files and messages, no socket and no clock.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from ...pipeline.messages import Event, Message, Moment, RouterStats, ServerStats, Step

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
EVENTS_KEPT = 1000
MOMENTS_BYTES = 1 << 20
"""Of one file; the one before it is kept. A moment takes at most 190 bytes, an hour 0.7 MB."""
EVENTS_BYTES = 1 << 20
RETRY_SECONDS = 30.0
"""A disk that was full is tried again so often."""

T = TypeVar("T")


class Journal(Generic[T]):
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


class Chronicle:
    """`take` what is heard, `tick` once a second."""

    def __init__(
        self,
        directory: Path,
        now: float,
        tell: Callable[[str, str], None] = lambda level, text: None,
    ) -> None:
        """Reads what is there. `tell(level, text)` hears of a disk that takes nothing any more."""
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._moments: deque[Moment] = deque(maxlen=HOUR_SECONDS)
        self._moment_file = Journal(directory / "moments.jsonl", Moment, MOMENTS_BYTES)
        self._event_file = Journal(directory / "events.jsonl", Event, EVENTS_BYTES)
        self._tell = tell
        self._failed_at: float | None = None
        self._router: RouterStats | None = None
        self._before: RouterStats | None = None
        self._requests = self._requests_before = 0
        self._second = _Second()
        for moment in self._moment_file.read():
            if now - HOUR_SECONDS < moment.at <= now:
                self._moments.append(moment)
        for event in self._event_file.read():
            if now - DAY_SECONDS < event.at <= now:
                self.events.append(event)

    def take(self, message: Message) -> None:
        match message:
            case Step(rank=0):
                self._second.take(message)
            case RouterStats():
                self._router = message
            case ServerStats(requests=requests):
                self._requests = requests
            case Event(at=at):
                self.events.append(message)
                self._write(self._event_file, message, at)

    def tick(self, now: float) -> None:
        """The second that ends now becomes a moment; one in which the router was not heard is
        none."""
        second, self._second = self._second, _Second()
        router, before = self._router, self._before
        if router is None or router is before:
            return
        self._before = router
        arrived, self._requests_before = self._requests - self._requests_before, self._requests
        if before is None or router.steps < before.steps or router.at <= before.at:
            return  # a router that is new: what it counted before we looked has no second
        elapsed = router.at - before.at
        moment = second.moment(
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
        """Those of later than `since`, oldest first."""
        return tuple(moment for moment in self._moments if moment.at > since)

    def close(self) -> None:
        self._moment_file.close()
        self._event_file.close()

    def _write(self, file: Journal[T], row: T, now: float) -> None:
        """What the disk does not take is in memory still; said once, and tried again later."""
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


class _Second:
    """Sums over the steps of a second."""

    def __init__(self) -> None:
        self._sums = [0, 0, 0, 0, 0]
        self._steps = self._most_sync = 0
        self._rates: list[float] = []
        self._taxes: list[float] = []

    def take(self, step: Step) -> None:
        parts = (step.host_us, step.copy_us, step.launch_us, step.busy_us, step.sync_us)
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)]
        self._steps += 1
        self._most_sync = max(self._most_sync, step.sync_us)
        if (rate := step.read_bytes_s) is not None:
            self._rates.append(rate)
        if (tax := step.lora_overhead) is not None:
            self._taxes.append(tax)

    def moment(self, **counts: float) -> Moment:
        if not self._steps:
            return Moment(**counts, steps=0)  # type: ignore[arg-type]  # counts are its own fields
        host, copy, launch, busy, sync = (
            round(total / self._steps / 1e3, 3) for total in self._sums
        )
        return Moment(
            **counts,  # type: ignore[arg-type]
            steps=self._steps,
            host_ms=host,
            copy_ms=copy,
            launch_ms=launch,
            busy_ms=busy,
            sync_ms=sync,
            most_sync_ms=self._most_sync / 1e3,
            read_bytes_s=round(sum(self._rates) / len(self._rates)) if self._rates else None,
            lora_overhead=round(sum(self._taxes) / len(self._taxes), 4) if self._taxes else None,
        )
