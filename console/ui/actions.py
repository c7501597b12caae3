"""What the console does to the whole pipeline, or to one request in it: it says what that costs,
asks where something is lost, and gives the order."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ...pipeline.messages import (
    Drain,
    ProcessState,
    Resume,
    SetScheduler,
    SpansOrder,
    StartSpans,
    StopSpans,
)
from ...pipeline.runtime.sockets import InboxFull
from ..client.pending_orders import order_id
from ..state.impact import pipeline_costs
from .widgets.dialogs import Choice, ChoiceDialog
from .widgets.pane import PaintedApp

if TYPE_CHECKING:
    from .app import ConsoleApp


def confirm(app: PaintedApp, title: str, body: str, yes: str, order: Callable[[], None]) -> None:
    """Asks, and on yes carries out; enter alone means no."""
    if is_stopped(app):
        return
    if app.is_read_only:
        give(app, order)  # it is refused, and there is nothing to ask
        return

    def carry_out(answer: str | None) -> None:
        if answer == "yes":
            give(app, order)

    choices = (Choice("y", "yes", yes), Choice("n", "", "No, leave it as it is"))
    app.push_screen(ChoiceDialog(title, body, choices, begin=1), carry_out)


def give(app: PaintedApp, order: Callable[[], None]) -> bool:
    """One that does not get through says so; False then."""
    if is_stopped(app):
        return False
    try:
        order()
    except InboxFull as error:
        app.notify(str(error), title="The order was not taken", severity="error")
        return False
    return True


def is_stopped(app: PaintedApp) -> bool:
    """Of a pipeline that was stopped nothing can be asked any more, and that is said."""
    if app.board.is_stopped:
        app.notify("q leaves; loraconsole starts it again", title="The pipeline is stopped")
    return app.board.is_stopped


def ask_abort(app: ConsoleApp, request_id: str) -> None:
    confirm(
        app,
        "Abort this request?",
        f"{request_id} ends now; its client gets what was generated so far.",
        "Abort it",
        lambda: app.telemetry.abort(request_id),
    )


def drain_or_resume(app: ConsoleApp) -> None:
    router = app.board.process("router")
    if router is not None and router.state is ProcessState.DRAINING:
        resume(app)
    else:
        ask_drain(app)


def ask_drain(app: ConsoleApp) -> None:
    """Draining loses nothing that runs, but every new request is refused: it asks first."""
    live = app.board.router.running + app.board.router.waiting if app.board.router else 0
    confirm(
        app,
        "Drain the pipeline?",
        f"New requests are refused (503) until somebody ends it; {live} live may finish.",
        "Drain it",
        lambda: _tell_router(app, Drain(), "Nothing new is admitted; d admits again."),
    )


def resume(app: ConsoleApp) -> None:
    _tell_router(app, Resume(), "New requests are admitted again.")


def _tell_router(app: ConsoleApp, order: Drain | Resume, told: str) -> None:
    if give(app, lambda: app.telemetry.tell_router(order)):
        app.notify(told, title="router")


def set_policy(app: ConsoleApp, name: str) -> None:
    """Who is admitted first from now on; the answer is told."""
    app.orders.give(SetScheduler(order=order_id(), reply_to=app.orders.inbox, policy=name))


def record_spans(app: ConsoleApp, wanted: bool) -> None:
    """Started and stopped with the orders of `loraconsole profile`."""
    inbox = app.telemetry.inbox_name
    order: SpansOrder = StopSpans(order=order_id(), reply_to=inbox)
    if wanted:
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(app.clock()))
        order = StartSpans(order=order_id(), reply_to=inbox, recording=name)
    if give(app, lambda: app.telemetry.tell_ring(order)):
        app.notify("Spans are recorded." if wanted else "Spans are no longer recorded.")


def ask_stop(app: ConsoleApp, now: bool = False) -> None:
    """With `now` requests that run may not finish."""
    confirm(
        app,
        "Stop the pipeline?",
        pipeline_costs(app.store.board(app.clock()), now),
        "Stop it",
        partial(app.telemetry.stop, 0.0) if now else app.telemetry.stop,
    )
