"""Processes of the pipeline: state, cost, and how each last ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from ....pipeline.messages import (
    Drain,
    LogLine,
    ProcessState,
    RestartProcess,
    Resume,
    SignalProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
)
from ...client.telemetry import DRAIN_SECONDS, PipelineOrder
from ...state.board import SUPERVISOR, Board, ProcessRow
from ...state.crash import is_stack_line, last_crash
from ...state.signals import SIGNALS, how
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import cause_first
from ..widgets.column import Column, number_column, text_column
from ..widgets.details import DetailsPane
from ..widgets.dialogs import Choice, ChoiceDialog, LineSource, RowDialog, bindings_of
from ..widgets.order_asked import OrderAsked
from ..widgets.pane import Pane, Panel, field, wrapped_field
from ..widgets.styles import LEVEL_STYLES
from ..widgets.table import TablePane
from .logs import log_line

ORDERS_NOT_FOR = (SUPERVISOR, "fetch")


def _state(row: ProcessRow, board: Board, width: int) -> Sequence[TextSpan]:
    return ((f"{'●' if row.level == 'good' else '◌'} {row.word}", row.level),)


def _why(row: ProcessRow, board: Board, width: int) -> Sequence[TextSpan]:
    """Why it fell, if it is not back; the reason of its state; else a worker's kernels, or the last
    exit status."""
    if row.is_stale:
        return ((f"heartbeat {units.duration(row.age_s or 0.0)} ago", "warn"),)
    if row.is_fallen and row.state is not ProcessState.FAILED:
        why = row.fall_reason or row.reason
        mending = board.progress_of(row) or board.mending(row)
        return ((units.visible(f"{why}, {mending}" if why else mending), row.level),)
    if row.reason:
        return ((units.visible(row.reason), row.level if row.level != "good" else "dim"),)
    if kernels := _kernels(row, board):
        return ((kernels, "dim"),)
    if row.exit_code is not None:
        return ((how(row.exit_code), "dim"),)
    return (("", "dim"),)


def _kernels(row: ProcessRow, board: Board) -> str:
    """The kernels of a worker; "" for other processes."""
    return next((w.kernels for w in board.workers if row.name == f"worker-{w.rank}"), "")


def _alive(row: ProcessRow, text: str) -> Sequence[TextSpan]:
    """A number that only a running process has; a dash for others."""
    return ((text, "number"),) if _runs(row) else ((units.NOTHING, "dim"),)


def _runs(row: ProcessRow) -> bool:
    return row.age_s is not None and row.pid != 0


def _living(
    title: str,
    width: int,
    value: Callable[[ProcessRow], float],
    show: Callable[[float], str],
    rank: int,
    field: str,
) -> Column[ProcessRow]:
    """A column of numbers that only running processes have, sorted largest first."""
    return Column(
        title,
        width,
        lambda row, board, cells: _alive(row, show(value(row))),
        order=value,
        right=True,
        rank=rank,
        descends=True,
        value=lambda row: value(row) if _runs(row) else None,
        field=field,
    )


def _uptime(row: ProcessRow, board: Board) -> str:
    """Time since the process was started."""
    at = board.started_at if row.name == SUPERVISOR and row.pid else row.started_at
    return units.NOTHING if at is None else units.uptime(board.now - at)


class ProcessTablePane(TablePane[ProcessRow]):
    """The processes in start order."""

    TITLE = "processes"
    EMPTY = "no heartbeat from a supervisor"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "restart", "Restart", id="restart", tooltip="SIGTERM, then restart"),
        Binding("x", "stop", "Stop", id="stop", tooltip="keep it stopped; starts a stopped one"),
        Binding("R", "kill", "Kill", show=False, id="kill", tooltip="SIGKILL, then restart"),
        Binding("K", "signal", "Signal", id="signal", tooltip="send one of seven signals"),
        Binding(
            "d", "drain", "Drain", id="drain", tooltip="refuse new requests, or admit them again"
        ),
        Binding("X", "stop_all", "Stop all", id="down", tooltip="stop the whole pipeline"),
    ]
    columns = (
        text_column("process", 12, lambda r: r.name),
        Column(
            "state",
            12,
            _state,
            order=lambda r: r.state.value,
            value=lambda r: r.state,
        ),
        number_column("pid", 7, lambda r: r.pid or None, style="dim", rank=6),
        Column(
            "up",
            8,
            lambda r, b, w: _alive(r, _uptime(r, b)),
            order=lambda r: -(r.started_at or math.inf),
            right=True,
            rank=5,
            descends=True,
            value=lambda r: r.started_at,
            field="started_at_unix_s",
        ),
        _living(
            "cpu", 5, lambda r: r.cpu_fraction, lambda share: f"{share * 100:.0f} %", 1, "cpu_cores"
        ),
        _living("memory", 9, lambda r: r.rss_bytes, units.size, 1, "rss_bytes"),
        _living("lag", 7, lambda r: r.loop_lag_ms, lambda ms: f"{ms:.0f} ms", 4, "loop_lag_ms"),
        _living(
            "msg/s",
            6,
            lambda r: sum(hop.frames_s for hop in r.hops),
            units.rate,
            3,
            "messages_per_s",
        ),
        number_column(
            "restarts",
            8,
            lambda r: r.restarts,
            style=lambda r: "warn" if r.falls else "dim",
            rank=2,
        ),
        Column("why", 10, _why, grows=True, rank=1),
    )

    def rows(self, board: Board) -> Sequence[ProcessRow]:
        return board.processes

    def row_key(self, row: ProcessRow) -> str:
        return row.name

    def filter_text(self, row: ProcessRow, board: Board) -> str:
        return f"{row.name} {row.state.value} {row.reason}"

    def lines_of(self, row: ProcessRow) -> LineSource:
        return ProcessDetails(row).lines

    def extracts(self, row: ProcessRow) -> Mapping[str, str]:
        board = self.painted_app.board
        why = "".join(text for text, _ in _why(row, board, 400))
        return {"why": why, "pid": f"{row.pid}" if row.pid else ""}

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if not board.version:
            return ()
        return (("loraconsole ", "dim"), (board.version, "text"))

    def action_restart(self) -> None:
        self.ask_orders(
            [StartProcess(r.name) if r.held else RestartProcess(r.name) for r in self._chosen()]
        )

    def action_kill(self) -> None:
        self.ask_orders([RestartProcess(row.name, hard=True) for row in self._chosen()])

    def action_stop(self) -> None:
        """Stops the processes, or starts those that an operator has stopped."""
        self.ask_orders(
            [StartProcess(r.name) if r.held else StopProcess(r.name) for r in self._chosen()]
        )

    def action_signal(self) -> None:
        rows = self._chosen()
        if not rows:
            return
        if self.painted_app.refuses("signal"):
            self.notify(self.painted_app.refusal, severity="error")
        elif still := [row.name for row in rows if not row.pid]:
            self.notify(f"{', '.join(still)}: not running.", severity="warning")
        else:
            self.app.push_screen(signal_dialog(*rows), partial(self._send_signal, rows))

    def _send_signal(self, rows: Sequence[ProcessRow], signal: str | None) -> None:
        if signal:
            for row in rows:
                self.post_message(OrderAsked(SignalProcess(row.name, signal), is_agreed=True))
            self.unmark()

    def action_drain(self) -> None:
        """Drains the router, or resumes it if it is draining."""
        router = self.painted_app.board.process("router")
        is_draining = router is not None and router.state is ProcessState.DRAINING
        self._ask(Resume() if is_draining else Drain())

    def action_stop_all(self) -> None:
        self._ask(StopPipeline(DRAIN_SECONDS))

    def _chosen(self) -> list[ProcessRow]:
        """The processes that an action is about; none, with a notice, if none of them takes
        orders."""
        rows = [row for row in self.subjects if row.name not in ORDERS_NOT_FOR]
        if not rows:
            self.notify("Select a process of the ring.", severity="warning")
        return rows

    def _ask(self, order: PipelineOrder) -> None:
        self.post_message(OrderAsked(order))


def signal_dialog(*rows: ProcessRow) -> ChoiceDialog:
    """A dialog that asks for a signal to all `rows`, with a description of each."""
    names = ", ".join(f"{row.name}, pid {row.pid}" for row in rows)
    choices = [
        Choice(signal[0].lower(), signal, f"{signal:<5} {what}") for signal, what in SIGNALS.items()
    ]
    title = rows[0].name if len(rows) == 1 else f"{len(rows)} processes"
    return ChoiceDialog(f"Signal {title}", f"{names}. The supervisor sends it.", choices)


class TailPane(Pane):
    """The last log lines of the process under the cursor."""

    TITLE = "last lines"

    def __init__(self, table: ProcessTablePane) -> None:
        super().__init__(id="tail")
        self._table = table

    def title(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return (("last lines of ", "dim"), (row.name if row else "nothing", "title"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        row = self._table.selected
        if row is None:
            return []
        if row.is_fallen and (crash := crash_lines(row, board, width, height - 3)):
            return crash[1:]
        tail = []
        for entry in reversed(board.logs):
            if entry.source == row.name:
                tail.append(log_line(entry, width, with_source=False))
                if len(tail) == height:
                    break
        return tail[::-1] or [line(("no log lines yet", "dim"))]


class ProcessesPanel(Panel):
    """The table of processes, with the last log lines of the selected one below."""

    NAME: ClassVar[str] = "Processes"

    def compose(self) -> ComposeResult:
        table = ProcessTablePane()
        yield table
        yield DetailsPane(table)
        yield TailPane(table)

    def on_table_pane_moved(self) -> None:
        self.query_one(DetailsPane).paint()
        self.query_one(TailPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        table = self.query_one(ProcessTablePane)
        self.app.push_screen(ProcessDialog(table, message.row))


class ProcessDialog(RowDialog):
    """A process's details, with the keys that act on it."""

    BINDINGS: ClassVar[list[BindingType]] = bindings_of(
        ProcessTablePane, "restart", "stop", "kill", "signal"
    )

    def __init__(self, table: ProcessTablePane, row: ProcessRow) -> None:
        super().__init__(table, row, row.name, ProcessDetails(row).lines)
        self._processes, self._takes_orders = table, row.name not in ORDERS_NOT_FOR

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        is_order = action in ("restart", "stop", "kill", "signal")
        if is_order and not self._takes_orders:
            return False
        return super().check_action(action, parameters)

    def action_restart(self) -> None:
        self.on_row(self._processes.action_restart)

    def action_stop(self) -> None:
        self.on_row(self._processes.action_stop)

    def action_kill(self) -> None:
        self.on_row(self._processes.action_kill)

    def action_signal(self) -> None:
        self.on_row(self._processes.action_signal)


class ProcessDetails:
    """The lines of a process's dialog: state, history, last warnings and errors, sockets."""

    EVENTS, WORDS, FRAMES = 6, 4, 12

    def __init__(self, row: ProcessRow) -> None:
        self._name = row.name

    def lines(self, board: Board, width: int) -> Sequence[TextLine]:
        row = board.process(self._name)
        if row is None:
            return [line(("no longer in the supervisor's list", "dim"))]
        ((why, style),) = _why(row, board, width)
        found = [
            line(*field("state"), *_state(row, board, width)),
            *wrapped_field("why", cause_first(why) or units.NOTHING, style, width),
            line(*field("pid"), (f"{row.pid or units.NOTHING}", "text")),
        ]
        for name, at in (("started", row.started_at), ("state since", row.since)):
            if at is not None:
                ago = units.age(board.now - at)
                found.append(line(*field(name), (units.clock(at), "text"), (f"  {ago} ago", "dim")))
        if kernels := _kernels(row, board):
            found += wrapped_field("kernels", kernels, "text", width)
        found += wrapped_field("restarts", _restarts(row), "text", width)
        if _runs(row):
            found += [
                line(*field("heartbeat"), (f"{units.age(row.age_s or 0.0)} ago", "text")),
                line(*field("cpu"), (f"{row.cpu_fraction * 100:.0f} % of a core", "text")),
                line(*field("memory"), (units.size(row.rss_bytes), "text")),
                line(*field("loop lag"), (units.milliseconds(row.loop_lag_ms), "text")),
                line(*field("protocol"), (f"{row.protocol or units.NOTHING}", "text")),
            ]
        found += [
            *(crash_lines(row, board, width, self.FRAMES) if row.falls else ()),
            *self._history(board, width),
            *self._last_words(board, width),
            TextLine(),
            line(("sockets", "title")),
            line((f"{'':<16}{'frames/s':>10}{'bytes/s':>12}{'frames':>10}{'refused':>9}", "dim")),
        ]
        for hop in row.hops:
            name = "inbox" if hop.peer == row.name else f"to {hop.peer}"
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
        """Events about the process, newest first."""
        about = [e for e in board.events if e.source == self._name or self._name in e.text]
        if not about:
            return ()
        found = [TextLine(), line(("events", "title"))]
        for event in about[: -self.EVENTS - 1 : -1]:
            style = LEVEL_STYLES.get(event.level.lower(), "text")
            text = cause_first(units.visible(event.text))
            found += wrapped_field(units.clock(event.at), text, style, width)
        return found

    def _last_words(self, board: Board, width: int) -> Sequence[TextLine]:
        """Its last warnings and errors."""
        words = (e for e in reversed(board.logs) if e.source == self._name and _is_ill(e))
        last = list(islice(words, self.WORDS))
        if not last:
            return ()
        lines = [log_line(entry, width, with_source=False) for entry in reversed(last)]
        return [TextLine(), line(("last warnings and errors", "title")), *lines]


def crash_lines(row: ProcessRow, board: Board, width: int, most_frames: int) -> Sequence[TextLine]:
    """The stack of a process's last crash below an empty line, innermost frame first; nothing if
    it left none."""
    crash = last_crash(row.name, board.logs)
    if crash is None:
        return ()
    rest = []
    if (more := len(crash.frames) - most_frames) > 0:
        rest.append(units.count_noun(more, "more frame"))
    if others := crash.other_threads:
        rest.append(units.count_noun(others, "other thread"))
    found = [
        TextLine(),
        line(("where it crashed", "title"), (f"  {units.clock(crash.at)}", "dim")),
        *(line((part, "bad")) for part in units.wrap(units.visible(crash.error), width)),
        *(line((f"  {units.visible(frame)}", "text")) for frame in crash.frames[:most_frames]),
    ]
    return [*found, line((f"  and {', '.join(rest)} in its log", "dim"))] if rest else found


def _restarts(row: ProcessRow) -> str:
    """`3  died twice, last: killed by SIGKILL`."""
    if not row.falls:
        return f"{row.restarts}"
    times = {1: "once", 2: "twice"}.get(row.falls, f"{row.falls} times")
    why = row.fall_reason or (how(row.exit_code) if row.exit_code is not None else "")
    return f"{row.restarts}  died {times}{f', last: {why}' if why else ''}"


def _is_ill(entry: LogLine) -> bool:
    """Whether a line is a warning or an error; stacks are shown by `_crash`."""
    if not entry.text.strip() or is_stack_line(entry.text):
        return False
    return entry.level.lower() in ("warning", "error", "critical")
