"""`ask_quit`: the question before the console ends, and a second one before the pipeline does."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from ..state.impact import quit_costs
from . import actions
from .screen_app import ScreenApp
from .widgets.dialogs import Choice, ChoiceDialog


class QuitDialog(ChoiceDialog):
    """Leave, stop the pipeline too, or stay. `ctrl+c` again leaves, as in a shell."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c,ctrl+q", "answer('leave')", "Leave", id="leave-at-once"),
    ]


def ask_quit(app: ScreenApp) -> None:
    """Asks what becomes of the pipeline, and ends the console with "leave" or "stop"."""

    def answered(answer: str | None) -> None:
        if answer == "stop":
            _ask_stop(app)
        elif answer:
            app.exit(answer)

    app.push_screen(
        QuitDialog(
            "Quit the console",
            "The pipeline keeps running without the console. " + quit_costs(app.board),
            (
                Choice("l", "leave", "Leave it running (ctrl+c)"),
                Choice("s", "stop", "Stop the pipeline as well"),
                Choice("c", "", "Cancel"),
            ),
        ),
        answered,
    )


def _ask_stop(app: ScreenApp) -> None:
    """The second question: one stray key or click in the first must not stop everything."""
    board = app.store.board(app.clock())
    costs = quit_costs(board) or "No request is live."
    question = actions.Confirmation(
        "Stop the pipeline and quit?",
        f"{costs} Every process ends; the next start loads the model again.",
        "Stop it and quit",
    )
    actions.ask(app, question, lambda: app.exit("stop"))
