"""`PartsPane`: small plots of client latencies and of the parts of a step, over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.runtime.percentile import percentile
from ....pipeline.runtime.step_statistics import PARTS
from ...state.board import DEVICE_PARTS, Board
from ...state.time_series import Track, Window
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ...text.lora_tax import tax_figure
from .limit_strip import legend, reading, strip
from .plot_pane import PlotPane

NAMES = {
    "host": "host",
    "copy": "copy",
    "launch": "launch",
    "busy": "busy",
    "sync": "sync wait",
    "step": "whole step",
}
MARKS = {"host": "▒", "copy": "░", "launch": "▓", "busy": "█", "sync": "▚"}
"""One shade per part, as some terminals have no colours."""
LABEL = 22
OFF = "off"
"""Shown for values that are not measured with --no-step-times."""
TAX_SHARE = 0.9
"""Share of the buckets whose LoRA tax the axis must cover."""
NO_STEP = "no steps yet"
LEGEND_HEIGHT = 20
"""Lines from which the limits have a legend."""


class Curve(Struct, frozen=True):
    """A small plot with numbers at its left."""

    mark: str
    name: str
    style: str
    figure: str
    more: tuple[tuple[str, str], ...]
    """Further numbers, shown if there are lines for them: `axis  0.50 ms`."""
    window: Window
    top: float


class PartsPane(PlotPane):
    """First token and gaps between tokens, the parts of a step, its read rate, the overhead of
    adapters, and what limited the steps. A dot above an area is the highest value of a step there,
    or for the client's latencies the p99 above the p50."""

    TITLE = "latency over time"
    BEFORE = LABEL
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h", "histogram", "Histogram", id="histogram", tooltip="next metric"),
        Binding("f", "spans", "Spans", id="spans", tooltip="named spans, or last steps"),
        Binding("r", "record", "Record", id="record", tooltip="record spans of every process"),
    ]

    class SpansAsked(Message):
        """The operator switches between steps and spans."""

    class RecordAsked(Message):
        """The operator starts or stops recording spans."""

    class Turned(Message):
        """The operator wants the next part in the histogram."""

    def __init__(self) -> None:
        super().__init__(id="parts")

    def axis(self, board: Board) -> Track | None:
        return board.read_rate if self._knows(board) else None

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if self.cursor_at is not None:
            return self.when(board)
        return ((units.rate(board.step_rate), "number"), (" steps/s", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not self._knows(board):
            return [line((NO_STEP, "dim"))]
        cells = max(1, width - LABEL)
        curves = [
            self._latency(board, "TTFT", board.first_token, cells),
            self._latency(board, "inter-tok", board.inter_token_gap, cells),
            *(self._part(board, part, cells) for part in PARTS),
            self._reads(board, cells),
            self._tax(board, cells),
        ]
        limits = self._limits(board, width, height, cells)
        each, more = divmod(max(height - len(limits), len(curves)), len(curves))
        found: list[TextLine] = []
        for index, curve in enumerate(curves):
            rows = each + (index >= len(curves) - more)  # the last ones get the left-over lines
            found += self._drawn_curve(curve, rows, board)
        return [*found, *limits]

    def _knows(self, board: Board) -> bool:
        """Whether any step is known, recent or in the plots."""
        return bool(board.steps) or any(track.means for track in board.parts.values())

    def _figure(self, board: Board, window: Window, now: str, say: units.Formatter) -> str:
        """The figure of a curve: `now`, or with a cursor the value there."""
        if self.cursor_at is None:
            return now
        value = self.value(window, board)
        return units.NOTHING if value is None else say(value)

    def _latency(self, board: Board, name: str, track: Track, cells: int) -> Curve:
        window = self.plotted(track, board, cells)
        is_first = track is board.first_token
        quantiles = board.ttft_quantiles if is_first else board.inter_token_quantiles
        top = plot.top_of(max(window.highest, window.highest_peak))
        return Curve(
            "◆" if is_first else "◇",
            name,
            "good",
            self._figure(board, window, units.milliseconds(quantiles.p50), units.milliseconds),
            (("axis", units.milliseconds(top)), ("p99", units.milliseconds(quantiles.p99))),
            window,
            top,
        )

    def _part(self, board: Board, part: str, cells: int) -> Curve:
        window = self.plotted(board.parts[part], board, cells)
        top = plot.top_of(window.highest_peak)
        quantiles = board.part_quantiles[part]
        known = board.times_steps or part not in DEVICE_PARTS
        now = units.milliseconds(quantiles.p50)
        return Curve(
            MARKS[part],
            NAMES[part],
            f"part-{part}",
            self._figure(board, window, now, units.milliseconds) if known else OFF,
            (
                ("axis", units.milliseconds(top)),
                ("p99", units.milliseconds(quantiles.p99 if known else None)),
            ),
            window,
            top,
        )

    def _reads(self, board: Board, cells: int) -> Curve:
        """The read rate; its axis ends at the copy rate, unless a rate exceeds that."""
        window = self.plotted(board.read_rate, board, cells)
        top = max(board.copy_bytes_s or 1e9, window.highest)
        now = units.speed(board.decode_statistics.bytes_s)
        return Curve(
            "≡",
            "reads",
            "info",
            self._figure(board, window, now, units.speed) if board.times_steps else OFF,
            (("axis", units.speed(top)), ("of peak", units.share(board.read_share))),
            window,
            top,
        )

    def _tax(self, board: Board, cells: int) -> Curve:
        window = self.plotted(board.lora_overhead, board, cells)
        # One slow step would flatten all others, so it is cut off, and the axis label says so.
        means = sorted(mean for mean in window.means if mean == mean)
        top = plot.top_of(percentile(means, TAX_SHARE) or 0.0)
        axis = units.share(top) + (" cut" if means and means[-1] > top else "")
        tax = board.decode_statistics.lora_tax
        now = tax_figure(tax)
        return Curve(
            "+",
            "LoRA tax",
            "pool-adapters",
            self._figure(board, window, now, units.change) if board.times_steps else OFF,
            (
                ("axis", axis),
                ("pairs", units.count(tax.pairs)),
            ),
            window,
            top,
        )

    def _limits(self, board: Board, width: int, height: int, cells: int) -> list[TextLine]:
        """The strip of limits, and its legend if there is room."""
        columns = self.columns(board.read_rate, board, cells)
        limits = board.limits.cells(columns)
        if self._sweeps:
            seam = -(columns.first // 2) % cells
            limits = limits[seam:] + limits[:seam]
        found = [line((f"{'  limit':<{LABEL}}", "dim"), *strip(limits))]
        cell = self.cell(board)
        if height >= LEGEND_HEIGHT or cell is not None:
            words = legend(limits) if cell is None else reading(limits[cell])
            found.append(line(("  ", "text"), *words))
        return found if height > len(PARTS) + 5 else found[:1]

    def _drawn_curve(self, curve: Curve, rows: int, board: Board) -> list[TextLine]:
        """`▚ sync wait  0.42 ms` beside its plot; further numbers if there are more lines."""
        found = []
        labels = [(curve.name, curve.figure), *((f"  {n:>7} ", text) for n, text in curve.more)]
        window = curve.window
        figure_style = "number" if self.cursor_at is None else "warn"
        for y, row in enumerate(plot.area(window.means, rows, curve.top, dots=window.peaks)):
            name, figure = labels[y] if y < len(labels) else ("", "")
            found.append(
                line(
                    (f"{curve.mark} " if y == 0 else "  ", curve.style),
                    (f"{name:<10}", curve.style if y == 0 else "dim"),
                    (f"{figure:>9} ", figure_style if y == 0 else "dim"),
                    *self.cut(row, curve.style, board),
                )
            )
        return found

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """Numbers of reads, if the screen has no room for `ReadsPane`."""
        if not self.screen.has_class("-short", "-narrow") or not board.decode_statistics.step_bytes:
            return ()
        return (
            ("adapters ", "dim"),
            (units.size(board.decode_statistics.adapters), "number"),
            (" of ", "dim"),
            (units.size(board.decode_statistics.step_bytes), "number"),
            (" a decode step", "dim"),
        )

    def action_spans(self) -> None:
        self.post_message(self.SpansAsked())

    def action_record(self) -> None:
        self.post_message(self.RecordAsked())

    def action_histogram(self) -> None:
        self.post_message(self.Turned())
