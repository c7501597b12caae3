"""`Observation`: what a simulation must know of a log: what came from outside, and how long the
workers took for what they were asked. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from ..messages import (
    Abort,
    AdapterChecked,
    AdapterInfo,
    AdapterPlaced,
    AdapterRead,
    CheckAdapter,
    Message,
    PlaceAdapter,
    PlanAdapters,
    ReadAdapter,
    StopFound,
    WeightsMerged,
    WorkerReady,
)
from ..runtime.percentile import percentile
from .effects import Effect, FetchAdapter, Send
from .event_lines import (
    Answered,
    AnyLine,
    Asked,
    Decided,
    Fetched,
    Got,
    RanksDiffered,
    Started,
    StepFailed,
)
from .player import Player
from .step_times import ShapeReader, StepSample, StepShape


class Outage(NamedTuple):
    """A time without workers, unix seconds."""

    start: float
    end: float


class Observation:
    """Everything of one log that does not depend on the router's settings."""

    def __init__(self, start: Started) -> None:
        self.start = start
        self.player = Player(start)
        self.outside: list[Asked | Got] = []
        """Requests and messages from clients, operators and processes, in order."""
        self.samples: list[StepSample] = []
        self.infos: dict[tuple[int, str], AdapterInfo] = {}
        """An adapter as a rank read it, by rank and key."""
        self.checked: dict[str, AdapterChecked] = {}
        """Results of verifications, by order."""
        self.fetched: dict[str, Fetched] = {}
        self.outages: list[Outage] = []
        self.failures = 0
        """Steps that failed, and resets because ranks differed: these are not simulated."""
        self.ended_at = start.at
        self.effects: list[Effect] = []
        """Effects of the last line, for a recorder."""
        self.answered: StepSample | None = None
        """The step that the last line answered, for a recorder."""
        self._delays: dict[tuple[str, str], list[float]] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._planned: dict[int, tuple[float, StepShape]] = {}
        self._shapes = ShapeReader()
        self._answered_at = start.at
        self._incarnations: dict[int, int] = {}

    def play_line(self, line: AnyLine) -> Decided | None:
        """Applies a line to the player, and notes it. Returns the present decision if the line is
        one. Raises `Differs`."""
        decided = self.player.play_line(line)
        self.ended_at, self.answered = line.at, None
        match line:
            case Asked():
                self.outside.append(line)
            case Got(message=message):
                self._note_message(line, message)
            case Answered(step=step):
                self._note_answer(step, line.at)
            case StepFailed() | RanksDiffered():
                self.failures += 1
                self._planned.clear()
            case Fetched(key=key):
                self.fetched[key] = line
                self._end("fetch", key, line.at)
            case Decided(step=int(step)):
                # A decision that differs may plan no such step; it is for the caller to compare.
                if (posted := self.player.core.steps.get(step)) is not None:
                    self._planned[step] = (line.at, self._shapes.read_batch(posted.batch))
        self.effects = self.player.core.effects.take_pending()
        self._note_effects(self.effects, line.at)
        return decided

    def delay(self, kind: str, key: str) -> float:
        """Median seconds that the workers took to `read`, `place`, `merge` or `check` an adapter,
        or a `fetch`; of all adapters if this one was never seen, 0 if none was."""
        own = self._delays.get((kind, key))
        found = own or [s for (k, _), each in self._delays.items() if k == kind for s in each]
        return percentile(sorted(found), 0.5) or 0.0

    def _note_message(self, line: Got, message: Message) -> None:
        match message:
            case AdapterRead(rank=rank, info=info):
                self.infos[rank, info.key] = info
                self._end("read", info.key, line.at)
            case AdapterPlaced(key=key):
                self._end("place", key, line.at)
            case WeightsMerged(key=key):
                self._end("merge", key, line.at)
            case AdapterChecked(order=order):
                self.checked[order] = message
                self._end("check", "", line.at)
            case StopFound() | PlanAdapters():
                pass  # an answer's length is known; a plan changes nothing
            case Abort(reason=reason) if reason.startswith("the logits of "):
                pass  # the router's own, in a step
            case WorkerReady(rank=rank, incarnation=incarnation):
                known = self._incarnations.get(rank)
                if known is not None and known != incarnation and self._planned:
                    self.outages.append(Outage(self._answered_at, line.at))
                    self._planned.clear()
                self._incarnations[rank] = incarnation
                self.outside.append(line)
            case _:
                self.outside.append(line)

    def _note_answer(self, step: int, at: float) -> None:
        planned = self._planned.pop(step, None)
        if planned is not None:
            planned_at, shape = planned
            began = max(planned_at, self._answered_at)
            self.answered = StepSample(at, shape, at - began, step)
            self.samples.append(self.answered)
        self._answered_at = at

    def _note_effects(self, effects: list[Effect], at: float) -> None:
        for effect in effects:
            match effect:
                case FetchAdapter(key=key):
                    self._asked["fetch", key] = at
                case Send(message=ReadAdapter(key=key)):
                    self._asked["read", key] = at
                case Send(message=PlaceAdapter(key=key)):
                    self._asked["place", key] = at
                case Send(message=CheckAdapter()):
                    self._asked["check", ""] = at

    def _end(self, kind: str, key: str, at: float) -> None:
        """Notes the first rank's answer; the others come about then."""
        if (asked := self._asked.pop((kind, key), None)) is not None:
            self._delays.setdefault((kind, key), []).append(at - asked)
