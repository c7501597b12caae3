"""`styled_spans`: colours that a process gave its own output, as spans in styles of the theme.

Nothing else of an escape sequence is kept: what a log line says never reaches the terminal as a
command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import units
from .lines import TextSpan

_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_STYLES = {
    **dict.fromkeys((31, 91), "bad"),
    **dict.fromkeys((33, 93), "warn"),
    **dict.fromkeys((32, 92), "good"),
    **dict.fromkeys((34, 35, 36, 94, 95, 96), "info"),
    **dict.fromkeys((2, 30, 90), "dim"),
}
"""By the number of a foreground colour. A theme without colours tells these apart otherwise."""


def styled_spans(text: str, style: str) -> tuple[TextSpan, ...]:
    """The spans of a text; `style` is that of what has no colour of its own."""
    if "\x1b[" not in text:
        return ((units.clean(text), style),)
    return tuple(_spans(text, style))


def _spans(text: str, style: str) -> Iterator[TextSpan]:
    now = style
    for index, part in enumerate(_SGR.split(text)):  # text, codes, text, codes, … text
        if index % 2:
            now = _after(part, now, style)
        elif part := units.clean(part):
            yield (part, now)


def _after(codes: str, now: str, style: str) -> str:
    """The style after a sequence of codes."""
    for code in codes.split(";"):
        number = int(code or 0)
        if number in (38, 48):  # one of 256, or of 16 million: what follows are no codes
            return now
        if number in (0, 22, 39):
            now = style
        elif number == 1:
            now = "title" if now == style else now
        else:
            now = _STYLES.get(number, now)
    return now
