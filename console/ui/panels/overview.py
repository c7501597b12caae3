"""Overview: the pipeline's state, speed, load, pool, adapters, alerts and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.geometry import Size

from ...state.board import WINDOW_S, Board, Quantiles
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ..plots.load_plots import LoadPane, ThroughputPane
from ..widgets.adapter_list import AdapterListPane
from ..widgets.pane import Pane, Panel
from .events import EventPane
from .pool import PoolPane
from .ring import RingPane
from .start import StartPane

TINY = Size(72, 18)
"""Below this size only the ring, the percentiles and the adapters are shown."""
ROOMY = Size(180, 50)
"""From this size on throughput is shown by adapter, too."""
MANY = 10
"""Rows of adapters from which their list is higher there."""


class LatencyPane(Pane):
    """Percentiles of client latencies and of steps."""

    TITLE = "latency"
    FADES = True
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return ((f"last {WINDOW_S:.0f} s", "dim"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        steps = [q for q in board.phase_quantiles if q.name == "decode"]
        syncs = [q for q in board.sync_quantiles if q.name == "step"]
        rows = [board.ttft_quantiles, board.inter_token_quantiles]
        rows += [Quantiles("decode step", q.count, q.p50, q.p90, q.p99) for q in steps]
        rows += [Quantiles("sync wait", q.count, q.p50, q.p90, q.p99) for q in syncs]
        cell = max(8, min(14, (width - 12) // 3))
        head = line(
            (" " * 12, "dim"), *((f"{name:>{cell}}", "dim") for name in ("p50", "p90", "p99"))
        )
        body = [
            line(
                (f"{row.name:<12}", "text"),
                *(
                    (f"{units.milliseconds(value):>{cell}}", "number" if row.count else "dim")
                    for value in (row.p50, row.p90, row.p99)
                ),
            )
            for row in rows
        ]
        return [head, *body]


class Overview(Panel):
    """The first screen."""

    NAME: ClassVar[str] = "Overview"

    def compose(self) -> ComposeResult:
        yield RingPane(id="ring")
        yield ThroughputPane(id="throughput")
        yield LatencyPane(id="quantiles")
        yield StartPane(id="start")
        yield PoolPane(id="pool")
        yield AdapterListPane(id="busiest")
        yield LoadPane(id="load")
        yield EventPane()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < TINY.width or event.size.height < TINY.height, "-tiny")
        is_roomy = event.size.width >= ROOMY.width and event.size.height >= ROOMY.height
        self.set_class(is_roomy, "-roomy")
        if is_roomy and not self.query("#stack"):
            from ..plots.adapter_plot import AdapterPlotPane

            self.mount(AdapterPlotPane(title="by adapter"), after="#busiest")

    def paint(self, board: Board) -> None:
        self.set_class(board.is_starting or board.is_down, "-starting")
        self.set_class(board.is_restarting, "-restarting")
        self.set_class(len(board.adapters) > MANY, "-many")
        super().paint(board)

    def focus_first(self) -> None:
        """Focuses no pane; tab goes to the plots, the pool and the events."""
        self.screen.set_focus(None)
