"""Shapes made of characters: braille areas, bars of eighths, stacked bars. Pure functions.

A braille cell holds 2 by 4 dots, so `width` cells show 2 * `width` values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_LEFT_DOWN = (0x00, 0x01, 0x03, 0x07, 0x47)
_RIGHT_DOWN = (0x00, 0x08, 0x18, 0x38, 0xB8)
_LEFT_DOT = (0x40, 0x04, 0x02, 0x01)
_RIGHT_DOT = (0x80, 0x20, 0x10, 0x08)
_CELLS = [" ", *(chr(0x2800 + bits) for bits in range(1, 256))]
_EIGHTHS = " ▏▎▍▌▋▊▉█"
FULL, REST = "█", "░"
NICE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Axes end at one of these times a power of ten."""


def top_of(highest: float) -> float:
    """The axis limit for a plot with this highest value: the next of `NICE` times a power of ten,
    which is at most a third above it. 1 for 0 or less."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in NICE if step * power >= highest * 0.999)


def area(
    values: Sequence[float],
    height: int,
    top: float,
    *,
    dots: Sequence[float] = (),
    down: bool = False,
) -> tuple[str, ...]:
    """A filled area in braille, `height` rows of len(values) / 2 cells, the top row first.

    `dots` (as many as `values`) are drawn above it as single dots; with `down` the area hangs from
    the top edge. Otherwise every value, also NaN (unknown), shows at least one dot: the axis.
    Asserts that the number of values is even.
    """
    assert len(values) % 2 == 0 and len(dots) in (0, len(values))
    most = height * 4
    scale = most / top if top > 0 else 0.0
    least = 0 if down else 1
    return _draw(
        tuple(_level(value, scale, least, most) for value in values),
        tuple(_level(dot, scale, least, most) for dot in dots),
        height,
        down,
    )


def _level(value: float, scale: float, least: int, most: int) -> int:
    return max(least, min(most, round(value * scale))) if value == value else least


@lru_cache(maxsize=16)  # a plot changes at most twice a second, and not while nothing runs
def _draw(
    levels: tuple[int, ...], dots: tuple[int, ...], height: int, down: bool
) -> tuple[str, ...]:
    """`area` with all values in dots. Each row uses a slice of a table that maps a column's height
    above the axis, in dots, to the bits of its cell in that row."""
    most = height * 4
    below, above = [0] * most, most + 1
    fill_left, fill_right = (_LEFT_DOWN, _RIGHT_DOWN) if down else (_LEFT, _RIGHT)
    left = [*below, *fill_left, *[fill_left[4]] * above]
    right = [*below, *fill_right, *[fill_right[4]] * above]
    dot_left = [*below, 0, *_LEFT_DOT, *[0] * above]
    dot_right = [*below, 0, *_RIGHT_DOT, *[0] * above]
    columns = list(zip(levels[::2], levels[1::2], strict=True))
    marks = list(zip(dots[::2], dots[1::2], strict=True))
    rows = []
    for row in range(height):
        ground = (row if down else height - 1 - row) * 4
        low = most - ground
        first, second = left[low : low + most + 1], right[low : low + most + 1]
        bits = [first[a] | second[b] for a, b in columns]
        if marks:
            first, second = dot_left[low : low + most + 1], dot_right[low : low + most + 1]
            bits = [known | first[a] | second[b] for known, (a, b) in zip(bits, marks, strict=True)]
        rows.append("".join(map(_CELLS.__getitem__, bits)))
    return tuple(rows)


def bar(fraction: float, width: int) -> tuple[str, str]:
    """The filled part and the rest, together `width` cells, in steps of an eighth."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    full, part = divmod(eighths, 8)
    filled = FULL * full + (_EIGHTHS[part] if part else "")
    return filled, " " * (width - len(filled))


def gauge(fraction: float, width: int) -> tuple[str, str]:
    """A thin bar in steps of half a cell, and the rest of its track: `━━━━╸───`.

    Full blocks in adjacent rows run together; these lines stay separate.
    """
    halves = round(max(0.0, min(1.0, fraction)) * width * 2)
    filled = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return filled, "─" * (width - len(filled))


def shares(parts: Sequence[float], total: float, width: int) -> list[int]:
    """Cells for each part of `total` on a line of `width` cells, rounded so that the sum is right.

    A part above 0 gets at least one cell if one is left.
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
