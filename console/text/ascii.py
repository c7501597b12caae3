"""`ascii`: the console's drawing in ASCII, for terminals and fonts that lack its characters.

Borders, bars, marks and plots become ASCII characters, each one cell wide. Letters of any language
are kept: a person or a model wrote them.
"""

from __future__ import annotations

import codecs
import io
from typing import TextIO

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from ...pipeline.runtime.ascii_drawing import ASCII_DRAWING
from . import units

_HANDLER = "loraconsole-cells"
_BRAILLE = 0x2800
_UPPER = 0b00_011_011
"""The dots of a cell's upper half."""


def _dots(bits: int) -> str:
    """The ASCII character of a braille cell, by the number of its dots and their half."""
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
    """A table for `str.translate`, filled on demand."""

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


_TABLE = _Table({ord(character): plain for character, plain in ASCII_DRAWING.items()})


def plain(text: str) -> str:
    """`text` with its drawing in ASCII, in the same number of cells."""
    return text if text.isascii() else text.translate(_TABLE)


def write_cells(stream: TextIO) -> None:
    """Makes a stream replace characters that its encoding lacks by as many cells, so that columns
    stay aligned."""
    codecs.register_error(_HANDLER, _in_cells)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_HANDLER)


def _in_cells(error: UnicodeError) -> tuple[str, int]:
    """A handler for `codecs.register_error`: ASCII for drawing, `?` for each other cell."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    drawn = ((plain(c), cell_len(c)) for c in error.object[error.start : error.end])
    return "".join(text if text.isascii() else "?" * cells for text, cells in drawn), error.end


class PlainFilter(LineFilter):
    """Applies `plain` to Textual's own widgets."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [segment._replace(text=plain(segment.text)) for segment in segments]


class TameFilter(LineFilter):
    """Drops control characters from Textual's own widgets. They take no cells, so columns stay
    aligned; panes show them as escapes (`units.visible`)."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if all(segment.text.isprintable() for segment in segments):
            return segments
        return [
            segment if segment.control else segment._replace(text=units.tame(segment.text))
            for segment in segments
        ]


TAME = TameFilter()
PLAIN = PlainFilter()
