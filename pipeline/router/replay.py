"""Decides again: the router's own code and the pure scheduler under it, fed from an event log
instead of an inbox, by the clock of the log. Each decision is compared with the one that was made.

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
    Message,
    ProcessState,
    ProcessTable,
    ProcessView,
    SampledToken,
    Tokens,
)
from ..run_directory import make_run_directory
from ..runtime.process import set_up_log
from ..runtime.sockets import Beacon
from ..runtime.stdout import ends_with_its_reader
from ..runtime.wording import counted
from ..schedule.adapter_registry import Adapter
from ..schedule.scheduler import Scheduler
from .adapter_lifecycle import AdapterDesk
from .event_log import (
    STOP_TOKEN,
    Answered,
    AnyLine,
    Asked,
    Decided,
    EventLog,
    Fetched,
    Full,
    Got,
    RanksDiffered,
    Started,
    StepFailed,
    read_log,
)
from .router import MAP_SECONDS, VIEW_SECONDS, Router

BEAT_SECONDS = 0.5
"""Of the log's time, so that a console finds the router alive."""
LEAST_SECONDS = 0.02
"""Of real time: no console draws more often."""


class Differs(Exception):
    """A decision is not the one that was made."""


class OfflineDesk(AdapterDesk):
    """Fetches nothing: when it came stands in the log."""

    def _start_fetch(self, adapter: Adapter) -> None:
        pass


class Again(EventLog):
    """Writes nothing, keeps the last decision."""

    last: Decided

    def decided(self, at: float, scheduler: Scheduler, batch: Batch | None) -> None:
        self.last = Decided.of(at, scheduler, batch)


class Player(Router):
    """A router without workers or clients: what it would send to them goes nowhere."""

    def __init__(self, start: Started, run: Path) -> None:
        changes = {"run": str(run), "event_log": False, "profile_table": ""}
        super().__init__(msgspec.structs.replace(start.config, **changes))
        self.log.disabled = True  # all was logged when it happened
        self.scheduler.use_table(start.table)
        self.scheduler.decisions = []
        self.incarnation = start.incarnation
        self.clock = lambda: self.now
        self.desk = OfflineDesk(self)
        self.events = self._again = Again(self.clock)
        self.now = start.at
        self.decided = self.admitted = 0
        self._batches: dict[int, Batch] = {}
        self._left: dict[int, int] = {}
        """Tokens that a worker would compute of each sequence before it samples."""

    def send(self, name: str, message: Message) -> None:
        pass

    def play(self, line: AnyLine) -> Decided | None:
        """Does what the line says; of a decision, what is decided now. Raises `Differs`."""
        self.now = line.at
        match line:
            case Got(message=message):
                self._handle(message)
            case Asked():
                self._handle(line.to_request())
            case Answered(step=step, stopped=stopped):
                self._answer(self._batch(step), stopped)
            case StepFailed(step=step, error=error):
                self._step_failed(self._batch(step), error)
            case RanksDiffered():
                self._reset_workers()
            case Fetched(key=key, directory=directory, error=error):
                if (adapter := self.registry.find(key)) is not None:
                    self.desk.fetched(adapter, directory, error)
            case Decided():
                return self._decide_again(line)
        return None

    def _batch(self, step: int) -> Batch:
        if (batch := self._batches.pop(step, None)) is None:
            raise Differs(f"step {step} was answered, but is not posted now")
        return batch

    def _decide_again(self, line: Decided) -> Decided:
        batch = self._decide(line.at)
        now = self._again.last
        if batch is not None:
            self._batches[batch.step] = batch
        self.decided += 1
        self.admitted += sum(decision.is_admitted for decision in now.decisions)
        return now

    def _answer(self, batch: Batch, stopped: tuple[str, ...]) -> None:
        """Tokens as a worker would sample them, of which only the ends matter."""
        left, sampled = self._left, []
        for number in batch.release:
            left.pop(number, None)
        for admission in batch.admit:
            left[admission.sequence] = len(admission.token_ids)
        ends = {s.number for s in self.scheduler.sequences() if s.request.request_id in stopped}
        for row in batch.rows:
            number = row.sequence
            left[number] -= row.num_tokens
            if not left[number]:
                left[number] = 1
                sampled.append(SampledToken(number, STOP_TOKEN if number in ends else 0))
        self._accept(Tokens(batch.epoch, batch.step, 0, tuple(sampled)))
        if going_on := [number for number in ends if self.scheduler.is_live(number)]:
            raise Differs(f"answers that ended in step {batch.step} go on now: {going_on}")


def difference(then: Decided, now: Decided) -> str:
    """The first thing in which two decisions are not the same."""
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

    def __init__(self, path: Path, run: Path, pace: Callable[[float], None]) -> None:
        """`pace` waits until it is the time of the log that it is given."""
        self._path, self._run, self._pace = path, run, pace
        self.player: Player | None = None
        self.number = 0
        self.is_full = False
        self.watch: Callable[[AnyLine], None] = lambda line: None

    def play(self) -> str:
        """Until its end; "" or the first line that differs, and how. Raises `OperatorError` where
        the file is not what it should be."""
        for number, line in read_log(self._path):
            self.number = number
            if isinstance(line, Started):
                self.player = Player(line, self._run)
                continue
            assert self.player is not None
            self._pace(line.at)
            self.is_full = isinstance(line, Full)
            try:
                now = self.player.play(line)
            except Differs as error:
                return f"line {self.number}: {error}"
            if isinstance(line, Decided) and now is not None and now != line:
                return f"line {self.number}: {difference(line, now)}"
            self.watch(line)
        return ""

    def close(self) -> None:
        if self.player is not None:
            self.player.desk.close()
            self.player.close()


class Pace(NamedTuple):
    """How a log is played; a `speed` of 0 is as fast as it goes."""

    speed: float
    starts_at: float
    """In the log; 0 is its first line."""
    begins_at: float
    """Here; both in unix seconds."""


class Stage:
    """Publishes what a player does, as the router and the supervisor of a run would."""

    def __init__(self, replay: Replay, pace: Pace) -> None:
        self._replay = replay
        self._speed, self._start, self._begins_at = pace
        self._supervisor: Beacon | None = None
        self._seen_at = self._beaten_at = self._mapped_at = 0.0

    def wait_until(self, at: float) -> None:
        """Publishes while the time of the log is not there yet."""
        due = self._begins_at + (at - self._start) / self._speed
        while True:
            now = time.time()
            self.publish(now)
            if now >= due:
                return
            time.sleep(min(due - now, VIEW_SECONDS / 2))

    def publish(self, now: float) -> None:
        player = self._replay.player
        if player is None:
            return
        player.now = self._start + max(0.0, now - self._begins_at) * self._speed
        if now - self._seen_at >= VIEW_SECONDS:
            self._seen_at = now
            player.beacon.publish(player.scheduler.view(player.now))
        if now - self._mapped_at >= MAP_SECONDS and player.scheduler.epoch:
            self._mapped_at = now
            player.beacon.publish(player.scheduler.pool_map(player.now))
        if now - self._beaten_at >= max(LEAST_SECONDS, BEAT_SECONDS / self._speed):
            self._beaten_at = now
            player.beat()
            player.publish_stats()
            player.beacon.publish(player._table())
            self._publish_processes(player)

    def _publish_processes(self, player: Player) -> None:
        if self._supervisor is None:
            self._supervisor = Beacon(player.context, player.run, "supervisor")
        # It waits for no workers: those of the log have answered.
        drains = player.state is ProcessState.DRAINING
        state = ProcessState.DRAINING if drains else ProcessState.READY
        here = {"supervisor": ProcessState.READY, "router": state}
        views = tuple(
            ProcessView(name, here[name], os.getpid(), 0, self._start, "a replay")
            if name in here
            else ProcessView(name, ProcessState.STOPPED, 0, 0, self._start, "not in a replay")
            for name in ("supervisor", *player.config.process_names())
        )
        self._supervisor.publish(ProcessTable(player.now, ProcessState.READY, views))

    def close(self, told: str = "") -> None:
        """The last that a console hears is `told`."""
        if self._supervisor is not None and self._replay.player is not None:
            now = self._replay.player.now
            self._supervisor.publish(Event(now, "info", "replay", f"the log ends here: {told}"))
            self._supervisor.close()


def show(line: AnyLine, start: float) -> None:
    """Prints what was decided, in words."""
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


def replay(path: Path, run: Path, pace: Pace, shows: bool, as_json: bool) -> int:
    """Plays a log; the exit status."""
    start = next(read_log(path))[1].at
    stage: Stage | None = None
    player = Replay(path, run, lambda at: stage.wait_until(at) if stage else None)
    if pace.speed:
        stage = Stage(player, pace._replace(starts_at=pace.starts_at or start))
    if shows:
        player.watch = lambda line: show(line, start)
    found = "it broke off"
    try:
        found = player.play()
        assert player.player is not None
        decided, admitted = player.player.decided, player.player.admitted
        if as_json:
            document = {"file": str(path), "same": not found, "difference": found}
            counts = {"lines": player.number, "decisions": decided, "admissions": admitted}
            print(json.dumps(document | counts | {"full": player.is_full}))
        elif found:
            print(f"{path} is decided otherwise now, {found}")
        else:
            more = "; the file was full, the router went on" if player.is_full else ""
            parts = {"line": player.number, "decision": decided, "admission": admitted}
            told = ", ".join(counted(number, noun) for noun, number in parts.items())
            print(f"{told}: all the same{more}")
        return 1 if found else 0
    finally:
        if stage is not None:
            stage.close(found or "all the same")
        player.close()


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
    sys.exit(_replay(given))


def _replay(given: argparse.Namespace) -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="lc-") as directory:
            run = given.run or make_run_directory(Path(directory) / "run")
            pace = Pace(given.speed, given.starts_at, given.begins_at or time.time())
            return replay(given.file, run, pace, given.show, given.json)
    except OperatorError as error:
        if given.json:
            print(json.dumps({"error": error.what, "hint": error.hint}))
        print(f"loraconsole: {error.what}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
