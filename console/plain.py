"""`plain`: the console's drawing in ASCII, for terminals and fonts that have no more.

Borders, bars, marks and plots become characters of ASCII, each one cell; letters of any language
stay what they are, since they are what somebody wrote.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_PAIRS = {
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╪", "+"),
    **dict.fromkeys("─╌┄", "-"),
    **dict.fromkeys("━╸", "="),
    **dict.fromkeys("│┃┆▏▎▍▌", "|"),
    **dict.fromkeys("█▇▉▊▋▆▅", "#"),
    **{"▓": "%", "▒": "=", "░": ".", "▚": "@", "▄": "_", "▃": "_", "▂": "_", "▁": "_", "≡": "="},
    **{"●": "*", "○": "o", "◌": "~", "◐": "c", "◆": "*", "◇": "o", "✓": "v", "✗": "x"},
    **{"▸": ">", "▶": ">", "◀": "<", "▲": "!", "△": "!", "▴": "^", "▾": "v", "▼": "v"},
    **{"…": "~", "⋯": "~", "·": ".", "—": "-", "\N{EN DASH}": "-", "⚑": "P", "⊕": "M", "Δ": "d"},
    **{
        "≥": ">",
        "≤": "<",
        "\N{MULTIPLICATION SIGN}": "x",
        "µ": "u",
        "→": ">",
        "←": "<",
        "↑": "^",
        "↓": "v",
    },
    # Textual's: the palette's sign, bullets, the edges of tall borders.
    **{"🔎": "> ", "•": "*", "▪": "-", "⭑": "*", "‣": ">", "\N{HYPHEN BULLET}": "-"},
    **{"▔": "-", "▐": "#", "√": "V"},
    **{"↵": "<", "⇥": ">", "␣": "_", "\N{NO-BREAK SPACE}": " "},
}
_BRAILLE = 0x2800
_UPPER = 0b00_011_011
"""The dots of a cell's upper half."""


def _dots(bits: int) -> str:
    """A cell of a plot by how many dots it has, and where those are."""
    number = bits.bit_count()
    if number == 0:
        return " "
    if number >= 6:
        return "#"
    upper = (bits & _UPPER).bit_count()
    if number <= 2:
        return "'" if upper == number else "."
    return '"' if upper == number else ":"


class _Table(dict[int, str]):
    """For `str.translate`: made as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code < 0x80 or character.isalnum():
            found = character
        elif _BRAILLE <= code < _BRAILLE + 256:
            found = _dots(code - _BRAILLE)
        else:
            found = "?" * cell_len(character)
        self[code] = found
        return found


_TABLE = _Table({ord(character): plain for character, plain in _PAIRS.items()})


def plain(text: str) -> str:
    """`text` in as many cells, its drawing in ASCII."""
    return text if text.isascii() else text.translate(_TABLE)


class PlainFilter(LineFilter):
    """The same for Textual's own widgets: their borders, bars, bullets and marks."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [segment._replace(text=plain(segment.text)) for segment in segments]


PLAIN = PlainFilter()
