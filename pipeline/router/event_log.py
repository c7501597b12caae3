"""`EventLog`: everything that the router's decisions depend on, and each decision with its
arithmetic, as JSON lines. `pipeline.replay` decides again from it.

Knows no text and no token but how many: a log holds no prompt, no answer and no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, get_args

import msgspec

from ... import __version__
from ..config import Config
from ..errors import OperatorError
from ..messages import (
    Abort,
    AdapterChecked,
    AdapterPlaced,
    AdapterRead,
    Batch,
    Drain,
    LoadAdapter,
    MergeAdapter,
    Message,
    PinAdapter,
    PlanAdapters,
    Ready,
    ReloadAdapter,
    Request,
    Resume,
    SamplingParams,
    SetScheduler,
    StopFound,
    StreamToken,
    UnloadAdapter,
    VerifyAdapter,
    WeightsMerged,
    WorkerReady,
)
from ..schedule.pets import LatencyTable
from ..schedule.scheduler import Scheduler
from ..schedule.step_plan import Decision

FORMAT = 1
"""Raised whenever a line changes its meaning, or a decision is made otherwise."""
MAX_BYTES = 256 << 20
"""Of a file: 570 bytes a step where one request a step is admitted, so more than an hour of 100
steps a second. It ends there, and says so."""
KEPT_FILES = 4
STOP_TOKEN = 1
"""What replayed answers end with, where they end before their length."""

Logged: TypeAlias = (
    Abort
    | StopFound
    | Ready
    | WorkerReady
    | AdapterRead
    | AdapterPlaced
    | AdapterChecked
    | WeightsMerged
    | LoadAdapter
    | ReloadAdapter
    | UnloadAdapter
    | PinAdapter
    | PlanAdapters
    | VerifyAdapter
    | MergeAdapter
    | SetScheduler
    | Drain
    | Resume
)
"""Messages that are written as they are."""
WRITTEN = get_args(Logged)


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", gc=False):
    """One line. `at` is the router's clock, unix seconds."""

    at: float


class Started(Line, frozen=True, kw_only=True, tag="started"):
    """The first line: by what the router decides."""

    format: int
    version: str
    incarnation: int
    config: Config
    """Without its keys."""
    table: LatencyTable


class Got(Line, frozen=True, kw_only=True, tag="got"):
    """A message that says all that matters."""

    message: Logged


class Asked(Line, frozen=True, kw_only=True, tag="asked"):
    """A request, of which the tokens themselves do not matter."""

    request: str
    adapter: str | None
    num_prompt: int
    max_tokens: int
    arrived_at: float

    def to_request(self) -> Request:
        """One that is decided about alike."""
        params = SamplingParams(
            max_tokens=self.max_tokens, stop_token_ids=(STOP_TOKEN,), ignore_eos=True
        )
        return Request(
            request_id=self.request,
            adapter=self.adapter,
            prompt_ids=(0,) * self.num_prompt,
            params=params,
            arrived_at=self.arrived_at,
        )


class Answered(Line, frozen=True, kw_only=True, tag="answered"):
    """The tokens of a step are back; the answers of these sequences ended with theirs."""

    step: int
    stopped: tuple[str, ...] = ()


class StepFailed(Line, frozen=True, kw_only=True, tag="failed"):
    """A step raised in a worker."""

    step: int
    error: str


class RanksDiffered(Line, frozen=True, kw_only=True, tag="differed"):
    """The ranks chose other tokens, and all are told anew."""


class Fetched(Line, frozen=True, kw_only=True, tag="fetched"):
    """An adapter came from the hub, or did not (`error`)."""

    key: str
    directory: str
    error: str = ""


class Decided(Line, frozen=True, kw_only=True, tag="decided"):
    """One look at what runs and waits, and how it left the pool."""

    step: int | None
    """None where there was nothing to compute."""
    rows: int
    running: int
    waiting: int
    free: int
    kv: int
    adapters: int
    preemptions: int
    decisions: tuple[Decision, ...] = ()
    given_up: tuple[str, ...] = ()

    @classmethod
    def of(cls, at: float, scheduler: Scheduler, batch: Batch | None) -> Decided:
        """What the last `next_batch` decided; the scheduler's notes are cleared."""
        decisions = tuple(scheduler.decisions or ())
        if scheduler.decisions:
            scheduler.decisions.clear()
        return cls(
            at=at,
            step=None if batch is None else batch.step,
            rows=0 if batch is None else len(batch.rows),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free=scheduler.pool.free,
            kv=scheduler.pool.kv,
            adapters=scheduler.pool.adapters,
            preemptions=scheduler.preemptions,
            decisions=decisions,
            given_up=tuple(sequence.request.request_id for sequence, _ in scheduler.refused),
        )


class Full(Line, frozen=True, kw_only=True, tag="full"):
    """The file has reached its size: nothing follows, though the router went on."""


AnyLine: TypeAlias = (
    Started | Got | Asked | Answered | StepFailed | RanksDiffered | Fetched | Decided | Full
)


class EventLog:
    """Closed until `open`; then each event is a line, written out when `flush` is called."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._file: BinaryIO | None = None
        self._left = 0
        self._encoder = msgspec.json.Encoder()
        self.path: Path | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(
        self,
        directory: Path,
        incarnation: int,
        config: Config,
        table: LatencyTable,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """A file for this life of the router, readable by its owner alone; the oldest go."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(directory.glob("router-*.jsonl"))[: -(KEPT_FILES - 1)]:
            old.unlink(missing_ok=True)
        self.path = directory / f"router-{incarnation}.jsonl"
        self.path.touch(mode=0o600)
        self._file = self.path.open("wb", buffering=1 << 16)
        self._left = max_bytes
        known = msgspec.structs.replace(config, api_key="", admin_key="")
        self._write(
            Started(
                at=self._clock(),
                format=FORMAT,
                version=__version__,
                incarnation=incarnation,
                config=known,
                table=table,
            )
        )

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def got(self, message: Message) -> None:
        """Of a message what matters, if anything does."""
        if self._file is None:
            return
        if isinstance(message, Request):
            self._write(
                Asked(
                    at=self._clock(),
                    request=message.request_id,
                    adapter=message.adapter,
                    num_prompt=len(message.prompt_ids),
                    max_tokens=message.params.max_tokens,
                    arrived_at=message.arrived_at,
                )
            )
        elif isinstance(message, WRITTEN):
            self._write(Got(at=self._clock(), message=message))

    def answered(self, step: int, accepted: list[StreamToken]) -> None:
        if self._file is not None:
            stopped = tuple(t.request_id for t in accepted if t.finish_reason == "stop")
            self._write(Answered(at=self._clock(), step=step, stopped=stopped))

    def step_failed(self, step: int, error: str) -> None:
        if self._file is not None:
            self._write(StepFailed(at=self._clock(), step=step, error=error))

    def ranks_differed(self) -> None:
        if self._file is not None:
            self._write(RanksDiffered(at=self._clock()))

    def fetched(self, key: str, directory: str, error: str) -> None:
        if self._file is not None:
            self._write(Fetched(at=self._clock(), key=key, directory=directory, error=error))

    def decided(self, at: float, scheduler: Scheduler, batch: Batch | None) -> None:
        if self._file is not None:
            self._write(Decided.of(at, scheduler, batch))

    def _write(self, line: AnyLine) -> None:
        assert self._file is not None
        data = self._encoder.encode(line)
        self._left -= len(data) + 1
        if self._left < 0:
            data = self._encoder.encode(Full(at=line.at))
        self._file.write(data)
        self._file.write(b"\n")
        if self._left < 0:
            self.close()


def read_log(path: Path) -> Iterator[tuple[int, AnyLine]]:
    """Each line with its number. Raises `OperatorError` naming the line that is not one."""
    decoder = msgspec.json.Decoder(AnyLine)
    try:
        file = path.open("rb")
    except OSError as error:
        raise OperatorError(
            f"cannot read {path}: {error.strerror}", "logs of --event-log lie in RUN/events"
        ) from error
    number = 0
    with file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                raise OperatorError(
                    f"line {number} of {path} is cut off",
                    "the router was ended while it wrote; what stands before it can be replayed "
                    f"by: head -n {number - 1}",
                )
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise OperatorError(
                    f"line {number} of {path} is no event: {error}", "is it a log of --event-log?"
                ) from error
            if number == 1 and not isinstance(line, Started):
                raise OperatorError(
                    f"{path} does not begin with the router's start", "a log is replayed whole"
                )
            if isinstance(line, Started) and line.format != FORMAT:
                raise OperatorError(
                    f"{path} has format {line.format}, this is {FORMAT}",
                    f"replay it by loraconsole {line.version}",
                )
            yield number, line
    if not number:
        raise OperatorError(f"{path} is empty", "is it a log of --event-log?")
