"""Columns of tables: a text or a figure of a row, its style, and what it is sorted by."""

from typing import NamedTuple

from loraconsole.console.state.board import Board
from loraconsole.console.text import units
from loraconsole.console.ui.widgets.column import number_column, text_column


class Row(NamedTuple):
    name: str
    size: int | None


BOARD = Board(now=0.0, run="/run/here")
ONE, NONE, ZERO = Row("one", 2048), Row("none", None), Row("zero", 0)


def test_a_number_is_shown_and_sorted_by_itself() -> None:
    column = number_column("size", 8, lambda row: row.size, units.size, rank=2)
    assert column.cell(ONE, BOARD, 8) == (("2.0 KiB", "number"),)
    assert column.order is not None and [column.order(row) for row in (ONE, NONE)] == [2048, 0.0]
    assert column.right and column.descends and column.rank == 2


def test_what_is_not_known_is_a_dash_and_zero_is_what_the_column_says() -> None:
    plain = number_column("size", 8, lambda row: row.size)
    assert plain.cell(NONE, BOARD, 8) == ((units.NOTHING, "number"),)
    assert plain.cell(ZERO, BOARD, 8) == (("0", "number"),)
    dashed = number_column("size", 8, lambda row: row.size, zero=units.NOTHING)
    assert dashed.cell(ZERO, BOARD, 8) == ((units.NOTHING, "number"),)


def test_a_style_may_follow_from_the_row_and_a_text_may_be_unsorted() -> None:
    column = text_column(
        "name",
        8,
        lambda row: row.name,
        lambda row: "warn" if row.size is None else "text",
        sorts=False,
        grows=True,
    )
    assert column.cell(NONE, BOARD, 8) == (("none", "warn"),)
    assert column.cell(ONE, BOARD, 8) == (("one", "text"),)
    assert column.order is None and column.grows
