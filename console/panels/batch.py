"""Batch: every live request, how far it is, how fast it goes, and why it waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from .. import plot, units
from ..board import Board, RequestRow
from ..dialogs import LiveDialog
from ..pane import Line, Panel, Span, field, line
from ..table import Column, TablePane

PHASES = {"waiting": ("◌", "warn"), "prefill": ("▸", "prefill"), "decode": ("●", "good")}


def _phase(row: RequestRow, board: Board, width: int) -> Sequence[Span]:
    mark, ink = PHASES.get(row.view.phase, ("?", "dim"))
    return ((f"{mark} {row.view.phase}", ink),)


def _adapter(row: RequestRow, board: Board, width: int) -> Sequence[Span]:
    adapter = row.view.adapter
    mark = "○" if adapter is None else "●"
    return ((f"{mark} {board.name_of(adapter)}", board.tint(adapter)),)


def _output(row: RequestRow, board: Board, width: int) -> Sequence[Span]:
    """`▇▇▇▇░░░░  37/128`: how much of what it may say."""
    view = row.view
    if view.reason:
        return ((view.reason, "warn"),)
    numbers = f"{view.num_output:>5}/{view.max_tokens:<5}"
    cells = width - len(numbers)
    filled, rest = plot.gauge(view.num_output / max(1, view.max_tokens), cells)
    return (
        (filled, board.tint(view.adapter)),
        (rest, "rest"),
        (numbers, "number"),
    )


class BatchTable(TablePane[RequestRow]):
    """The live batch and the queue behind it."""

    TITLE = "live batch"
    EMPTY = "no request is live; 5 sends one"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "abort", "Abort", id="abort", tooltip="end the selected request"),
    ]
    columns = (
        Column(
            "request", units.SHORT_ID, lambda r, b, w: ((units.short_id(r.view.request_id), "dim"),)
        ),
        Column("phase", 9, _phase, order=lambda r: r.view.phase, rank=1),
        Column("adapter", 12, _adapter, order=lambda r: r.view.adapter or "", grows=True),
        Column(
            "age",
            9,
            lambda r, b, w: ((units.age(r.age_s), "text"),),
            order=lambda r: r.age_s,
            right=True,
            rank=3,
            descends=True,
        ),
        Column(
            "prompt",
            6,
            lambda r, b, w: ((f"{r.view.num_prompt}", "number"),),
            order=lambda r: r.view.num_prompt,
            right=True,
            rank=5,
            descends=True,
        ),
        Column(
            "  output / why it waits",
            24,
            _output,
            order=lambda r: r.view.num_output / max(1, r.view.max_tokens),
            grows=True,
            descends=True,
        ),
        Column(
            "pages",
            5,
            lambda r, b, w: ((f"{r.view.pages}", "number"),),
            order=lambda r: r.view.pages,
            right=True,
            rank=6,
            descends=True,
        ),
        Column(
            "tok/s",
            6,
            lambda r, b, w: ((units.rate(r.tokens_s) if r.tokens_s else units.NOTHING, "number"),),
            order=lambda r: r.tokens_s,
            right=True,
            rank=2,
            descends=True,
        ),
    )

    class AbortAsked(Message):
        """Somebody wants a request to end."""

        def __init__(self, request_id: str) -> None:
            super().__init__()
            self.request_id = request_id

    def rows(self, board: Board) -> Sequence[RequestRow]:
        return board.requests

    def key(self, row: RequestRow) -> str:
        return row.view.request_id

    def text(self, row: RequestRow, board: Board) -> str:
        view = row.view
        return f"{view.request_id} {view.phase} {board.name_of(view.adapter)} {view.reason}"

    def caption(self, board: Board) -> Sequence[Span]:
        waiting = sum(row.view.phase == "waiting" for row in board.requests)
        found = [*super().caption(board), (" live", "dim")]
        if waiting:
            found += [(f"  {waiting}", "warn"), (" waiting", "dim")]
        if board.router is not None:
            found += [("  policy ", "dim"), (board.router.scheduling.policy, "text")]
        return found

    def action_abort(self) -> None:
        if (row := self.selected) is not None:
            self.post_message(self.AbortAsked(row.view.request_id))


class BatchPanel(Panel):
    """The table, and a dialog for the row that is opened."""

    NAME: ClassVar[str] = "Batch"

    def compose(self) -> ComposeResult:
        yield BatchTable()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        row: RequestRow = message.row
        details = RequestDetails(row)
        self.app.push_screen(
            LiveDialog(f"request {units.short_id(row.view.request_id)}", details.lines)
        )


class RequestDetails:
    """One request as the board has it; once it is gone, as it was last."""

    def __init__(self, row: RequestRow) -> None:
        self._row = row

    def lines(self, board: Board, width: int) -> Sequence[Line]:
        wanted = self._row.view.request_id
        now = next((row for row in board.requests if row.view.request_id == wanted), None)
        self._row = row = now or self._row
        view = row.view
        mark, ink = PHASES.get(view.phase, ("?", "dim"))
        state: Span = (f"{mark} {view.phase}", ink) if now else ("✓ no longer live", "dim")
        found = [
            line(*field("state"), state),
            line(*field("id"), (view.request_id, "text")),
            line(*field("adapter"), *_adapter(row, board, width)),
            line(
                *field("arrived"),
                (units.clock(view.arrived_at), "text"),
                (f"  {units.age(row.age_s)} ago", "dim"),
            ),
        ]
        if view.reason:
            found.append(line(*field("waits for"), (view.reason, "warn")))
        done = min(view.num_computed, view.num_prompt)
        found += [
            line(
                *field("prompt"),
                (f"{view.num_prompt} tokens", "text"),
                (f"  {done} computed", "dim"),
            ),
            line(
                *field("output"),
                (f"{view.num_output} of {view.max_tokens} tokens", "text"),
                (f"  {units.rate(row.tokens_s)} tok/s", "dim"),
            ),
            line(*field("pages"), (f"{view.pages}", "text")),
            Line(),
            line(("timeline", "title")),
            *_timeline(row, board, width),
        ]
        return found


def _timeline(row: RequestRow, board: Board, width: int) -> Sequence[Line]:
    """Until the first token, and since: one bar to scale, and both in words."""
    view = row.view
    first = view.first_token_at
    if first is None:
        before, after = row.age_s, 0.0
    else:
        before = max(0.0, first - view.arrived_at)
        after = max(0.0, view.arrived_at + row.age_s - first)
    cells = plot.shares((before, after), before + after, max(0, width - 2))
    bar = line(("▒" * cells[0], "prefill"), (plot.FULL * cells[1], board.tint(view.adapter)))
    return [
        bar,
        line(("▒ ", "prefill"), (f"queue, load and prefill {units.duration(before)}", "text")),
        line(
            (f"{plot.FULL} ", board.tint(view.adapter)),
            (f"decode {units.duration(after)}" if first is not None else "no token yet", "text"),
        ),
    ]
