"""Adapters: a table of what each costs, its state and size, the costliest on top, with keys to
load, unload, pin, verify and merge them; below it their throughput over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.messages import AdapterReply
from ...client.pending_orders import PendingOrders
from ...commands.adapters import (
    AdapterCommand,
    MergeCommand,
    PinCommand,
    ReloadCommand,
    UnloadCommand,
    UnmergeCommand,
    UnpinCommand,
    VerifyCommand,
)
from ...state.board import AdapterRow, AdapterVerification, Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, length, line
from ..plots.adapter_plot import AdapterPlotPane
from ..widgets.column import Column, number_column
from ..widgets.details import DetailsPane
from ..widgets.dialogs import LineSource, LiveDialog, RowDialog, bindings_of
from ..widgets.order_asked import OrdersAsked
from ..widgets.pane import Pane, Panel
from ..widgets.styles import MainScreen
from ..widgets.table import TablePane
from .adapter_details import (
    MERGED,
    ODD,
    PINNED,
    AdapterDetails,
    place,
    remark,
    share_of_hits,
    state,
    targets,
    verification_lines,
)
from .adapter_dialogs import LoadDialog, PlanDialog

STAGES = ("adapters", "verify")
"""Stages whose progress the table's caption shows."""
NOT_FOR_THE_BASE = {
    "unload": "The base model cannot be unloaded: every adapter needs it.",
    "reload": "The base model cannot be reloaded; restart the worker instead (8, r).",
    "pin": "The base model is always resident; it needs no pin.",
    "verify": "The base model cannot be verified; adapters are compared with it.",
    "merge": "Choose the adapter to merge into a copy of the base model.",
}


BASE = "base · "
MOST_NAME = 48
"""Most cells of the column of names, unless there is room."""
SPARED = 9
"""Columns of a lower rank stay although a name is cut."""


def _name(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    if row.is_base:
        return ((f"{row.mark} {BASE}{row.name}", row.color),)
    marks = _marks(row)
    taken = length(marks) + 1 if marks else 0
    room = max(0, min(cell_len(row.name), width - taken - 2))
    name = f"{row.mark} {units.fit_name(row.name, room, row.differs_at)}"
    return ((name + (" " if marks else ""), row.color), *marks)


def _marks(row: AdapterRow) -> tuple[TextSpan, ...]:
    """Signs behind the name: pinned, merged, a warning."""
    view = row.view
    signs = (
        (PINNED, "key", view.pinned),
        (MERGED, "key", view.merged),
        (ODD, "warn", view.warning),
    )
    return tuple((sign, style) for sign, style, is_so in signs if is_so)


def _wanted(row: AdapterRow) -> int:
    """Cells that the adapter's name needs."""
    if row.is_base:
        return 2 + len(BASE) + cell_len(row.name)
    marks = _marks(row)
    return 2 + cell_len(row.name) + (1 + length(marks) if marks else 0)


def _since(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """Seconds in the first minute, then minutes, since unchanged text is not redrawn."""
    seconds = max(0.0, board.now - row.view.since)
    return ((units.age(seconds) if seconds < 60 else units.uptime(seconds), "dim"),)


def _modules(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """The adapter's remark, if any; else the modules it changes."""
    return (remark(row) or (targets(row.view.target_modules), "dim"),)


def _modules_wanted(row: AdapterRow) -> int:
    return cell_len((remark(row) or (targets(row.view.target_modules), ""))[0])


def _share(share: float | None) -> TextSpan:
    return (units.part(share), "number" if share else "dim")


def _speed(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """A bar relative to the fastest adapter, and the number."""
    most = board.fastest_adapter_s
    figure = f"{row.rate_text:>6}"
    filled, rest = plot.gauge(row.tokens_s / most if most else 0.0, width - len(figure))
    return ((filled, row.color), (rest, "rest"), (figure, "number"))


def _percentile_column(title: str, field: str, rank: int) -> Column[AdapterRow]:
    """A column of a field of the adapter's view that is in milliseconds."""
    value = attrgetter(f"view.{field}")
    return number_column(title, 8, value, units.milliseconds, rank=rank, field=field)


def _lit(number: int, style: str = "number") -> str:
    """`style`, or dim for 0."""
    return style if number else "dim"


class AdapterTablePane(TablePane[AdapterRow]):
    """The base and the adapters, the costliest first unless another order is chosen."""

    TITLE = "adapters"
    EMPTY = "waiting for the router"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "l", "ask('load')", "Load", id="load", tooltip="an adapter from a directory or the hub"
        ),
        Binding(
            "u",
            "ask('unload')",
            "Unload",
            id="unload",
            tooltip="refuse new requests, then free its pages",
        ),
        Binding("r", "ask('reload')", "Reload", id="reload", tooltip="re-read its files"),
        Binding("p", "ask('pin')", "Pin", id="pin", tooltip="never evict it, or allow it again"),
        Binding(
            "v",
            "ask('verify')",
            "Verify",
            id="verify",
            tooltip="compare with weights merged in float32",
        ),
        Binding(
            "m",
            "ask('merge')",
            "Merge",
            id="merge",
            tooltip="into a copy of the base weights, or release it",
        ),
        Binding(
            "w", "ask('plan')", "Plan", id="plan", tooltip="pages and KV that a load would take"
        ),
    ]
    columns = (
        Column(
            "adapter",
            16,
            _name,
            order=lambda r: r.name,
            grows=True,
            wants=_wanted,
            value=lambda r: r.name,
        ),
        Column(
            "state",
            13,
            lambda r, b, w: (state(r, b),),
            order=lambda r: r.view.state.value,
            value=lambda r: r.view.state,
        ),
        Column(
            "device",
            6,
            lambda r, b, w: (_share(r.costs.device),),
            order=lambda r: r.costs.device or 0.0,
            right=True,
            value=lambda r: r.costs.device,
            field="device_time_fraction",
            descends=True,
        ),
        Column(
            "tokens",
            6,
            lambda r, b, w: (_share(r.costs.tokens),),
            order=lambda r: r.costs.tokens or 0.0,
            right=True,
            value=lambda r: r.costs.tokens,
            field="tokens_fraction",
            rank=4,
            descends=True,
        ),
        Column(
            "tok/s",
            10,
            _speed,
            order=lambda r: r.tokens_s,
            right=True,
            rank=1,
            descends=True,
            value=lambda r: r.tokens_s if r.is_measured else None,
            field="tokens_per_s",
        ),
        number_column(
            "run", 4, lambda r: r.view.running, style=lambda r: _lit(r.view.running), rank=1
        ),
        number_column(
            "wait",
            4,
            lambda r: r.view.waiting,
            style=lambda r: _lit(r.view.waiting, "warn"),
            rank=1,
        ),
        _percentile_column("TTFT p50", "ttft_p50_ms", rank=9),
        _percentile_column("TTFT p99", "ttft_p99_ms", rank=2),
        _percentile_column("wait p50", "wait_p50_ms", rank=11),
        _percentile_column("wait p99", "wait_p99_ms", rank=6),
        number_column(
            "KV pages", 8, lambda r: r.view.kv_pages, style=lambda r: _lit(r.view.kv_pages), rank=3
        ),
        number_column("LoRA pages", 10, lambda r: r.view.pages, zero=units.NOTHING, rank=5),
        number_column("requests", 8, lambda r: r.view.requests, units.count, rank=7),
        number_column(
            "prompt", 6, lambda r: r.view.prompt_tokens, units.count, rank=10, field="prompt_tokens"
        ),
        number_column(
            "output", 6, lambda r: r.view.output_tokens, units.count, rank=8, field="output_tokens"
        ),
        Column(
            "age",
            6,
            _since,
            order=lambda r: -r.view.since,
            right=True,
            rank=13,
            value=lambda r: r.view.since,
            field="state_since_unix_s",
        ),
        Column(
            "location",
            8,
            lambda r, b, w: (("" if r.is_base else place(r.view), "dim"),),
            order=lambda r: place(r.view),
            rank=15,
        ),
        number_column("rank", 4, lambda r: r.view.rank, zero=units.NOTHING, rank=12),
        number_column(
            "size",
            8,
            lambda r: r.view.num_bytes,
            units.size,
            zero=units.NOTHING,
            rank=14,
            field="size_bytes",
        ),
        Column(
            "pool hits",
            9,
            lambda r, b, w: (("" if r.is_base else share_of_hits(r.view), "number"),),
            order=lambda r: r.view.hits / max(1, r.view.requests),
            right=True,
            rank=16,
            descends=True,
            value=lambda r: r.view.hits,
        ),
        number_column("fair share", 10, lambda r: r.view.service, units.count, rank=18),
        Column(
            "modules",
            20,
            _modules,
            grows=True,
            rank=17,
            wants=_modules_wanted,
            least=16,
            value=lambda r: targets(r.view.target_modules),
        ),
    )

    class Asked(Message):
        """The key of `verb` was pressed; `rows` are the marked rows, or the one under the
        cursor."""

        def __init__(self, verb: str, rows: Sequence[AdapterRow]) -> None:
            super().__init__()
            self.verb = verb
            self.rows = rows

    def rows(self, board: Board) -> Sequence[AdapterRow]:
        return board.costliest

    def row_key(self, row: AdapterRow) -> str:
        # During a reload both generations of an adapter have a row.
        return "" if row.is_base else f"{row.name}@{row.view.generation}"

    def kin(self, key: str) -> str:
        """The name: a reloaded adapter moves to the end of the list, and the cursor with it."""
        return key.rpartition("@")[0]

    def name_of(self, row: AdapterRow) -> str:
        return row.name

    def lines_of(self, row: AdapterRow) -> LineSource:
        return AdapterDetails(row).lines

    def extracts(self, row: AdapterRow) -> Mapping[str, str]:
        why = remark(row)
        path = row.view.directory or row.view.path
        return {"path": path, "why": why[0] if why else ""}

    def filter_text(self, row: AdapterRow, board: Board) -> str:
        view = row.view
        marks = ("pinned " if view.pinned else "") + ("merged " if view.merged else "")
        what = f"{row.name} {state(row, board)[0]} {marks}r{view.rank}"
        return f"{what} {targets(view.target_modules)} {view.reason} {view.warning}"

    def caption(self, board: Board) -> Sequence[TextSpan]:
        """The progress of a load or a verification, the order, and the number of adapters."""
        spans: list[TextSpan] = []
        for bar in board.progress:
            if bar.stage in STAGES and not bar.done:
                filled, rest = plot.gauge(bar.current / bar.total if bar.total else 0.0, 10)
                so_far = f" {bar.current:.0f}" + (f"/{bar.total:.0f}" if bar.total else "")
                spans += [(f"{units.visible(bar.label)} ", "dim"), (filled, "warn"), (rest, "rest")]
                spans += [(f"{so_far}   ", "number")]
        if not spans and self.sort_column is None:
            spans.append(("costliest first, last minute  ", "dim"))
        return (*spans, *super().caption(board))

    def _fitting(
        self, width: int, rows: Sequence[AdapterRow]
    ) -> list[tuple[Column[AdapterRow], int]]:
        """A name that is cut takes the cells of the columns that matter least."""
        whole = super()._fitting(width, rows)
        wanted = min(MOST_NAME, max(map(_wanted, rows), default=0))
        kept = [c for c in self.columns if c.rank < SPARED or c is self.sort_column]
        free = width - sum(column.width + 1 for column in kept) + 1
        reserved = min(wanted - self.columns[0].width, free)
        if wanted <= whole[0][1] or reserved <= 0:
            return whole
        (name, cells), *others = super()._fitting(width - reserved, rows)
        return [(name, cells + reserved), *others]

    def _cells(
        self,
        row: AdapterRow,
        board: Board,
        columns: Sequence[tuple[Column[AdapterRow], int]],
        is_cursor: bool,
    ) -> TextLine:
        """A failed adapter costs nothing: its reason takes the cells after the state."""
        what = remark(row)
        if not row.has_failed or what is None or len(columns) < 3:
            return super()._cells(row, board, columns, is_cursor)
        found = super()._cells(row, board, columns[:2], is_cursor)
        room = sum(width + 1 for _, width in columns[2:]) - 1
        text, style = what
        return found._replace(spans=(*found.spans, (units.fit(text, room), style)))

    def action_ask(self, verb: str) -> None:
        self.post_message(self.Asked(verb, self.subjects))


class SpeedPane(Pane):
    """Tokens a second of the adapter under the cursor over time."""

    PERIOD_S = 0.5

    def __init__(self, table: AdapterTablePane) -> None:
        super().__init__(id="speed")
        self._table = table

    def title(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        if row is None:
            return ()
        room = max(0, min(cell_len(row.name), self.size.width - 24))
        name = units.fit_name(row.name, room, row.differs_at)
        return ((name, row.color), (" alone", "dim"))

    def caption(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return ((row.rate_text, "number"), (" tok/s", "dim")) if row else ()

    def origin(self, board: Board) -> tuple[int, float, float] | None:
        row = self._table.selected
        return self.origin_of(row.speed, 6) if row else None

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """The remark of the adapter under the cursor, in full."""
        row = self._table.selected
        found = remark(row) if row else None
        if found is None:
            return ()
        text, style = found
        return ((units.fit(text, self.size.width - 6).rstrip(), style),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        row = self._table.selected
        if row is None:
            return []
        window = self.window(row.speed, board, max(1, width - 6))
        top = plot.top_of(window.highest)
        found = []
        for y, cells in enumerate(plot.area(window.means, height, top)):
            label = f"{units.tick(top):>5}" if y == 0 else f"{0:>5}" if y == height - 1 else " " * 5
            found.append(line((label, "dim"), (" ", "text"), (cells, row.color)))
        return found


class AdaptersPanel(Panel):
    """The table, the speed of its selected row, and dialogs for orders."""

    NAME: ClassVar[str] = "Adapters"

    def compose(self) -> ComposeResult:
        table = AdapterTablePane()
        yield table
        yield DetailsPane(table)
        yield AdapterPlotPane(lambda: table.selected)
        yield SpeedPane(table)

    @property
    def _orders(self) -> PendingOrders:
        return self.query_one(AdapterTablePane).painted_app.orders

    def on_table_pane_moved(self) -> None:
        self.query_one(DetailsPane).paint()
        self.query_one(AdapterPlotPane).paint()
        self.query_one(SpeedPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        table = self.query_one(AdapterTablePane)
        self.app.push_screen(AdapterDialog(table, message.row))

    def on_adapter_table_pane_asked(self, message: AdapterTablePane.Asked) -> None:
        rows = [row for row in message.rows if not row.is_base]
        if self.query_one(AdapterTablePane).painted_app.refuses(message.verb):
            self.notify(self.query_one(AdapterTablePane).painted_app.refusal, severity="error")
        elif message.verb == "load":
            self._load("")
        elif message.verb == "plan":
            self.app.push_screen(PlanDialog(self._orders), self._load_planned)
        elif not message.rows:
            self.notify("No adapters; l loads one.", severity="warning")
        elif not rows:
            self.notify(NOT_FOR_THE_BASE[message.verb], severity="warning")
        elif message.verb == "merge" and len(rows) > 1:
            self.notify("Only one adapter can be merged at a time.", severity="warning")
        else:
            self._order(message.verb, rows)

    def _load(self, path: str) -> None:
        self.app.push_screen(LoadDialog(self._orders, path), self._go_to)

    def _go_to(self, name: str | None) -> None:
        """Puts the cursor on an adapter that was loaded."""
        if name:
            self.query_one(AdapterTablePane).go_to(f"{name}@")

    def _load_planned(self, path: str | None) -> None:
        if path:
            self._load(path)

    def _order(self, verb: str, rows: Sequence[AdapterRow]) -> None:
        """Gives orders that need no further input."""
        if verb == "pin" and not all(row.view.pinned for row in rows):
            rows = [row for row in rows if not row.view.pinned]
        if verb == "verify":
            busy = [row.name for row in rows if self._orders.is_verifying(row.name)]
            if busy:
                self.notify(f"Already being verified:  {', '.join(busy)}", severity="warning")
            rows = [row for row in rows if row.name not in busy]
        orders = [_command(verb, row).order(self._orders.inbox) for row in rows]
        table = self.query_one(AdapterTablePane)
        if orders:  # from here: a message of the table would take one round more
            verdict = partial(self._show_verdict, rows[0])
            self.post_message(OrdersAsked(orders, verdict, table.unmark))

    def _show_verdict(self, row: AdapterRow, reply: AdapterReply) -> bool:
        """Shows a verification as a dialog if this panel is still visible; elsewhere it would
        interrupt typing. The adapter's details keep the result."""
        top = self.app.screen
        if isinstance(top, AdapterDialog) and top.name_of_row == row.name:
            return reply.verification is not None  # its details show it
        is_looked_at = self.display and isinstance(top, MainScreen)
        if reply.verification is None or not is_looked_at:
            return False
        result = AdapterVerification(reply.at, reply.verification)
        self.app.push_screen(
            LiveDialog(
                f"verification of {row.name}", lambda _, width: verification_lines(result, width)
            )
        )
        return True


class AdapterDialog(RowDialog):
    """An adapter's details, with the keys that act on it."""

    BINDINGS: ClassVar[list[BindingType]] = bindings_of(
        AdapterTablePane, "unload", "reload", "pin", "verify", "merge"
    )

    def __init__(self, table: AdapterTablePane, row: AdapterRow) -> None:
        super().__init__(table, row, row.name, AdapterDetails(row).lines)
        self._adapters, self._row = table, row

    @property
    def name_of_row(self) -> str:
        return self._row.name

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "ask" and self._row.is_base:
            return False
        return super().check_action(action, parameters)

    def action_ask(self, verb: str) -> None:
        self.on_row(lambda: self._adapters.action_ask(verb))


def _command(verb: str, row: AdapterRow) -> AdapterCommand:
    name = row.name
    match verb:
        case "unload":
            return UnloadCommand(name=name)
        case "reload":
            return ReloadCommand(name=name)
        case "pin":
            return UnpinCommand(name=name) if row.view.pinned else PinCommand(name=name)
        case "merge":
            return UnmergeCommand() if row.view.merged else MergeCommand(name=name)
        case _:
            return VerifyCommand(name=name)
