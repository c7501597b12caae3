"""`FilterPane`: a pane whose rows are filtered by an expression typed after `/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from ...state.board import Board
from ...text.filter import Filter
from ...text.lines import TextSpan
from .pane import Pane, Panel

if TYPE_CHECKING:
    from textual.widgets import Input


class FilterPane(Pane, can_focus=True):
    """A pane whose rows can be filtered by an expression typed after `/`.

    Rows that do not match are hidden or, with `marks`, dimmed, so that matches are seen among their
    neighbours. `n` and `N` go from match to match.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="filter"),
        Binding("n", "match(1)", "Next match", show=False, id="next-match"),
        Binding("N", "match(-1)", "Previous match", show=False, id="previous-match"),
        Binding("escape", "unfilter", "Show all rows", show=False, id="unfilter"),
    ]

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.filter = Filter()
        self.marks = False
        """Whether rows that do not match are dimmed instead of hidden."""

    def set_filter(self, text: str, marks: bool | None = None) -> None:
        self.filter = Filter.parse(text)
        if marks is not None:
            self.marks = marks
        self.paint()

    def shows(self, text: str) -> bool:
        """Whether a row of this text is shown."""
        return self.marks or self.filter.keeps(text)

    def is_dimmed(self, text: str) -> bool:
        """Whether a row of this text is shown dimmed."""
        return self.marks and not self.filter.keeps(text)

    def action_match(self, step: int) -> None:
        """Goes to the next matching row, or with -1 to the previous one."""
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leaves escape to the app if there is nothing to clear."""
        if action == "unfilter":
            return bool(self.filter.text)
        return super().check_action(action, parameters)

    def action_unfilter(self) -> None:
        """Clears the filter, and closes its line if that is open."""
        from .filter_input import FilterInput

        self.set_filter("", marks=False)
        for open_line in self.screen.query(FilterInput):
            open_line.close()

    async def action_filter(self) -> None:
        """Opens the filter's input line at the bottom of the panel."""
        from .filter_input import FilterInput  # here, so that it does not delay the first frame

        await self.open_line("/", FilterInput(self))

    async def open_line(self, mark: str, given: Input) -> None:
        """Opens the input `given`, with the label `mark`, at the bottom of the panel; if a line is
        open there already, focuses that."""
        from textual.containers import Horizontal
        from textual.widgets import Label

        from .filter_input import FilterInput

        panel = next(node for node in self.ancestors if isinstance(node, Panel))
        for open_line in panel.query(FilterInput):
            open_line.focus()
            return
        await panel.mount(Horizontal(Label(mark), given, classes="filter"))
        self.screen.set_focus(given)  # at once: the next key is meant for it

    def hint(self, board: Board) -> Sequence[TextSpan]:
        if self.filter.error:
            return ((f"/{self.filter.text}: {self.filter.error}", "bad"),)
        if not self.filter:
            return ()
        how = " marked" if self.marks else ""
        return (
            (f"/{self.filter.text}", "key"),
            (f"{how}  n N  ", "dim"),
            ("esc", "key"),
            (" clears", "dim"),
        )
