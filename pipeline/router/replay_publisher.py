"""`ReplayPublisher`: publishes a replay's telemetry, so that a console shows it like a run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..messages import Event, ProcessState, ProcessTable, ProcessView
from ..runtime.process import Process
from ..runtime.sockets import Beacon
from .effects import Announcement, Effect, EnterState, ShowReading
from .player import Player
from .reading_bar import ReadingBar
from .router import MAP_SECONDS, VIEW_SECONDS

HEARTBEAT_SECONDS = 0.5
"""Seconds of the log between heartbeats, so that a console finds the router alive."""
LEAST_HEARTBEAT_SECONDS = 0.02
"""Least real seconds between heartbeats: no console draws more often."""


class ReplayPace(NamedTuple):
    """How fast a log is played, and from when. A `speed` of 0 is as fast as possible; times are
    unix seconds."""

    speed: float
    starts_at: float
    """Log time; 0 is the first line."""
    begins_at: float
    """Real time."""


class ReplayPublisher:
    """Publishes a player's state as the router and the supervisor of a run would."""

    def __init__(self, run: Path, pace: ReplayPace) -> None:
        """`run` is the run directory of the console that watches."""
        self._run = run
        self._speed, self._start, self._begins_at = pace
        self._player: Player | None = None
        self._viewed_at = self._heartbeat_at = self._mapped_at = 0.0

    def open(self, player: Player) -> None:
        """Opens the sockets of a router and a supervisor that only publish, by the log's clock."""
        config = msgspec.structs.replace(player.start.config, run=str(self._run))
        self._router = Process(config, "router")
        self._router.log.disabled = True  # the original router has logged it all
        self._router.incarnation = player.start.incarnation
        self._router.clock = lambda: player.now
        self._supervisor = Beacon(self._router.context, self._run, "supervisor")
        self._bar = ReadingBar(self._router.beacon.publish)
        self._player = player

    def wait_until(self, at: float) -> None:
        """Publishes until the time `at` of the log."""
        due = self._begins_at + (at - self._start) / self._speed
        while True:
            now = time.time()
            self._publish_what_is_due(now)
            if now >= due:
                return
            time.sleep(min(due - now, VIEW_SECONDS / 2))

    def show_effects(self, effects: list[Effect]) -> None:
        """Publishes the effects that a console sees; messages to other processes are dropped."""
        for effect in effects:
            match effect:
                case Announcement(level=level, text=text):
                    self._router.event(level, text)
                case EnterState(state=state, reason=reason):
                    self._router.set_state(state, reason)
                case ShowReading():
                    self._bar.show(effect)

    def _publish_what_is_due(self, now: float) -> None:
        """`now` is real time, unix seconds."""
        player, publish = self._player, self._router.beacon.publish
        assert player is not None
        player.now = self._start + max(0.0, now - self._begins_at) * self._speed
        core = player.core
        if now - self._viewed_at >= VIEW_SECONDS:
            self._viewed_at = now
            publish(core.scheduler.view(player.now))
        if now - self._mapped_at >= MAP_SECONDS and core.scheduler.epoch:
            self._mapped_at = now
            publish(core.scheduler.pool_map(player.now))
        interval = max(LEAST_HEARTBEAT_SECONDS, HEARTBEAT_SECONDS / self._speed)
        if now - self._heartbeat_at >= interval:
            self._heartbeat_at = now
            self._router.beat()
            publish(core.stats(player.now, 0))
            publish(core.adapter_table(player.now))
            self._publish_processes(player.now)

    def _publish_processes(self, now: float) -> None:
        """Publishes the table of processes: the router READY, since the log's workers have
        answered, and all others STOPPED."""
        drains = self._router.state is ProcessState.DRAINING
        state = ProcessState.DRAINING if drains else ProcessState.READY
        here = {"supervisor": ProcessState.READY, "router": state}
        views = tuple(
            ProcessView(name, here[name], os.getpid(), 0, self._start, "a replay")
            if name in here
            else ProcessView(name, ProcessState.STOPPED, 0, 0, self._start, "not in a replay")
            for name in ("supervisor", *self._router.config.process_names())
        )
        self._supervisor.publish(ProcessTable(now, ProcessState.READY, views))

    def close(self, result: str) -> None:
        """Publishes the final state and the result as the last event, and closes the sockets."""
        if self._player is None:
            return
        now, core, publish = self._player.now, self._player.core, self._router.beacon.publish
        publish(core.scheduler.view(now))
        publish(core.stats(now, 0))
        publish(core.adapter_table(now))
        text = f"the log ends here: {result}"
        self._supervisor.publish(Event(now, "info", "replay", text))
        self._supervisor.close()
        self._router.close()
