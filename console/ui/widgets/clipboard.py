"""`copy_text` puts a text into the terminal's clipboard."""

from __future__ import annotations

from textual.widget import Widget

from ...text import units


def copy_text(node: Widget, text: str, what: str) -> None:
    """Copies `text` by OSC 52, which reaches the clipboard through ssh and tmux; a notice says
    `what` was copied."""
    node.app.copy_to_clipboard(text)
    node.notify(f"Copied: {units.visible(what)}", timeout=3, markup=False)
