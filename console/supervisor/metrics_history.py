"""`MetricsHistory`: the last hour of a run as one `Moment` per second, and the events of a day, for
a console that attaches later.

In memory and, as JSON lines, in `RUN/history`, both bounded; a new supervisor reads the files of
the one before. Knows files and messages, no socket and no clock.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from ...pipeline.messages import (
    LATENCY_BUCKETS_MS,
    Event,
    Message,
    Moment,
    RouterStats,
    ServerStats,
    Step,
    StepLimit,
)
from ...pipeline.runtime.step_statistics import StepMeans, began_at, step_us
from ..state.time_series import bucket_percentile

HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
EVENTS_KEPT = 1000
MOMENTS_BYTES = 1 << 20
"""Maximum size of a file; the previous one is kept too. A moment takes at most 250 bytes, an hour
0.9 MB."""
EVENTS_BYTES = 1 << 20
RETRY_SECONDS = 30.0
"""Pause after a failed write before the next one is tried."""

T = TypeVar("T")


class JsonLinesFile(Generic[T]):
    """Rows of one type as JSON lines in a file of bounded size: a full one replaces `NAME.1`. Both
    take at most twice `max_bytes`."""

    def __init__(self, path: Path, kind: type[T], max_bytes: int) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._max_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
        self._descriptor: int | None = None
        self._size = 0

    def read(self) -> Iterator[T]:
        """The rows, oldest first. Invalid lines (torn by a crash or a full disk) are skipped."""
        for path in (self._older, self._path):
            with contextlib.suppress(OSError), path.open("rb") as lines:
                for line in lines:
                    with contextlib.suppress(msgspec.MsgspecError):
                        yield self._decoder.decode(line)

    def append(self, row: T) -> None:
        """Appends a row. Raises `OSError`, and leaves no part of the line, if it cannot be written
        whole."""
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
            self._size += os.write(self._descriptor, b"\n")  # ends the torn line

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class MetricsHistory:
    """`take` every message, `tick` once a second."""

    def __init__(
        self,
        directory: Path,
        now: float,
        tell: Callable[[str, str], None] = lambda level, text: None,
    ) -> None:
        """Reads the files in `directory`. `tell(level, text)` is called when writing fails, and
        when it works again."""
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._moments: deque[Moment] = deque(maxlen=HOUR_SECONDS)
        self._moment_file = JsonLinesFile(directory / "moments.jsonl", Moment, MOMENTS_BYTES)
        self._event_file = JsonLinesFile(directory / "events.jsonl", Event, EVENTS_BYTES)
        self._tell = tell
        self._failed_at: float | None = None
        self._router: RouterStats | None = None
        self._before: RouterStats | None = None
        self._server: ServerStats | None = None
        self._server_before: ServerStats | None = None
        self._stepped_at = 0.0
        """End of the last step of the seconds before."""
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
            case ServerStats():
                self._server = message
            case Event(at=at):
                self.events.append(message)
                self._write(self._event_file, message, at)

    def tick(self, now: float) -> None:
        """Adds the moment of the second that ends now, unless the router sent no statistics in
        it."""
        steps, self._steps = self._steps, []
        router, before = self._router, self._before
        if router is None or router is before:
            return
        self._before = router
        server, served = self._server, self._server_before
        self._server_before = server
        stepped_at = self._stepped_at
        if steps:
            self._stepped_at = steps[-1].at
        if before is None or router.steps < before.steps or router.at <= before.at:
            return  # first statistics of a router: there is no earlier count to subtract
        elapsed = router.at - before.at
        arrived = server.requests - (served.requests if served else 0) if server else 0
        decoded, filled = _tokens_s(steps, stepped_at, now) or (
            (router.decode_tokens - before.decode_tokens) / elapsed,
            (router.prefill_tokens - before.prefill_tokens) / elapsed,
        )
        moment = _moment(
            steps,
            at=now,
            running=router.running,
            waiting=router.waiting,
            decode_tokens_s=round(decoded, 2),
            prefill_tokens_s=round(filled, 2),
            requests_s=round(max(0, arrived) / elapsed, 2),
            pages_kv=router.pages_kv,
            pages_adapters=router.pages_adapters,
        )
        if server and served:
            moment = _with_latencies(moment, server, served)
        self._moments.append(moment)
        self._write(self._moment_file, moment, now)

    def moments(self, since: float) -> tuple[Moment, ...]:
        """The moments after `since`, oldest first."""
        return tuple(moment for moment in self._moments if moment.at > since)

    def close(self) -> None:
        """Closes the files; the next row opens them again."""
        self._moment_file.close()
        self._event_file.close()

    def _write(self, file: JsonLinesFile[T], row: T, now: float) -> None:
        """Appends a row to a file. After a failure rows are kept in memory only; `tell` is called
        once, and writing is tried again after `RETRY_SECONDS`."""
        if self._failed_at is not None and now - self._failed_at < RETRY_SECONDS:
            return
        has_failed, self._failed_at = self._failed_at is not None, now  # `tell` may call us again
        try:
            file.append(row)
        except OSError as error:
            file.close()
            if not has_failed:
                self._tell("warning", f"history is kept in memory only: {error.strerror}")
            return
        self._failed_at = None
        if has_failed:
            self._tell("info", "history is written to disk again")


def _tokens_s(steps: Sequence[Step], stepped_at: float, now: float) -> tuple[float, float] | None:
    """Tokens decoded and tokens of prompts a second by the steps that ended in the second before
    `now`; `stepped_at` is the end of the step before them. Divided by the time that these steps
    took, which is not a second: at 0.7 s a step, some seconds end one and others two. None without
    steps."""
    if not steps:
        return None
    was_busy = stepped_at > now - 1.0 - step_us(steps[0]) / 1e6
    begin = stepped_at if was_busy else min(now - 1.0, began_at(steps[0], stepped_at))
    end = max(steps[-1].at, now - step_us(steps[-1]) / 1e6)
    if end <= begin:
        return None
    prompts = sum(step.prompt_tokens for step in steps)
    return (sum(step.tokens for step in steps) - prompts) / (end - begin), prompts / (end - begin)


def _with_latencies(moment: Moment, server: ServerStats, before: ServerStats) -> Moment:
    """The moment with the percentiles of what the server has counted since `before`."""
    found: dict[str, float | None] = {}
    for name in ("ttft", "inter_token"):
        new, old = getattr(server, name), getattr(before, name)
        if len(new) != len(old) or sum(new) < sum(old):
            continue  # of a restarted server
        growth = [b - a for a, b in zip(old, new, strict=True)]
        for q in (50, 99):
            value = bucket_percentile(LATENCY_BUCKETS_MS, growth, q / 100)
            known = None if value is None else round(min(value, LATENCY_BUCKETS_MS[-1]), 2)
            found[f"{name}_p{q}_ms"] = known
    return msgspec.structs.replace(moment, **found)


def _moment(steps: Sequence[Step], **counts: float) -> Moment:
    """The moment of a second with these steps; `counts` are the other fields."""
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
        limits=tuple(sum(step.limit is limit for step in steps) for limit in StepLimit),
    )
