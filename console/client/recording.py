"""Recordings on the screen: played at any speed, paused, and moved to any time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ...pipeline.config import Config
from ...pipeline.errors import UsageError
from ...pipeline.messages import Event, Message, Snapshot
from ...pipeline.runtime.recording import RecordedMessage
from ...pipeline.runtime.sockets import InboxFull
from ..commands.read_only import NO_ORDERS
from ..state.playback import Comparison, PlaybackView, playback_text
from ..state.store import HISTORY_S, Store
from .tape import Tape, time_of
from .telemetry import PipelineOrder, TelemetryClient

PERIOD_S = 0.05
BURST = 2000
"""Most messages read at once, so that the screen stays responsive."""
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
WHOLE_S = 600.0
"""Seconds before a new position of which every message is read: what plots of minutes cover."""
SPARSE = (b'"type":"RouterStats"', b'"type":"Event"', b'"type":"PoolMap"')
"""Messages of the hour before those that are read too: for plots of the hour, the list of events,
and a pool that does not change."""
SIDES = ("real", "what if")
"""Of a replay beside another: as it was, and with other settings."""
TAG_BYTES = 80
"""Bytes of a line that hold its message's tag."""


class RecordingPlayer:
    """A recording that is being played; `now` is the time in it."""

    def __init__(
        self, tape: Tape, speed: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `UsageError` for a speed of 0."""
        if not 0 < speed < float("inf"):
            raise UsageError(f"--speed {speed:g} is not above 0", "1 is the original speed")
        self.tape = tape
        self.speed = speed
        self.is_paused = False
        self.is_seeking = False
        self.side = ""
        self._clock = clock
        self._decoder = msgspec.json.Decoder(RecordedMessage)
        self._lines = tape.lines_from(tape.start)
        self._next: bytes | None = next(self._lines, None)
        self._is_over = False
        self._last = self._position = tape.start
        self._moved_at = clock()

    # -- the position

    def now(self) -> float:
        """The time in the recording; it stands while paused, and at the end."""
        if self.is_paused or self.is_seeking:
            return self._position
        at = self._position + (self._clock() - self._moved_at) * self.speed
        if self._is_over:
            return min(at, max(self._last, self._position))
        return min(at, self.tape.end) if self.tape.is_growing else at

    def _stay_here(self) -> None:
        """Counts from the present position on."""
        self._position, self._moved_at = self.now(), self._clock()

    @property
    def is_over(self) -> bool:
        """Whether the last message has been taken."""
        return self._is_over

    def view(self) -> PlaybackView:
        tape = self.tape
        return PlaybackView(
            position_s=self.now() - tape.start,
            length_s=max(tape.end, self._last) - tape.start,
            is_whole=tape.is_whole,
            speed=self.speed,
            is_paused=self.is_paused,
            is_over=self._is_over,
            is_seeking=self.is_seeking,
            side=self.side,
        )

    # -- controls

    def toggle_pause(self) -> None:
        self._stay_here()
        self.is_paused = not self.is_paused

    def change_speed(self, steps: int) -> None:
        """Moves by `steps` in `SPEEDS`."""
        self._stay_here()
        nearest = min(range(len(SPEEDS)), key=lambda at: abs(SPEEDS[at] - self.speed))
        self.speed = SPEEDS[max(0, min(nearest + steps, len(SPEEDS) - 1))]

    # -- messages

    def take(self) -> Iterator[RecordedMessage]:
        """The messages that are due, at most `BURST`."""
        now = self.now()
        for _ in range(BURST):
            if self._is_over:
                return
            if self._next is None and not self._advance():
                return
            assert self._next is not None
            if time_of(self._next) > now:
                return
            due = self._decoder.decode(self._next)
            self._last = due.at
            yield due
            self._advance()

    def _advance(self) -> bool:
        """Reads the next line; False if there is none yet, or no more."""
        try:
            self._next = next(self._lines)
        except StopIteration:
            self._stay_here()
            self._next, self._is_over = None, True
            self._position = min(self._position, self._last)
        return self._next is not None

    def before(self, target: float) -> Iterator[RecordedMessage | None]:
        """Moves to `target`, and gives what a console must know of the time before it: the first
        snapshot, the hour before in outlines, the last minutes whole. None now and then, so that
        other tasks get their turn."""
        tape = self.tape
        target = max(tape.start, min(target, tape.end))
        self._position, self.is_seeking, self._is_over = target, True, False
        lines = tape.lines_from(tape.start)
        if first := next(lines):
            yield self._decoder.decode(first)
        if target - tape.start > HISTORY_S:
            lines = tape.lines_from(target - HISTORY_S)
        self._next = None
        for number, line in enumerate(lines):
            if line is None:
                break  # the file has not grown as far
            at = time_of(line)
            if at > target:
                self._next = line
                break
            self._last = at
            age_s = target - at
            is_sparse = age_s < HISTORY_S and any(tag in line[:TAG_BYTES] for tag in SPARSE)
            if age_s <= WHOLE_S or is_sparse:
                yield self._decoder.decode(line)
            if number % BURST == 0:
                yield None
        self._lines = lines
        self._moved_at, self.is_seeking = self._clock(), False
        if self._next is None:
            self._advance()


class Sides:
    """The players of one recording, or of a replay and of the same with other settings."""

    def __init__(
        self, players: Sequence[RecordingPlayer], comparison: Comparison | None = None
    ) -> None:
        self.players, self.comparison = players, comparison
        self.current = players[0]
        if len(players) > 1:
            for player, name in zip(players, SIDES, strict=True):
                player.side = name

    def now(self) -> float:
        """The time in the recording that is shown."""
        return self.current.now()

    def switch(self) -> None:
        """Shows the next one, at the pace of the present one."""
        before = self.current
        self.current = self.players[(self.players.index(before) + 1) % len(self.players)]
        self.current.speed, self.current.is_paused = before.speed, before.is_paused


class RecordingTelemetry(TelemetryClient):
    """Telemetry of a recording; orders are refused."""

    def __init__(
        self, sides: Sides, config: Config, store: Store, *more: Any, **named: Any
    ) -> None:
        super().__init__(config, store, *more, **named)
        self._sides = sides
        self._wanted: float | None = None
        self._changed = asyncio.Event()
        store.playback = lambda: self._player.view()
        self.controls = self

    @property
    def _player(self) -> RecordingPlayer:
        return self._sides.current

    # -- controls

    @property
    def start(self) -> float:
        return self._player.tape.start

    @property
    def end(self) -> float:
        return self._player.tape.end

    @property
    def position(self) -> float:
        return self._player.now() if self._wanted is None else self._wanted

    @property
    def has_sides(self) -> bool:
        return len(self._sides.players) > 1

    @property
    def comparison(self) -> Comparison | None:
        return self._sides.comparison

    def switch_side(self) -> None:
        at = self.position
        self._sides.switch()
        self.seek(at)

    def seek(self, at: float) -> None:
        self._wanted = max(self.start, min(at, self.end))
        self._changed.set()

    def toggle_pause(self) -> bool:
        self._player.toggle_pause()
        self._changed.set()
        return self._player.is_paused

    def change_speed(self, steps: int) -> None:
        self._player.change_speed(steps)
        self._changed.set()

    # -- messages

    async def run(self) -> None:
        has_announced_end, shown = False, ""
        try:
            while True:
                self._changed.clear()
                player = self._player
                if self._wanted is not None:
                    await self._move()
                    has_announced_end = False
                    player = self._player
                for heard in player.take():
                    fold_recorded(self._store, heard)
                if player.is_over and not has_announced_end:
                    has_announced_end = True
                    now = player.now()
                    end = Event(now, "info", "recording", "the recording ends here")
                    self._store.fold_message(end, now)
                self._store.drain_events()  # old events are listed, not notified
                if (text := playback_text(player.view())) != shown:
                    shown = text
                    self._store.moves += 1
                self._on_news()
                stands = player.is_paused or (player.is_over and player.tape.is_whole)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), None if stands else PERIOD_S)
        finally:
            self.close()

    async def _move(self) -> None:
        """Folds what was before the wanted time into a new store, which then replaces the one
        shown."""
        while self._wanted is not None:
            target, self._wanted = self._wanted, None
            fresh = self._store.emptied()
            for heard in self._player.before(target):
                if heard is not None:
                    fold_recorded(fresh, heard)
                else:
                    await asyncio.sleep(0)
                    if self._wanted is not None:
                        break
            else:
                fresh.missed_steps = fresh.missed_lines = 0  # skipped, not lost
                self._store.become(fresh)

    def send_order(self, order: PipelineOrder) -> None:
        raise InboxFull(NO_ORDERS)

    def _send(self, name: str, message: Message) -> None:
        raise InboxFull(NO_ORDERS)


def fold_recorded(store: Store, heard: RecordedMessage) -> None:
    """Folds a message at the time of its arrival."""
    if isinstance(heard.message, Snapshot):
        store.fold_snapshot(heard.message, heard.at)
    else:
        store.fold_message(heard.message, heard.at)
