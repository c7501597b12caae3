"""Colours that a process gave its own output, as spans in inks of the theme. Nothing else of an
escape sequence is kept: what a line says must never reach the terminal as a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import units
from .lines import Span

_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_INKS = {
    **dict.fromkeys((31, 91), "bad"),
    **dict.fromkeys((33, 93), "warn"),
    **dict.fromkeys((32, 92), "good"),
    **dict.fromkeys((34, 35, 36, 94, 95, 96), "info"),
    **dict.fromkeys((2, 30, 90), "dim"),
}
"""Of a foreground's number. A theme without colours has other ways to tell these inks apart."""


def spans(text: str, ink: str) -> tuple[Span, ...]:
    """`ink` is that of what has no colour of its own."""
    if "\x1b[" not in text:
        return ((units.clean(text), ink),)
    return tuple(_spans(text, ink))


def _spans(text: str, ink: str) -> Iterator[Span]:
    now = ink
    for index, part in enumerate(_SGR.split(text)):  # text, codes, text, codes, … text
        if index % 2:
            now = _after(part, now, ink)
        elif part := units.clean(part):
            yield (part, now)


def _after(codes: str, now: str, ink: str) -> str:
    """The ink after a sequence of codes."""
    for code in codes.split(";"):
        number = int(code or 0)
        if number in (38, 48):  # one of 256, or of 16 million: what follows are no codes
            return now
        if number in (0, 22, 39):
            now = ink
        elif number == 1:
            now = "title" if now == ink else now
        else:
            now = _INKS.get(number, now)
    return now
