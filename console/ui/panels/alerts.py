"""Alerts: firing, acknowledged and cleared ones, with their meaning and where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ...state.alert_book import GONE_S, Alert, AlertState
from ...state.alerts import RULES, AlertFinding
from ...state.board import Board
from ...state.log_reference import find_line
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import reason_first
from ..widgets.column import Column, number_column, text_column
from ..widgets.pane import Pane, Panel, field
from ..widgets.table import TablePane

STATES = {
    AlertState.FIRING: "▲",
    AlertState.ACKNOWLEDGED: "△",
    AlertState.CLEARED: "✓",
}


def _state(row: Alert, board: Board, width: int) -> Sequence[TextSpan]:
    return ((f"{STATES[row.state]} {row.state.value}", _style(row)),)


def _style(row: Alert) -> str:
    if row.state is AlertState.CLEARED:
        return "dim"
    return row.finding.level if row.state is AlertState.FIRING else "text"


def _age_column(title: str, width: int, at: Callable[[Alert], float], rank: int) -> Column[Alert]:
    """A column of the ages of the times `at`, sorted by these times."""

    def cell(row: Alert, board: Board, width: int) -> Sequence[TextSpan]:
        return ((units.age(max(0.0, board.now - at(row))), "dim"),)

    field = f"{title.replace(' ', '_')}_at_unix_s"
    return Column(title, width, cell, at, right=True, rank=rank, value=at, field=field)


class AlertTable(TablePane[Alert]):
    """Every alert of the last hours."""

    TITLE = "alerts"
    EMPTY = "no alerts"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "a",
            "acknowledge",
            "Acknowledge",
            id="acknowledge",
            tooltip="it no longer counts in the tab",
        ),
        Binding("A", "acknowledge_all", "All", show=False, id="acknowledge-all"),
        Binding(
            "enter",
            "open",
            "Go to",
            id="evidence",
            tooltip="its log line, or the screen that shows it",
        ),
    ]
    columns = (
        Column(
            "state",
            14,
            _state,
            order=lambda r: r.state.value,
            value=lambda r: r.state,
        ),
        text_column("rule", 17, lambda r: r.finding.rule),
        text_column(
            "details",
            24,
            lambda r: reason_first(units.visible(r.finding.text)),
            lambda r: _style(r) if r.state is AlertState.FIRING else "dim",
            sorts=False,
            grows=True,
        ),
        _age_column("first seen", 10, lambda r: r.first_seen, rank=3),
        _age_column("last seen", 9, lambda r: r.last_seen, rank=2),
        number_column("times", 5, lambda r: r.times, rank=4),
    )

    class Acknowledged(Message):
        """An operator has acknowledged these alerts."""

        def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
            super().__init__()
            self.keys = keys

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int]] = set()
        """The alerts of the last frame, each with the times it had fired."""

    def go_to_news(self) -> None:
        """Puts the cursor on the worst firing alert, if it was not there when the page was last in
        view: `enter` is about what has just happened, not about the row that was read before."""
        worst = next(iter(self.painted_app.alert_book.firing), None)
        if worst is not None and (self.row_key(worst), worst.times) not in self._seen:
            self.go_to(self.row_key(worst))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        self._seen = {(self.row_key(row), row.times) for row in self.rows(board)}
        return super().draw_lines(board, width, height)

    def rows(self, board: Board) -> Sequence[Alert]:
        return self.painted_app.alert_book.alerts

    def row_key(self, row: Alert) -> str:
        return "/".join(row.finding.key)

    def empty(self, board: Board) -> str:
        """`no alerts since 14:02:11`: since this console watches, and four hours at most."""
        begun = self.painted_app.alert_book.begun_at
        if begun is None:
            return self.EMPTY
        if board.now - begun >= GONE_S:
            return f"{self.EMPTY} in the last {GONE_S / 3600:.0f} hours"
        return f"{self.EMPTY} since {units.clock(begun)}"

    def filter_text(self, row: Alert, board: Board) -> str:
        return f"{row.state.value} {row.finding.rule} {row.finding.text}"

    def name_of(self, row: Alert) -> str:
        return f"{row.finding.rule}: {row.finding.text}"

    def extracts(self, row: Alert) -> Mapping[str, str]:
        return {"means": row.rule.meaning, "do": row.rule.remedy}

    def action_acknowledge(self) -> None:
        self.post_message(self.Acknowledged([row.finding.key for row in self.subjects]))
        self.unmark()

    def action_acknowledge_all(self) -> None:
        board = self.painted_app.board  # the key may come before the first frame of the page
        shown = (r for r in self.rows(board) if self.shows(self.filter_text(r, board)))
        self.post_message(self.Acknowledged([row.finding.key for row in shown]))


class RulePane(Pane):
    """The meaning and the remedy of the selected alert's rule; without alerts, all rules."""

    TITLE = "rule"

    def __init__(self, table: AlertTable) -> None:
        super().__init__(id="rule")
        self._table = self.belongs_to = table

    def title(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return ((row.finding.rule if row else "alert rules", "title"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        row = self._table.selected
        if row is None:
            return self._all_rules(board, width)
        rule, limit = row.rule, ""
        if rule.limit:
            value = getattr(self.painted_app.alert_book.limits, rule.limit)
            limit = f"{rule.limit} = {value:g} in [alerts] of the settings; 0 turns it off"
        found: list[TextLine] = []
        for name, text, style in (
            ("details", row.finding.text, "text"),
            ("meaning", rule.meaning, "text"),
            ("remedy", rule.remedy, "text"),
            ("fires at", limit, "dim"),
            ("enter", _way(row.finding, board), "dim"),
        ):
            if text:
                parts = units.wrap(units.visible(text), max(8, width - 12))
                found += [
                    line(*field("" if at else name), (part, style)) for at, part in enumerate(parts)
                ]
        return found

    def _all_rules(self, board: Board, width: int) -> Sequence[TextLine]:
        found = []
        for rule in RULES:
            value = getattr(self.painted_app.alert_book.limits, rule.limit) if rule.limit else None
            limit = "" if value is None else f" > {value:g}" if value else " off"
            what = rule.meaning.partition(". ")[0].rstrip(".")
            head: TextSpan = (units.fit(f"{rule.name}{limit if value == 0 else ''}", 20), "key")
            found.append(line(head, (units.fit(what, max(8, width - 20)), "dim")))
        return found


def _way(finding: AlertFinding, board: Board) -> str:
    if finding.log_reference and (entry := find_line(finding.log_reference, board.logs)):
        return f"shows its line in Logs, {units.clock(entry.at)} of {entry.source}"
    filtered = f", filtered by /{finding.filter}" if finding.filter else ""
    return f"shows {finding.screen}{filtered}"


class AlertsPanel(Panel):
    """The table of alerts, and the rule of the selected one."""

    NAME: ClassVar[str] = "Alerts"

    class Traced(Message):
        """The operator wants to see the log line or the screen of an alert."""

        def __init__(self, finding: AlertFinding) -> None:
            super().__init__()
            self.finding = finding

    def compose(self) -> ComposeResult:
        table = AlertTable()
        yield table
        yield RulePane(table)

    def focus_first(self) -> None:
        self.query_one(AlertTable).go_to_news()
        super().focus_first()

    def paint(self, board: Board) -> None:
        table = self.query_one(AlertTable)
        self.set_class(not table.painted_app.alert_book.alerts, "-quiet")
        super().paint(board)

    def on_table_pane_moved(self) -> None:
        self.query_one(RulePane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        self.post_message(self.Traced(message.row.finding))

    def on_alert_table_acknowledged(self, message: AlertTable.Acknowledged) -> None:
        table = self.query_one(AlertTable)
        for key in message.keys:
            table.painted_app.alert_book.acknowledge(key)
        table.paint()
