"""`AnswerGrid`: the answers side by side, as many as have room, and the rest on further pages."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.containers import Container
from textual.message import Message
from textual.widget import Widget

from ...client.answer import Answer
from ...state.board import Board
from ...text.lines import TextLine, line
from ..widgets.pane import Pane
from .answer import AnswerPane

ANSWER_WIDTH = 38
"""Minimum width of an answer beside others."""
ANSWER_LINES = 6
"""Minimum lines of an answer above or below others."""
FRAME_LINES = 2


class AnswerGrid(Container):
    """The answers of one prompt. A page's panes are made when it is first shown; hidden ones are
    not drawn."""

    class Arranged(Message):
        """The pages, or the page that is shown, may have changed."""

    def __init__(self) -> None:
        super().__init__(EmptyPane(), id="answers")
        self.answers: list[Answer] = []
        self.page = 0
        self.alone: int | None = None
        """The index of the only answer that is shown; None shows a page."""
        self._panes: dict[int, AnswerPane] = {}

    @property
    def panes(self) -> list[AnswerPane]:
        """The panes that are shown."""
        return [pane for pane in self._panes.values() if pane.display]

    @property
    def num_pages(self) -> int:
        return max(1, math.ceil(len(self.answers) / self._per_page))

    @property
    def position(self) -> str:
        """`answers 7-12 of 28, page 2 of 5 (pgdn)`; "" if all are shown."""
        number = len(self.answers)
        if self.alone is not None:
            return f"answer {self.alone + 1} of {number}"
        if self.num_pages == 1:
            return ""
        shown = self._shown
        span = f"{shown.start + 1}-{shown.stop}" if len(shown) > 1 else f"{shown.stop}"
        return f"answers {span} of {number}, page {self.page + 1} of {self.num_pages} (pgdn)"

    @property
    def _columns(self) -> int:
        return max(1, self.size.width // ANSWER_WIDTH)

    @property
    def _per_page(self) -> int:
        return self._columns * max(1, self.size.height // (ANSWER_LINES + FRAME_LINES))

    @property
    def _shown(self) -> range:
        """The indices of the answers that are shown."""
        if self.alone is not None:
            return range(self.alone, self.alone + 1)
        first = self.page * self._per_page
        return range(first, min(first + self._per_page, len(self.answers)))

    async def show(self, answers: Sequence[Answer]) -> None:
        """Shows these answers instead of the earlier ones; of none, the hints of the beginning."""
        await self.remove_children()
        gc.collect()  # takes 9 to 39 ms, frees the 2 MiB of earlier answers
        self.answers, self.page, self.alone = list(answers), 0, None
        self._panes = {}
        if not answers:
            await self.mount(EmptyPane())
        self._arrange()

    def turn(self, step: int) -> None:
        """Shows the next page or the previous one; if there is only one, scrolls its answers."""
        if self.alone is not None or self.num_pages == 1:
            for pane in self.panes:
                pane.action_move(10 * step)
            return
        self.page = max(0, min(self.page + step, self.num_pages - 1))
        self._arrange()

    def show_alone(self, index: int | None) -> None:
        """Shows one answer alone; None shows its page."""
        if index is None and self.alone is not None:
            self.page = self.alone // self._per_page
        self.alone = index
        self._arrange()

    def index_of(self, pane: Widget) -> int:
        """The index of the answer in this pane; 0 for the hints of the beginning."""
        return next((index for index, known in self._panes.items() if known is pane), 0)

    def repaint(self, answer: Answer) -> None:
        """Paints the pane of an answer that has changed, if it is shown."""
        for pane in self.panes:
            if pane.answer is answer or pane.against is answer:
                pane.paint()

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Arranges the answers of the page in as many columns as fit."""
        self.page = min(self.page, self.num_pages - 1)
        shown = self._shown
        number = max(1, len(shown))
        rows = math.ceil(number / min(number, self._columns))
        self.styles.grid_size_columns = math.ceil(number / rows)  # four in two rows: two by two
        self.styles.grid_size_rows = rows
        fresh = {index: self._make(index) for index in shown if index not in self._panes}
        self._panes |= fresh
        for index, pane in self._panes.items():
            pane.display = index in shown
        if fresh:
            self.mount(*fresh.values())
        # A pane of a later page may have been mounted before one of this page.
        self.sort_children(key=self.index_of)
        self.post_message(self.Arranged())
        self.call_after_refresh(self._paint)

    def _make(self, index: int) -> AnswerPane:
        """The pane of an answer, which is compared with the first one, and that with the second."""
        others = self.answers[1:2] if index == 0 else self.answers[:1]
        return AnswerPane(self.answers[index], *others)

    def _paint(self) -> None:
        for pane in self.panes:
            pane.paint()


class EmptyPane(Pane):
    """Shown before the first prompt."""

    TITLE = "answers"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (
        ("enter", "sends the prompt to every marked model"),
        ("ctrl+g", "finds models by name; space marks one"),
        ("shift+tab", "goes back to parameters and models"),
        ("f2", "shows the system prompt and more parameters"),
        ("up / down", "recall an earlier prompt; ctrl+r searches them"),
        ("page keys", "next answers, or scroll them"),
        ("ctrl+s", "exports the conversation; ctrl+n starts a new one"),
        ("ctrl+t", "sends the last prompt again"),
        ("esc", "cancels the answers, or leaves the prompt"),
    )

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        return list(self._hints(height))

    def _hints(self, height: int) -> Iterator[TextLine]:
        if height > len(self.KEYS) + 1:
            yield line(("Answers stream side by side, from one mixed batch.", "text"))
            yield TextLine()
        for key, what in self.KEYS:
            yield line((f"{key:>10}", "key"), (f"  {what}", "dim"))
