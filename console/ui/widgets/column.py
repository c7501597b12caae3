"""`Column`: one column of a table; `text_column` and `number_column` make the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...state.board import Board
from ...text import units
from ...text.lines import TextSpan

R = TypeVar("R")


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
    """The value's name there, with its unit: `age_s`; "" for the title."""


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
