"""`ReplayRecorder`: writes what a core decides to a recording, as the telemetry of a run, so that a
console plays it. Times are those of the log, unix seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

from ... import __version__
from ..messages import (
    PROTOCOL,
    Event,
    Heartbeat,
    Message,
    ProcessState,
    ProcessTable,
    ProcessView,
    ServerStats,
    Snapshot,
    Step,
)
from ..runtime.recording import Recorder
from .core import VIEW_SECONDS, RouterCore
from .effects import Announcement, Effect, EnterState
from .request_times import RequestTimes
from .router import MAP_SECONDS, TABLE_SECONDS
from .step_times import StepSample

STATS_SECONDS = 0.5
MOST_BYTES = float(4 << 30)
NAMES = ("supervisor", "router")
"""Processes that a replay has; the others are STOPPED in it."""


class ReplayRecorder:
    """Telemetry of one core, at the rates of a run."""

    def __init__(
        self, path: Path, core: RouterCore, times: RequestTimes, start: float, label: str
    ) -> None:
        """Begins the recording at `start`, which is before the first call of `advance`; `label` is
        the reason of each process. Raises `OperatorError` if the file cannot be made."""
        self._core, self._times, self._label = core, times, label
        self._start = self._now = start
        self._state = (ProcessState.READY, "")
        self._viewed_at = self._mapped_at = self._counted_at = self._listed_at = start
        self._file = Recorder(path, str(core.config.run), start, MOST_BYTES)
        self._write(start, self._snapshot(start))
        self._file.flush()

    def advance(self, now: float) -> None:
        """Writes what is due until `now`: the state before the event at that time."""
        while (due := max(self._due(), self._now)) < now:
            self._write_due(due)
        self._now = now

    def show_effects(self, effects: list[Effect]) -> None:
        """Writes the effects that a console sees; messages to other processes are dropped."""
        for effect in effects:
            match effect:
                case Announcement(level=level, text=text):
                    self._write(self._now, Event(self._now, level, "router", text))
                case EnterState(state=state, reason=reason):
                    self._state = (state, reason)

    def show_step(self, done: StepSample) -> None:
        """Writes a step that was answered; its whole time at the workers counts as the device's."""
        shape = done.shape
        self._write(
            done.at,
            Step(
                rank=0,
                step=done.step,
                at=done.at,
                phase=shape.phase,
                rows=shape.decode_rows + shape.prompt_rows,
                tokens=shape.decode_rows + shape.prompt_tokens,
                adapters=shape.adapters,
                adapter_bytes=0,
                host_us=0,
                copy_us=0,
                launch_us=0,
                busy_us=round(done.seconds * 1e6),
                sync_us=0,
            ),
        )

    def close(self, result: str) -> None:
        """Writes the last state, and the result as the last event."""
        now = self._now
        self._write(now, self._core.scheduler.view(now))
        self._write_counts(now)
        self._write(now, self._core.adapter_table(now))
        self._write(now, Event(now, "info", "replay", f"the log ends here: {result}"))
        self._file.close()

    def _due(self) -> float:
        """When the next message is due. The batch is viewed while there is one."""
        core = self._core
        times = [self._counted_at + STATS_SECONDS, self._listed_at + TABLE_SECONDS]
        if core.effects.batch_changed:
            times.append(self._viewed_at + VIEW_SECONDS)
        return min(times)

    def _write_due(self, now: float) -> None:
        core, effects = self._core, self._core.effects
        listed = now >= self._listed_at + TABLE_SECONDS
        if listed or (effects.batch_changed and now >= self._viewed_at + VIEW_SECONDS):
            effects.batch_changed = False
            self._viewed_at = now
            self._write(now, core.scheduler.view(now))
        if now >= self._mapped_at + MAP_SECONDS and core.scheduler.epoch and len(core.scheduler):
            self._mapped_at = now
            self._write(now, core.scheduler.pool_map(now))
        if now >= self._counted_at + STATS_SECONDS:
            self._counted_at = now
            self._write_counts(now)
        if listed:
            effects.adapters_changed = False
            self._listed_at = now
            self._write(now, core.adapter_table(now))

    def _write_counts(self, now: float) -> None:
        for message in self._beats(now):
            self._write(now, message)
        self._write(now, self._core.stats(now, 0))
        self._write(now, self._server(now))
        self._write(now, self._processes(now))

    def _write(self, now: float, message: Message) -> None:
        self._file.take(now, message)

    # -- messages

    def _server(self, now: float) -> ServerStats:
        """What a server would count, by the router's clock."""
        times = self._times
        return ServerStats(
            at=now,
            url="",
            open_streams=times.live,
            requests=times.requests,
            errors=times.errors,
            prompt_tokens=times.prompt_tokens,
            output_tokens=times.output_tokens,
            ttft=tuple(times.ttft),
            inter_token=tuple(times.inter_token),
        )

    def _beats(self, now: float) -> tuple[Heartbeat, ...]:
        return tuple(
            Heartbeat(
                name=name,
                pid=os.getpid(),
                incarnation=1,
                at=now,
                state=ProcessState.READY if name == "supervisor" else self._state[0],
                reason="" if name == "supervisor" else self._state[1],
                cpu_seconds=0.0,
                rss_bytes=0,
                loop_lag_ms=0.0,
                hops=(),
            )
            for name in NAMES
        )

    def _processes(self, now: float) -> ProcessTable:
        """The router READY, since the log's workers have answered, and all others STOPPED."""
        drains = self._state[0] is ProcessState.DRAINING
        here = {"supervisor": ProcessState.READY, "router": ProcessState.READY}
        if drains:
            here["router"] = ProcessState.DRAINING
        return ProcessTable(
            now,
            ProcessState.READY,
            tuple(
                ProcessView(name, here[name], os.getpid(), 0, self._start, self._label)
                if name in here
                else ProcessView(name, ProcessState.STOPPED, 0, 0, self._start, "not in a replay")
                for name in ("supervisor", *self._core.config.process_names())
            ),
        )

    def _snapshot(self, now: float) -> Snapshot:
        core = self._core
        return Snapshot(
            at=now,
            protocol=PROTOCOL,
            version=__version__,
            started_at=self._start,
            processes=self._processes(now),
            beats=self._beats(now),
            server=self._server(now),
            router=core.stats(now, 0),
            workers=(),
            batch=core.scheduler.view(now),
            adapters=core.adapter_table(now),
            pool=core.scheduler.pool_map(now) if core.scheduler.epoch else None,
            progress=(),
            events=(),
            logs=(),
        )
