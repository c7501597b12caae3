"""`splash`: shows a title on the terminal before Textual runs, and restores the terminal after an
error. Uses only the standard library.

The title is painted before anything heavy is imported: importing Textual takes some 300 ms, and the
title is visible after 15. It enters the alternate screen, which Textual enters again. Within
`title_shown` and `taken`, an exception (also one of a signal) leaves the terminal as it was.
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
"""Textual's environment variable; set if a browser is the terminal and standard output a pipe to
it."""
KEEP_TITLE, RESTORE_TITLE = "\x1b[22;2t", "\x1b[23;2t"
_ENTER = "\x1b[?1049h\x1b[H\x1b[2J\x1b[?25l"
_LEAVE = (
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # the mouse, in every encoding
    "\x1b[?2004l\x1b[?2048l\x1b[?1004l\x1b[?7h"  # paste, resize and focus reports; line wrap
    "\x1b[<u\x1b[?1049l\x1b[?25h"  # keys as they were, the other screen, the cursor
)

_taken: list[Any] | None = None
"""The original termios attributes; empty if there are none; None: the terminal is not taken."""


def show_title(title: str) -> None:
    """Shows one title line, if stdin and stderr (Textual's output) are terminals."""
    _take()
    if _is_terminal():
        width = shutil.get_terminal_size().columns
        _write(f"{_ENTER}\x1b[1m {title[: width - 2]}\x1b[0m")


@contextmanager
def title_shown(title: str) -> Iterator[None]:
    """`taken`, with the title line shown first."""
    with taken():
        show_title(title)
        yield


@contextmanager
def taken() -> Iterator[None]:
    """Restores the terminal after an exception; otherwise the code within does so itself."""
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
    """Restores the terminal, unless that has been done, so that an error message can be read."""
    global _taken
    attributes, _taken = _taken, None
    if attributes is None or not _is_terminal():
        return
    with suppress(OSError, termios.error):  # the terminal may be closed
        _write(_LEAVE)
        if attributes:
            termios.tcsetattr(0, termios.TCSANOW, attributes)


def restore_title() -> None:
    """Restores the window title from before, if the terminal saved it. The window may be closed."""
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
