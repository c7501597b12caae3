"""`CommandLine`: the input line that `:` opens, with completions and errors above it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Label

from ....pipeline.errors import OperatorError
from ....pipeline.private_files import write_private
from ....pipeline.runtime.sockets import InboxFull
from ...paths import state_directory
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, line
from ..widgets.candidates import FEW, CandidateList
from ..widgets.command_syntax import LineCommand, candidates, hint, read_line
from ..widgets.filter_input import LineInput

REMEMBERED = 200


class CandidatePane(CandidateList):
    """Completions of the word being typed; else the usage of the command, or the line's error."""

    def __init__(self) -> None:
        super().__init__(id="candidates")
        self.takes = ""
        """The usage of the command, shown while there are no completions."""
        self.error: OperatorError | None = None

    @property
    def most(self) -> int:
        """A third of the screen."""
        return max(FEW, self.screen.size.height // 3)

    def show(self) -> None:
        if self.error:
            self.fit(len(self.error_lines()))
        elif self.found:
            self.list_candidates(self.found, self.chosen)
        else:
            self.fit(int(bool(self.takes)))

    def error_lines(self) -> list[tuple[str, str]]:
        if self.error is None:
            return []
        lines = [(row, "bad") for row in self.error.what.splitlines()[:12]]
        return [*lines, *((row, "dim") for row in self.error.hint.splitlines()[:2])]

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if self.error:
            return [
                line((f"  {units.clean(row)}", style), ground="bar")
                for row, style in self.error_lines()
            ]
        if not self.found:
            return [line((f"  {self.takes}", "dim"), ground="bar")]
        return super().draw_lines(board, width, height)


class CommandInput(LineInput):
    """The input: up and down go through the history, tab through completions."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Run", id="command-do"),
        Binding("escape", "app.close_command", "Leave", id="command-leave"),
        Binding("tab", "complete(1)", "Complete", id="command-complete"),
        Binding("shift+tab", "complete(-1)", "Back", show=False, id="command-complete-back"),
        Binding("up", "recall(-1)", "Previous", show=False, id="command-before"),
        Binding("down", "recall(1)", "Next", show=False, id="command-after"),
    ]

    def action_complete(self, step: int) -> None:
        self._line.complete(step)

    def action_recall(self, step: int) -> None:
        self._line.recall(step)

    @property
    def _line(self) -> CommandLine:
        return next(node for node in self.ancestors if isinstance(node, CommandLine))


class CommandLine(Vertical):
    """The command line below the panels, until a command succeeds; then `back` gets the focus."""

    class Said(Message):
        """A line to carry out. The app does it, as a confirmation may be answered after this widget
        is removed."""

        def __init__(self, line: CommandLine, text: str) -> None:
            super().__init__()
            self.line, self.text = line, text

    def __init__(
        self, commands: dict[str, LineCommand], back: Widget | None, text: str = ""
    ) -> None:
        super().__init__(id="command-line")
        self.commands, self.back = commands, back
        self._history = read_history()
        self._at = len(self._history)
        self._stem: str | None = None
        """The text before tab was pressed."""
        self._pane = CandidatePane()
        self.input = CommandInput(
            value=text,
            placeholder="command; tab lists them",
            compact=True,
            select_on_focus=False,
        )
        self.input.cursor_blink = False

    def compose(self) -> ComposeResult:
        yield self._pane
        yield Horizontal(Label(":"), self.input)

    def on_mount(self) -> None:
        self._pane.show()

    @property
    def _board(self) -> Board:
        return self._pane.painted_app.board

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._stem is not None and event.value == self._completed():
            return  # set by a completion; the next tab continues from there
        self._stem = None
        pane = self._pane
        pane.error, pane.chosen = None, -1
        pane.found = candidates(event.value, self.commands, self._board) if event.value else []
        pane.takes = hint(event.value, self.commands)
        pane.show()

    def complete(self, step: int) -> None:
        """Inserts the next completion; if there is only one, with a blank after it. On an empty
        line it only lists the commands at first."""
        pane = self._pane
        if self._stem is None:
            self._stem = self.input.value
            pane.error, pane.chosen = None, -1
            pane.found = candidates(self._stem, self.commands, self._board)
            if not self._stem and pane.found:
                pane.show()
                return
        if not pane.found:
            self._stem = None
            return
        pane.chosen = (pane.chosen + step) % len(pane.found) if pane.chosen >= 0 else min(0, step)
        pane.chosen %= len(pane.found)
        text = self._completed()
        if len(pane.found) == 1 and not text.endswith("/"):
            self._stem = None
            text += " "
        self.input.value = text
        self.input.cursor_position = len(text)
        pane.show()

    def _completed(self) -> str:
        head, blank, _ = (self._stem or "").rpartition(" ")
        return head + blank + self._pane.found[self._pane.chosen][0] if self._pane.found else head

    def recall(self, step: int) -> None:
        """Shows an older line of the history for -1, a newer one for 1."""
        self._at = max(0, min(len(self._history), self._at + step))
        text = self._history[self._at] if self._at < len(self._history) else ""
        self.input.value = text
        self.input.cursor_position = len(text)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Said(self, event.value.strip()))

    async def carry_out(self, text: str) -> None:
        """Carries out a line, after giving the focus back, since commands act on that pane."""
        try:
            if text:
                command, words = read_line(text, self.commands)
                self.release_focus()
                done = command.run(words)
                if isinstance(done, Awaitable):
                    await done
        except OperatorError as error:
            self._fail(error)
        except InboxFull as error:
            self._fail(OperatorError(str(error), "command rejected"))
        else:
            remember(text, self._history)
            await self.run_action("app.close_command")

    def _fail(self, error: OperatorError) -> None:
        """Shows an error; the line stays open for correction."""
        self._pane.error = error
        self._pane.show()
        self.input.focus()

    def release_focus(self) -> None:
        """Gives the focus back if the input has it."""
        if self.screen.focused is self.input:  # `has_focus` is updated one message later
            back = self.back if self.back is not None and self.back.is_attached else None
            self.screen.set_focus(back, scroll_visible=False)


# --- the history --------------------------------------------------------------------------------


def history_path() -> Path:
    return state_directory() / "commands"


def read_history() -> list[str]:
    """The lines of the history, the oldest first; none if it cannot be read."""
    try:
        return history_path().read_text(encoding="utf-8").splitlines()[-REMEMBERED:]
    except (OSError, UnicodeDecodeError):
        return []


def remember(text: str, known: Sequence[str]) -> None:
    """Adds a line to the history as the newest, without its earlier copies. An unwritable home
    directory is ignored."""
    if not text or "\n" in text:
        return
    rows = [*(row for row in known if row != text), text][-REMEMBERED:]
    path = history_path()
    with contextlib.suppress(OSError):
        write_private(path, ("\n".join(rows) + "\n").encode())
