"""`CandidateList`: completions of a word being typed, a line each, with help and groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, crop, length, line
from .pane import Pane

FEW = 6
"""Rows of a list in a dialog or on a short screen."""


class Candidate(NamedTuple):
    """One completion: the word inserted, its help, and the title of the group it is listed in."""

    word: str
    help: str = ""
    group: str = ""


class CandidateList(Pane):
    """A bare strip of lines, as high as its candidates, at most `most` rows."""

    FRAMED: ClassVar[bool] = False
    MARGIN: ClassVar[int] = 2

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.found: Sequence[Candidate] = ()
        self.chosen = -1
        """Index of the candidate inserted last; -1 before the first."""
        self.display = False

    @property
    def most(self) -> int:
        """Rows at most."""
        return FEW

    def list_candidates(self, found: Sequence[Candidate], chosen: int = -1) -> None:
        """Shows `found`; nothing, and no rows, if it is empty."""
        self.found, self.chosen = found, chosen
        self.fit(min(self.most, len(found)))

    def fit(self, rows: int) -> None:
        """Gives the list its height and paints it."""
        self.styles.height = rows
        self.display = bool(rows)
        self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        first = max(0, min(self.chosen - height // 2, len(self.found) - height))
        rows = list(enumerate(self.found))[first : first + height]
        groups = max((len(row.group) for _, row in rows), default=0)
        words = max((length([(units.visible(row.word), "")]) for _, row in rows), default=0)
        words = min(words, max(8, width - groups - 12))
        is_cut = len(self.found) > len(rows)
        shown: list[TextLine] = []
        group = ""
        for at, row in rows:
            title = row.group if row.group != group else ""
            group = row.group
            count = f"  {first + 1}-{first + len(rows)} of {len(self.found)} "
            tail = count if is_cut and at == first else ""
            shown.append(self._row(row, title, (groups, words), tail, width, at == self.chosen))
        return shown

    def _row(
        self,
        row: Candidate,
        title: str,
        cells: tuple[int, int],
        tail: str,
        width: int,
        is_chosen: bool,
    ) -> TextLine:
        """`  group  word   help       1-6 of 90`."""
        groups, words = cells
        spans: list[TextSpan] = [(" " * self.MARGIN, "text")]
        if groups:
            spans.append((f"{title:<{groups}}  ", "info"))
        spans += [(units.fit(units.visible(row.word), words), "text"), ("  ", "text")]
        room = max(0, width - length(spans) - len(tail))
        spans += crop(((row.help, "dim"),), room, pad=True)
        spans.append((tail, "number"))
        return line(*spans, ground="cursor" if is_chosen else "bar")
