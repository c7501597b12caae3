"""Adapters: each one's state, size and work, the base model's own row on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult

from ...pipeline.messages import AdapterState
from .. import plot, units
from ..board import AdapterRow, Board, Level
from ..dialogs import LiveDialog
from ..pane import Line, Pane, Panel, Span, field, line
from ..table import Column, TablePane

WORDS = {AdapterState.GPU: "on device", AdapterState.HOST: "in memory"}
"""Where an adapter lies, said so that it is true on a CPU as well."""
STATES: dict[AdapterState, tuple[str, Level]] = {
    AdapterState.GPU: ("●", "good"),
    AdapterState.HOST: ("◐", "good"),
    AdapterState.REGISTERED: ("○", "dim"),
    AdapterState.FETCHING: ("▸", "warn"),
    AdapterState.VALIDATING: ("▸", "warn"),
    AdapterState.LOADING: ("▸", "warn"),
    AdapterState.DRAINING: ("◌", "warn"),
    AdapterState.GONE: ("○", "dim"),
    AdapterState.FAILED: ("✗", "bad"),
}
MODULES = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}


def targets(row: AdapterRow) -> str:
    """`q k v o gate up down`: the modules an adapter changes, in the order of a layer."""
    given = row.view.target_modules
    known = [short for name, short in MODULES.items() if name in given]
    return " ".join([*known, *(name for name in given if name not in MODULES)])


def _name(row: AdapterRow, board: Board, width: int) -> Sequence[Span]:
    return ((f"○ base · {row.name}" if row.is_base else f"● {row.name}", row.tint),)


def _state(row: AdapterRow, board: Board, width: int) -> Sequence[Span]:
    mark, level = STATES[row.view.state]
    return ((f"{mark} {WORDS.get(row.view.state, row.view.state.value)}", level),)


def _speed(row: AdapterRow, board: Board, width: int) -> Sequence[Span]:
    """A bar against the fastest, and the figure."""
    most = max((other.tokens_s for other in board.adapters), default=0.0)
    figure = f"{units.rate(row.tokens_s):>7}"
    filled, rest = plot.gauge(row.tokens_s / most if most else 0.0, width - len(figure))
    return ((filled, row.tint), (rest, "rest"), (figure, "number"))


class AdapterTable(TablePane[AdapterRow]):
    """The base first, then as the router lists them."""

    TITLE = "adapters"
    EMPTY = "the router has not told which adapters it has"
    columns = (
        Column("adapter", 14, _name, order=lambda r: r.name, grows=True),
        Column("state", 12, _state, order=lambda r: r.view.state.value, rank=1),
        Column(
            "rank",
            4,
            lambda r, b, w: ((f"{r.view.rank or units.NOTHING}", "number"),),
            order=lambda r: r.view.rank,
            right=True,
            rank=4,
            descends=True,
        ),
        Column("changes", 20, lambda r, b, w: ((targets(r), "dim"),), rank=8),
        Column(
            "size",
            9,
            lambda r, b, w: ((units.size(r.view.num_bytes), "number"),),
            order=lambda r: r.view.num_bytes,
            right=True,
            rank=6,
            descends=True,
        ),
        Column(
            "pages",
            5,
            lambda r, b, w: ((f"{r.view.pages or units.NOTHING}", "number"),),
            order=lambda r: r.view.pages,
            right=True,
            rank=7,
            descends=True,
        ),
        Column(
            "run",
            4,
            lambda r, b, w: ((f"{r.view.running}", "number" if r.view.running else "dim"),),
            order=lambda r: r.view.running,
            right=True,
            rank=1,
            descends=True,
        ),
        Column(
            "wait",
            4,
            lambda r, b, w: ((f"{r.view.waiting}", "warn" if r.view.waiting else "dim"),),
            order=lambda r: r.view.waiting,
            right=True,
            rank=1,
            descends=True,
        ),
        Column(
            "requests",
            8,
            lambda r, b, w: ((units.count(r.view.requests), "number"),),
            order=lambda r: r.view.requests,
            right=True,
            rank=5,
            descends=True,
        ),
        Column(
            "tokens",
            7,
            lambda r, b, w: ((units.count(r.view.output_tokens), "number"),),
            order=lambda r: r.view.output_tokens,
            right=True,
            rank=3,
            descends=True,
        ),
        Column("  tok/s", 14, _speed, order=lambda r: r.tokens_s, rank=2, descends=True),
    )

    def rows(self, board: Board) -> Sequence[AdapterRow]:
        return board.adapters

    def key(self, row: AdapterRow) -> str:
        return "" if row.is_base else row.name

    def text(self, row: AdapterRow, board: Board) -> str:
        view = row.view
        return f"{row.name} {view.state.value} r{view.rank} {targets(row)} {view.reason}"


class SpeedPane(Pane):
    """How fast the adapter under the cursor has been."""

    PERIOD_S = 0.5

    def __init__(self, table: AdapterTable) -> None:
        super().__init__(id="speed")
        self._table = table

    def title(self, board: Board) -> Sequence[Span]:
        row = self._table.selected
        return (("output tokens a second of ", "dim"), (row.name, row.tint)) if row else ()

    def caption(self, board: Board) -> Sequence[Span]:
        row = self._table.selected
        return ((units.rate(row.tokens_s), "number"), (" tok/s", "dim")) if row else ()

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        row = self._table.selected
        if row is None:
            return []
        window = row.speed.window(board.now, 2 * max(1, width - 6))
        top = plot.top_of(window.highest)
        found = []
        for y, cells in enumerate(plot.area(window.means, height, top)):
            label = (
                f"{units.count(top):>5}" if y == 0 else f"{0:>5}" if y == height - 1 else " " * 5
            )
            found.append(line((label, "dim"), (" ", "text"), (cells, row.tint)))
        return found


class AdaptersPanel(Panel):
    """The table, the speed of its selected row, and a dialog for the row that is opened."""

    NAME: ClassVar[str] = "Adapters"

    def compose(self) -> ComposeResult:
        table = AdapterTable()
        yield table
        yield SpeedPane(table)

    def on_table_pane_moved(self) -> None:
        self.query_one(SpeedPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        details = AdapterDetails(message.row)
        self.app.push_screen(LiveDialog(message.row.name, details.lines))


class AdapterDetails:
    """One adapter: what it is, where it is, what it has done."""

    def __init__(self, row: AdapterRow) -> None:
        self._row = row

    def lines(self, board: Board, width: int) -> Sequence[Line]:
        now = (
            r for r in board.adapters if (r.is_base, r.name) == (self._row.is_base, self._row.name)
        )
        self._row = row = next(now, self._row)
        view = row.view
        found = [
            line(
                *field("state"),
                *_state(row, board, width),
                (f"  since {units.clock(view.since)}", "dim"),
            ),
        ]
        if view.reason:
            found.append(line(*field("why"), (units.clean(view.reason), STATES[view.state][1])))
        if not row.is_base:
            found += [
                line(*field("rank"), (f"{view.rank}", "text")),
                line(*field("changes"), (targets(row), "text")),
                line(*field("generation"), (f"{view.generation}", "text")),
                line(*field("digest"), (view.digest[:32], "text")),
            ]
        found += [
            line(*field("path"), (view.path, "text")),
            line(
                *field("size"),
                (units.size(view.num_bytes), "text"),
                (f"  {view.pages} pages", "dim"),
            ),
            Line(),
            line(("work", "title")),
            line(*field("now"), (f"{view.running} running, {view.waiting} waiting", "text")),
            line(*field("speed"), (f"{units.rate(row.tokens_s)} tok/s", row.tint)),
            line(*field("requests"), (units.count(view.requests), "text")),
            line(
                *field("tokens"),
                (units.count(view.prompt_tokens), "text"),
                (" in, ", "dim"),
                (units.count(view.output_tokens), "text"),
                (" out", "dim"),
            ),
        ]
        return found
