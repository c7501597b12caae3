"""`SaveDialog`: asks for a path and saves a text there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input

from ....pipeline.private_files import users_umask
from ....pipeline.runtime.wording import counted
from .form_field import FormField
from .path_input import PathInput


def ask_export(
    node: Widget, noun: str, number: int, path: str, make_text: Callable[[Path], str]
) -> None:
    """Asks where to save `number` rows, lines … (`noun`), proposing `path`; a notice says where
    they are."""
    what = counted(number, noun)

    def tell(saved: str | None) -> None:
        if saved:
            node.notify(saved, title=f"{what} exported", markup=False)

    node.app.push_screen(SaveDialog(f"Export {what}", path, make_text), tell)


class SaveDialog(ModalScreen[str]):
    """Saves and returns the absolute path; "" if cancelled. A file that exists is replaced only by
    a second enter; what prevents saving is said below the path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", key_display="esc", id="save-leave"),
    ]

    def __init__(self, title: str, path: str, make_text: Callable[[Path], str]) -> None:
        """`path` is proposed. `make_text` gets the path, whose ending may name the format; it may
        raise `ValueError` with the reason why it cannot."""
        super().__init__()
        self._title, self._make_text = title, make_text
        self._input = PathInput(path, placeholder="a file on the machine of this console")
        self._replaces: Path | None = None
        """The file that the next enter replaces."""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog form") as box:
            box.border_title = self._title
            box.border_subtitle = "enter saves · tab completes · esc cancels"
            yield FormField("path", self._input)

    def on_mount(self) -> None:
        self._input.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._replaces = None

    def on_input_submitted(self, event: Input.Submitted) -> None:
        text = event.value.strip()
        path = Path(text).expanduser().absolute()
        if not text or text.endswith("/") or path.is_dir():
            self._complain("file required" if not text else "this is a directory: add a name")
        elif path.exists() and path != self._replaces:
            self._replaces = path
            self._complain("this file exists: enter again replaces it")
        else:
            self._save(path)

    def _save(self, path: Path) -> None:
        try:
            text = self._make_text(path)
            with users_umask():
                path.write_text(text, encoding="utf-8")
        except OSError as error:
            self._complain(f"cannot be written: {error.strerror or error}")
        except ValueError as error:
            self._complain(str(error))
        else:
            self.dismiss(str(path))

    def _complain(self, text: str) -> None:
        self.query_one(FormField).complain(text)

    def action_leave(self) -> None:
        self.dismiss("")
