"""Processes: what the supervisor keeps alive, what each costs, how it ended last time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ...pipeline.messages import LogLine
from .. import units
from ..board import SUPERVISOR, Board, ProcessRow
from ..dialogs import LiveDialog
from ..inks import LEVEL_INKS
from ..pane import Line, Pane, Panel, Span, field, line
from ..table import Column, TablePane
from .logs import log_line

ORDERS_NOT_FOR = (SUPERVISOR, "fetch")


def _state(row: ProcessRow, board: Board, width: int) -> Sequence[Span]:
    word = "silent" if row.is_stale else row.state.value
    return ((f"{'●' if row.level == 'good' else '◌'} {word}", row.level),)


def _why(row: ProcessRow, board: Board, width: int) -> Sequence[Span]:
    """The most telling thing about it."""
    if row.is_stale:
        return ((f"last beat {units.duration(row.age_s or 0.0)} ago", "warn"),)
    if row.retry_at is not None:
        again = f"again in {units.duration(max(0.0, row.retry_at - board.now))}"
        return ((f"{row.reason}, {again}" if row.reason else again, "warn"),)
    if row.reason:
        return ((units.clean(row.reason), row.level if row.level != "good" else "dim"),)
    if kernels := _kernels(row, board):
        return ((kernels, "dim"),)
    if row.exit_code is not None:
        return ((f"exit {row.exit_code}", "dim"),)
    return (("", "dim"),)


def _kernels(row: ProcessRow, board: Board) -> str:
    """What a worker computes with."""
    return next((w.kernels for w in board.workers if row.name == f"worker-{w.rank}"), "")


def _alive(row: ProcessRow, text: str) -> Sequence[Span]:
    """A figure that only a living process has."""
    return ((text, "number"),) if row.age_s is not None and row.pid else ((units.NOTHING, "dim"),)


class ProcessTable(TablePane[ProcessRow]):
    """Start order from top to bottom."""

    TITLE = "processes"
    EMPTY = "no supervisor has been heard"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "r", "restart", "Restart", id="restart", tooltip="stop it politely, start it again"
        ),
        Binding("d", "drain", "Drain", id="drain", tooltip="admit nothing new, or admit again"),
        Binding("X", "stop", "Stop all", id="stop", tooltip="end the whole pipeline"),
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
            lambda r, b, w: _alive(r, units.uptime(b.now - r.since) if r.since else units.NOTHING),
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
            lambda r, b, w: ((f"{r.restarts}", "warn" if r.restarts else "dim"),),
            order=lambda r: r.restarts,
            right=True,
            rank=2,
            descends=True,
        ),
        Column(" why", 10, _why, grows=True, rank=1),
    )

    class RestartAsked(Message):
        """Somebody wants a process to be started anew."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class StopAsked(Message):
        """Somebody wants the whole pipeline to end."""

    class DrainAsked(Message):
        """Somebody wants nothing new to be admitted, or, where that is so, wants it to end."""

    def rows(self, board: Board) -> Sequence[ProcessRow]:
        return board.processes

    def key(self, row: ProcessRow) -> str:
        return row.name

    def text(self, row: ProcessRow, board: Board) -> str:
        return f"{row.name} {row.state.value} {row.reason}"

    def caption(self, board: Board) -> Sequence[Span]:
        if not board.version:
            return ()
        return (("loraconsole ", "dim"), (board.version, "text"))

    def action_restart(self) -> None:
        row = self.selected
        if row is not None and row.name not in ORDERS_NOT_FOR:
            self.post_message(self.RestartAsked(row.name))
        else:
            self.notify("Choose a process of the ring.", severity="warning")

    def action_drain(self) -> None:
        self.post_message(self.DrainAsked())

    def action_stop(self) -> None:
        self.post_message(self.StopAsked())


def restart_costs(board: Board, name: str) -> str:
    """What is lost when a process of the ring is restarted, in a sentence or two."""
    router = board.router
    running, waiting = (router.running, router.waiting) if router else (0, 0)
    live = _number(running + waiting, "live request")
    placed = sum(row.view.pages > 0 for row in board.adapters)
    if name.startswith("worker-"):
        ranks = (
            f" All {len(board.workers)} ranks restart together." if len(board.workers) > 1 else ""
        )
        loss = f"{live} wait meanwhile and are computed again from their tokens; none is lost."
        back = f" The weights and {_number(placed, 'adapter')} are loaded again."
        return loss + ranks + back
    if name == "detokenizer":
        return f"{live} stand still for a moment; their text is told again. Nothing is lost."
    if name == "router":
        added = "Adapters that were loaded while it ran are to be loaded again."
        return f"{live} END with an error that says so. {added}"
    if name == "server":
        streams = board.server.open_streams if board.server else 0
        return f"{_number(streams, 'open stream')} BREAK: their clients see a closed connection."
    return "It is stopped politely and started again."


def stop_costs(board: Board, now: bool = False) -> str:
    """What is lost when the whole pipeline stops."""
    router = board.router
    if router is None or not router.running + router.waiting:
        lost = "No request is live"
    elif now:
        lost = f"{_number(router.running + router.waiting, 'live request')} END with an error"
    else:
        lost = (
            f"{_number(router.running, 'running request')} may finish for ten seconds, then "
            f"whatever is left of them and of {router.waiting} waiting ENDS with an error"
        )
    return f"{lost}. Every process ends; the next start loads the model again. The console stays."


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class TailPane(Pane):
    """The last words of the process under the cursor."""

    TITLE = "last lines"

    def __init__(self, table: ProcessTable) -> None:
        super().__init__(id="tail")
        self._table = table

    def title(self, board: Board) -> Sequence[Span]:
        row = self._table.selected
        return (("last lines of ", "dim"), (row.name if row else "nothing", "title"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
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
        table = ProcessTable()
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

    def lines(self, board: Board, width: int) -> Sequence[Line]:
        row = board.process(self._name)
        if row is None:
            return [line(("it is not in the supervisor's list any more", "dim"))]
        found = [
            line(*field("state"), *_state(row, board, width)),
            line(*field("why"), *_why(row, board, width)),
            line(*field("pid"), (f"{row.pid or units.NOTHING}", "text")),
        ]
        if row.since is not None:
            ago = units.age(board.now - row.since)
            found.append(
                line(*field("since"), (units.clock(row.since), "text"), (f"  {ago} ago", "dim"))
            )
        if kernels := _kernels(row, board):
            found.append(line(*field("kernels"), (units.fit(kernels, width - 12), "text")))
        beat = "never" if row.age_s is None else f"{units.age(row.age_s)} ago"
        last = units.NOTHING if row.exit_code is None else f"{row.exit_code}"
        found += [
            line(*field("last beat"), (beat, "text")),
            line(*field("falls"), (f"{row.restarts}", "text"), (f"  last exit code {last}", "dim")),
            line(*field("cpu"), (f"{row.cpu_fraction * 100:.0f} % of a core", "text")),
            line(*field("memory"), (units.size(row.rss_bytes), "text")),
            line(*field("loop lag"), (units.milliseconds(row.loop_lag_ms), "text")),
            line(*field("protocol"), (f"{row.protocol or units.NOTHING}", "text")),
            *self._history(board, width),
            *self._last_words(board, width),
            Line(),
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

    def _history(self, board: Board, width: int) -> Sequence[Line]:
        """Starts, falls and restarts, the newest first."""
        about = [e for e in board.events if e.source == self._name or self._name in e.text]
        if not about:
            return ()
        found = [Line(), line(("what happened", "title"))]
        for event in about[: -self.EVENTS - 1 : -1]:
            ink = LEVEL_INKS.get(event.level.lower(), "text")
            found.append(
                line((units.clock(event.at), "dim"), (f"  {units.clean(event.text)}", ink))
            )
        return found

    def _last_words(self, board: Board, width: int) -> Sequence[Line]:
        """Its last warnings and errors, a traceback's last lines among them."""
        words = (e for e in reversed(board.logs) if e.source == self._name and _is_ill(e))
        last = list(islice(words, self.WORDS))
        if not last:
            return ()
        lines = [log_line(entry, width, with_source=False) for entry in reversed(last)]
        return [Line(), line(("last warnings and errors", "title")), *lines]


def _is_ill(entry: LogLine) -> bool:
    return entry.level.lower() in ("warning", "error", "critical")
