"""Adapters: a table of their state, size and work, the base model on top, with keys to load,
unload, pin, verify and merge them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

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
from ...commands.read_only import READ_ONLY
from ...state.board import AdapterRow, AdapterVerification, Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.dialogs import LiveDialog
from ..widgets.order_asked import OrdersAsked
from ..widgets.pane import Pane, Panel
from ..widgets.row_dialog import RowDialog, bindings_of
from ..widgets.styles import MainScreen
from ..widgets.table import Column, TablePane, number_column
from .adapter_details import (
    MERGED,
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


def _name(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    if row.is_base:
        return ((f"{row.mark} {BASE}{row.name}", row.color),)
    marks = _marks(row)
    if not marks:
        return ((f"{row.mark} {row.name}", row.color),)
    name = units.fit(f"{row.mark} {row.name}", min(len(row.name) + 2, width - len(marks) - 1))
    return ((f"{name} ", row.color), (marks, "key"))


def _marks(row: AdapterRow) -> str:
    return (PINNED if row.view.pinned else "") + (MERGED if row.view.merged else "")


def _wanted(row: AdapterRow) -> int:
    """Cells that the adapter's name needs."""
    if row.is_base:
        return 2 + len(BASE) + len(row.name)
    marks = _marks(row)
    return 2 + len(row.name) + (1 + len(marks) if marks else 0)


def _since(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """Seconds in the first minute, then minutes, since unchanged text is not redrawn."""
    seconds = max(0.0, board.now - row.view.since)
    return ((units.age(seconds) if seconds < 60 else units.uptime(seconds), "dim"),)


def _changes(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """The adapter's remark, if any; else the modules it changes."""
    return (_short_remark(row) or (targets(row.view.target_modules), "dim"),)


def _changed(row: AdapterRow) -> int:
    return len((_short_remark(row) or (targets(row.view.target_modules), ""))[0])


def _short_remark(row: AdapterRow) -> TextSpan | None:
    """Its remark without the leading directory, to fit a cell; None if it has none."""
    whole = remark(row)
    if whole is None:
        return None
    path = units.visible(row.view.directory or row.view.path)
    return (whole[0].removeprefix(path).lstrip("/: ") or whole[0], whole[1])


def _speed(row: AdapterRow, board: Board, width: int) -> Sequence[TextSpan]:
    """A bar relative to the fastest adapter, and the number."""
    most = max((other.tokens_s for other in board.adapters), default=0.0)
    figure = f"{units.rate(row.tokens_s):>6}"
    filled, rest = plot.gauge(row.tokens_s / most if most else 0.0, width - len(figure))
    return ((filled, row.color), (rest, "rest"), (figure, "number"))


def _lit(number: int, style: str = "number") -> str:
    """`style`, or dim for 0."""
    return style if number else "dim"


class AdapterTablePane(TablePane[AdapterRow]):
    """The base first, then the adapters in the router's order."""

    TITLE = "adapters"
    EMPTY = "the router has not said which adapters it has"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "ask('load')", "Load", id="load", tooltip="serve another directory by a name"),
        Binding(
            "u", "ask('unload')", "Unload", id="unload", tooltip="refuse new requests, then free it"
        ),
        Binding("r", "ask('reload')", "Reload", id="reload", tooltip="read its files again"),
        Binding("p", "ask('pin')", "Pin", id="pin", tooltip="keep its pages, or no longer"),
        Binding(
            "v",
            "ask('verify')",
            "Verify",
            id="verify",
            tooltip="against its weights merged exactly",
        ),
        Binding(
            "m",
            "ask('merge')",
            "Merge",
            id="merge",
            tooltip="a copy of the weights with it, or not",
        ),
        Binding("w", "ask('plan')", "Plan", id="plan", tooltip="what loading a directory takes"),
    ]
    columns = (
        Column("adapter", 12, _name, order=lambda r: r.name, grows=True, wants=_wanted),
        Column("state", 13, lambda r, b, w: (state(r, b),), order=lambda r: r.view.state.value),
        Column("for", 8, _since, order=lambda r: -r.view.since, right=True, rank=4),
        Column(
            "where",
            6,
            lambda r, b, w: (("" if r.is_base else place(r.view), "dim"),),
            order=lambda r: place(r.view),
            rank=9,
        ),
        number_column("rank", 4, lambda r: r.view.rank, zero=units.NOTHING, rank=5),
        Column("changes", 20, _changes, grows=True, rank=8, wants=_changed, least=16),
        number_column(
            "size", 8, lambda r: r.view.num_bytes, units.size, zero=units.NOTHING, rank=6
        ),
        number_column("pages", 5, lambda r: r.view.pages, zero=units.NOTHING, rank=7),
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
        number_column("requests", 8, lambda r: r.view.requests, units.count, rank=6),
        number_column("tokens", 6, lambda r: r.view.output_tokens, units.count, rank=3),
        Column(
            "hits",
            5,
            lambda r, b, w: (("" if r.is_base else share_of_hits(r.view), "number"),),
            order=lambda r: r.view.hits / max(1, r.view.requests),
            right=True,
            rank=10,
            descends=True,
        ),
        number_column("given", 6, lambda r: r.view.service, units.count, rank=11),
        Column(
            "tok/s",
            10,
            _speed,
            order=lambda r: r.tokens_s,
            right=True,
            rank=2,
            descends=True,
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
        return board.adapters

    def row_key(self, row: AdapterRow) -> str:
        # During a reload both generations of an adapter have a row.
        return "" if row.is_base else f"{row.name}@{row.view.generation}"

    def kin(self, key: str) -> str:
        """The name: a reloaded adapter moves to the end of the list, and the cursor with it."""
        return key.rpartition("@")[0]

    def filter_text(self, row: AdapterRow, board: Board) -> str:
        view = row.view
        marks = ("pinned " if view.pinned else "") + ("merged " if view.merged else "")
        what = f"{row.name} {state(row, board)[0]} {marks}r{view.rank}"
        return f"{what} {targets(view.target_modules)} {view.reason} {view.warning}"

    def caption(self, board: Board) -> Sequence[TextSpan]:
        """The progress of a load or a verification, before the number of adapters."""
        spans: list[TextSpan] = []
        for bar in board.progress:
            if bar.stage in STAGES and not bar.done:
                filled, rest = plot.gauge(bar.current / bar.total if bar.total else 0.0, 10)
                so_far = f" {bar.current:.0f}" + (f"/{bar.total:.0f}" if bar.total else "")
                spans += [(f"{units.visible(bar.label)} ", "dim"), (filled, "warn"), (rest, "rest")]
                spans += [(f"{so_far}   ", "number")]
        return (*spans, *super().caption(board))

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
        return (("output tokens a second of ", "dim"), (row.name, row.color)) if row else ()

    def caption(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return ((units.rate(row.tokens_s), "number"), (" tok/s", "dim")) if row else ()

    def origin(self, board: Board) -> tuple[int, float] | None:
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
            label = (
                f"{units.count(top):>5}" if y == 0 else f"{0:>5}" if y == height - 1 else " " * 5
            )
            found.append(line((label, "dim"), (" ", "text"), (cells, row.color)))
        return found


class AdaptersPanel(Panel):
    """The table, the speed of its selected row, and dialogs for orders."""

    NAME: ClassVar[str] = "Adapters"

    def compose(self) -> ComposeResult:
        table = AdapterTablePane()
        yield table
        yield SpeedPane(table)

    @property
    def _orders(self) -> PendingOrders:
        return self.query_one(AdapterTablePane).painted_app.orders

    def on_table_pane_moved(self) -> None:
        self.query_one(SpeedPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        table = self.query_one(AdapterTablePane)
        self.app.push_screen(AdapterDialog(table, message.row))

    def on_adapter_table_pane_asked(self, message: AdapterTablePane.Asked) -> None:
        rows = [row for row in message.rows if not row.is_base]
        if self.query_one(AdapterTablePane).painted_app.refuses(message.verb):
            self.notify(READ_ONLY, severity="error")
        elif message.verb == "load":
            self._load("")
        elif message.verb == "plan":
            self.app.push_screen(PlanDialog(self._orders), self._load_planned)
        elif not message.rows:
            self.notify("There is no adapter yet; l loads one.", severity="warning")
        elif not rows:
            self.notify(NOT_FOR_THE_BASE[message.verb], severity="warning")
        elif message.verb == "merge" and len(rows) > 1:
            self.notify("One adapter at a time can be merged.", severity="warning")
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
                self.notify(f"Being verified already: {', '.join(busy)}", severity="warning")
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
