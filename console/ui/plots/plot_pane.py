"""`PlotPane`: a pane of plots over one time axis, with a cursor that reads their values.

Without a cursor the plots end now. The cursor stays at its time while newer data arrive; once the
plots would leave it behind, they stay with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from ...state.board import Board
from ...state.time_series import PlotColumns, Track, Window, is_hour
from ...text import units
from ...text.lines import TextSpan
from ..widgets.pane import Pane

FAR = 10
"""Cells that shift and an arrow move."""
BACK_BUCKETS = 1080
"""How far back in time the cursor goes: nine minutes, or in plots of the hour to its beginning."""


class PlotPane(Pane, can_focus=True):
    """Plots whose track is `axis`; subclasses draw them with `plotted` and `cut`."""

    PERIOD_S = 0.5
    BEFORE: ClassVar[int] = 0
    """Cells at the left of the plots, for labels."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cursor(-1)", "Back", id="plot-back", tooltip="earlier value"),
        Binding("right", "cursor(1)", "Forward", id="plot-forth", tooltip="later value"),
        Binding("shift+left", f"cursor({-FAR})", "Far back", show=False, id="plot-far-back"),
        Binding("shift+right", f"cursor({FAR})", "Far forward", show=False, id="plot-far-forth"),
        Binding("end,0", "now", "Now", key_display="0", id="plot-now", tooltip="no cursor"),
    ]

    class CursorMoved(Message):
        """The cursor is at another time, unix seconds; None: there is none, the plots are live."""

        def __init__(self, at: float | None) -> None:
            super().__init__()
            self.at = at

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.cursor_at: float | None = None
        """The time that is read, unix seconds; None without a cursor."""

    # -- for subclasses

    def axis(self, board: Board) -> Track | None:
        """A track with the time axis of all plots of the pane; None if nothing is drawn."""
        raise NotImplementedError

    def when(self, board: Board) -> tuple[TextSpan, ...]:
        """`12:03:22, 18 s ago`: the time that is read."""
        at = self.cursor_at
        if at is None:
            return ()
        ago = units.age(max(0.0, board.now - at))
        return ((units.clock(at), "warn"), (f", {ago} ago  ", "dim"))

    def plotted(self, track: Track, board: Board, cells: int) -> Window:
        """The part of `track` that is in view."""
        return self.window(track, board, cells, self.back_s(board))

    def columns(self, track: Track, board: Board, cells: int) -> PlotColumns:
        """The columns of a plot of `cells` cells."""
        return PlotColumns.of(track.bucket_s, board.now, 2 * cells, self.back_s(board))

    def back_s(self, board: Board) -> float:
        """How long before now the plots end."""
        track = self.axis(board)
        if track is None or self.cursor_at is None:
            return 0.0
        cell_s = track.span_s / max(1, self._cells)
        return max(0.0, board.now - self.cursor_at - track.span_s + 2 * cell_s)

    def cell(self, board: Board) -> int | None:
        """The cell of the plots that the cursor is in; None without a cursor."""
        track = self.axis(board)
        if track is None or self.cursor_at is None:
            return None
        columns = self.columns(track, board, self._cells)
        cell = max(0, min(columns.cell_at(self.cursor_at), self._cells - 1))
        return columns.place_of(cell) if self._sweeps else cell

    def value(self, window: Window, board: Board) -> float | None:
        """What a plot says under the cursor: the mean of the cell's two columns; None if that is
        unknown."""
        cell = self.cell(board)
        if cell is None or 2 * cell >= len(window.means):
            return None
        known = [mean for mean in window.means[2 * cell : 2 * cell + 2] if mean == mean]
        return sum(known) / len(known) if known else None

    def read(self, track: Track, board: Board, now: float | None) -> float | None:
        """The present value `now`; with a cursor what the plot of `track` says under it."""
        if self.cursor_at is None:
            return now
        return self.value(self.plotted(track, board, self._cells), board)

    def cut(self, row: str, style: str, board: Board) -> tuple[TextSpan, ...]:
        """A row of a plot, with the cursor in it."""
        cell = self.cell(board)
        if cell is None or cell >= len(row):
            return ((row, style),)
        return ((row[:cell], style), ("│", "warn"), (row[cell + 1 :], style))

    # -- the pane

    def title(self, board: Board) -> Sequence[TextSpan]:
        """Its title, followed by "last hour" if the plots show that."""
        long: tuple[TextSpan, ...] = ((" last hour", "info"),) if is_hour(board.decode) else ()
        return ((self.TITLE, "title"), *long)

    def origin(self, board: Board) -> tuple[int, float, float] | None:
        track = self.axis(board)
        return None if track is None else self.origin_of(track, self.BEFORE, self.back_s(board))

    @property
    def _cells(self) -> int:
        return max(1, self.size.width - 4 - self.BEFORE)

    def action_cursor(self, cells: int) -> None:
        board = self.painted_app.board
        track = self.axis(board)
        if track is None:
            return
        live = PlotColumns.of(track.bucket_s, board.now, 2 * self._cells)
        newest = live.cell_at(board.now)
        if self.cursor_at is None:
            cell = newest + min(cells, 0) + 1  # the first press reads the newest cell
        else:
            cell = live.cell_at(self.cursor_at) + cells
        oldest = board.now - min(BACK_BUCKETS, self._buckets(track)) * track.bucket_s
        self._go(None if cell > newest else max(live.time_of(cell), oldest))

    def _buckets(self, track: Track) -> int:
        """How many buckets back something is known, at least those in view."""
        return max(len(track.means), int(track.span_s / track.bucket_s) - 1)

    def action_now(self) -> None:
        self._go(None)

    def on_click(self, event: events.Click) -> None:
        """Puts the cursor where the mouse has clicked."""
        board = self.painted_app.board
        track, cell = self.axis(board), event.x - 2 - self.BEFORE
        if track is not None and 0 <= cell < self._cells and not self._sweeps:
            self._go(self.columns(track, board, self._cells).time_of(cell))

    def _go(self, at: float | None) -> None:
        self.cursor_at = at
        self.paint()
        self.post_message(self.CursorMoved(at))
