"""`RecallDialog`: earlier prompts and answers, searched while typing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from ...client.transcripts import Turn
from ...text import units


class RecallDialog(ModalScreen[str]):
    """Returns the chosen prompt; "" if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer", "Cancel", key_display="esc", id="recall-leave"),
        Binding("down,ctrl+r", "move(1)", "Next", show=False, id="recall-next"),
        Binding("up", "move(-1)", "Previous", show=False, id="recall-previous"),
    ]

    def __init__(self, search: Callable[[str], Sequence[Turn]]) -> None:
        super().__init__()
        self._search = search
        self._prompts: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = "Recall"
            box.border_subtitle = "enter takes the prompt · esc cancels"
            words = Input(placeholder="words in a prompt or an answer", compact=True)
            words.cursor_blink = False
            yield words
            options = OptionList(compact=True, id="recalled")
            options.can_focus = False
            yield options

    def on_mount(self) -> None:
        self.call_after_refresh(self._show, "")  # once the width is known

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        at = self.query_one(OptionList).highlighted
        self.dismiss("" if at is None else self._prompts[at])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._prompts[event.option_index])

    def _show(self, words: str) -> None:
        """Lists each prompt found once, with its newest answer."""
        found: dict[str, Turn] = {}
        for turn in self._search(words):
            found.setdefault(turn.prompt, turn)
        self._prompts = list(found)
        options = self.query_one(OptionList)
        options.clear_options()
        width = max(10, self.query_one(Input).size.width - 4)
        for turn in found.values():
            answer = f"{turn.model}: {turn.answer or turn.error}"
            head, tail = (
                units.fit(units.clean(" ".join(text.split())), width)
                for text in (turn.prompt, answer)
            )
            options.add_option(Option(Content.assemble(head, "\n", (f"  {tail}", "dim"))))
        if found:
            options.highlighted = 0

    def action_move(self, steps: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            at = (options.highlighted or 0) + steps
            options.highlighted = max(0, min(at, options.option_count - 1))

    def action_answer(self) -> None:
        self.dismiss("")
