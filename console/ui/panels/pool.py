"""`PoolPane`: the page pool's split, and a map of the pages' owners with a cursor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType

from ....pipeline.runtime.wording import short_id
from ...state.board import Board
from ...state.page_map import ADAPTER, CHECK, FREE, KV, Cell, PageMap, Share, pages_a_cell
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, crop, length, line
from ..widgets.pane import Pane

GLYPHS = {FREE: "·", KV: plot.FULL, ADAPTER: "▓", CHECK: "◇"}
SPARSE = {KV: "▄", ADAPTER: "▒", CHECK: "◇"}
"""Marks of cells that are more than half free."""
CURSOR = ("◆", "badge-tab")
NARROW = 36
"""With fewer cells an owner is named without its kind, which the colour shows."""
WHOLE_FROM = 5
"""With fewer lines only the bar is shown; or, with the focus, only the map."""


class PoolPane(Pane, can_focus=True):
    """The pool of pages for KV and adapters: its split, and a map with several pages per cell."""

    TITLE = "page pool"
    FADES = True
    PERIOD_S = 0.5
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1, 0)", "Left", show=False, id="pool-left"),
        Binding("right,l", "move(1, 0)", "Right", show=False, id="pool-right"),
        Binding("up,k", "move(0, -1)", "Up", show=False, id="pool-up"),
        Binding("down,j", "move(0, 1)", "Down", show=False, id="pool-down"),
        Binding("home,g", "jump(0)", "First page", show=False, id="pool-first"),
        Binding("end,G", "jump(-1)", "Last page", show=False, id="pool-last"),
        Binding(
            "n", "next_part", "Next owner", id="pool-next", tooltip="first page of the next owner"
        ),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._page = 0
        """The page under the cursor; its cell depends on the size of the pane."""
        self._hovered: int | None = None
        self._page_map: PageMap | None = None
        self._made_of: tuple[object, ...] = ()
        self._cells: tuple[Cell, ...] = ()
        self._rows: list[TextLine] = []
        self._cell_pages = self._width = 1
        self._top = 0
        """The first line of the map within the pane."""
        self._is_shown = False

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if board.router is None or not board.router.pages_total:
            return ()
        taken = board.router.pages_kv + board.router.pages_adapters
        return ((units.percent(taken / board.router.pages_total), "number"), (" in use", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if board.router is None or not board.router.pages_total:
            self._is_shown = False
            return [line(("no pool yet", "dim"))]
        self._is_shown = False
        head = [self._bar(board, width), self._legend(board, width)]
        size: tuple[TextSpan, ...] = (
            (units.count(board.router.pages_total), "dim"),
            (f" pages of {board.router.page_size} tokens", "dim"),
        )
        if height < WHOLE_FROM and self.has_focus:
            head = []
        if board.pool is None or not board.pool.pages or (height < WHOLE_FROM and head):
            return [*head, line(*size)]
        self._top = len(head)
        self._is_shown = True
        rows = self._draw(board, width, max(1, height - len(head) - 1))
        if (pointed := self._pointed) is None:
            cell = f"{self._cell_pages} pages" if self._cell_pages > 1 else "page"
            return [*head, *rows, line(*size, (f", {cell} a cell", "dim"))]
        y, x = divmod(pointed, self._width)
        shown = [*rows[:y], _with_cursor(rows[y], x), *rows[y + 1 :]]
        return [*head, *shown, TextLine(crop(self._whose(pointed), width))]

    # -- parts of the drawing

    def _bar(self, board: Board, width: int) -> TextLine:
        router = board.router
        assert router is not None
        parts = (router.pages_kv, router.pages_adapters)
        kv, adapters = plot.shares(parts, router.pages_total, width)
        return line(
            (plot.FULL * kv, "pool-kv"),
            ("▓" * adapters, "pool-adapters"),
            (plot.REST * (width - kv - adapters), "rest"),
        )

    def _legend(self, board: Board, width: int) -> TextLine:
        router = board.router
        assert router is not None
        legend: list[TextSpan] = []
        for mark, style, name, pages in (
            (plot.FULL, "pool-kv", "KV", router.pages_kv),
            ("▓", "pool-adapters", "adapters" if width > 40 else "LoRA", router.pages_adapters),
            (
                *(plot.REST, "dim", "free"),
                router.pages_total - router.pages_kv - router.pages_adapters,
            ),
        ):
            legend += [(mark, style), (f" {units.count(pages)}", "number"), (f" {name}  ", "dim")]
        if length(legend) - 2 > width:  # what is free is the rest of the bar
            del legend[-3:]
        return TextLine(crop(legend, width))

    def _draw(self, board: Board, width: int, height: int) -> list[TextLine]:
        """The map in at most `height` lines; cached until the map or the size changes."""
        assert board.pool is not None
        of = (board.pool, len(board.adapter_colors))
        if self._page_map is None or self._made_of[:1] != (of,):
            self._page_map = PageMap(board.pool, board.color_of)
        if self._made_of != (of, width, height):
            self._made_of = (of, width, height)
            self._width = width
            self._cell_pages = pages_a_cell(self._page_map.num_pages, width * height)
            self._cells = self._page_map.cells(self._cell_pages)
            self._rows = [
                TextLine(tuple(_runs(self._cells[start : start + width])))
                for start in range(0, len(self._cells), width)
            ]
        return self._rows

    @property
    def _pointed(self) -> int | None:
        """The cell to describe: the one under the mouse; else, with the focus, the cursor's."""
        if self._hovered is not None and self._hovered < len(self._cells):
            return self._hovered
        return self._cursor if self.has_focus else None

    @property
    def _cursor(self) -> int:
        return max(0, min(self._page // self._cell_pages, len(self._cells) - 1))

    def _whose(self, cell: int) -> list[TextSpan]:
        """`pages 112-119  KV of 3fa… (pirate) · 3 free`."""
        assert self._page_map is not None
        first = cell * self._cell_pages
        end = min(first + self._cell_pages, self._page_map.num_pages)
        name = f"pages {first}-{end - 1}" if end - first > 1 else f"page {first}"
        spans: list[TextSpan] = [(f"{name}  ", "number")]
        for number, share in enumerate(self._page_map.shares(first, end)):
            spans += [(" · ", "faint")] if number else []
            spans += self._share(share, end - first)
        return spans

    def _share(self, share: Share, num_pages: int) -> list[TextSpan]:
        count = f"{share.pages} " if share.pages < num_pages else ""
        if share.owner is None:
            return [(f"{count}free", "dim")]
        owner = share.owner
        style = self.painted_app.board.color_of(owner.adapter)
        match owner.kind:
            case "kv":
                whose = units.visible(owner.adapter or "base")
                return [
                    (f"{count}KV of ", "dim"),
                    (short_id(units.visible(owner.name)), "text"),
                    (f" {whose}", style),
                ]
            case "adapter":
                kind = "adapter " if self.size.width >= NARROW else ""
                return [(f"{count}{kind}", "dim"), (units.visible(owner.name), style)]
            case _:
                return [(f"{count}{units.visible(owner.kind)} of ", "dim"), (owner.name, style)]

    # -- keys and mouse

    def action_move(self, columns: int, rows: int) -> None:
        self._go(self._cursor + columns + rows * self._width)

    def action_jump(self, cell: int) -> None:
        self._go(cell if cell >= 0 else len(self._cells) - 1)

    def action_next_part(self) -> None:
        """Moves to the next cell of another kind or style; after the last one, to cell 0."""
        if not self._cells:
            return
        here, start = self._cells[self._cursor], self._cursor
        order = (*range(start + 1, len(self._cells)), 0)
        self._go(next((cell for cell in order if self._cells[cell][:2] != here[:2]), start))

    def _go(self, cell: int) -> None:
        if 0 <= cell < len(self._cells):
            self._page = cell * self._cell_pages
            self._hovered = None
            self.paint()

    def _cell_at(self, x: int, y: int) -> int | None:
        """The cell at a position in the pane; None outside the map."""
        row, column = y - 1 - self._top, x - 2
        is_inside = 0 <= row < len(self._rows) and 0 <= column < self._width
        if not (self._is_shown and is_inside):
            return None
        cell = row * self._width + column
        return cell if cell < len(self._cells) else None

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._hover(self._cell_at(event.x, event.y))

    def on_leave(self) -> None:
        self._hover(None)

    def _hover(self, cell: int | None) -> None:
        if cell != self._hovered:
            self._hovered = cell
            self.paint()

    def on_click(self, event: events.Click) -> None:
        cell = self._cell_at(event.x, event.y)
        if cell is not None:
            self._go(cell)


def _runs(cells: Sequence[Cell]) -> list[TextSpan]:
    """The cells as spans, one per run of equal cells."""
    return [
        ((SPARSE if look.is_sparse else GLYPHS).get(look.kind, "?") * len(list(same)), look.style)
        for look, same in groupby(cells)
    ]


def _with_cursor(row: TextLine, x: int) -> TextLine:
    """A line of cells with the cursor's mark on cell `x`."""
    spans: list[TextSpan] = []
    for text, style in row.spans:
        if 0 <= x < len(text):
            spans += [(text[:x], style), CURSOR, (text[x + 1 :], style)]
        else:
            spans.append((text, style))
        x -= len(text)
    return TextLine(tuple(span for span in spans if span[0]))
