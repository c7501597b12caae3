"""`ask_copy` asks which of several texts to copy."""

from __future__ import annotations

from collections.abc import Mapping

from textual.widget import Widget

from ...text import units
from .clipboard import copy_text
from .column import sort_letters
from .dialogs import Choice, ChoiceDialog


def ask_copy(node: Widget, texts: Mapping[str, str], of: str) -> None:
    """Asks which of `texts` to copy, by name, and copies it. They are texts of `of`."""
    letters = sort_letters(list(texts))
    choices = [
        Choice(letter, name, f"{name:<8} {units.glimpse(text)}")
        for letter, (name, text) in zip(letters, texts.items(), strict=True)
    ]

    def copy(name: str | None) -> None:
        if name:
            copy_text(node, texts[name], f"{name}, {_size(texts[name])}")

    node.app.push_screen(ChoiceDialog("Copy", f"Which text of {of}?", choices), copy)


def _size(text: str) -> str:
    lines = text.count("\n") + 1
    return units.count_noun(len(text), "character") if lines == 1 else f"{lines} lines"
