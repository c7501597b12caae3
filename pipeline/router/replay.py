"""Decides again: the router's own core, fed from an event log instead of an inbox, by the clock of
the log. Each decision is compared with the one that was made.

`loraconsole replay FILE`. Exit status 0 where all are the same, 1 where one is not. With `--run` it
publishes meanwhile what the router did, for a console on that run directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import OperatorError
from ..messages import (
    Batch,
    Event,
    ProcessState,
    ProcessTable,
    ProcessView,
    SampledToken,
    Tokens,
)
from ..run_directory import make_run_directory
from ..runtime.process import Process, set_up_log
from ..runtime.sockets import Beacon
from ..runtime.stdout import ends_with_its_reader
from ..runtime.wording import counted
from .core import RouterCore
from .effects import AdapterFetched, Announcement, Effect, EnterState, ShowReading
from .event_lines import (
    STOP_TOKEN,
    Answered,
    AnyLine,
    Asked,
    Decided,
    Fetched,
    Full,
    Got,
    RanksDiffered,
    Started,
    StepFailed,
)
from .event_log import read_log
from .router import MAP_SECONDS, VIEW_SECONDS, ReadingBar

HEARTBEAT_SECONDS = 0.5
"""Of the log's time, so that a console finds the router alive."""
LEAST_HEARTBEAT_SECONDS = 0.02
"""Of real time: no console draws more often."""


class Differs(Exception):
    """A decision is not the one that was made."""


class Player:
    """A `RouterCore` without workers or clients, driven by the lines of a log."""

    def __init__(self, start: Started) -> None:
        self.start = start
        self.core = RouterCore(start.config, start.incarnation, start.at, start.table)
        self.core.record_lines()
        self.now = start.at
        self.decided = self.admitted = 0
        self._left: dict[int, int] = {}
        """Tokens that a worker would compute of each sequence before it samples."""

    def play_line(self, line: AnyLine) -> Decided | None:
        """Does what the line says. Returns what is decided now where the line is a decision. Raises
        `Differs`."""
        core, now = self.core, line.at
        self.now = now
        match line:
            case Got(message=message):
                core.handle_message(message, now)
            case Asked():
                core.handle_message(line.to_request(), now)
            case Answered(step=step, stopped=stopped):
                self._answer_step(self._end_step(step), stopped)
            case StepFailed(step=step, error=error):
                core.fail_step(self._end_step(step), error, now)
            case RanksDiffered():
                core.reset_workers(now)
            case Fetched(key=key, directory=directory, error=error):
                core.handle_message(AdapterFetched(key, directory, error), now)
            case Decided():
                return self._decide_again()
        return None

    def _end_step(self, step: int) -> Batch:
        if (posted := self.core.steps.pop(step, None)) is None:
            raise Differs(f"step {step} was answered, but is not posted now")
        return posted.batch

    def _decide_again(self) -> Decided:
        assert self.core.effects.lines is not None
        self.core.effects.lines.clear()
        self.core.plan_step(self.now)
        [decided] = (line for line in self.core.effects.lines if isinstance(line, Decided))
        self.decided += 1
        self.admitted += sum(decision.is_admitted for decision in decided.decisions)
        return decided

    def _answer_step(self, batch: Batch, stopped: tuple[str, ...]) -> None:
        """Tokens as a worker would sample them, of which only the ends matter."""
        left, sampled, scheduler = self._left, [], self.core.scheduler
        for number in batch.release:
            left.pop(number, None)
        for admission in batch.admit:
            left[admission.sequence] = len(admission.token_ids)
        ends = {s.number for s in scheduler.sequences() if s.request.request_id in stopped}
        for row in batch.rows:
            number = row.sequence
            left[number] -= row.num_tokens
            if not left[number]:
                left[number] = 1
                sampled.append(SampledToken(number, STOP_TOKEN if number in ends else 0))
        tokens = Tokens(batch.epoch, batch.step, 0, tuple(sampled))
        self.core.accept_tokens(tokens, self.now)
        if going_on := [number for number in ends if scheduler.is_live(number)]:
            raise Differs(f"answers that ended in step {batch.step} go on now: {going_on}")


def first_difference(then: Decided, now: Decided) -> str:
    """The first field in which two decisions differ, with both values; "" where none does."""
    for name in Decided.__struct_fields__:
        before, after = getattr(then, name), getattr(now, name)
        if before == after:
            continue
        if name == "decisions":
            for old, new in zip(before, after, strict=False):
                if old != new:
                    before, after = old, new
                    break
        return f"{name} was {before}, is {after}"
    return ""


class Replay:
    """One log, played once."""

    def __init__(self, path: Path, publisher: ReplayPublisher | None = None) -> None:
        """With a `publisher` it is played at its pace, and shown; else as fast as it goes."""
        self._path, self._publisher = path, publisher
        self.player: Player | None = None
        self.number = 0
        self.is_full = False
        self.watch: Callable[[AnyLine], None] = lambda line: None
        """Called with each line after it was played."""

    def play(self) -> str:
        """Plays the log to its end. Returns the first line that differs, and how; "" where none
        does. Raises `OperatorError` where the file is no log."""
        for number, line in read_log(self._path):
            self.number = number
            if isinstance(line, Started):
                self.player = Player(line)
                if self._publisher:
                    self._publisher.open(self.player)
                continue
            assert self.player is not None
            if self._publisher:
                self._publisher.wait_until(line.at)
            self.is_full = isinstance(line, Full)
            try:
                now = self.player.play_line(line)
            except Differs as error:
                return f"line {self.number}: {error}"
            effects = self.player.core.effects.take_pending()
            if self._publisher:
                self._publisher.show_effects(effects)
            if isinstance(line, Decided) and now is not None and now != line:
                return f"line {self.number}: {first_difference(line, now)}"
            self.watch(line)
        return ""


class ReplayPace(NamedTuple):
    """How fast a log is played, and from when; a `speed` of 0 is as fast as it goes."""

    speed: float
    starts_at: float
    """In the log; 0 is its first line."""
    begins_at: float
    """Here; both in unix seconds."""


class ReplayPublisher:
    """Publishes what a player does, as the router and the supervisor of a run would."""

    def __init__(self, run: Path, pace: ReplayPace) -> None:
        """`run` is the run directory of the console that watches."""
        self._run = run
        self._speed, self._start, self._begins_at = pace
        self._player: Player | None = None
        self._viewed_at = self._heartbeat_at = self._mapped_at = 0.0

    def open(self, player: Player) -> None:
        """Opens the sockets of a router and a supervisor that only publish, by the clock of the
        log."""
        config = msgspec.structs.replace(player.start.config, run=str(self._run))
        self._router = Process(config, "router")
        self._router.log.disabled = True  # all was logged when it happened
        self._router.incarnation = player.start.incarnation
        self._router.clock = lambda: player.now
        self._supervisor = Beacon(self._router.context, self._run, "supervisor")
        self._bar = ReadingBar(self._router.beacon.publish)
        self._player = player

    def wait_until(self, at: float) -> None:
        """Publishes until it is this time of the log."""
        due = self._begins_at + (at - self._start) / self._speed
        while True:
            now = time.time()
            self._publish_what_is_due(now)
            if now >= due:
                return
            time.sleep(min(due - now, VIEW_SECONDS / 2))

    def show_effects(self, effects: list[Effect]) -> None:
        """What a console sees of them; what would be sent to other processes is dropped."""
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
        """The replay waits for no workers: those of the log have answered."""
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
        """Publishes how it stands at the end, the result as the last event, and closes the
        sockets."""
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


def print_decisions(line: AnyLine, start: float) -> None:
    """Prints a line's decisions with their arithmetic; `start` is the time of the first line."""
    if not isinstance(line, Decided):
        return
    head = f"{line.at - start:10.3f} s  step {'-' if line.step is None else line.step}"
    for d in line.decisions:
        verdict = "admitted" if d.is_admitted else f"waits: {d.reason}"
        print(
            f"{head}  {d.request} {verdict} (holds {d.held}, {d.remaining} to come; "
            f"need {d.need} + adapters {d.adapters + d.adapter_pages} of {d.total} pages, "
            f"{d.free} free; {d.running} run, {d.budget} prompt tokens left)"
        )
    for request in line.given_up:
        print(f"{head}  {request} given up")


def replay_log(path: Path, run: Path, pace: ReplayPace, shows: bool, as_json: bool) -> int:
    """Plays a log and prints the result. Returns the exit status."""
    start = next(read_log(path))[1].at
    pace = pace._replace(starts_at=pace.starts_at or start)
    publisher = ReplayPublisher(run, pace) if pace.speed else None
    replay = Replay(path, publisher)
    if shows:
        replay.watch = lambda line: print_decisions(line, start)
    found = "it broke off"
    try:
        found = replay.play()
        assert replay.player is not None
        _print_result(path, replay, replay.player, found, as_json)
        return 1 if found else 0
    finally:
        if publisher is not None:
            publisher.close(found or "all the same")


def _print_result(path: Path, replay: Replay, player: Player, found: str, as_json: bool) -> None:
    decided, admitted = player.decided, player.admitted
    if as_json:
        document = {"file": str(path), "same": not found, "difference": found}
        counts = {"lines": replay.number, "decisions": decided, "admissions": admitted}
        print(json.dumps(document | counts | {"full": replay.is_full}))
    elif found:
        print(f"{path} is decided otherwise now, {found}")
    else:
        more = "; the file was full, the router went on" if replay.is_full else ""
        parts = {"line": replay.number, "decision": decided, "admission": admitted}
        counts_text = ", ".join(counted(number, noun) for noun, number in parts.items())
        print(f"{counts_text}: all the same{more}")


@ends_with_its_reader()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--run", type=Path, help="publish there, for a console")
    parser.add_argument("--speed", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--begins-at", type=float, default=0.0, help="unix seconds")
    parser.add_argument(
        "--starts-at", type=float, default=0.0, help="time of the log; what was before is not paced"
    )
    parser.add_argument("--show", action="store_true", help="print each decision")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    set_up_log()
    sys.exit(_run_replay(given))


def _run_replay(given: argparse.Namespace) -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="lc-") as directory:
            run = given.run or make_run_directory(Path(directory) / "run")
            pace = ReplayPace(given.speed, given.starts_at, given.begins_at or time.time())
            return replay_log(given.file, run, pace, given.show, given.json)
    except OperatorError as error:
        if given.json:
            print(json.dumps({"error": error.what, "hint": error.hint}))
        print(f"loraconsole: {error.what}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
