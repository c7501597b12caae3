"""`stack_rows`: areas stacked on each other, each in a style of its own. Pure functions.

A braille cell has one colour: each takes that of the layer in the middle of its filled part. The
upper edge of the whole has the resolution of dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from . import plot
from .lines import TextSpan


def stack_rows(
    layers: Sequence[tuple[str, Sequence[float]]], height: int, top: float
) -> list[tuple[TextSpan, ...]]:
    """`height` rows of half as many cells as a layer has values, the top row first. `layers` are
    (style, values) from the bottom up; NaN counts as 0. Asserts that all are of one even length."""
    cleared = [
        (style, [value if value == value else 0.0 for value in values]) for style, values in layers
    ]
    totals = [sum(column) for column in zip(*(values for _, values in cleared), strict=True)]
    texts = plot.area(totals, height, top)
    dots = height * 4 / top if top > 0 else 0.0
    columns = []
    for at in range(0, len(totals), 2):
        bounds, reached = [], 0.0
        for style, values in cleared:
            reached += (values[at] + values[at + 1]) / 2 * dots
            bounds.append((reached, style))
        columns.append(bounds)
    rows = []
    for number, text in enumerate(texts):
        ground = (height - 1 - number) * 4
        styles = [_style_at(bounds, ground) for bounds in columns]
        rows.append(_spans(text, styles))
    return rows


def _style_at(bounds: Sequence[tuple[float, str]], ground: int) -> str:
    """The layer in the middle of what is filled of the four dots above `ground`."""
    middle = (ground + max(ground, min(ground + 4.0, bounds[-1][0]))) / 2
    return next((style for reached, style in bounds if reached > middle), bounds[-1][1])


def _spans(text: str, styles: Sequence[str]) -> tuple[TextSpan, ...]:
    spans = []
    start = 0
    for style, same in groupby(styles):
        end = start + len(list(same))
        spans.append((text[start:end], style))
        start = end
    return tuple(spans)
