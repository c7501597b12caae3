"""Areas stacked on each other: the whole keeps its height, each layer its colour."""

from __future__ import annotations

from loraconsole.console.text import plot
from loraconsole.console.text.lines import length
from loraconsole.console.text.stack import stack_rows


def styles(rows: list[tuple[tuple[str, str], ...]], cell: int) -> list[str]:
    """The styles of one column of cells, from the top."""
    found = []
    for spans in rows:
        flat = [style for text, style in spans for _ in text]
        found.append(flat[cell])
    return found


def test_each_layer_has_its_part_of_the_height() -> None:
    layers = [("low", [50.0] * 4), ("middle", [25.0] * 4), ("high", [25.0] * 4)]
    rows = stack_rows(layers, 8, 100.0)
    assert styles(rows, 0) == [*["high"] * 2, *["middle"] * 2, *["low"] * 4]
    assert all(length(spans) == 2 for spans in rows)


def test_the_text_is_that_of_the_whole() -> None:
    layers = [("a", [10.0, 20.0, 30.0, float("nan")]), ("b", [5.0, float("nan"), 1.0, 2.0])]
    rows = stack_rows(layers, 5, 50.0)
    texts = ["".join(text for text, _ in spans) for spans in rows]
    assert texts == list(plot.area([15.0, 20.0, 31.0, 2.0], 5, 50.0))


def test_a_part_filled_cell_has_the_colour_of_what_is_in_it() -> None:
    rows = stack_rows([("low", [3.0, 3.0]), ("high", [3.0, 3.0])], 2, 8.0)
    assert styles(rows, 0) == ["high", "low"]  # dots 4 and 5 of six; dots 0 to 3
    assert styles(stack_rows([("low", [1.0, 1.0]), ("high", [0.0, 0.0])], 2, 8.0), 0)[1] == "low"


def test_nothing_is_the_axis_in_the_last_style() -> None:
    rows = stack_rows([("low", [0.0] * 6), ("rest", [0.0] * 6)], 3, 1.0)
    assert styles(rows, 1) == ["rest"] * 3
    assert rows[-1][0][0] == "⣀⣀⣀"
