"""`Player`: the router's core, driven by the lines of an event log instead of an inbox."""

from __future__ import annotations

from ..messages import Abort, Batch, Message, SampledToken, StopFound, Tokens
from .core import RouterCore
from .effects import AdapterFetched
from .event_lines import (
    STOP_TOKEN,
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
from .request_times import RequestTimes


class Differs(Exception):
    """A decision differs from the logged one."""


class Player:
    """A `RouterCore` without workers or clients, driven by the lines of a log."""

    def __init__(self, start: Started) -> None:
        self.start = start
        self.core = RouterCore(
            start.config, start.incarnation, start.at, start.table, record=start.record
        )
        self.core.record_lines()
        self.now = start.at
        self.decided = self.admitted = 0
        self.times = RequestTimes()
        self._left: dict[int, int] = {}
        """Tokens that a worker would still compute before it samples, by sequence."""

    def play_line(self, line: AnyLine) -> Decided | None:
        """Applies a line. Returns the present decision if the line is one, else None. Raises
        `Differs`."""
        core, now = self.core, line.at
        self.now = now
        match line:
            case Got(message=message):
                core.handle_message(message, now)
                self._note_end(message)
            case Asked():
                self.times.note_asked(line)
                core.handle_message(line.to_message(), now)
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
        self.times.note_effects(core.effects.pending, now)
        return None

    def _note_end(self, message: Message) -> None:
        self.times.note_effects(self.core.effects.pending, self.now)
        match message:
            case Abort(request_id=request_id, reason=reason):
                self.times.note_aborted(request_id, reason, self.now)
            case StopFound(request_id=request_id):
                self.times.note_stopped(request_id, self.now)

    def _end_step(self, step: int) -> Batch:
        if (posted := self.core.steps.pop(step, None)) is None:
            raise Differs(f"step {step} was answered, but is not planned now")
        return posted.batch

    def _decide_again(self) -> Decided:
        assert self.core.effects.lines is not None
        self.core.effects.lines.clear()
        self.core.plan_step(self.now)
        [decided] = (line for line in self.core.effects.lines if isinstance(line, Decided))
        self.decided += 1
        self.admitted += sum(decision.is_admitted for decision in decided.decisions)
        self.times.note_decided(decided)
        self.times.note_effects(self.core.effects.pending, self.now)
        return decided

    def _answer_step(self, batch: Batch, stopped: tuple[str, ...]) -> None:
        """Accepts tokens as a worker would sample them; only the ends of answers matter."""
        left, sampled, scheduler = self._left, [], self.core.scheduler
        for number in batch.release:
            left.pop(number, None)
        for admission in batch.admit:
            left[admission.sequence] = len(admission.token_ids) - admission.computed
        ends = {s.number for s in scheduler.sequences() if s.request.request_id in stopped}
        for row in batch.rows:
            number = row.sequence
            left[number] -= row.num_tokens
            if not left[number]:
                left[number] = 1
                sampled.append(SampledToken(number, STOP_TOKEN if number in ends else 0))
        tokens = Tokens(batch.epoch, batch.step, 0, tuple(sampled))
        self.times.note_tokens(self.core.accept_tokens(tokens, self.now), self.now)
        self.core.effects.batch_changed = True
        if going_on := [number for number in ends if scheduler.is_live(number)]:
            raise Differs(f"answers that ended in step {batch.step} continue now: {going_on}")
