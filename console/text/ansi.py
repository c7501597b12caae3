"""`styled_spans`: the ANSI colours in a process's output, as spans in styles of the theme.

All other escape sequences are removed, so a log line cannot send commands to the terminal.
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
"""The style of each SGR code: foreground colours and faint. A theme without colours may still
distinguish them."""


def styled_spans(text: str, style: str) -> tuple[TextSpan, ...]:
    """`text` as spans; text without a colour of its own gets `style`."""
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
    """The style after the SGR `codes`, when it was `now`; reset gives `style`."""
    for code in codes.split(";"):
        number = int(code or 0)
        if number in (38, 48):  # 256 or true colour: the next numbers are its arguments
            return now
        if number in (0, 22, 39):
            now = style
        elif number == 1:
            now = "title" if now == style else now
        else:
            now = _STYLES.get(number, now)
    return now
