"""The plots of the Overview: tokens a second, with the limits of steps under them, and requests."""

from __future__ import annotations

from collections.abc import Sequence

from ...state.board import Board
from ...state.time_series import Track, Window
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, length, line, spread
from ...text.lora_tax import tax_spans
from .limit_strip import legend, reading, strip
from .plot_pane import PlotPane

AXIS = 8
"""Cells of a plot's axis labels, at its left."""
HEATS = ("heat-1", "heat-2", "heat-3", "heat-4", "heat-5")
STRIP_HEIGHT, LEGEND_HEIGHT = 5, 9
"""Lines from which there is room for the strip of limits, and for its legend."""
WIDE = 100
"""Cells from which the legend has room for the read rate."""


class ThroughputPane(PlotPane):
    """Tokens a second: decode above, prefill below, upside down; then what limited the steps."""

    TITLE = "throughput"
    BEFORE = AXIS
    FADES = True

    def axis(self, board: Board) -> Track:
        return board.decode

    def caption(self, board: Board) -> Sequence[TextSpan]:
        is_measured = board.is_measured
        decode = self.read(board.decode, board, board.decode_rate if is_measured else None)
        prefill = self.read(board.prefill, board, board.prefill_rate if is_measured else None)
        return (
            *self.when(board),
            (_rate(decode), "good"),
            (" decode  ", "dim"),
            (_rate(prefill), "prefill"),
            (" prefill tok/s", "dim"),
        )

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """The LoRA tax, where the legend of limits has no line of its own to put it in."""
        return () if self.size.height - 2 >= LEGEND_HEIGHT else _tax(board)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        cells = max(1, width - AXIS)
        found: list[TextLine] = []
        if height >= STRIP_HEIGHT:
            columns = self.columns(board.decode, board, cells)
            limits = board.limits.cells(columns)
            if self._sweeps:
                seam = -(columns.first // 2) % cells
                limits = limits[seam:] + limits[:seam]
            found.append(line((_label("limit"), "dim"), *strip(limits)))
            if height >= LEGEND_HEIGHT:
                cell = self.cell(board)
                tax = _tax(board, is_wide=width >= WIDE) if cell is None else ()
                room = width - length(tax)
                words = legend(limits, room) if cell is None else reading(limits[cell])
                found.append(spread(words, tax, width))
        height -= len(found)
        below = height // 3 if height >= 6 else 0
        above = height - below
        decode = self.plotted(board.decode, board, cells)
        top = plot.top_of(decode.highest)
        lines = list(self._decode(decode, above, top, board))
        if below:
            prefill = self.plotted(board.prefill, board, cells)
            lines += _hanging(self, prefill, below, "prefill", "prefill", board)
        return [*lines, *found]

    def _decode(self, window: Window, height: int, top: float, board: Board) -> Sequence[TextLine]:
        """An area coloured by height, with its axis at the left."""
        found = []
        for y, row in enumerate(plot.area(window.means, height, top)):
            level = (height - 1 - y) * len(HEATS) // max(1, height)
            label = _axis_label(y, height, top, "decode")
            found.append(line((label, "dim"), *self.cut(row, HEATS[level], board)))
        return found


class LoadPane(PlotPane):
    """Requests running and waiting over time."""

    TITLE = "load"
    BEFORE = AXIS
    FADES = True

    def axis(self, board: Board) -> Track:
        return board.running

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if board.router is None:
            return ()
        running = self.read(board.running, board, board.router.running)
        waiting = self.read(board.waiting, board, board.router.waiting)
        return (
            *self.when(board)[:1],
            (" " if self.cursor_at else "", "dim"),
            (_number(running), "number"),
            (" running  ", "dim"),
            (_number(waiting), "warn" if waiting else "number"),
            (" waiting", "dim"),
        )

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        cells = max(1, width - AXIS)
        running = self.plotted(board.running, board, cells)
        waiting = self.plotted(board.waiting, board, cells)
        below = max(1, height // 3)
        above = height - below
        top = plot.top_of(running.highest)
        found = []
        for y, row in enumerate(plot.area(running.means, above, top)):
            label = _axis_label(y, above, top, "running")
            found.append(line((label, "dim"), *self.cut(row, "info", board)))
        return [*found, *_hanging(self, waiting, below, "waiting", "warn", board)]


def _hanging(
    pane: PlotPane, window: Window, height: int, name: str, style: str, board: Board
) -> list[TextLine]:
    """An area that hangs from its upper edge, with a scale of its own."""
    top = plot.top_of(window.highest)
    found = []
    for y, row in enumerate(plot.area(window.means, height, top, down=True)):
        label = _axis_label(height - 1 - y, height, top, name, is_hanging=True)
        found.append(line((label, "dim"), *pane.cut(row, style, board)))
    return found


def _axis_label(y: int, height: int, top: float, name: str, *, is_hanging: bool = False) -> str:
    """The label beside line `y` of a plot: its largest value, what it is, and 0 at the other
    end, which the plot that hangs below it shares."""
    if y == 0:
        return _label(units.tick(top))
    if y == 1 and height > 1 + (not is_hanging):
        return _label(name)
    return _label("0") if y == height - 1 and not is_hanging else _label("")


def _label(text: str) -> str:
    return f"{text:>{AXIS - 1}} "


def _tax(board: Board, *, is_wide: bool = False) -> tuple[TextSpan, ...]:
    """`LoRA tax +41 % ± 6 %`, if there is room with the read rate; nothing before a decode step."""
    if not board.decode_statistics.step_bytes:
        return ()
    reads = board.decode_statistics
    found = [("LoRA tax ", "dim"), *tax_spans(reads.lora_tax, board.now, is_brief=True)]
    if is_wide and board.decode_rate and reads.bytes_s is not None:
        found += [("  reads ", "dim"), (units.speed(reads.bytes_s), "number")]
        found += [(", ", "dim"), (units.share(board.read_share), "number")]
        found.append((" of peak copy", "dim"))
    return tuple(found)


def _rate(value: float | None) -> str:
    return units.NOTHING if value is None else units.rate(value)


def _number(value: float | None) -> str:
    return units.NOTHING if value is None else units.count(value)
