"""Lines that are gone are gone: Textual's own wait for the garbage collector, or stay for ever.

A `Strip` remembers what it was divided into, for four ways to cut it. One that stays whole is its
only part, so it holds itself, and with it 25 objects; a busy screen makes 500 such a second. And
the ground of a panel, which never changes, comes to hold 30 KiB a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.segment import Segment
from textual.strip import Strip


def let_go() -> None:
    """From now on, for all strips."""
    Strip.divide = divide  # type: ignore[method-assign, assignment]


def divide(strip: Strip, cuts: Iterable[int]) -> Sequence[Strip]:
    """`Strip.divide` without its memory: the parts that end at these cells."""
    ends = [cut for cut in cuts if cut <= strip.cell_length]
    if ends == [strip.cell_length]:
        return [strip]
    parts = zip(Segment.divide(strip, ends), [0, *ends], ends, strict=False)
    return [Strip(segments, end - start) for segments, start, end in parts]
