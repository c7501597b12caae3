"""Named time spans: where the time of a process goes. Free when off.

`with spans.span("add_req(prompt_len_{}_req_id_{})", 12, "r-1"):` stays balanced across awaits: a
span is an object with a start and an end, not an entry of a shared stack, so coroutines may
interleave and a cancelled one still ends its spans. Any thread may open one. Sinks: JSON lines
(Chrome trace events) and NVTX start/end ranges.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

MOST_SPANS = 1_000_000
"""Most spans in one file, some 200 MB. Later ones are only counted, so that a forgotten profile
does not fill the disk."""
MOST_NAMES = 100_000
"""Spans of a recording that NVTX gets with their values; later ones get the pattern as their name.
Its package keeps every text it has seen, 0.6 KiB each, until the process exits."""
RECORDINGS_KEPT = 4
"""Recordings in RUN/spans; a new one removes the oldest beyond these."""
CAPTURED = "LORACONSOLE_PROFILE"
"""An NVTX range from start to stop, for `nsys --capture-range=nvtx`."""
LISTENERS = ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID")
"""Environment variables that profilers set in processes they start."""


class Nvtx(NamedTuple):
    """NVTX's process ranges, which may overlap: `start` returns the handle for `end`."""

    start: Callable[[str], Any]
    end: Callable[[Any], None]


def load_nvtx() -> Nvtx | None:
    """The package `nvtx`, None if it is not installed. Without a profiler its ranges do nothing."""
    try:
        import nvtx
    except ImportError:
        return None
    return Nvtx(nvtx.start_range, nvtx.end_range)


def recording_name(at: float) -> str:
    """Name of a recording that began at that unix time: a directory of RUN/spans. Names sort by
    time."""
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(at))


def remove_old_recordings(directory: Path, newest: str) -> None:
    """Removes the oldest of the recordings in RUN/spans, to make room for `newest`; every process
    of a ring may do it at once."""
    others = sorted(path for path in directory.glob("*") if path.name < newest and path.is_dir())
    for old in others[: max(0, len(others) + 1 - RECORDINGS_KEPT)]:
        shutil.rmtree(old, ignore_errors=True)


def is_profiled() -> bool:
    """Whether a profiler that reads NVTX has started this process."""
    return any(variable in os.environ for variable in LISTENERS)


class Spans:
    """The spans of one process. Off until `start`; then each costs some microseconds."""

    def __init__(self) -> None:
        self._recording: Recording | None = None

    @property
    def recording(self) -> Recording | None:
        """The present recording; None if it is off."""
        return self._recording

    @property
    def layers(self) -> bool:
        """Whether each layer of the model is recorded too."""
        return self._recording is not None and self._recording.layers

    def start(self, path: Path, nvtx: Nvtx | None = None, *, layers: bool = False) -> Recording:
        """Starts recording: appends to `path`, and to `nvtx` if given. A recording under way
        continues with the new `layers`. Raises `OSError` if the file cannot be written."""
        if self._recording is None:
            self._recording = Recording(path, nvtx)
        self._recording.layers = layers
        return self._recording

    def stop(self) -> Recording | None:
        """Ends all open spans and the recording, and returns it; None if there was none."""
        recording, self._recording = self._recording, None
        if recording:
            recording.close()
        return recording

    def flush(self) -> None:
        """Writes the spans that have ended so far."""
        if self._recording:
            self._recording.flush()

    def span(self, name: str, *values: object, **fields: Any) -> AbstractContextManager[object]:
        """A span; each {} in its name stands for one of `values`, `fields` are stored with it."""
        recording = self._recording
        return NOTHING if recording is None else Span(recording, name, values, fields)


class Nothing:
    """The span while recording is off: entering and leaving it does nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None


NOTHING = Nothing()


def no_span(name: str, *values: object, **fields: Any) -> AbstractContextManager[object]:
    """A span that does nothing: the default for parameters that take `Spans.span`."""
    return NOTHING


class Span:
    """One stretch of time; entered and left once."""

    __slots__ = ("_recording", "fields", "handle", "lane", "name", "started", "values")
    handle: Any
    lane: tuple[object, Lane]
    started: int

    def __init__(
        self, recording: Recording, name: str, values: tuple[object, ...], fields: dict[str, Any]
    ) -> None:
        self._recording, self.name, self.values, self.fields = recording, name, values, fields

    def __enter__(self) -> None:
        self._recording.begin(self)

    def __exit__(self, *raised: object) -> None:
        self._recording.end(self)


class Lane:
    """The row of a trace for the nested spans of one task or thread while it has any open. Lanes
    are reused, so that a thousand short tasks take no more than were open at once."""

    def __init__(self, number: int, label: str) -> None:
        self.number, self.label, self.depth = number, label, 0


class Recording:
    """The spans between a start and a stop; all that begin in it end in it."""

    def __init__(self, path: Path, nvtx: Nvtx | None) -> None:
        self.path, self.layers = path, False
        self.ended = self.dropped = 0
        self._nvtx = nvtx
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab", buffering=0)
        self.error = ""
        """Why spans were lost: the file could not be written."""
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._open: set[Span] = set()
        self._done: list[tuple[Span, int]] = []
        self._lanes: dict[object, Lane] = {}  # by the task or thread that has spans open
        self._free: dict[str, list[int]] = {}  # by label, a heap
        self._num_lanes = 0
        self._unnamed: list[Lane] = []
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._whole = nvtx.start(CAPTURED) if nvtx else None

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def has_nvtx(self) -> bool:
        return self._nvtx is not None

    def begin(self, span: Span) -> None:
        if self._nvtx:
            is_whole = self.ended < MOST_NAMES
            span.handle = self._nvtx.start(
                span.name.format(*span.values) if is_whole else span.name
            )
        owner, label = _who()
        with self._lock:
            lane = self._lanes.get(owner)
            if lane is None:
                lane = self._lanes[owner] = self._take_lane(label)
            lane.depth += 1
            span.lane = (owner, lane)
            self._open.add(span)
        span.started = time.perf_counter_ns()

    def end(self, span: Span) -> None:
        """Ends a span once; `close` may have ended it already."""
        now = time.perf_counter_ns()
        with self._lock:
            if span not in self._open:
                return
            self._open.remove(span)
            owner, lane = span.lane
            lane.depth -= 1
            if not lane.depth:
                del self._lanes[owner]
                heapq.heappush(self._free[lane.label], lane.number)
            self.ended += 1
            if self.ended > MOST_SPANS:
                self.dropped += 1
            else:
                self._done.append((span, now))
        if self._nvtx:
            self._nvtx.end(span.handle)

    def _take_lane(self, label: str) -> Lane:
        free = self._free.setdefault(label, [])
        if free:
            return Lane(heapq.heappop(free), label)
        self._num_lanes += 1
        lane = Lane(self._num_lanes, label)
        self._unnamed.append(lane)
        return lane

    def flush(self) -> None:
        """Writes the spans that have ended; they count as dropped if that fails."""
        with self._lock:
            done, self._done = self._done, []
            unnamed, self._unnamed = self._unnamed, []
        if done or unnamed:
            try:
                with self._writing:
                    self._file.write(b"".join(self._lines(done, unnamed)))
            except OSError as error:  # a full disk must not take the process down
                self.dropped += len(done)
                self.error = f"cannot write {self.path}: {error.strerror}"

    def _lines(self, done: list[tuple[Span, int]], unnamed: list[Lane]) -> Iterator[bytes]:
        pid, encode = os.getpid(), self._encoder.encode
        for lane in unnamed:
            for kind, name in (("process_name", self.path.stem), ("thread_name", lane.label)):
                event = {"name": kind, "ph": "M", "pid": pid, "tid": lane.number}
                yield encode(event | {"args": {"name": name}}) + b"\n"
        for span, now in done:
            event = {
                "name": span.name.format(*span.values),
                "cat": span.name,
                "ph": "X",
                "ts": span.started / 1e3,
                "dur": (now - span.started) / 1e3,
                "pid": pid,
                "tid": span.lane[1].number,
                "args": span.fields,
            }
            yield encode(event) + b"\n"

    def close(self) -> None:
        """Ends open spans, marked as cut, and closes the file; later spans are not recorded."""
        with self._lock:
            cut = list(self._open)
        for span in cut:
            span.fields = span.fields | {"cut": True}
            self.end(span)
        self.flush()
        self._file.close()
        if self._nvtx:
            self._nvtx.end(self._whole)


def _who() -> tuple[object, str]:
    """The running task or, outside of any, the thread; and the label of its lane."""
    try:
        if task := asyncio.current_task():
            return task, "loop"
    except RuntimeError:
        pass
    return threading.get_ident(), threading.current_thread().name.rpartition("_")[0] or "main"
