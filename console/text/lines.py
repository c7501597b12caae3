"""`TextLine`: one line of a pane, text with names of styles; functions that crop and wrap it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from rich.cells import cell_len

from . import units

TextSpan: TypeAlias = tuple[str, str]
"""A text and the name of its style."""


class TextLine(NamedTuple):
    """One line of a pane: spans from left to right; `ground` is the style of the background."""

    spans: tuple[TextSpan, ...] = ()
    ground: str = ""


def line(*spans: TextSpan, ground: str = "") -> TextLine:
    """`line(("3", "number"), (" requests", "dim"))`."""
    return TextLine(spans, ground)


def length(spans: Sequence[TextSpan]) -> int:
    """Width of the spans in cells."""
    return sum(len(text) if text.isascii() else cell_len(text) for text, _ in spans)


def spread(
    left: Sequence[TextSpan], right: Sequence[TextSpan], width: int, ground: str = ""
) -> TextLine:
    """A line with `left` and `right` at its two ends; `left` is cropped if there is no room."""
    room = width - length(right)
    return TextLine((*crop(left, room, pad=True), *right), ground)


def crop(spans: Sequence[TextSpan], width: int, pad: bool = False) -> tuple[TextSpan, ...]:
    """Spans cropped to at most `width` cells, padded to exactly `width` if `pad`. All text of panes
    passes through here, so control characters become escapes."""
    kept: list[TextSpan] = []
    left = width
    for text, style in spans:
        text = units.visible(text)
        size = len(text) if text.isascii() else cell_len(text)
        if size > left:
            kept.append((units.fit(text, left), style))
            return tuple(kept)
        kept.append((text, style))
        left -= size
    if pad and left > 0:
        kept.append((" " * left, "text"))
    return tuple(kept)


def broken(whole: Sequence[TextSpan], parts: Sequence[str]) -> list[TextLine]:
    """Re-applies the styles of `whole` to its text wrapped into `parts`: one line per part."""
    if len(whole) == 1:
        return [TextLine(((part, whole[0][1]),)) for part in parts]
    letters = ((letter, style) for text, style in whole for letter in text)
    lines = []
    for part in parts:
        found: list[TextSpan] = []
        for wanted in part:  # wrapping drops blanks and adds nothing
            style = next((style for letter, style in letters if letter == wanted), "text")
            if found and found[-1][1] == style:
                found[-1] = (found[-1][0] + wanted, style)
            else:
                found.append((wanted, style))
        lines.append(TextLine(tuple(found)))
    return lines


def wrapped(spans: Iterable[TextSpan], width: int) -> list[TextLine]:
    """Spans wrapped into lines of at most `width` cells."""
    found: list[TextLine] = []
    for row in rows_of(spans):
        found += broken(row, units.wrap("".join(text for text, _ in row), width))
    return found


def rows_of(spans: Iterable[TextSpan]) -> list[list[TextSpan]]:
    """Spans split at their line breaks, one list per line."""
    rows: list[list[TextSpan]] = [[]]
    for text, style in spans:
        head, *tails = text.split("\n")
        rows[-1].append((head, style))
        rows += [[(tail, style)] for tail in tails]
    return rows


def thumb_of(total: int, shown: int, first: int) -> range | None:
    """The rows of a scroll bar's thumb when `shown` of `total` lines are visible from line `first`
    on; None if all are visible."""
    if total <= shown or shown < 1:
        return None
    size = max(1, shown * shown // total)
    top = (shown - size) * first // (total - shown)
    return range(top, top + size)
