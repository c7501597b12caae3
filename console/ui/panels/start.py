"""`StartPane`: one bar per stage while the pipeline starts; the way on once it is stopped."""

from __future__ import annotations

from collections.abc import Sequence

from ....pipeline.messages import Progress
from ...state.board import STOPPED, Board, seconds_left
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, length, line, spread
from ...text.reasons import reason_first
from ..widgets.pane import Pane


class StartPane(Pane):
    """One bar per stage: its name, progress and time left."""

    TITLE = "start-up"

    def title(self, board: Board) -> Sequence[TextSpan]:
        return (("stopped" if board.is_down else self.TITLE, "title"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if board.is_down:
            return self._ways_on(board, height)
        found: list[TextLine] = []
        for bar in board.stages:
            found.append(self._stage(bar, width))
        failed = board.condition.level == "bad"
        if failed:
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
        return found[-height:]

    def _ways_on(self, board: Board, height: int) -> Sequence[TextLine]:
        """What an operator can do with a stopped pipeline."""
        app = self.painted_app
        ways = [("7", "shows the last log lines"), ("q", "leaves the console")]
        if app.can_start:
            ways.insert(0, ("S", "starts it again, with the options it ran with"))
        is_stopped = board.condition.word == STOPPED
        text = "The pipeline is stopped." if is_stopped else "No supervisor answers."
        head = line((text, "title"))
        found = [line((f"{key:>3}", "key"), (f"  {text}", "text")) for key, text in ways]
        return [head, *([TextLine()] if height > len(found) + 1 else []), *found]

    def _stage(self, bar: Progress, width: int) -> TextLine:
        label = bar.label if bar.label != bar.stage else ""
        left: list[TextSpan] = [_mark(bar), (units.fit(bar.stage, 10), "title")]
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
        cells = max(8, min(60, width - 80 if width > 100 else width - 56))
        filled, rest = plot.gauge(share, cells)
        gauge: list[TextSpan] = [(filled, style), (rest, "rest")]
        percent = units.percent(share) if bar.total else ""
        left += [*gauge, (f" {percent:>5}", "number"), (f"  {amount:>20}", "dim"), ("  ", "text")]
        if length(left) + length((spent,)) + 12 < width:
            left.append((label, "dim"))
        return spread(left, (spent,), width)


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
