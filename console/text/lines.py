"""`Line`: text with names of styles, one line of a pane; and what fits, crops and wraps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from rich.cells import cell_len

from . import units

Span: TypeAlias = tuple[str, str]
"""A text and the name of its ink."""


class Line(NamedTuple):
    """One line of a pane: spans from left to right on a ground."""

    spans: tuple[Span, ...] = ()
    ground: str = ""


def line(*spans: Span, ground: str = "") -> Line:
    """`line(("3", "number"), (" requests", "dim"))`."""
    return Line(spans, ground)


def length(spans: Sequence[Span]) -> int:
    """Cells that spans take."""
    return sum(len(text) if text.isascii() else cell_len(text) for text, _ in spans)


def spread(left: Sequence[Span], right: Sequence[Span], width: int, ground: str = "") -> Line:
    """Two groups of spans at the two ends of a line; the left one gives way."""
    room = width - length(right)
    return Line((*crop(left, room, pad=True), *right), ground)


def crop(spans: Sequence[Span], width: int, pad: bool = False) -> tuple[Span, ...]:
    """Spans in at most `width` cells, in exactly `width` if `pad`. All that a pane shows passes
    here, and nothing of it commands the terminal."""
    kept: list[Span] = []
    left = width
    for text, ink in spans:
        text = units.visible(text)
        size = len(text) if text.isascii() else cell_len(text)
        if size > left:
            kept.append((units.fit(text, left), ink))
            return tuple(kept)
        kept.append((text, ink))
        left -= size
    if pad and left > 0:
        kept.append((" " * left, "text"))
    return tuple(kept)


def broken(whole: Sequence[Span], parts: Sequence[str]) -> list[Line]:
    """`parts`, which are the text of `whole` wrapped, as lines, each letter in its ink."""
    if len(whole) == 1:
        return [Line(((part, whole[0][1]),)) for part in parts]
    letters = ((letter, ink) for text, ink in whole for letter in text)
    lines = []
    for part in parts:
        found: list[Span] = []
        for wanted in part:  # wrapping leaves blanks out, and adds nothing
            ink = next((ink for letter, ink in letters if letter == wanted), "text")
            if found and found[-1][1] == ink:
                found[-1] = (found[-1][0] + wanted, ink)
            else:
                found.append((wanted, ink))
        lines.append(Line(tuple(found)))
    return lines


def thumb_of(total: int, shown: int, first: int) -> range | None:
    """Which of `shown` lines a scroll bar's thumb takes, where the first is the `first` of `total`;
    none where all are shown."""
    if total <= shown or shown < 1:
        return None
    size = max(1, shown * shown // total)
    top = (shown - size) * first // (total - shown)
    return range(top, top + size)
