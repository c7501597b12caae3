"""`AdapterPlotPane`: output tokens a second, stacked in the adapters' colours, and below it what
happened to the adapters: loads, evictions, new generations, hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from rich.cells import cell_len

from ...state.adapter_history import Mark, MarkKind
from ...state.board import AdapterRow, Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, crop, length, line
from ...text.stack import stack_rows
from ..widgets.pane import Pane

AXIS = 6
"""Cells of the axis labels, at the left."""
MOST_LAYERS = 6
"""Adapters with a layer of their own; all others share one."""
MOST_NAME = 16
"""Most cells of a name in the legend."""
LEAST_EDGE = 24
"""Cells of the upper edge for the frame, the caption and an ellipsis."""
OTHERS = "dim"
"""The style of the layer of all others."""
SIGNS: dict[MarkKind, tuple[str, str, str]] = {
    "fail": ("✗", "bad", "failed"),
    "generation": ("◆", "info", "new generation"),
    "evict": ("↓", "warn", "evicted"),
    "load": ("↑", "good", "loaded"),
    "hit": ("·", "", "hit"),
}
"""Mark, style ("" is the adapter's) and meaning, the most important first: one is shown a cell."""
_WEIGHT = {kind: -at for at, kind in enumerate(SIGNS)}


class AdapterPlotPane(Pane):
    """The throughput of the costliest adapters and of all others together."""

    FADES = True
    PERIOD_S = 1.0

    def __init__(
        self, selected: Callable[[], AdapterRow | None] | None = None, title: str = "throughput"
    ) -> None:
        """`selected` is the adapter whose events have a line of their own; None for no such
        line."""
        super().__init__(id="stack")
        self._selected = selected
        self._title = title

    def title(self, board: Board) -> Sequence[TextSpan]:
        """The title and a legend of the layers, as far as there is room."""
        spans: list[TextSpan] = [(self._title, "title")]
        room = self.size.width - LEAST_EDGE - length(spans)
        rows = layered(board)
        for at, row in enumerate(rows):
            width = min(MOST_NAME, cell_len(row.name))
            name = "base" if row.is_base else units.fit_name(row.name, width, row.differs_at)
            entry: list[TextSpan] = [(" ● ", row.color), (name, "text")]
            if length(entry) > room:
                return [*spans, (" …", "dim")] if at else spans
            spans += entry
            room -= length(entry)
        others = len(board.adapters) - len(rows)
        text = f" ● {units.count_noun(others, 'other')}"
        if others and len(text) <= room:
            spans.append((text, OTHERS))
        return spans

    def caption(self, board: Board) -> Sequence[TextSpan]:
        rate = sum(row.tokens_s for row in board.adapters)
        return ((units.rate(rate), "number"), (" tok/s", "dim"))

    def origin(self, board: Board) -> tuple[int, float, float] | None:
        return self.origin_of(board.adapter_speed, AXIS)

    def hint(self, board: Board) -> Sequence[TextSpan]:
        spans: list[TextSpan] = []
        for sign, style, meaning in SIGNS.values():
            spans += [(sign, style or "text"), (f" {meaning}  ", "dim")]
        return spans if length(spans) + AXIS + 16 < self.size.width else ()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        plot_width = max(1, width - AXIS)
        rows = layered(board)
        timelines = 0 if height < 3 else 1 if height < 6 or self._selected is None else 2
        above = height - timelines
        total = self.window(board.adapter_speed, board, plot_width)
        layers = [(row.color, self.window(row.speed, board, plot_width).means) for row in rows]
        known = [
            sum(v for v in column if v == v) for column in zip(*(m for _, m in layers), strict=True)
        ]
        rest = [
            max(0.0, whole - part) if whole == whole else 0.0
            for whole, part in zip(total.means, known or [0.0] * len(total.means), strict=True)
        ]
        top = plot.top_of(total.highest)
        found = []
        for y, spans in enumerate(stack_rows([*layers, (OTHERS, rest)], above, top)):
            label = top if y == 0 else 0 if y == above - 1 else None
            text = " " * AXIS if label is None else f"{units.tick(label):>{AXIS - 1}} "
            found.append(line((text, "dim"), *spans))
        if timelines and self._selected is not None:
            found.append(self._timeline(board, plot_width, self._selected()))
        if timelines > 1 or (timelines and self._selected is None):
            head = (f"{'all':>{AXIS - 1}} ", "dim")
            found.append(line(head, *self._marks(board, board.adapter_marks, plot_width, "text")))
        return found

    def _timeline(self, board: Board, cells: int, row: AdapterRow | None) -> TextLine:
        """The events of the adapter under the cursor."""
        if row is None or row.is_base:
            return line((f"{'base':>{AXIS - 1}} ", "base"), ("always resident", "dim"))
        name = units.fit_name(row.name, AXIS - 1, row.differs_at).rstrip()
        name = units.fit(name, AXIS - 1, right=True)
        return line((f"{name} ", row.color), *self._marks(board, row.marks, cells, row.color))

    def _marks(
        self, board: Board, marks: Sequence[Mark], cells: int, color: str
    ) -> Sequence[TextSpan]:
        """The most important mark of each cell, on the plot's axis of time."""
        shown: dict[int, MarkKind] = {}
        for at, kind in marks:
            cell = board.adapter_speed.cell_of(at, board.now, 2 * cells, self._sweeps)
            if cell is None:
                continue
            if cell not in shown or _WEIGHT[kind] > _WEIGHT[shown[cell]]:
                shown[cell] = kind
        spans: list[TextSpan] = []
        done = 0
        for cell in sorted(shown):
            sign, style, _ = SIGNS[shown[cell]]
            spans += [(" " * (cell - done), "text"), (sign, style or color)]
            done = cell + 1
        return crop(spans, cells)


def layered(board: Board) -> tuple[AdapterRow, ...]:
    """The adapters with a layer of their own, from the bottom up: the costliest that have
    answered, in the router's order, so that layers do not change places with each report."""
    answered = (row for row in board.costliest if row.view.output_tokens)
    chosen = {(row.is_base, row.name) for row in islice(answered, MOST_LAYERS)}
    kept = {(row.is_base, row.name): row for row in reversed(board.adapters)}
    return tuple(row for key, row in reversed(kept.items()) if key in chosen)
