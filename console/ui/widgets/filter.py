"""`Filter`: what an operator types after `/`: a regular expression, `!` in front inverts it; and
`FilterPane`, a pane that has one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from ...state.board import Board
from ...text.lines import Span
from .pane import Pane, Panel

if TYPE_CHECKING:
    from textual.widgets import Input


@dataclass(frozen=True)
class Filter:
    """Keeps the rows whose text it matches. Lower case letters match both cases."""

    text: str = ""
    error: str = ""
    """What is wrong with the expression; it then keeps everything."""
    _inverse: bool = field(default=False, repr=False)
    _pattern: re.Pattern[str] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Never raises: a broken expression says so in `error`."""
        inverse = text.startswith("!")
        body = text[1:] if inverse else text
        if not body:
            return cls(text)
        try:
            flags = re.IGNORECASE if body.islower() or not any(map(str.isalpha, body)) else 0
            return cls(text, "", inverse, re.compile(body, flags))
        except re.error as error:
            return cls(text, str(error))

    def __bool__(self) -> bool:
        return self._pattern is not None

    def hits(self, text: str) -> list[tuple[int, int]]:
        """Where in a text it matches; nowhere, where it is turned around."""
        if self._pattern is None or self._inverse:
            return []
        return [hit.span() for hit in self._pattern.finditer(text) if hit.end() > hit.start()]

    def keeps(self, row: str) -> bool:
        return self._pattern is None or bool(self._pattern.search(row)) is not self._inverse


class FilterPane(Pane, can_focus=True):
    """A pane whose rows can be filtered by an expression typed after `/`.

    What does not match is hidden, or, with `marks`, stays and is dimmed, so that a match is read
    among its neighbours. `n` and `N` go from match to match.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="filter"),
        Binding("n", "match(1)", "Next match", show=False, id="next-match"),
        Binding("N", "match(-1)", "Previous match", show=False, id="previous-match"),
    ]

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.filter = Filter()
        self.marks = False
        """Rows that do not match stay."""

    def set_filter(self, text: str, marks: bool | None = None) -> None:
        self.filter = Filter.parse(text)
        if marks is not None:
            self.marks = marks
        self.paint()

    def shows(self, text: str) -> bool:
        """Is a row of this text to be seen at all?"""
        return self.marks or self.filter.keeps(text)

    def is_dimmed(self, text: str) -> bool:
        """Is it only there for its neighbours?"""
        return self.marks and not self.filter.keeps(text)

    def action_match(self, step: int) -> None:
        """Goes to the next row that matches, or with -1 to the one before."""
        raise NotImplementedError

    async def action_filter(self) -> None:
        """Opens the line to type in, at the foot of the panel."""
        from .filter_input import FilterInput  # the first frame does not wait for it

        await self.open_line("/", FilterInput(self))

    async def open_line(self, mark: str, given: Input) -> None:
        """Unless one is open already."""
        from textual.containers import Horizontal
        from textual.widgets import Label

        from .filter_input import FilterInput

        panel = next(node for node in self.ancestors if isinstance(node, Panel))
        for open_line in panel.query(FilterInput):
            open_line.focus()
            return
        await panel.mount(Horizontal(Label(mark), given, classes="filter"))
        self.screen.set_focus(given)  # at once: the next key is meant for it

    def hint(self, board: Board) -> Sequence[Span]:
        if self.filter.error:
            return ((f"/{self.filter.text}: {self.filter.error}", "bad"),)
        if not self.filter:
            return ()
        how = " marked" if self.marks else ""
        return ((f"/{self.filter.text}", "key"), (f"{how}  n N", "dim"))
