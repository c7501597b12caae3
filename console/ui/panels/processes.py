"""Processes: what the supervisor keeps alive, what each costs, how it ended last time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.messages import LogLine
from ...state.board import SUPERVISOR, Board, ProcessRow
from ...state.signals import how
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ..widgets.dialogs import LiveDialog
from ..widgets.pane import Pane, Panel, field
from ..widgets.styles import LEVEL_STYLES
from ..widgets.table import Column, TablePane
from .logs import log_line

ORDERS_NOT_FOR = (SUPERVISOR, "fetch")
Wish = Literal["restart", "kill", "stop", "start", "signal"]


def _state(row: ProcessRow, board: Board, width: int) -> Sequence[TextSpan]:
    word = "silent" if row.is_stale else row.state.value
    return ((f"{'●' if row.level == 'good' else '◌'} {word}", row.level),)


def _why(row: ProcessRow, board: Board, width: int) -> Sequence[TextSpan]:
    """The most telling thing about it."""
    if row.is_stale:
        return ((f"last beat {units.duration(row.age_s or 0.0)} ago", "warn"),)
    if row.retry_at is not None:
        again = f"again in {units.duration(max(0.0, row.retry_at - board.now))}"
        return ((f"{row.reason}, {again}" if row.reason else again, "warn"),)
    if row.reason:
        return ((units.visible(row.reason), row.level if row.level != "good" else "dim"),)
    if kernels := _kernels(row, board):
        return ((kernels, "dim"),)
    if row.exit_code is not None:
        return ((how(row.exit_code), "dim"),)
    return (("", "dim"),)


def _kernels(row: ProcessRow, board: Board) -> str:
    """What a worker computes with."""
    return next((w.kernels for w in board.workers if row.name == f"worker-{w.rank}"), "")


def _alive(row: ProcessRow, text: str) -> Sequence[TextSpan]:
    """A figure that only a living process has."""
    return ((text, "number"),) if row.age_s is not None and row.pid else ((units.NOTHING, "dim"),)


def _uptime(row: ProcessRow, board: Board) -> str:
    """Of the process, whatever state it has come to since."""
    at = board.started_at if row.name == SUPERVISOR else row.started_at
    return units.NOTHING if at is None else units.uptime(board.now - at)


class ProcessTablePane(TablePane[ProcessRow]):
    """Start order from top to bottom."""

    TITLE = "processes"
    EMPTY = "no supervisor has been heard"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r", "restart", "Restart", id="restart", tooltip="stop it politely, start it again"
        ),
        Binding("x", "stop", "Stop", id="stop", tooltip="and keep it so; or start it again"),
        Binding("R", "kill", "Kill", show=False, id="kill", tooltip="and start it again"),
        Binding("K", "signal", "Signal", id="signal", tooltip="one of seven, and what it does"),
        Binding("d", "drain", "Drain", id="drain", tooltip="admit nothing new, or admit again"),
        Binding("X", "stop_all", "Stop all", id="down", tooltip="end the whole pipeline"),
    ]
    columns = (
        Column("process", 12, lambda r, b, w: ((r.name, "text"),), order=lambda r: r.name),
        Column("state", 10, _state, order=lambda r: r.state.value),
        Column(
            "pid", 7, lambda r, b, w: ((f"{r.pid or units.NOTHING}", "dim"),), right=True, rank=6
        ),
        Column(
            "up",
            8,
            lambda r, b, w: _alive(r, _uptime(r, b)),
            right=True,
            rank=5,
        ),
        Column(
            "cpu",
            5,
            lambda r, b, w: _alive(r, f"{r.cpu_fraction * 100:.0f} %"),
            order=lambda r: r.cpu_fraction,
            right=True,
            rank=1,
            descends=True,
        ),
        Column(
            "memory",
            9,
            lambda r, b, w: _alive(r, units.size(r.rss_bytes)),
            order=lambda r: r.rss_bytes,
            right=True,
            rank=1,
            descends=True,
        ),
        Column(
            "lag",
            7,
            lambda r, b, w: _alive(r, f"{r.loop_lag_ms:.0f} ms"),
            order=lambda r: r.loop_lag_ms,
            right=True,
            rank=4,
            descends=True,
        ),
        Column(
            "msg/s",
            6,
            lambda r, b, w: _alive(r, units.rate(sum(h.frames_s for h in r.hops))),
            order=lambda r: sum(h.frames_s for h in r.hops),
            right=True,
            rank=3,
            descends=True,
        ),
        Column(
            "falls",
            5,
            lambda r, b, w: ((f"{r.falls}", "warn" if r.falls else "dim"),),
            order=lambda r: r.falls,
            right=True,
            rank=2,
            descends=True,
        ),
        Column(" why", 10, _why, grows=True, rank=1),
    )

    class Asked(Message):
        """Somebody wants something done to a process of the ring."""

        def __init__(self, what: Wish, name: str) -> None:
            super().__init__()
            self.what = what
            self.name = name

    class StopAllAsked(Message):
        """Somebody wants the whole pipeline to end."""

    class DrainAsked(Message):
        """Somebody wants nothing new to be admitted, or, where that is so, wants it to end."""

    def rows(self, board: Board) -> Sequence[ProcessRow]:
        return board.processes

    def key(self, row: ProcessRow) -> str:
        return row.name

    def text(self, row: ProcessRow, board: Board) -> str:
        return f"{row.name} {row.state.value} {row.reason}"

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if not board.version:
            return ()
        return (("loraconsole ", "dim"), (board.version, "text"))

    def action_restart(self) -> None:
        row = self.selected
        self._ask("start" if row is not None and row.held else "restart")

    def action_kill(self) -> None:
        self._ask("kill")

    def action_stop(self) -> None:
        """Stops it, or starts what an operator has stopped."""
        row = self.selected
        self._ask("start" if row is not None and row.held else "stop")

    def action_signal(self) -> None:
        row = self.selected
        if row is not None and row.name not in ORDERS_NOT_FOR and not row.pid:
            self.notify(f"{row.name} does not run.", severity="warning")
        else:
            self._ask("signal")

    def _ask(self, what: Wish) -> None:
        row = self.selected
        if row is not None and row.name not in ORDERS_NOT_FOR:
            self.post_message(self.Asked(what, row.name))
        else:
            self.notify("Choose a process of the ring.", severity="warning")

    def action_drain(self) -> None:
        self.post_message(self.DrainAsked())

    def action_stop_all(self) -> None:
        self.post_message(self.StopAllAsked())


class TailPane(Pane):
    """The last words of the process under the cursor."""

    TITLE = "last lines"

    def __init__(self, table: ProcessTablePane) -> None:
        super().__init__(id="tail")
        self._table = table

    def title(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return (("last lines of ", "dim"), (row.name if row else "nothing", "title"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        row = self._table.selected
        if row is None:
            return []
        tail = []
        for entry in reversed(board.logs):
            if entry.source == row.name:
                tail.append(log_line(entry, width, with_source=False))
                if len(tail) == height:
                    break
        return tail[::-1] or [line(("it has said nothing", "dim"))]


class ProcessesPanel(Panel):
    """The table above, the tail of the selected process's log below."""

    NAME: ClassVar[str] = "Processes"

    def compose(self) -> ComposeResult:
        table = ProcessTablePane()
        yield table
        yield TailPane(table)

    def on_table_pane_moved(self) -> None:
        self.query_one(TailPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        details = ProcessDetails(message.row)
        self.app.push_screen(LiveDialog(message.row.name, details.lines))


class ProcessDetails:
    """One process: how it is, what happened to it, what it said last, and all its sockets."""

    EVENTS, WORDS = 6, 4

    def __init__(self, row: ProcessRow) -> None:
        self._name = row.name

    def lines(self, board: Board, width: int) -> Sequence[TextLine]:
        row = board.process(self._name)
        if row is None:
            return [line(("it is not in the supervisor's list any more", "dim"))]
        found = [
            line(*field("state"), *_state(row, board, width)),
            line(*field("why"), *_why(row, board, width)),
            line(*field("pid"), (f"{row.pid or units.NOTHING}", "text")),
        ]
        for name, at in (("started", row.started_at), ("state since", row.since)):
            if at is not None:
                ago = units.age(board.now - at)
                found.append(line(*field(name), (units.clock(at), "text"), (f"  {ago} ago", "dim")))
        if kernels := _kernels(row, board):
            found.append(line(*field("kernels"), (units.fit(kernels, width - 12), "text")))
        beat = "never" if row.age_s is None else f"{units.age(row.age_s)} ago"
        last = "" if row.exit_code is None else f"  the one before: {how(row.exit_code)}"
        found += [
            line(*field("last beat"), (beat, "text")),
            line(*field("falls"), (f"{row.falls}", "text"), (last, "dim")),
            line(*field("cpu"), (f"{row.cpu_fraction * 100:.0f} % of a core", "text")),
            line(*field("memory"), (units.size(row.rss_bytes), "text")),
            line(*field("loop lag"), (units.milliseconds(row.loop_lag_ms), "text")),
            line(*field("protocol"), (f"{row.protocol or units.NOTHING}", "text")),
            *self._history(board, width),
            *self._last_words(board, width),
            TextLine(),
            line(("sockets", "title")),
            line((f"{'':<16}{'frames/s':>10}{'bytes/s':>12}{'frames':>10}{'refused':>9}", "dim")),
        ]
        for hop in row.hops:
            name = "own inbox" if hop.peer == row.name else f"to {hop.peer}"
            found.append(
                line(
                    (f"{name:<16}", "text"),
                    (f"{units.rate(hop.frames_s):>10}", "number"),
                    (f"{units.size(hop.bytes_s):>12}", "number"),
                    (f"{units.count(hop.frames):>10}", "dim"),
                    (f"{hop.refused:>9}", "bad" if hop.refused else "dim"),
                )
            )
        return found

    def _history(self, board: Board, width: int) -> Sequence[TextLine]:
        """Starts, falls and restarts, the newest first."""
        about = [e for e in board.events if e.source == self._name or self._name in e.text]
        if not about:
            return ()
        found = [TextLine(), line(("what happened", "title"))]
        for event in about[: -self.EVENTS - 1 : -1]:
            style = LEVEL_STYLES.get(event.level.lower(), "text")
            found.append(
                line((units.clock(event.at), "dim"), (f"  {units.visible(event.text)}", style))
            )
        return found

    def _last_words(self, board: Board, width: int) -> Sequence[TextLine]:
        """Its last warnings and errors, a traceback's last lines among them."""
        words = (e for e in reversed(board.logs) if e.source == self._name and _is_ill(e))
        last = list(islice(words, self.WORDS))
        if not last:
            return ()
        lines = [log_line(entry, width, with_source=False) for entry in reversed(last)]
        return [TextLine(), line(("last warnings and errors", "title")), *lines]


def _is_ill(entry: LogLine) -> bool:
    return entry.level.lower() in ("warning", "error", "critical")
