"""`StartPane`: one bar per stage while the pipeline starts, what is down while it restarts, and the
way on once it is stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ....pipeline.messages import Progress
from ...state.board import STOPPED, SUPERVISOR, Board, seconds_left
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, length, line, spread
from ...text.reasons import reason_first
from ..widgets.pane import Pane

FULL_WIDTH = 64
"""Cells that a bar with its amount needs; in fewer it has only its name, share and time."""


class StartPane(Pane):
    """One bar per stage: its name, progress and time left; above them, in a restart, the processes
    that are down."""

    TITLE = "start-up"

    def title(self, board: Board) -> Sequence[TextSpan]:
        word = "stopped" if board.is_down else "restart" if board.is_restarting else self.TITLE
        return ((word, "title"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if board.is_down:
            return self._ways_on(board, height)
        if board.is_restarting:
            bars = (self._stage(bar, width) for bar in _bars(board))
            found = [*_down(board, width), *bars]
            if board.standstill:
                found.append(line((board.standstill, "warn")))
        else:
            found = [self._stage(bar, width) for bar in board.stages]
        if board.condition.word == "FAILED":
            rows = units.wrap(
                reason_first(units.visible(board.condition.detail)), max(8, width - 2)
            )
            marks = ("✗ ", *["  "] * len(rows))
            found.append(TextLine())
            found += [line((mark + row, "bad")) for mark, row in zip(marks, rows, strict=False)]
            found.append(
                line(
                    ("  7", "key"), (" shows the logs, ", "dim"), ("8", "key"), (" restarts", "dim")
                )
            )
        elif not found:
            found.append(line(("waiting for the first stage", "dim")))
        return found[:height] if board.is_restarting else found[-height:]

    def _ways_on(self, board: Board, height: int) -> Sequence[TextLine]:
        """What an operator can do with a stopped pipeline."""
        app = self.painted_app
        ways = [("7", "shows the last log lines"), ("q", "leaves the console")]
        if app.can_start:
            ways.insert(0, ("S", "starts it again, with its last options"))
        is_stopped = board.condition.word == STOPPED
        text = "The pipeline is stopped." if is_stopped else "No supervisor answers."
        head = line((text, "title"))
        found = [line((f"{key:>3}", "key"), (f"  {text}", "text")) for key, text in ways]
        if app.can_start and height > len(found) + 2:
            kept = "adapters loaded and settings changed while it ran are lost"
            found.insert(1, line(("     ", "text"), (kept, "dim")))
        return [head, *([TextLine()] if height > len(found) + 1 else []), *found]

    def _stage(self, bar: Progress, width: int) -> TextLine:
        label = bar.label if bar.label != bar.stage else ""
        is_full = width >= FULL_WIDTH
        name = units.fit(bar.stage, 10 if is_full else 8)
        left: list[TextSpan] = [_mark(bar), (name, "title")]
        amount = _amount(bar)
        time_left = seconds_left(bar)
        if bar.done:
            spent = ("  took " + units.duration(bar.elapsed_s), "dim")
        elif time_left is not None:
            spent = (f"  {units.duration(time_left)} left", "text")
        else:
            spent = (f"  {units.duration(bar.elapsed_s)}", "dim")
        share = bar.current / bar.total if bar.total else 1.0 if bar.done else 0.0
        style = "bad" if bar.failed else "good" if bar.done else "info"
        cells = max(6, min(60, width - 80 if width > 100 else width - (56 if is_full else 30)))
        filled, rest = plot.gauge(share, cells)
        gauge: list[TextSpan] = [(filled, style), (rest, "rest")]
        percent = units.percent(share) if bar.total else ""
        left += [*gauge, (f" {percent:>5}", "number")]
        if is_full:
            left += [(f"  {amount:>20}", "dim"), ("  ", "text")]
            if length(left) + length((spent,)) + 12 < width:
                left.append((label, "dim"))
        return spread(left, (spent,), width)


def _down(board: Board, width: int) -> Iterator[TextLine]:
    """The processes that are down: why each fell, and what is done about it unless a bar says."""
    has_bars = {bar.source for bar in _bars(board) if not bar.done}
    for process in board.processes:
        if process.is_fallen:
            says_more = process.name not in has_bars
            text = board.recovery(process) if says_more else board.fall(process)
            if len(text) > width:
                text = f"{process.name} {process.fall_reason or process.reason}"
            yield line((units.visible(text), "bad"))
        elif not process.is_up and process.name not in (SUPERVISOR, "fetch"):
            yield line((units.visible(f"{process.name} {board.mending(process)}"), "warn"))


def _bars(board: Board) -> Iterator[Progress]:
    """The bars of the restart: of processes that are down, and of the adapters they read again."""
    down = {process.name for process in board.processes if process.is_fallen or not process.is_up}
    return (bar for bar in board.stages if bar.source in down - {"fetch"})


def _mark(bar: Progress) -> TextSpan:
    if bar.failed:
        return ("✗ ", "bad")
    return ("✓ ", "good") if bar.done else ("▸ ", "info")


def _amount(bar: Progress) -> str:
    """`94 of 93.8 MiB`, `166 of 272 tensors`."""
    if bar.unit == "B":
        done = units.size(bar.current)
        return f"{done} of {units.size(bar.total)}" if bar.total else done
    done = units.count(bar.current)
    plural = "" if bar.unit.endswith("s") else "s"
    return f"{done} of {units.count(bar.total)} {bar.unit}{plural}" if bar.total else done
