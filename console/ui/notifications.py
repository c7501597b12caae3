"""`Notifier`: notifies the operator by notices in the footer, the bell and the terminal's title.

Callers pass what is new. The footer shows one notice at a time, in one line; the lists of events
and of alerts have all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.notifications import Notification
from textual.screen import ModalScreen

from ...pipeline.messages import AdapterReply, Event, Order
from ..client.pending_orders import doing
from ..settings.toml_document import Problem
from ..state.alert_book import Alert
from ..state.board import Board
from ..terminal.driver import driver_of
from ..terminal.splash import KEEP_TITLE, RESTORE_TITLE
from ..text import units
from ..text.reasons import reason_first
from .widgets.pane import PaintedApp

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

MOST_RUNG = 2
"""Most alerts that one desktop notification names."""
SHORT_SECONDS, USUAL_SECONDS = 4.0, 8.0
GOOD_SECONDS, BAD_SECONDS = 5.0, 30.0
"""How long the notice of a good or a bad reply stays."""
SETTLE_SECONDS = 3.0
"""Alerts that are found within this time after the first word of a pipeline are older than the
console; only the badge shows them."""
SEVERITIES: dict[str, SeverityLevel] = {
    "warning": "warning",
    "error": "error",
    "critical": "error",
}
LEVELS: tuple[SeverityLevel, ...] = ("information", "warning", "error")


class Notifier:
    """The notifications of one console."""

    def __init__(self, app: PaintedApp) -> None:
        self._app = app
        self._shown: set[Problem] = set()
        self._heard_at: float | None = None
        """When alerts were first judged on the word of a pipeline."""
        self._alert_notices: dict[tuple[str, str], Notification] = {}
        """The notices of alerts that may still be visible, by the finding's key."""
        self._lasting: set[str] = set()
        """Identities of notices about the pipeline: they outlast a change of the screen."""
        self.title = ""
        """The terminal title last written; "" if the terminal has its original one."""

    def tell_problems(self, problems: Sequence[Problem]) -> None:
        """Shows problems in the settings and theme files, each problem once."""
        fresh = [problem for problem in problems if problem not in self._shown]
        if fresh:
            more = f" (and {len(fresh) - 1} more: , shows them)" if len(fresh) > 1 else ""
            self._notify(f"{fresh[0]}{more}", "Ignored setting", "warning", USUAL_SECONDS)
        self._shown = set(problems)

    def tell_alerts(self, fresh: Sequence[Alert], board: Board, is_seen: bool) -> None:
        """Rings for new alerts and shows one notice, which goes when its alert does. Alerts that
        are older than the console are only counted, and none is shown if `is_seen`: their list is
        on the screen."""
        self._withdraw_cleared()
        if board.table is None:
            return
        self._heard_at = board.now if self._heard_at is None else self._heard_at
        if board.now - self._heard_at < SETTLE_SECONDS:
            return
        shown = [] if is_seen else [alert for alert in fresh if not alert.rule.is_event]
        if shown:
            worst = min(shown, key=lambda alert: alert.finding.level != "bad")
            more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
            self._alert_notices[worst.finding.key] = self._notify(
                f"{worst.finding.text}{more}",
                "",
                "error" if worst.finding.level == "bad" else "warning",
                USUAL_SECONDS,
            )
        if fresh:
            self._ring(fresh)

    def _withdraw_cleared(self) -> None:
        keys = {alert.finding.key for alert in self._app.alert_book.firing}
        for key in [key for key in self._alert_notices if key not in keys]:
            self._app.withdraw_notice(self._alert_notices.pop(key))

    def leave_screen(self, name: str) -> None:
        """Withdraws the notices that belong to the screen that is left, and on Alerts those of
        alerts, which are listed there."""
        if name == "Alerts":
            self._lasting -= {note.identity for note in self._alert_notices.values()}
            self._alert_notices.clear()
        for note in self._app.notices:
            if note.identity not in self._lasting:
                self._app.withdraw_notice(note)
        self._lasting &= {note.identity for note in self._app.notices}

    def _ring(self, fresh: Sequence[Alert]) -> None:
        """Rings the bell or sends OSC 9, depending on the settings."""
        bell, driver = self._app.chosen.settings.bell, driver_of(self._app)
        if bell == "bell":
            self._app.bell()
        elif bell == "osc9" and driver is not None:
            text = "; ".join(units.visible(alert.finding.text) for alert in fresh[:MOST_RUNG])
            driver.write(f"\x1b]9;loraconsole: {text}\x07")

    def entitle(self, board: Board) -> None:
        """Sets the terminal's title: `(2) loraconsole: READY` if two alerts fire."""
        app, driver = self._app, driver_of(self._app)
        if driver is None or app.is_headless or not app.chosen.settings.title:
            return
        firing = len(app.alert_book.firing)
        title = f"{f'({firing}) ' if firing else ''}loraconsole: {board.condition.word}"
        if title != self.title:
            keep = "" if self.title else KEEP_TITLE
            driver.write(f"{keep}\x1b]2;{title}\x07")
            self.title = title

    def give_title_back(self) -> None:
        """Restores the terminal's original title; `entitle` sets the console's again."""
        driver = driver_of(self._app)
        if self.title and driver is not None:
            driver.write(RESTORE_TITLE)
            self.title = ""

    def tell_events(self, events: Sequence[Event], is_seen: bool) -> None:
        """Shows the worst of new events, of equal ones the newest. None is shown if `is_seen`: the
        alerts of the same causes are on the screen. Events of level info are not shown while a
        dialog is open, and the router's never: the console that gave the order shows the reply."""
        is_reading = isinstance(self._app.screen, ModalScreen)
        fresh = [
            event
            for event in events
            if event.level in SEVERITIES
            or (event.level == "info" and event.source != "router" and not is_reading)
        ]
        if not fresh or is_seen:
            return
        worst = max(reversed(fresh), key=lambda event: LEVELS.index(_severity(event)))
        severity = _severity(worst)
        if any(LEVELS.index(note.severity) > LEVELS.index(severity) for note in self._app.notices):
            return
        seconds = SHORT_SECONDS if severity == "information" else USUAL_SECONDS
        # The text names the process or adapter that it is about.
        has_subject = worst.source == "supervisor" or worst.text.startswith("adapter ")
        self._notify(worst.text, "" if has_subject else worst.source, severity, seconds)

    def tell_reply(self, order: Order | None, reply: AdapterReply) -> None:
        """Shows the reply to an order if no dialog has shown it; a failure stays longer."""
        is_right = reply.verification is None or reply.verification.is_right
        is_good = reply.status == 200 and is_right
        subject = "adapters" if reply.scheduling is None else "scheduler"
        self._notify(
            units.visible(reply.text),
            subject if is_good or order is None else f"{doing(order)} {reply.name}",
            "information" if is_good else "error",
            GOOD_SECONDS if is_good else BAD_SECONDS,
        )

    def _notify(
        self, text: str, title: str, severity: SeverityLevel, seconds: float
    ) -> Notification:
        text = reason_first(units.visible(" ".join(text.split())))
        notice = Notification(text, title, severity, seconds)
        self._lasting.add(notice.identity)
        self._app.show_notice(notice)
        return notice


def _severity(event: Event) -> SeverityLevel:
    return SEVERITIES.get(event.level, "information")
