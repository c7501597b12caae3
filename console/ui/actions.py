"""Sends orders to the pipeline, after a confirmation that states the costs if something is lost.
Panels, the `:` line and the palette make the orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    Abort,
    AdapterOrder,
    Drain,
    RestartProcess,
    Resume,
    SetScheduler,
    SignalProcess,
    StartSpans,
    StopPipeline,
    StopProcess,
    StopSpans,
    UnloadAdapter,
)
from ...pipeline.runtime.sockets import InboxFull
from ..client.telemetry import PipelineOrder
from ..state.impact import pipeline_costs, restart_costs, stop_costs
from ..state.signals import ENDING
from ..supervisor.lock import is_running
from .screen_app import ScreenApp
from .widgets.dialogs import Choice, ChoiceDialog

START_CHECK_SECONDS = 1.0

if TYPE_CHECKING:
    from ..client.pending_orders import ReplyListener


class Confirmation(NamedTuple):
    """The text of a confirmation dialog."""

    title: str
    costs: str
    yes: str


def give(
    app: ScreenApp,
    order: PipelineOrder,
    listener: ReplyListener | None = None,
    is_agreed: bool = False,
) -> None:
    """Sends an order, after a confirmation if something is lost by it; not if `is_agreed`."""
    if _is_stopped(app):
        return
    carry_out = partial(_send, app, order, listener)
    # A read-only console refuses the order when it is sent, so no confirmation is needed.
    question = None if app.is_read_only or is_agreed else confirmation_of(app, order)
    if question is None:
        carry_out()
    else:
        ask(app, question, carry_out)


def ask(app: ScreenApp, question: Confirmation, carry_out: Callable[[], None]) -> None:
    """Asks `question` and calls `carry_out` on yes; enter alone means no."""

    def answered(answer: str | None) -> None:
        if answer == "yes":
            carry_out()

    choices = (Choice("y", "yes", question.yes), Choice("n", "", "No, leave it as it is"))
    app.push_screen(ChoiceDialog(question.title, question.costs, choices, begin=1), answered)


def confirmation_of(app: ScreenApp, order: PipelineOrder) -> Confirmation | None:
    """The confirmation for an order; None if nothing is lost. A paused view has current costs."""
    board = app.store.board(app.clock())
    match order:
        case Abort(request_id=request_id):
            costs = f"{request_id} ends now; its client gets what was generated so far."
            return Confirmation("Abort this request?", costs, "Abort it")
        case Drain():
            router = app.board.router
            live = router.running + router.waiting if router else 0
            costs = (
                f"New requests are refused (503) until draining is ended; {live} live may finish."
            )
            return Confirmation("Drain the pipeline?", costs, "Drain it")
        case StopPipeline(drain_s=drain_s):
            costs = pipeline_costs(board, now=not drain_s)
            return Confirmation("Stop the pipeline?", costs, "Stop it")
        case RestartProcess(name=name, hard=hard):
            verb = "Kill and restart" if hard else "Restart"
            return _about(verb, name, restart_costs(board, name, hard))
        case StopProcess(name=name):
            return _about("Stop", name, stop_costs(board, name))
        case SignalProcess(name=name, signal=signal) if signal in ENDING:
            return _about(f"Send {signal} to", name, restart_costs(board, name, hard=True))
        case UnloadAdapter(name=name):
            from .panels.adapter_details import unload_costs

            rows = [row for row in app.board.adapters if row.name == name and not row.is_base]
            return _about("Unload", name, unload_costs(rows[0])) if rows else None
    return None


def _about(verb: str, name: str, costs: str) -> Confirmation:
    return Confirmation(f"{verb} {name}?", costs, f"{verb} {name}")


def _send(app: ScreenApp, order: PipelineOrder, listener: ReplyListener | None) -> None:
    """Sends an order; a toast shows a failure, and for drain and spans the new state."""
    if _is_stopped(app):
        return
    if isinstance(order, AdapterOrder | SetScheduler):
        app.orders.give(order, *((listener,) if listener else ()))
        return
    try:
        app.telemetry.send_order(order)
    except InboxFull as error:
        app.notify(str(error), title="The order was not taken", severity="error")
        return
    match order:
        case Drain():
            app.notify("Nothing new is admitted; d admits again.", title="router")
        case Resume():
            app.notify("New requests are admitted again.", title="router")
        case StartSpans():
            app.notify("Spans are recorded; the header says REC meanwhile.")
        case StopSpans():
            app.notify("Spans are no longer recorded.")


def _is_stopped(app: ScreenApp) -> bool:
    """Whether the pipeline was stopped; if so, shows a toast."""
    if app.board.is_stopped:
        how = "S starts it" if app.can_start else "nothing can be asked of it"
        app.notify(how, title="The pipeline is stopped", severity="warning")
    return app.board.is_stopped


async def start_pipeline(app: ScreenApp) -> None:
    """Starts the stopped pipeline and waits for its supervisor's first word."""
    if app.starter is None or not app.can_start:
        return
    app.store.note_start(True)
    app.wake()
    try:
        await asyncio.to_thread(app.starter)
    except OperatorError as error:
        app.store.note_start(False)
        app.notify(error.hint, title=error.what, severity="error")
        return
    finally:
        app.wake()
    app.run_worker(_watch_start(app), name="start", exit_on_error=True)


async def _watch_start(app: ScreenApp) -> None:
    """Says so if the supervisor ends before it was heard."""
    while app.store.is_start_given:
        await asyncio.sleep(START_CHECK_SECONDS)
        if app.store.is_start_given and not is_running(app.config.run_path):
            app.store.note_start(False)
            app.wake()
            log = f"see {app.config.run}/logs/supervisor.log"
            app.notify(log, title="The supervisor ended at once", severity="error", timeout=30)
