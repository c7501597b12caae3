"""`Canvas`: a small field of cells to draw boxes and arrows on, read back as lines of spans."""

from __future__ import annotations

from rich.cells import cell_len

from .pane import Line, Span


class Canvas:
    """`put` writes text at a place; what leaves the field is cut off. Later wins."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells = [[" "] * width for _ in range(height)]
        self._inks = [["text"] * width for _ in range(height)]

    def put(self, x: int, y: int, text: str, ink: str) -> None:
        """Characters of one cell each: a canvas holds labels, not what users wrote."""
        if 0 <= y < self.height:
            cells, inks = self._cells[y], self._inks[y]
            for at, character in enumerate(text, x):
                if 0 <= at < self.width:
                    cells[at] = character if cell_len(character) == 1 else "?"
                    inks[at] = ink

    def across(self, x: int, y: int, length: int, ink: str) -> None:
        self.put(x, y, "─" * length, ink)

    def box(self, x: int, y: int, width: int, height: int, ink: str) -> None:
        self.put(x, y, "╭" + "─" * (width - 2) + "╮", ink)
        for row in range(y + 1, y + height - 1):
            self.put(x, row, "│", ink)
            self.put(x + width - 1, row, "│", ink)
        self.put(x, y + height - 1, "╰" + "─" * (width - 2) + "╯", ink)

    @property
    def lines(self) -> list[Line]:
        """Neighbours of one ink become one span."""
        return [
            Line(tuple(_spans(cells, inks)))
            for cells, inks in zip(self._cells, self._inks, strict=True)
        ]


def _spans(cells: list[str], inks: list[str]) -> list[Span]:
    spans: list[Span] = []
    start = 0
    for at in range(1, len(cells) + 1):
        if at == len(cells) or inks[at] != inks[start]:
            spans.append(("".join(cells[start:at]), inks[start]))
            start = at
    return spans
