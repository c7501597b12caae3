"""`curtain`: the first paint, before anything heavy is imported. Standard library only.

Textual needs some 300 ms to import; a person sees the title after 15. `raise_curtain` enters the
alternate screen that Textual will enter again; `lower` leaves it where the app never came up.
"""

from __future__ import annotations

import os
import shutil
import sys

_ENTER = "\x1b[?1049h\x1b[H\x1b[2J\x1b[?25l"
KEEP_TITLE, _RESTORE_TITLE = "\x1b[22;2t", "\x1b[23;2t"
_LEAVE = "\x1b[?25h\x1b[?1049l"


def raise_curtain(title: str) -> None:
    """Shows one title line; does nothing where stderr, Textual's output, is no terminal."""
    if _is_terminal():
        width = shutil.get_terminal_size().columns
        _write(f"{_ENTER}\x1b[1m {title[: width - 2]}\x1b[0m")


def lower() -> None:
    """Gives the terminal back, for an error message to be read."""
    if _is_terminal():
        _write(_LEAVE)


def restore_title() -> None:
    """The terminal's own from before ours, if it kept it; its window may be gone by now."""
    if _is_terminal():
        try:  # noqa: SIM105  contextlib takes 2 ms to import
            _write(_RESTORE_TITLE)
        except OSError:
            pass


def _is_terminal() -> bool:
    return sys.__stdin__ is not None and sys.__stdin__.isatty() and os.isatty(2)


def _write(text: str) -> None:
    os.write(2, text.encode())
