"""`FormField`: a labelled input of a form, with its completions and what is wrong with it below."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input, Label, Static

from .path_input import PathInput


class FormField(Vertical):
    """A label before an input. `complain` marks the input and says below it what is wrong, until
    the text is changed."""

    def __init__(self, label: str, given: Input, hint: str = "") -> None:
        """`hint` is shown after the input, e.g. its unit."""
        super().__init__()
        self._label, self.given, self._hint = label, given, hint
        self._complaint = Static("", classes="complaint", markup=False)
        self._complaint.display = False

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Label(self._label)
            yield self.given
            if self._hint:
                yield Static(self._hint, classes="hint", markup=False)
        if isinstance(self.given, PathInput):
            yield self.given.candidates
        yield self._complaint

    @property
    def complaint(self) -> str:
        """What is said to be wrong; "" for nothing."""
        return str(self._complaint.content) if self._complaint.display else ""

    def complain(self, text: str) -> None:
        """Marks the input and focuses it; "" takes the mark back."""
        self._complaint.update(text)
        self._complaint.display = bool(text)
        self.set_class(bool(text), "-wrong")
        if text:
            self.given.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._complaint.display:
            self.complain("")
