"""Pictures of the console's screen: as plain text, as text with its styles, and as SVG.

A text picture shows a changed word in two lines of a diff. One with styles has a letter for every
cell below the text, and last what each letter means. SVG pictures are few: they are for the eye.
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
"""Stands for the style that most cells of a picture have; left out at the end of a row."""


class TextPicture(SingleFileSnapshotExtension):
    """Keeps a picture as a file of text."""

    _write_mode = WriteMode.TEXT
    _file_extension = "txt"


class SvgPicture(TextPicture):
    """Keeps a picture as a file that a browser shows."""

    _file_extension = "svg"


def screen_rows(app: App[Any]) -> list[Strip]:
    """The rows of the screen as it is now, with what lies over it."""
    return list(app.screen._compositor.render_strips())


def svg_picture(app: App[Any]) -> str:
    """The screen as an SVG image, without the number that rich puts into every name in it."""
    return re.sub(r"\bterminal-\d+-", "terminal-", app.export_screenshot(simplify=True))


def text_picture(screens: dict[str, Sequence[Strip]], styled: bool = False) -> str:
    """The screens, each below its title; with `styled` also the style of every cell."""
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
    """A letter for each style, in the order in which the styles appear."""
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
    """What is seen of a style: its colours and attributes, without links and actions."""
    return str(style.clear_meta_and_links()) if style else "none"
