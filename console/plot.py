"""Shapes made of characters: braille areas, bars of eighths, stacked bars. Pure functions.

A braille cell holds 2 by 4 dots, so `width` cells show 2 * `width` values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_LEFT_DOWN = (0x00, 0x01, 0x03, 0x07, 0x47)
_RIGHT_DOWN = (0x00, 0x08, 0x18, 0x38, 0xB8)
_LEFT_DOT = (0x40, 0x04, 0x02, 0x01)
_RIGHT_DOT = (0x80, 0x20, 0x10, 0x08)
_EIGHTHS = " ▏▎▍▌▋▊▉█"
FULL, REST = "█", "░"


def top_of(highest: float) -> float:
    """The axis for a plot whose highest value is this: 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= highest * 0.999)


def area(
    values: Sequence[float],
    height: int,
    top: float,
    *,
    dots: Sequence[float] = (),
    down: bool = False,
) -> list[str]:
    """A filled area in braille, `height` rows of len(values) / 2 cells, the top row first.

    `dots` (as many as `values`) are drawn above it as single dots; `down` hangs the area from
    the top edge. NaN leaves its place empty; any other value that stands on the ground shows at
    least one dot, so that zero is told from nothing. Asserts that the number of values is even.
    """
    assert len(values) % 2 == 0 and len(dots) in (0, len(values))
    left, right = (_LEFT_DOWN, _RIGHT_DOWN) if down else (_LEFT, _RIGHT)
    most = height * 4
    scale = most / top if top > 0 else 0.0
    least = 0 if down else 1
    levels = [_level(value, scale, least, most) for value in values]
    marks = [_level(dot, scale, least, most) for dot in dots] if dots else levels
    rows = []
    for row in range(height):
        below = (row if down else height - 1 - row) * 4
        cells = []
        for index in range(0, len(levels), 2):
            first, second = levels[index] - below, levels[index + 1] - below
            bits = left[max(0, min(4, first))] | right[max(0, min(4, second))]
            mark, next_mark = marks[index] - below - 1, marks[index + 1] - below - 1
            if 0 <= mark < 4 and not down:
                bits |= _LEFT_DOT[mark]
            if 0 <= next_mark < 4 and not down:
                bits |= _RIGHT_DOT[next_mark]
            cells.append(chr(0x2800 + bits) if bits else " ")
        rows.append("".join(cells))
    return rows


def _level(value: float, scale: float, least: int, most: int) -> int:
    return max(least, min(most, round(value * scale))) if value == value else 0


def bar(fraction: float, width: int) -> tuple[str, str]:
    """The filled part and the rest, together `width` cells, in steps of an eighth."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    full, part = divmod(eighths, 8)
    filled = FULL * full + (_EIGHTHS[part] if part else "")
    return filled, " " * (width - len(filled))


def gauge(fraction: float, width: int) -> tuple[str, str]:
    """A thin bar in steps of half a cell, and the track that is left: `━━━━╸───`.

    Rows of full blocks run into each other; these stay apart.
    """
    halves = round(max(0.0, min(1.0, fraction)) * width * 2)
    filled = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return filled, "─" * (width - len(filled))


def shares(parts: Sequence[float], total: float, width: int) -> list[int]:
    """Cells for each part of `total` on a line of `width`, rounded so that nothing is lost.

    A part that is there at all gets a cell where there is one to give.
    """
    if total <= 0 or width <= 0:
        return [0] * len(parts)
    cells = []
    taken, done = 0.0, 0
    for part in parts:
        taken += part
        end = min(width, round(taken / total * width))
        if part > 0 and end == done and done < width:
            end = done + 1
        cells.append(max(0, end - done))
        done = max(done, end)
    return cells
