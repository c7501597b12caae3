"""Opens the log line, or the screen, that an alert or an event refers to."""

from __future__ import annotations

import contextlib

from ...pipeline.errors import OperatorError
from ...pipeline.messages import Event
from ..state.alerts import AlertFinding
from ..state.log_reference import LogReference, find_line
from .panels.logs import LogPane
from .screen_app import ScreenApp


async def show_finding(app: ScreenApp, finding: AlertFinding) -> None:
    """Shows the finding's log line; if it has none, its screen, filtered."""
    if finding.log_reference is not None and await _show_line(app, finding.log_reference):
        return
    await app.action_show(finding.screen)
    if finding.filter:
        with contextlib.suppress(OperatorError):
            app.filter_panel(finding.filter)


async def show_event(app: ScreenApp, event: Event) -> None:
    """Shows the event's log line; if it has none, the log at that time."""
    log_reference = LogReference(event.source, event.at, event.text.partition("\n")[0])
    if not await _show_line(app, log_reference):
        log = await _log(app)
        app.call_after_refresh(log.show_time, event.at)


async def _show_line(app: ScreenApp, log_reference: LogReference) -> bool:
    """Shows the line; returns False if there is none."""
    entry = find_line(log_reference, app.board.logs)
    if entry is not None:
        log = await _log(app)
        app.call_after_refresh(log.show_line, entry)
    return entry is not None


async def _log(app: ScreenApp) -> LogPane:
    await app.action_show("Logs")
    return app.active_panel.query_one(LogPane)
