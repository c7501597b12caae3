"""Replays the router's decisions: its own core, fed from an event log instead of an inbox, by the
log's clock. Each decision is compared with the logged one.

`loraconsole replay FILE`. Exit status 0 if all are the same, else 1. With `--record` it writes the
router's telemetry to a recording meanwhile, which a console plays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import OperatorError
from ..runtime.process import set_up_log
from ..runtime.stdout import ends_with_its_reader
from ..runtime.text_output import json_text
from ..runtime.wording import counted
from .event_lines import AnyLine, Asked, Decided, Full, Started
from .event_log import read_log
from .observation import Observation
from .player import Differs, Player
from .replay_recorder import ReplayRecorder


class ReplayDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`replay --json`: whether the decisions of a log are the same now."""

    file: str
    same: bool
    difference: str
    """The first line that differs, and how; "" if none does."""
    lines: int
    decisions: int
    admissions: int
    full: bool
    """The log reached its size limit; the router continued without it."""


def first_difference(then: Decided, now: Decided) -> str:
    """The first field in which two decisions differ, with both values; "" if none does."""
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

    def __init__(self, path: Path, recording: Path | None = None) -> None:
        """With a `recording`, its telemetry from the first request on is written there."""
        self._path, self._recording = path, recording
        self._recorder: ReplayRecorder | None = None
        self.player: Player | None = None
        self._seen: Observation | None = None
        self.number = 0
        self.is_full = False
        self.watch: Callable[[AnyLine], None] = lambda line: None
        """Called with each line after it was played."""

    def play(self) -> str:
        """Plays the log to its end. Returns the first line that differs, and how; "" if none does.
        Raises `OperatorError` if the file is not a log."""
        found = "the replay was interrupted"
        try:
            found = self._play()
            return found
        finally:
            if self._recorder is not None:
                self._recorder.close(found or "all the same")

    def _play(self) -> str:
        for number, line in read_log(self._path):
            self.number = number
            if isinstance(line, Started):
                self._seen = Observation(line)
                self.player = self._seen.player
                continue
            assert self.player is not None and self._seen is not None
            self._record_until(self.player, line)
            self.is_full = isinstance(line, Full)
            try:
                now = self._seen.play_line(line)
            except Differs as error:
                return f"line {self.number}: {error}"
            if self._recorder:
                self._recorder.show_effects(self._seen.effects)
                if self._seen.answered is not None:
                    self._recorder.show_step(self._seen.answered)
            if isinstance(line, Decided) and now is not None and now != line:
                return f"line {self.number}: {first_difference(line, now)}"
            self.watch(line)
        return ""

    def _record_until(self, player: Player, line: AnyLine) -> None:
        """Records what was before a line; begins at the first request."""
        if self._recorder is not None:
            self._recorder.advance(line.at)
        elif self._recording is not None and isinstance(line, Asked):
            self._recorder = ReplayRecorder(
                self._recording, player.core, player.times, line.at, "a replay"
            )


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


def replay_log(path: Path, recording: Path | None, shows: bool, as_json: bool) -> int:
    """Plays a log and prints the result. Returns the exit status."""
    start = next(read_log(path))[1].at
    replay = Replay(path, recording)
    if shows:
        replay.watch = lambda line: print_decisions(line, start)
    found = replay.play()
    assert replay.player is not None
    _print_result(path, replay, replay.player, found, as_json)
    return 1 if found else 0


def _print_result(path: Path, replay: Replay, player: Player, found: str, as_json: bool) -> None:
    decided, admitted = player.decided, player.admitted
    if as_json:
        document = ReplayDocument(
            file=str(path),
            same=not found,
            difference=found,
            lines=replay.number,
            decisions=decided,
            admissions=admitted,
            full=replay.is_full,
        )
        print(json_text(msgspec.json.encode(document)))
    elif found:
        print(f"{path} has a decision that differs now, {found}")
    else:
        more = "; the file was full, the router continued" if replay.is_full else ""
        parts = {"line": replay.number, "decision": decided, "admission": admitted}
        counts_text = ", ".join(counted(number, noun) for noun, number in parts.items())
        print(f"{counts_text}: all the same{more}")


@ends_with_its_reader()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--record", type=Path, help="write its telemetry there, for a console")
    parser.add_argument("--show", action="store_true", help="print each decision")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    set_up_log()
    sys.exit(_run_replay(given))


def _run_replay(given: argparse.Namespace) -> int:
    try:
        return replay_log(given.file, given.record, given.show, given.json)
    except OperatorError as error:
        if given.json:
            print(json.dumps({"error": error.what, "hint": error.hint}))
        print(f"loraconsole: {error.what}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    main()
