"""Sends orders to the pipeline, after a confirmation that states the costs if something is lost.
Panels, the `:` line and the palette make the orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    Abort,
    AdapterOrder,
    AdapterReply,
    Drain,
    MergeAdapter,
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
from ...pipeline.runtime.wording import counted
from ..client.pending_orders import doing
from ..client.telemetry import PipelineOrder
from ..state.impact import pipeline_costs, restart_costs, stop_costs
from ..state.signals import ENDING
from ..supervisor.lock import is_running
from .screen_app import ScreenApp
from .widgets.dialogs import Choice, ChoiceDialog

START_CHECK_SECONDS = 1.0

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

    from ..client.pending_orders import ReplyListener


class Confirmation(NamedTuple):
    """The text of a confirmation dialog."""

    title: str
    costs: str
    yes: str
    about: str = ""
    """What the order is about: an adapter's or a process's name."""


def give(
    app: ScreenApp,
    order: PipelineOrder,
    listener: ReplyListener | None = None,
    is_agreed: bool = False,
) -> None:
    """Sends an order, after a confirmation if something is lost by it; not if `is_agreed`."""
    give_all(app, (order,), listener, is_agreed)


def give_all(
    app: ScreenApp,
    orders: Sequence[PipelineOrder],
    listener: ReplyListener | None = None,
    is_agreed: bool = False,
    on_sent: Callable[[], None] = lambda: None,
) -> None:
    """Sends orders of one kind, after one confirmation if something is lost by any of them; not if
    `is_agreed`. `on_sent` is called once they are sent. `listener` receives the reply to a single
    adapter order; the replies to several are counted in one notice."""
    if not orders or _is_stopped(app):
        return

    def carry_out() -> None:
        heard = listener if len(orders) == 1 else ReplyCount(app, orders)
        if all(_send(app, order, heard) for order in orders):
            on_sent()

    # A read-only console refuses the order when it is sent, so no confirmation is needed.
    question = None if app.is_read_only or is_agreed else question_of(app, orders)
    if question is None:
        carry_out()
    else:
        ask(app, question, carry_out)


class ReplyCount:
    """Counts the replies to several orders, and shows one notice when all have arrived."""

    def __init__(self, app: ScreenApp, orders: Sequence[PipelineOrder]) -> None:
        self._app, self._orders = app, orders
        self._replies: list[AdapterReply] = []

    def __call__(self, reply: AdapterReply) -> bool:
        self._replies.append(reply)
        number, order = len(self._orders), self._orders[0]
        if len(self._replies) < number or not isinstance(order, AdapterOrder):
            return True
        failed = [each for each in self._replies if not _is_good(each)]
        text = f"{number - len(failed)} of {counted(number, 'adapter')} done"
        if failed:
            text += f"; {failed[0].name}: {failed[0].text}"
        severity: SeverityLevel = "error" if failed else "information"
        self._app.notify(text, title=doing(order), severity=severity, markup=False)
        return True


def _is_good(reply: AdapterReply) -> bool:
    return reply.status == 200 and (reply.verification is None or reply.verification.is_right)


def ask(app: ScreenApp, question: Confirmation, carry_out: Callable[[], None]) -> None:
    """Asks `question` and calls `carry_out` on yes; enter alone means no."""

    def answered(answer: str | None) -> None:
        if answer == "yes":
            carry_out()

    choices = (Choice("y", "yes", question.yes), Choice("n", "", "Cancel"))
    app.push_screen(ChoiceDialog(question.title, question.costs, choices, begin=1), answered)


MOST_TOLD = 4
"""Most orders whose costs a question about several orders tells."""


def question_of(app: ScreenApp, orders: Sequence[PipelineOrder]) -> Confirmation | None:
    """The one confirmation for all `orders`; None if nothing is lost by any."""
    asked = [confirmation_of(app, order) for order in orders]
    questions = [question for question in asked if question is not None]
    if len(orders) == 1 or not questions:
        return questions[0] if questions else None
    verb, noun = _kind_of(orders)
    number = counted(len(orders), noun)
    costs = [f"{question.about}: {question.costs}" for question in questions[:MOST_TOLD]]
    if isinstance(orders[0], Abort):
        costs = [f"{number} end now; their clients keep the text so far."]
    elif len(questions) > MOST_TOLD:
        costs.append(f"… and {len(questions) - MOST_TOLD} more")
    return Confirmation(f"{verb} {number}?", "\n".join(costs), f"{verb} all {len(orders)}")


def _kind_of(orders: Sequence[PipelineOrder]) -> tuple[str, str]:
    """The verb and the noun of orders; "Send" if they are of several kinds."""
    order = orders[0]
    if len({type(each) for each in orders}) == 1:
        match order:
            case Abort():
                return "Abort", "request"
            case UnloadAdapter():
                return "Unload", "adapter"
            case RestartProcess(hard=hard):
                return "Kill and restart" if hard else "Restart", "process"
            case StopProcess():
                return "Stop", "process"
            case SignalProcess(signal=signal):
                return f"Send {signal} to", "process"
    return "Send", "order"


def confirmation_of(app: ScreenApp, order: PipelineOrder) -> Confirmation | None:
    """The confirmation for an order; None if nothing is lost. A paused view has current costs."""
    board = app.store.board(app.clock())
    match order:
        case Abort(request_id=request_id):
            costs = f"{request_id} ends now; its client keeps the text so far."
            return Confirmation("Abort this request?", costs, "Abort it")
        case Drain():
            router = app.board.router
            live = router.running + router.waiting if router else 0
            costs = (
                f"New requests are refused (503) until the drain ends; {live} live ones may finish."
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
        case MergeAdapter(name=name) if name:
            from .panels.adapter_details import merge_costs

            rows = [row for row in app.board.adapters if row.name == name and not row.is_base]
            now = next((row.name for row in app.board.adapters if row.view.merged), "")
            return _about("Merge", name, merge_costs(rows[0], now)) if rows else None
        case UnloadAdapter(name=name):
            from .panels.adapter_details import unload_costs

            rows = [row for row in app.board.adapters if row.name == name and not row.is_base]
            return _about("Unload", name, unload_costs(rows[0])) if rows else None
    return None


def _about(verb: str, name: str, costs: str) -> Confirmation:
    return Confirmation(f"{verb} {name}?", costs, f"{verb} {name}", name)


def _send(app: ScreenApp, order: PipelineOrder, listener: ReplyListener | None) -> bool:
    """Sends an order; a notice shows a failure, and for drain and spans the new state. Returns
    whether the order was sent."""
    if _is_stopped(app):
        return False
    if isinstance(order, AdapterOrder | SetScheduler):
        app.orders.give(order, *((listener,) if listener else ()))
        return True
    try:
        app.telemetry.send_order(order)
    except InboxFull as error:
        app.notify(str(error), title="Command rejected", severity="error")
        return False
    match order:
        case Drain():
            app.notify("Draining: new requests are refused; d ends it.", title="router")
        case Resume():
            app.notify("Drain ended: requests are admitted again.", title="router")
        case StartSpans():
            app.notify("Recording spans; the header shows REC.")
        case StopSpans():
            app.notify("Span recording stopped.")
    return True


def _is_stopped(app: ScreenApp) -> bool:
    """Whether the pipeline was stopped; if so, shows a notice."""
    if app.board.is_stopped:
        how = "S starts it" if app.can_start else "start it from a shell: loraconsole up"
        app.notify(how, title="The pipeline is stopped", severity="warning")
    return app.board.is_stopped


async def start_pipeline(app: ScreenApp) -> None:
    """Starts the stopped pipeline and waits for its supervisor's first word."""
    if app.starter is None or not app.can_start:
        return
    app.store.note_start(True)
    app.wake()
    try:
        pid = await asyncio.to_thread(app.starter)
    except OperatorError as error:
        app.store.note_start(False)
        app.notify(error.hint, title=error.what, severity="error")
        return
    finally:
        app.wake()
    if pid:  # a supervisor of this machine
        app.run_worker(_watch_start(app), name="start", exit_on_error=True)


async def _watch_start(app: ScreenApp) -> None:
    """Says so if the supervisor ends before it was heard."""
    while app.store.is_start_given:
        await asyncio.sleep(START_CHECK_SECONDS)
        if app.store.is_start_given and not is_running(app.config.run_path):
            app.store.note_start(False)
            app.wake()
            log = f"see {app.config.run}/logs/supervisor.log"
            app.notify(log, title="The supervisor exited at once", severity="error", timeout=30)
