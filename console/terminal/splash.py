"""`splash`: takes the terminal with a title on it, and gives it back. Standard library only.

The title is painted before anything heavy is imported: Textual needs some 300 ms for that, and a
person sees the title after 15. It enters the alternate screen that Textual will enter again. Within
`shown` and `taken` an exception, that of a signal among them, leaves the terminal as it was.
"""

from __future__ import annotations

import os
import shutil
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

BROWSER = "TEXTUAL_DRIVER"
"""Textual's environment variable; set where a browser is the terminal, and standard output a pipe
to it."""
KEEP_TITLE, RESTORE_TITLE = "\x1b[22;2t", "\x1b[23;2t"
_ENTER = "\x1b[?1049h\x1b[H\x1b[2J\x1b[?25l"
_LEAVE = (
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # the mouse, in every coding of it
    "\x1b[?2004l\x1b[?2048l\x1b[?1004l\x1b[?7h"  # paste, resize and focus reports; line wrap
    "\x1b[<u\x1b[?1049l\x1b[?25h"  # keys as they were, the other screen, the cursor
)

_taken: list[Any] | None = None
"""termios attributes from before; empty where there are none. None while nothing is taken."""


def show_title(title: str) -> None:
    """Shows one title line. Does nothing where stderr, Textual's output, is no terminal."""
    _take()
    if _is_terminal():
        width = shutil.get_terminal_size().columns
        _write(f"{_ENTER}\x1b[1m {title[: width - 2]}\x1b[0m")


@contextmanager
def title_shown(title: str) -> Iterator[None]:
    """Shows the title line, and is `taken` around what follows it."""
    with taken():
        show_title(title)
        yield


@contextmanager
def taken() -> Iterator[None]:
    """Gives the terminal back after an exception; what runs within does so itself otherwise."""
    global _taken
    _take()
    try:
        yield
    except BaseException:
        give_back()
        raise
    finally:
        _taken = None


def give_back() -> None:
    """Gives the terminal back, where that has not been done, so that an error message is read."""
    global _taken
    attributes, _taken = _taken, None
    if attributes is None or not _is_terminal():
        return
    with suppress(OSError, termios.error):  # it may be gone
        _write(_LEAVE)
        if attributes:
            termios.tcsetattr(0, termios.TCSANOW, attributes)


def restore_title() -> None:
    """Restores the title from before ours, if the terminal kept it. Its window may be gone."""
    if _is_terminal():
        with suppress(OSError):
            _write(RESTORE_TITLE)


def _take() -> None:
    global _taken
    if _taken is None:
        try:
            _taken = termios.tcgetattr(0)
        except termios.error:
            _taken = []


def _is_terminal() -> bool:
    return sys.__stdin__ is not None and sys.__stdin__.isatty() and os.isatty(2)


def _write(text: str) -> None:
    os.write(2, text.encode())
