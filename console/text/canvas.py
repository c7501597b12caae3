"""`Canvas`: a small grid of cells to draw boxes and arrows on, read back as lines of spans."""

from __future__ import annotations

from itertools import groupby

from rich.cells import cell_len

from .lines import TextLine, TextSpan


class Canvas:
    """`put` writes text at a position, over earlier text; text outside the grid is cut off."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells = [[" "] * width for _ in range(height)]
        self._inks = [["text"] * width for _ in range(height)]

    def put(self, x: int, y: int, text: str, style: str) -> None:
        """Writes text; wide characters become `?`, as a canvas holds only our own labels."""
        if not 0 <= y < self.height or x >= self.width:
            return
        if cell_len(text) != len(text):
            text = "".join(c if cell_len(c) == 1 else "?" for c in text)
        if x < 0:
            text, x = text[-x:], 0
        end = min(self.width, x + len(text))
        self._cells[y][x:end] = text[: end - x]
        self._inks[y][x:end] = [style] * (end - x)

    def across(self, x: int, y: int, length: int, style: str) -> None:
        self.put(x, y, "─" * length, style)

    def box(self, x: int, y: int, width: int, height: int, style: str) -> None:
        self.put(x, y, "╭" + "─" * (width - 2) + "╮", style)
        for row in range(y + 1, y + height - 1):
            self.put(x, row, "│", style)
            self.put(x + width - 1, row, "│", style)
        self.put(x, y + height - 1, "╰" + "─" * (width - 2) + "╯", style)

    @property
    def lines(self) -> list[TextLine]:
        """The rows of the grid; adjacent cells of one style form one span."""
        return [
            TextLine(tuple(_spans(cells, text_styles)))
            for cells, text_styles in zip(self._cells, self._inks, strict=True)
        ]


def _spans(cells: list[str], text_styles: list[str]) -> list[TextSpan]:
    spans: list[TextSpan] = []
    start = 0
    for style, same in groupby(text_styles):
        end = start + len(list(same))
        spans.append(("".join(cells[start:end]), style))
        start = end
    return spans
