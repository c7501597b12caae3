"""`PromptEditor`: the input of the prompt; `MultilineInput`: its base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class WriteAsked(Message):
    """Enter was pressed in a parameter or on the models: the focus goes to the prompt."""


class Left(Message):
    """Escape was pressed: cancels streaming answers, or else leaves the input."""


class MultilineInput(TextArea):
    """A text in which enter goes on and ctrl+j breaks the line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", show=False, id="newline"),
        Binding("escape", "leave", "Cancel or leave", id="leave"),
    ]

    def __init__(self, id: str, placeholder: str) -> None:
        super().__init__(
            id=id,
            compact=True,
            soft_wrap=True,
            highlight_cursor_line=False,
            placeholder=placeholder,
        )
        self.cursor_blink = False

    def go_on(self) -> None:
        """Called by enter."""
        raise NotImplementedError

    def on_key(self, event: events.Key) -> None:
        """Handles enter; other keys go to Textual's editor. A priority binding would run before the
        letters typed ahead of it: on a slow link a whole line arrives in one piece."""
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.go_on()

    def action_newline(self) -> None:
        self.insert("\n")

    def action_leave(self) -> None:
        self.post_message(Left())


class PromptEditor(MultilineInput):
    """The prompt's editor: enter sends, up and down recall, page keys turn to other answers."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="send"),
        Binding(
            "ctrl+r", "recall", "Recall", id="recall", tooltip="search past prompts and answers"
        ),
        Binding("pagedown", "turn(1)", "Next answers", show=False, id="prompt-page-down"),
        Binding("pageup", "turn(-1)", "Previous answers", show=False, id="prompt-page-up"),
    ]

    class Turned(Message):
        """The operator wants to see the next answers (1) or the previous ones (-1)."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    class RecallAsked(Message):
        """The operator wants to search earlier prompts."""

    class Sent(Message):
        """Enter was pressed on a text."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__("editor", "Type a prompt; enter sends, ctrl+j new line, up recalls.")
        self.border_title = "prompt"
        self._history: list[str] = []
        self._recalled = 0
        """Steps back in the history; 0 is the text being typed."""
        self._restored = ""
        """The prompt that came back because no model has answered it."""

    def go_on(self) -> None:
        self.action_send()

    def action_send(self) -> None:
        """Sends the prompt, adds it to the history and empties the editor."""
        if not (text := self.text.strip()):
            return
        if text not in self._history[-1:]:
            self._history.append(text)
        self._recalled = 0
        self.text = ""
        self.notify_style_update()  # drops a thousand cached lines, one for each letter typed
        self.post_message(self.Sent(text))

    def action_recall(self) -> None:
        self.post_message(self.RecallAsked())

    def action_turn(self, step: int) -> None:
        self.post_message(self.Turned(step))

    def remember(self, prompts: Sequence[str]) -> None:
        """Prepends prompts of earlier sessions to the history, oldest first."""
        self._history[:0] = prompts

    def replace_text(self, text: str) -> None:
        """Replaces the text with `text`; down brings the replaced text back."""
        if self.text.strip() and self.text != text:
            self._history.append(self.text)
        self._put(text)

    def restore(self, text: str) -> None:
        """Brings back a prompt that no model has answered, unless another one is being typed. It is
        selected, so that typing replaces it."""
        if not self.text.strip():
            self._restored = text
            self._put(text)
            self.select_all()

    def drop_restored(self) -> None:
        """Removes a prompt that came back, if it is unchanged."""
        if self._restored and self.text == self._restored:
            self._put("")
        self._restored = ""

    def action_cursor_up(self, select: bool = False) -> None:
        if self.cursor_location[0] == 0 and not select and self._recalled < len(self._history):
            self._recalled += 1
            self._put(self._history[-self._recalled])
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.cursor_at_last_line and not select and self._recalled:
            self._recalled -= 1
            self._put(self._history[-self._recalled] if self._recalled else "")
        else:
            super().action_cursor_down(select)

    def _put(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)
