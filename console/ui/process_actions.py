"""What the console does to one process: it says what that costs, asks, and gives the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...pipeline.messages import (
    ProcessOrder,
    RestartProcess,
    SignalProcess,
    StartProcess,
    StopProcess,
)
from ..state.impact import restart_costs, stop_costs
from ..state.signals import ENDING, SIGNALS
from . import actions
from .widgets.dialogs import Choice, ChoiceDialog

if TYPE_CHECKING:
    from .app import ConsoleApp


def ask_restart(app: ConsoleApp, name: str, hard: bool = False) -> None:
    verb = "Kill and restart" if hard else "Restart"
    costs = restart_costs(app.store.board(app.clock()), name, hard)
    _ask(app, verb, costs, RestartProcess(name, hard))


def ask_stop(app: ConsoleApp, name: str) -> None:
    _ask(app, "Stop", stop_costs(app.store.board(app.clock()), name), StopProcess(name))


def start(app: ConsoleApp, name: str) -> None:
    """Nothing is lost by it: it asks nobody."""
    give(app, StartProcess(name))


def ask_signal(app: ConsoleApp, name: str) -> None:
    """Which one? The list says what each does."""
    row = app.board.process(name)
    body = f"{name}, pid {row.pid if row else 0}. The supervisor sends it."
    choices = [
        Choice(signal[0].lower(), signal, f"{signal:<5} {what}") for signal, what in SIGNALS.items()
    ]

    def send(signal: str | None) -> None:
        if signal:
            give(app, SignalProcess(name, signal))

    app.push_screen(ChoiceDialog(f"Signal {name}", body, choices), send)


def ask(app: ConsoleApp, order: ProcessOrder) -> None:
    """Carries out what was said by name; what ends a process asks first."""
    match order:
        case RestartProcess():
            ask_restart(app, order.name, order.hard)
        case StopProcess():
            ask_stop(app, order.name)
        case SignalProcess(name=name, signal=signal) if signal in ENDING:
            costs = restart_costs(app.store.board(app.clock()), name, hard=True)
            _ask(app, f"Send {signal} to", costs, order)
        case _:
            give(app, order)


def obey(app: ConsoleApp, what: str, name: str) -> None:
    """What a key asks for."""
    match what:
        case "restart" | "kill":
            ask_restart(app, name, hard=what == "kill")
        case "stop":
            ask_stop(app, name)
        case "start":
            start(app, name)
        case "signal":
            ask_signal(app, name)


def give(app: ConsoleApp, order: ProcessOrder) -> None:
    actions.give(app, lambda: app.telemetry.order_process(order))


def _ask(app: ConsoleApp, verb: str, costs: str, order: ProcessOrder) -> None:
    name = order.name
    actions.confirm(
        app,
        f"{verb} {name}?",
        costs,
        f"{verb} {name}",
        lambda: app.telemetry.order_process(order),
    )
