"""Latency: where a step's time goes, and above all how long the host waited for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ...pipeline.messages import Step
from .. import plot, units
from ..board import DEVICE_PARTS, HOST_PARTS, PARTS, Board, Quantiles, part_us, step_us
from ..history import Track
from ..pane import Line, Pane, Panel, Span, length, line

NAMES = {
    "host": "host",
    "copy": "copy",
    "launch": "launch",
    "busy": "busy",
    "sync": "sync wait",
    "step": "whole step",
}
MARKS = {"host": "▒", "copy": "░", "launch": "▓", "busy": "█", "sync": "▚"}
"""One shade a part: colour alone would not do."""
LABEL = 22
BACK_STEP = 10
"""Buckets of half a second that an arrow key goes back."""


class PartsPane(Pane, can_focus=True):
    """Five small plots over one time axis; a dot above the area is the slowest step there."""

    TITLE = "parts of a step"
    PERIOD_S = 0.5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "scrub(1)", "Back", id="scrub-back", tooltip="five seconds back in time"),
        Binding("right", "scrub(-1)", "Forth", id="scrub-forth"),
        Binding("end,0", "now", "Now", key_display="0", id="scrub-now"),
        Binding("h", "histogram", "Histogram of", id="histogram", tooltip="the next part's"),
    ]

    class Scrubbed(Message):
        """Another stretch of time is looked at."""

        def __init__(self, back_s: float) -> None:
            super().__init__()
            self.back_s = back_s

    class Turned(Message):
        """The histogram is to show the next part."""

    def __init__(self) -> None:
        super().__init__(id="parts")
        self._back = 0

    def caption(self, board: Board) -> Sequence[Span]:
        if self._back:
            return ((f"{units.age(self._back / 2)} ago", "warn"),)
        return ((units.rate(board.step_rate), "number"), (" steps/s", "dim"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        if not board.steps:
            return [line(("no step has been taken yet", "dim"))]
        found: list[Line] = []
        each, more = divmod(max(height, len(PARTS)), len(PARTS))
        for index, part in enumerate(PARTS):
            rows = each + (index >= len(PARTS) - more)  # the last ones get what is left over
            found += self._part(board, part, width, rows)
        return found

    def _part(self, board: Board, part: str, width: int, rows: int) -> list[Line]:
        """`sync wait  0.42 ms` beside its plot; the axis' top stands where there is a line more."""
        cells = max(1, width - LABEL)
        track: Track = board.parts[part]
        window = track.window(board.now, 2 * cells, self._back)
        top = plot.top_of(window.highest)
        quantiles = board.part_quantiles[part]
        labels = [
            (f"{NAMES[part]:<10}", f"{units.milliseconds(quantiles.p50):>9}"),
            (f"{'':<6}p99 ", f"{units.milliseconds(quantiles.p99):>9}"),
            (f"{'':<6}axis", f"{units.milliseconds(top):>9}"),
        ]
        found = []
        for y, row in enumerate(plot.area(window.means, rows, top, dots=window.peaks)):
            name, figure = labels[y] if y < len(labels) else ("", "")
            ink = f"part-{part}" if y == 0 else "dim"
            found.append(
                line(
                    (f"{MARKS[part]} " if y == 0 else "  ", f"part-{part}"),
                    (f"{name:<10}", ink),
                    (f"{figure:>9} ", "number" if y == 0 else "dim"),
                    (row, f"part-{part}"),
                )
            )
        return found

    def action_scrub(self, steps: int) -> None:
        self._go(max(0, min(self._back + steps * BACK_STEP, 1100)))

    def action_now(self) -> None:
        self._go(0)

    def action_histogram(self) -> None:
        self.post_message(self.Turned())

    def _go(self, back: int) -> None:
        self._back = back
        self.paint()
        self.post_message(self.Scrubbed(back / 2))


class FlamePane(Pane):
    """The last steps, one a line: what the host did, and beside it what the device did meanwhile,
    all to one scale."""

    TITLE = "last steps"
    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(id="flame")
        self.back_s = 0.0

    def caption(self, board: Board) -> Sequence[Span]:
        spans: list[Span] = [("host ", "title")]
        for part in (*HOST_PARTS, *DEVICE_PARTS):
            if part == DEVICE_PARTS[0]:
                spans.append((" │ device ", "title"))
            spans += [(f" {MARKS[part]} ", f"part-{part}"), (part, "dim")]
        return spans if length(spans) < self.size.width - 20 else ()

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        until = board.now - self.back_s
        steps: list[Step] = []
        for step in reversed(board.steps):
            if not self.back_s or step.at <= until:
                steps.append(step)
                if len(steps) == height:
                    break
        if not steps:
            return [line(("no step there", "dim"))]
        longest = max(max(_lane(step, HOST_PARTS), _lane(step, DEVICE_PARTS)) for step in steps)
        cells = max(2, (width - 25) // 2)  # before them `prefill  128`, behind them the time
        return [self._step(step, longest, cells) for step in steps]

    def _step(self, step: Step, longest: int, cells: int) -> Line:
        spans: list[Span] = [
            (f"{step.phase:<8}", "prefill" if step.phase == "prefill" else "text"),
            (f"{step.rows:>4} ", "dim"),
        ]
        for parts in (HOST_PARTS, DEVICE_PARTS):
            size = round(_lane(step, parts) / longest * cells) if longest else 0
            values = [part_us(step, part) for part in parts]
            spans.append(("│", "faint"))
            for part, share in zip(parts, plot.shares(values, sum(values), size), strict=True):
                spans.append((MARKS[part] * share, f"part-{part}"))
            spans.append((" " * (cells - size), "text"))
        spans.append((f"{units.milliseconds(step_us(step) / 1e3):>9}", "number"))
        return Line(tuple(spans))


def _lane(step: Step, parts: Sequence[str]) -> int:
    """Microseconds of some parts together."""
    return sum(part_us(step, part) for part in parts)


class QuantilePane(Pane):
    """Percentiles: what clients feel, whole steps by phase, every point where the host waits."""

    TITLE = "percentiles"
    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(id="percentiles")

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        has_most = width >= 52
        cell = 9
        names = ("p50", "p90", "p99", "max") if has_most else ("p50", "p90", "p99")
        room = width - cell * len(names)
        counted = room >= 19
        blank = " " * room
        head = line((blank, "dim"), *((f"{name:>{cell}}", "dim") for name in names))

        def row(quantiles: Quantiles, name: str) -> Line:
            number = f"{units.count(quantiles.count):>7} " if counted else ""
            values = (quantiles.p50, quantiles.p90, quantiles.p99, quantiles.most)
            return line(
                (units.fit(name, room - len(number)), "text"),
                (number, "dim"),
                *(
                    (f"{units.milliseconds(value):>{cell}}", "number" if quantiles.count else "dim")
                    for value in values[: len(names)]
                ),
            )

        found = [head]
        found += [row(board.ttft_quantiles, "first token" if room > 10 else "1st token")]
        found += [row(board.inter_token_quantiles, "inter-token" if room > 10 else "inter-tok")]
        found += [row(q, q.name if width < 40 else f"{q.name} step") for q in board.phase_quantiles]
        found += [
            row(q, "sync wait" if q.name == "step" else f"sync {q.name}")
            for q in board.sync_quantiles
        ]
        return found


class HistogramPane(Pane):
    """How often which duration: a line a bucket, five buckets a decade."""

    PERIOD_S = 0.5
    KINDS = ("sync", "step", "busy", "launch", "host", "copy")

    def __init__(self) -> None:
        super().__init__(id="histogram")
        self._kind = 0

    @property
    def kind(self) -> str:
        return self.KINDS[self._kind]

    def turn(self) -> None:
        self._kind = (self._kind + 1) % len(self.KINDS)
        self.paint()

    def title(self, board: Board) -> Sequence[Span]:
        return (("histogram of ", "dim"), (NAMES[self.kind], "title"))

    def caption(self, board: Board) -> Sequence[Span]:
        return ((units.count(len(board.steps)), "number"), (" steps", "dim"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        if not board.steps:
            return [line(("no step has been taken yet", "dim"))]
        kind = self.kind
        values = [step_us(s) if kind == "step" else part_us(s, kind) for s in board.steps]
        buckets = _buckets(values, height)
        most = max(count for _, count in buckets)
        ink = "info" if kind == "step" else f"part-{kind}"
        cells = max(1, width - 18)
        found = []
        for bound, count in buckets:
            filled, rest = plot.bar(count / most, cells)
            found.append(
                line(
                    (f"≤{units.milliseconds(bound / 1e3):>9} ", "dim"),
                    (filled + rest, ink),
                    (f"{units.count(count):>7}", "number" if count else "dim"),
                )
            )
        return found


def _buckets(values: Sequence[int], most: int) -> list[tuple[float, int]]:
    """Upper bound in microseconds and count; neighbours are joined until `most` are left."""
    bounds = [base * 10.0**power for power in range(8) for base in (1.0, 1.6, 2.5, 4.0, 6.3)]
    counts = [0] * len(bounds)
    for value in values:
        counts[next((i for i, bound in enumerate(bounds) if value <= bound), -1)] += 1
    first = next(i for i, count in enumerate(counts) if count)
    last = max(i for i, count in enumerate(counts) if count)
    found = list(zip(bounds[first : last + 1], counts[first : last + 1], strict=True))
    while len(found) > max(1, most):
        pairs = [found[i : i + 2] for i in range(len(found) % 2, len(found), 2)]
        joined = [(pair[-1][0], sum(count for _, count in pair)) for pair in pairs]
        found = found[: len(found) % 2] + joined
    return found


class LatencyPanel(Panel):
    """Plots and percentiles above, the last steps below."""

    NAME: ClassVar[str] = "Latency"

    def compose(self) -> ComposeResult:
        yield PartsPane()
        yield QuantilePane()
        yield HistogramPane()
        yield FlamePane()

    def on_parts_pane_scrubbed(self, message: PartsPane.Scrubbed) -> None:
        flame = self.query_one(FlamePane)
        flame.back_s = message.back_s
        flame.paint()

    def on_parts_pane_turned(self) -> None:
        self.query_one(HistogramPane).turn()
