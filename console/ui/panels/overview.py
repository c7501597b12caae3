"""Overview: the pipeline's state, speed, load, pool, adapters, alerts and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult

from ...state.board import Board, Quantiles
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.load_plots import LoadPane, ThroughputPane
from ..widgets.pane import Pane, Panel
from .events import EventPane
from .pool import PoolPane
from .ring import RingPane
from .start import StartPane


class LatencyPane(Pane):
    """Percentiles of client latencies and of steps."""

    TITLE = "latency"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return (("last 60 s", "dim"),)

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


class AdapterPane(Pane):
    """Adapters by speed."""

    TITLE = "adapters"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return ((f"{max(0, len(board.adapters) - 1)}", "number"), (" + base", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not board.adapters:
            return [line(("no word from the router yet", "dim"))]
        rows = sorted(
            board.adapters, key=lambda row: (-row.tokens_s, -row.view.running, not row.is_base)
        )
        most = max((row.tokens_s for row in rows), default=0.0)
        name_width = min(24, max(8, *(len(row.name) + 2 for row in rows if not row.is_base), 8))
        numbers = 30
        cells = max(0, width - name_width - numbers - 2)
        found = []
        for row in rows[:height]:
            filled, rest = plot.gauge(row.tokens_s / most if most else 0.0, cells)
            name = units.fit(f"{row.mark} {'base' if row.is_base else row.name}", name_width)
            if row.has_failed:
                why = units.fit(units.visible(row.view.reason) or "failed", width - name_width - 1)
                found.append(line((f"{name} ", "bad"), (why, "dim")))
                continue
            found.append(
                line(
                    (name, row.color),
                    (" ", "text"),
                    (filled, row.color),
                    (rest, "rest"),
                    (f" {units.rate(row.tokens_s):>6}", "number"),
                    (" tok/s", "dim"),
                    (f"{row.view.running:>4}", "number"),
                    (" run", "dim"),
                    (f"{row.view.waiting:>3}", "warn" if row.view.waiting else "dim"),
                    (" wait", "dim"),
                )
            )
        return found


class Overview(Panel):
    """The first screen."""

    NAME: ClassVar[str] = "Overview"

    def compose(self) -> ComposeResult:
        yield RingPane(id="ring")
        yield StartPane(id="start")
        yield ThroughputPane(id="throughput")
        yield LatencyPane(id="quantiles")
        yield PoolPane(id="pool")
        yield AdapterPane(id="busiest")
        yield LoadPane(id="load")
        yield EventPane()

    def paint(self, board: Board) -> None:
        self.set_class(board.is_starting, "-starting")
        super().paint(board)

    def focus_first(self) -> None:
        """Focuses no pane; tab goes to the pool and to the events."""
        self.screen.set_focus(None)
