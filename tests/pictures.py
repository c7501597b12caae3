"""Pictures of the console's screen: as plain text, as text with its styles, and as SVG.

In a text picture a changed word is two lines of a diff. One with styles also has a letter for each
cell, and a legend of the letters. SVG pictures are few: they are for people to look at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from string import ascii_letters, digits
from typing import Any

from rich.style import Style
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.app import App
from textual.strip import Strip

LETTERS = ascii_letters + digits
PLAIN = "."
"""The letter of the style of most cells of a picture; left out at the end of a row."""


class TextPicture(SingleFileSnapshotExtension):
    """Keeps a picture as a text file."""

    _write_mode = WriteMode.TEXT
    _file_extension = "txt"


class SvgPicture(TextPicture):
    """Keeps a picture as an SVG file."""

    _file_extension = "svg"


def screen_rows(app: App[Any]) -> list[Strip]:
    """The current rows of the screen, with its overlays."""
    return list(app.screen._compositor.render_strips())


def svg_picture(app: App[Any]) -> str:
    """The screen as an SVG image, without the random number in rich's names."""
    return re.sub(r"\bterminal-\d+-", "terminal-", app.export_screenshot(simplify=True))


def text_picture(screens: dict[str, Sequence[Strip]], styled: bool = False) -> str:
    """The screens, each below its title; if `styled`, also the style of each cell."""
    rows = [strip for screen in screens.values() for strip in screen]
    letters = _letters(rows) if styled else {}
    lines: list[str] = []
    for title, screen in screens.items():
        lines += [f"== {title}", *(strip.text.rstrip() for strip in screen)]
        if styled:
            lines += [f"-- styles of {title}", *(_style_row(strip, letters) for strip in screen)]
    if styled:
        lines += ["-- letters", *(f"{letter} {look}" for look, letter in letters.items())]
    return "\n".join(lines) + "\n"


def _letters(rows: Sequence[Strip]) -> dict[str, str]:
    """A letter for each style, in order of appearance."""
    cells: Counter[str] = Counter()
    for strip in rows:
        for segment in strip:
            cells[_look(segment.style)] += segment.cell_length
    ((most, _),) = cells.most_common(1)
    others = [look for look in cells if look != most]
    return {most: PLAIN, **dict(zip(others, LETTERS, strict=False))}


def _style_row(strip: Strip, letters: dict[str, str]) -> str:
    row = "".join(letters[_look(segment.style)] * segment.cell_length for segment in strip)
    return row.rstrip(PLAIN)


def _look(style: Style | None) -> str:
    """The visible part of a style: colours and attributes, without links and actions."""
    return str(style.clear_meta_and_links()) if style else "none"
