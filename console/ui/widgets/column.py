"""`Column`: one column of a table; `text_column` and `number_column` make the usual ones.

`record_of` gives a row's values, and `sort_letters` the letters that sort by a column after `s`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from ...state.board import Board
from ...text import units
from ...text.lines import TextSpan
from ...text.records import Record

R = TypeVar("R")
CELL = 400
"""Cells that a text without a value of its own is taken from."""
NEXT = "s"
"""After `s`, sorts by the next visible column."""
UNSORTED = "0"
"""After `s`, shows the rows in their natural order."""


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column. `cell(row, board, width)` returns spans, which are fitted to `width` cells."""

    title: str
    width: int
    """Width in cells; with `grows`, the minimum."""
    cell: Callable[[R, Board, int], Sequence[TextSpan]]
    order: Callable[[R], Any] | None = None
    """The sort key; None if sorting makes no sense."""
    right: bool = False
    grows: bool = False
    """Whether it takes left-over cells."""
    wants: Callable[[R], int] | None = None
    """Cells that a row's text needs. Left-over cells go first to growing columns with `wants`, from
    left to right, then in equal parts to all that grow."""
    least: int = 0
    """Width before left-over cells are distributed; 0 means `width`."""
    rank: int = 0
    """Columns of a higher rank are dropped first if there is no room."""
    descends: bool = False
    """Whether the first sort shows the largest on top."""
    value: Callable[[R], Any] | None = None
    """The value in a copy or an export; None takes the text of the cell."""
    field: str = ""
    """The value's name there, with its unit: `age_s`; "" for one made of the title."""

    @property
    def name(self) -> str:
        """The value's name in a copy or an export."""
        return self.field or self.title.lower().replace(" ", "_")


def text_column(
    title: str,
    width: int,
    text: Callable[[R], str],
    style: str | Callable[[R], str] = "text",
    *,
    sorts: bool = True,
    grows: bool = False,
    wants: Callable[[R], int] | None = None,
    least: int = 0,
    rank: int = 0,
    field: str = "",
) -> Column[R]:
    """A column of text in one style; with `sorts`, its sort key is the text."""

    def cell(row: R, board: Board, width: int) -> Sequence[TextSpan]:
        return ((text(row), style if isinstance(style, str) else style(row)),)

    return Column(
        title,
        width,
        cell,
        text if sorts else None,
        grows=grows,
        wants=wants,
        least=least,
        rank=rank,
        value=text,
        field=field,
    )


def number_column(
    title: str,
    width: int,
    value: Callable[[R], float | None],
    show: Callable[[Any], str] = str,
    style: str | Callable[[R], str] = "number",
    *,
    zero: str | None = None,
    rank: int = 0,
    field: str = "",
) -> Column[R]:
    """A right-aligned column of numbers, sorted largest first. None is shown as a dash, 0 as
    `zero` if that is given."""

    def cell(row: R, board: Board, width: int) -> Sequence[TextSpan]:
        figure = value(row)
        text = units.NOTHING if figure is None else show(figure)
        if figure == 0 and zero is not None:
            text = zero
        return ((text, style if isinstance(style, str) else style(row)),)

    def order(row: R) -> float:
        return value(row) or 0.0

    return Column(
        title,
        width,
        cell,
        order,
        right=True,
        rank=rank,
        descends=True,
        value=value,
        field=field,
    )


def record_of(row: R, columns: Sequence[Column[R]], board: Board) -> Record:
    """The values of a row by the columns' names for exports; columns without a title have none."""
    return {column.name: _value(row, column, board) for column in columns if column.name}


def _value(row: R, column: Column[R], board: Board) -> Any:
    """The column's value, or else the text of its cell."""
    if column.value is None:
        cell = column.cell(row, board, CELL)
        return units.clean("".join(text for text, _ in cell)).strip()
    value = column.value(row)
    return value.value if isinstance(value, Enum) else value


def sort_letters(titles: Sequence[str]) -> list[str]:
    """A letter or digit for each title, all different: the first of its own characters that is
    free; if none is, the first free letter of the alphabet. `NEXT` and `UNSORTED` are never
    given."""
    taken = {NEXT, UNSORTED}
    found = []
    for title in titles:
        own = (character for character in title.lower() if character.isascii())
        wanted = [*filter(str.isalnum, own), *string.ascii_lowercase]
        letter = next(character for character in wanted if character not in taken)
        taken.add(letter)
        found.append(letter)
    return found
