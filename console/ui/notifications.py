"""`Notifier`: notifies the operator by toasts, the bell and the terminal's title.

Callers pass what is new; it remembers only the problems and the toasts that it has shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.screen import ModalScreen

from ...pipeline.messages import AdapterReply, Event, Order
from ..client.pending_orders import doing
from ..settings.toml_document import Problem
from ..state.alert_book import Alert
from ..state.board import Board
from ..terminal.driver import driver_of
from ..terminal.splash import KEEP_TITLE, RESTORE_TITLE
from ..text import units
from .widgets.pane import PaintedApp

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

TOASTS_A_FRAME = 2
MOST_TOASTS = 3
"""Most toasts at once; beyond that only errors are shown. The list of events has all events."""
SHORT_SECONDS, USUAL_SECONDS = 4.0, 8.0
GOOD_SECONDS, BAD_SECONDS = 5.0, 30.0
"""How long the toast of a good or a bad reply stays."""
SEVERITIES: dict[str, SeverityLevel] = {
    "warning": "warning",
    "error": "error",
    "critical": "error",
}


class Notifier:
    """The notifications of one console."""

    def __init__(self, app: PaintedApp) -> None:
        self._app = app
        self._shown: set[Problem] = set()
        self._until: list[float] = []
        """Monotonic times at which the visible toasts expire."""
        self.title = ""
        """The terminal title last written; "" if the terminal has its original one."""

    def tell_problems(self, problems: Sequence[Problem]) -> None:
        """Shows problems in the settings and theme files, each problem once."""
        fresh = [problem for problem in problems if problem not in self._shown]
        if fresh:
            more = f"\n… and {len(fresh) - 1} more: , shows them" if len(fresh) > 1 else ""
            title = "Not used, as it is written"
            self._toast(f"{fresh[0]}{more}", title, "warning", USUAL_SECONDS)
        self._shown = set(problems)

    def tell_alerts(self, fresh: Sequence[Alert], is_seen: bool) -> None:
        """Rings for new alerts, and shows toasts unless `is_seen`: their list is on the screen."""
        shown = [] if is_seen else [alert for alert in fresh if not alert.rule.is_event]
        for alert in shown[:TOASTS_A_FRAME]:
            self._toast(
                units.visible(alert.finding.text),
                f"{alert.rule.name} · 9 shows alerts",
                "error" if alert.finding.level == "bad" else "warning",
                USUAL_SECONDS,
            )
        if fresh:
            self._ring(fresh)

    def _ring(self, fresh: Sequence[Alert]) -> None:
        """Rings the bell or sends OSC 9, depending on the settings."""
        bell, driver = self._app.chosen.settings.bell, driver_of(self._app)
        if bell == "bell":
            self._app.bell()
        elif bell == "osc9" and driver is not None:
            text = "; ".join(units.visible(alert.finding.text) for alert in fresh[:TOASTS_A_FRAME])
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

    def tell_events(self, events: Sequence[Event]) -> None:
        """Shows events as toasts; of many in a frame, the newest and worst. The list of events has
        all. Events of level info are hidden while a dialog is open, and the router's always: the
        console that gave the order shows the reply."""
        is_reading = isinstance(self._app.screen, ModalScreen)
        fresh = [
            event
            for event in events
            if event.level in SEVERITIES
            or (event.level == "info" and event.source != "router" and not is_reading)
        ]
        fresh.sort(key=lambda event: event.level in SEVERITIES)
        for event in fresh[-TOASTS_A_FRAME:]:
            severity = SEVERITIES.get(event.level, "information")
            seconds = SHORT_SECONDS if severity == "information" else USUAL_SECONDS
            self._toast(event.text, event.source, severity, seconds)

    def tell_reply(self, order: Order | None, reply: AdapterReply) -> None:
        """Shows the reply to an order if no dialog has shown it; a failure stays longer."""
        is_right = reply.verification is None or reply.verification.is_right
        is_good = reply.status == 200 and is_right
        subject = "adapters" if reply.scheduling is None else "scheduler"
        self._toast(
            units.visible(reply.text),
            subject if is_good or order is None else f"{doing(order)} {reply.name}",
            "information" if is_good else "error",
            GOOD_SECONDS if is_good else BAD_SECONDS,
        )

    def _toast(self, text: str, title: str, severity: SeverityLevel, seconds: float) -> None:
        now = time.monotonic()
        self._until = [at for at in self._until if at > now]
        if len(self._until) >= MOST_TOASTS and severity != "error":
            return
        self._until.append(now + seconds)
        text = "\n".join(units.visible(row) for row in text.split("\n"))
        self._app.notify(text, title=title, severity=severity, timeout=seconds, markup=False)
