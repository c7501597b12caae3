"""Batch: every live request with its progress, its speed and the reason it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from ....pipeline.messages import Abort, RequestText
from ....pipeline.runtime.wording import SHORT_ID, short_id
from ...client.answer import WrappedText
from ...client.telemetry import ABORTED
from ...state.board import Board, RequestRow
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ...text.records import Record
from ..widgets.column import Column, number_column, text_column
from ..widgets.details import DetailsPane
from ..widgets.dialogs import LineSource, LiveDialog
from ..widgets.order_asked import OrderAsked
from ..widgets.pane import Panel, field, wrapped_field
from ..widgets.table import TablePane

MOST_NAME = 24
"""Cells of an adapter's mark and name that come before the room of the output."""
LEAST_OUTPUT, USUAL_OUTPUT = 21, 30
"""Cells of the output where names need the room, and where they do not."""
PHASES = {"waiting": ("◌", "warn"), "prefill": ("▸", "prefill"), "decode": ("●", "good")}


def _phase(row: RequestRow, board: Board, width: int) -> Sequence[TextSpan]:
    if board.stall:
        return (("◌ stalled", "bad"),)
    mark, style = PHASES.get(row.view.phase, ("?", "dim"))
    return ((f"{mark} {row.view.phase}", style),)


def _adapter(row: RequestRow, board: Board, width: int) -> Sequence[TextSpan]:
    adapter = row.view.adapter
    mark = "○" if adapter is None else "●"
    name = units.fit_name(board.name_of(adapter), width - 2, board.differs_at(adapter))
    return ((f"{mark} {name}", board.color_of(adapter)),)


def _name_wanted(row: RequestRow) -> int:
    return min(MOST_NAME, 2 + cell_len(row.view.adapter or "base"))


def _output_wanted(row: RequestRow) -> int:
    view = row.view
    return len(f"#{view.place} {view.reason}") if view.reason else USUAL_OUTPUT


def _output(row: RequestRow, board: Board, width: int) -> Sequence[TextSpan]:
    """`━━━━──── 37/128`: generated tokens of `max_tokens`; what a request that stands still waits
    for; or `#2 behind …`, the place in the queue and the reason it waits."""
    view = row.view
    if board.stall:
        return ((units.visible(board.stall), "bad"),)
    if view.reason:
        place: tuple[TextSpan, ...] = ((f"#{view.place} ", "number"),) if view.place else ()
        return (*place, (view.reason, "warn"))
    numbers = f"{view.num_output:>5}/{view.max_tokens:<5}"
    cells = width - len(numbers)
    filled, rest = plot.gauge(view.num_output / max(1, view.max_tokens), cells)
    return (
        (filled, board.color_of(view.adapter)),
        (rest, "rest"),
        (numbers, "number"),
    )


class BatchTable(TablePane[RequestRow]):
    """The running requests and the queue."""

    TITLE = "live batch"
    EMPTY = "no request is live"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "abort", "Abort", id="abort", tooltip="end this request, or all marked ones"),
        Binding("w", "waiting", "Waiting", id="row-waiting", tooltip="next waiting request"),
    ]
    columns = (
        text_column(
            "request",
            SHORT_ID,
            lambda r: short_id(r.view.request_id),
            "dim",
            sorts=False,
        ),
        Column(
            "phase",
            9,
            _phase,
            order=lambda r: r.view.phase,
            rank=1,
            value=lambda r: r.view.phase,
        ),
        Column(
            "adapter",
            12,
            _adapter,
            order=lambda r: r.view.adapter or "",
            grows=True,
            wants=_name_wanted,
            value=lambda r: r.view.adapter,
        ),
        number_column("age", 9, lambda r: r.age_s, units.age, "text", rank=3, field="age_s"),
        number_column("prompt", 6, lambda r: r.view.num_prompt, rank=5, field="prompt_tokens"),
        Column(
            "output / wait reason",
            24,
            _output,
            order=lambda r: r.view.num_output / max(1, r.view.max_tokens),
            grows=True,
            wants=_output_wanted,
            least=LEAST_OUTPUT,
            descends=True,
            value=lambda r: r.view.num_output,
            field="output_tokens",
        ),
        number_column("pages", 5, lambda r: r.view.pages, rank=6),
        number_column(
            *("tok/s", 6, lambda r: r.tokens_s, units.rate),
            zero=units.NOTHING,
            rank=2,
            field="tokens_per_s",
        ),
    )

    def lines_of(self, row: RequestRow) -> LineSource:
        return RequestDetails(row, has_text=False).lines

    def extracts(self, row: RequestRow) -> Mapping[str, str]:
        return {"why": row.view.reason, "adapter": row.view.adapter or ""}

    def records(self, rows: Sequence[RequestRow]) -> list[Record]:
        """With the whole id, and what the column of the output has no room for."""
        records = zip(super().records(rows), (row.view for row in rows), strict=True)
        return [
            {
                **record,
                "request": view.request_id,
                "max_tokens": view.max_tokens,
                "place": view.place or None,
                "reason": view.reason,
            }
            for record, view in records
        ]

    def rows(self, board: Board) -> Sequence[RequestRow]:
        return board.requests

    def row_key(self, row: RequestRow) -> str:
        return row.view.request_id

    def filter_text(self, row: RequestRow, board: Board) -> str:
        view = row.view
        return f"{view.request_id} {view.phase} {board.name_of(view.adapter)} {view.reason}"

    def caption(self, board: Board) -> Sequence[TextSpan]:
        waiting = sum(row.view.phase == "waiting" for row in board.requests)
        found = [*super().caption(board), (" live", "dim")]
        if waiting:
            found += [(f"  {waiting}", "warn"), (" waiting", "dim")]
        if board.router is not None:
            found += [("  policy ", "dim"), (board.router.scheduling.policy, "text")]
        return found

    def empty(self, board: Board) -> str:
        """The text without rows; if the pipeline is ready, with the key that sends a request."""
        is_there = board.condition.word == "READY" and board.server is not None
        return f"{self.EMPTY}; 5 sends one" if is_there and board.playback is None else self.EMPTY

    def action_waiting(self) -> None:
        """Goes to the next waiting request; behind the last one, to the first."""
        if not self.go_to_next(lambda row: row.view.phase == "waiting"):
            self.notify("No request is waiting.", timeout=3)

    def action_abort(self) -> None:
        self.ask_orders([Abort(row.view.request_id, ABORTED) for row in self.subjects])


class BatchPanel(Panel):
    """The table of requests; enter opens a dialog."""

    NAME: ClassVar[str] = "Batch"

    def compose(self) -> ComposeResult:
        table = BatchTable()
        yield table
        yield DetailsPane(table)

    def on_table_pane_moved(self) -> None:
        self.query_one(DetailsPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        self.app.push_screen(RequestDialog(message.row))


class RequestDialog(LiveDialog):
    """A request's details: its timeline, its output as it arrives, its prompt."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "abort", "Abort", id="request-abort", tooltip="end this request"),
        Binding("y", "copy", "Copy", id="request-copy", tooltip="its answer to the clipboard"),
    ]
    ASK_SECONDS = 0.5

    def __init__(self, row: RequestRow) -> None:
        self._details = RequestDetails(row)
        self._request_id = row.view.request_id
        super().__init__(f"request {short_id(self._request_id)}", self._details.lines)

    def on_mount(self) -> None:
        super().on_mount()
        self._ask()
        self._timer = self.set_interval(self.ASK_SECONDS, self._ask)

    def _ask(self) -> None:
        text = self._details.request_text(self.painted_app.board)
        if text is not None and text.ended:
            self._timer.stop()
            return
        self.painted_app.ask_text(self._request_id, len(text.text) if text else 0)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._details.is_live if action == "abort" else True

    def action_abort(self) -> None:
        self.post_message(OrderAsked(Abort(self._request_id, ABORTED)))

    def action_copy(self) -> None:
        if text := self._details.request_text(self.painted_app.board):
            self.app.copy_to_clipboard(text.text)
            self.notify(f"{units.count_noun(len(text.text), 'character')} copied")


class RequestDetails:
    """The lines of a request's dialog; once it has ended, from its last state."""

    def __init__(self, row: RequestRow, has_text: bool = True) -> None:
        """Without `has_text`, without the request's text, which would have to be asked for."""
        self._row, self._has_text = row, has_text
        self.is_live = True
        self._prompt, self._output = WrappedText(), WrappedText()

    def request_text(self, board: Board) -> RequestText | None:
        """The request's text; None until it has arrived."""
        opened = board.opened
        return opened if opened and opened.request_id == self._row.view.request_id else None

    def lines(self, board: Board, width: int) -> Sequence[TextLine]:
        wanted = self._row.view.request_id
        now = next((row for row in board.requests if row.view.request_id == wanted), None)
        self._row = row = now or self._row
        self.is_live = now is not None
        view = row.view
        state: Sequence[TextSpan] = _phase(row, board, width)
        if not self.is_live:
            state = (("✓ no longer live", "dim"), ("  last known values", "dim"))
        found = [
            line(*field("state"), *state),
            line(*field("id"), (view.request_id, "text")),
            line(*field("adapter"), *_adapter(row, board, width)),
            line(
                *field("arrived"),
                (units.clock(view.arrived_at), "text"),
                (f"  {units.age(max(0.0, board.now - view.arrived_at))} ago", "dim"),
            ),
        ]
        if self.is_live and (reason := board.stall or view.reason):
            style = "bad" if board.stall else "warn"
            found += wrapped_field("waits for", units.visible(reason), style, width)
            if view.place:
                found.append(line(*field("queue"), (f"#{view.place}", "number"), _queue(board)))
        done = min(view.num_computed, view.num_prompt)
        found += [
            line(
                *field("prompt"),
                (f"{view.num_prompt} tokens", "text"),
                (f"  {done} computed", "dim"),
            ),
            line(
                *field("output"),
                *self._output_so_far(row),
            ),
            line(*field("pages"), (f"{view.pages if self.is_live else 'freed'}", "text")),
            TextLine(),
            line(("timeline", "title")),
            *_timeline(row, board, width),
        ]
        return [*found, *(self._words(board, width) if self._has_text else ())]

    def _output_so_far(self, row: RequestRow) -> Sequence[TextSpan]:
        """The output tokens; once it has ended a lower bound, as no message has the final count."""
        view, limit = row.view, f"of at most {row.view.max_tokens}"
        if not self.is_live:
            return ((f"{view.num_output} tokens or more", "text"), (f"  {limit}", "dim"))
        return (
            (f"{view.num_output} of {view.max_tokens} tokens", "text"),
            (f"  {units.rate(row.tokens_s)} tok/s", "dim"),
        )

    def _words(self, board: Board, width: int) -> Sequence[TextLine]:
        text = self.request_text(board)
        if text is None:
            return [TextLine(), line(("fetching the output from the server", "dim"))]
        output = self._output.lines(text.text, width) if text.text else ["no output yet"]
        style = board.color_of(self._row.view.adapter) if text.text else "dim"
        return [
            TextLine(),
            line(("output", "title"), ("  whole" if text.ended else "  streaming", "dim")),
            *(line((words, style)) for words in output),
            TextLine(),
            line(("prompt", "title"), ("  with the chat template", "dim")),
            *(line((words, "text")) for words in self._prompt.lines(text.prompt, width)),
        ]


def _queue(board: Board) -> TextSpan:
    waiting = sum(row.view.phase == "waiting" for row in board.requests)
    return (f" of {waiting} waiting", "dim")


class RequestStage(NamedTuple):
    """A stage of a request's timeline."""

    mark: str
    style: str
    name: str
    seconds: float


def stages(row: RequestRow, color: str) -> list[RequestStage]:
    """The stages of a request, in order. All time until its adapter was loaded counts as load:
    other waits in it are not measured."""
    view = row.view
    end = view.arrived_at + row.age_s
    loaded = view.adapter_at or view.arrived_at
    admitted = view.admitted_at or view.first_token_at or end
    first = view.first_token_at or end
    found = [
        RequestStage("░", "info", "load", loaded - view.arrived_at),
        RequestStage("▒", "warn", "queue", admitted - loaded),
        RequestStage("▓", "prefill", "prefill", first - admitted),
        RequestStage(plot.FULL, color, "decode", end - first),
    ]
    return [stage._replace(seconds=max(0.0, stage.seconds)) for stage in found]


def _timeline(row: RequestRow, board: Board, width: int) -> Sequence[TextLine]:
    """A bar to scale, and a legend with durations below it."""
    parts = stages(row, board.color_of(row.view.adapter))
    seconds = [part.seconds for part in parts]
    cells = plot.shares(seconds, sum(seconds), max(0, width - 2))
    legend: list[TextSpan] = []
    for part in parts:
        legend += [(f"{part.mark} ", part.style), (f"{part.name} ", "dim")]
        legend.append((f"{units.duration(part.seconds)}   ", "number"))
    return [
        line(*((part.mark * size, part.style) for part, size in zip(parts, cells, strict=True))),
        TextLine(tuple(legend)),
    ]
