"""Overview: the pipeline's state, speed, load, pool, adapters, alerts and events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.geometry import Size

from ...state.board import Board, Quantiles
from ...state.time_series import Window
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ...text.lora_tax import tax_spans
from ..widgets.adapter_list import AdapterListPane
from ..widgets.pane import Pane, Panel, over_time
from .events import EventPane
from .pool import PoolPane
from .ring import RingPane
from .start import StartPane

AXIS = 6
"""Cells of a plot's axis labels, at its left."""
TINY = Size(72, 18)
"""Below this size only the ring, the percentiles and the adapters are shown."""
HEATS = ("heat-1", "heat-2", "heat-3", "heat-4", "heat-5")


class ThroughputPane(Pane):
    """Tokens a second: decode above, prefill below, upside down."""

    TITLE = "throughput"
    PERIOD_S = 0.5

    def title(self, board: Board) -> Sequence[TextSpan]:
        return over_time(self.TITLE, board)

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return (
            (units.rate(board.decode_rate), "good"),
            (" decode  ", "dim"),
            (units.rate(board.prefill_rate), "prefill"),
            (" prefill tok/s", "dim"),
        )

    def origin(self, board: Board) -> tuple[int, float]:
        return self.origin_of(board.decode, AXIS)

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """The overhead of adapters, and the read rate as a share of the copy rate."""
        reads = board.decode_statistics
        if reads.bytes_s is None:
            return ()
        found = [("LoRA tax ", "dim"), *tax_spans(reads.lora_tax, board.now, is_brief=True)]
        if board.decode_rate and self.size.width >= 60:
            found += [("  reads ", "dim"), (units.speed(reads.bytes_s), "number")]
        if (
            board.decode_rate and self.size.width >= 80
        ):  # else there would be no room for the plot's age
            share = (units.share(board.read_share), "number")
            found += [(", ", "dim"), share, (" of the copy rate", "dim")]
        return found

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        plot_width = width - AXIS
        below = height // 3 if height >= 6 else 0
        above = height - below
        decode = self.window(board.decode, board, plot_width)
        top = plot.top_of(decode.highest)
        found = _heat_rows(decode, above, top, width)
        if below:
            prefill = self.window(board.prefill, board, plot_width)
            low = plot.top_of(prefill.highest)
            rows = plot.area(prefill.means, below, low, down=True)
            for y, row in enumerate(rows):
                label = f"{units.count(low):>5}" if y == below - 1 else " " * 5
                found.append(line((label, "dim"), (" ", "text"), (row, "prefill")))
        return found


def _heat_rows(window: Window, height: int, top: float, width: int) -> list[TextLine]:
    """An area coloured by height, with its axis at the left."""
    rows = plot.area(window.means, height, top)
    found = []
    for y, row in enumerate(rows):
        level = (height - 1 - y) * len(HEATS) // max(1, height)
        label = f"{units.count(top):>5}" if y == 0 else f"{0:>5}" if y == height - 1 else " " * 5
        found.append(line((label, "dim"), (" ", "text"), (row, HEATS[level])))
    return found


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


class LoadPane(Pane):
    """Requests running and waiting over time."""

    TITLE = "load"
    PERIOD_S = 0.5

    def origin(self, board: Board) -> tuple[int, float]:
        return self.origin_of(board.running, AXIS)

    def title(self, board: Board) -> Sequence[TextSpan]:
        return over_time(self.TITLE, board)

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if board.router is None:
            return ()
        return (
            (f"{board.router.running}", "number"),
            (" running  ", "dim"),
            (f"{board.router.waiting}", "warn" if board.router.waiting else "number"),
            (" waiting", "dim"),
        )

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        plot_width = width - AXIS
        running = self.window(board.running, board, plot_width)
        waiting = self.window(board.waiting, board, plot_width)
        below = max(1, height // 3)
        above = height - below
        top, low = plot.top_of(running.highest), plot.top_of(waiting.highest)
        found = []
        for y, row in enumerate(plot.area(running.means, above, top)):
            label = f"{units.count(top):>5}" if y == 0 else " " * 5
            found.append(line((label, "dim"), (" ", "text"), (row, "info")))
        for y, row in enumerate(plot.area(waiting.means, below, low, down=True)):
            label = f"{units.count(low):>5}" if y == below - 1 else " " * 5
            found.append(line((label, "dim"), (" ", "text"), (row, "warn")))
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
        yield AdapterListPane(id="busiest")
        yield LoadPane(id="load")
        yield EventPane()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < TINY.width or event.size.height < TINY.height, "-tiny")

    def paint(self, board: Board) -> None:
        self.set_class(board.is_starting or board.is_down, "-starting")
        super().paint(board)

    def focus_first(self) -> None:
        """Focuses no pane; tab goes to the pool and to the events."""
        self.screen.set_focus(None)
