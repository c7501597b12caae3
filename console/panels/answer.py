"""`AnswerBox`: one answer, plain lines while it streams, Markdown when it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.style import Style
from textual.widgets import Markdown

from .. import units
from ..answers import Answer, WrappedText, hard_breaks
from ..board import Board
from ..pane import Line, Pane, Span, length, line


class AnswerPane(Pane, can_focus=True):
    """An answer as plain lines while it grows; it follows the end until somebody scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="answer-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="answer-down"),
        Binding("pageup", "move(-10)", "Page up", show=False, id="answer-page-up"),
        Binding("pagedown", "move(10)", "Page down", show=False, id="answer-page-down"),
    ]

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self._wrapped = WrappedText()
        self._above = 0
        """Lines scrolled up from the end."""

    def title(self, board: Board) -> Sequence[Span]:
        return ((self.answer.label, self.answer.ink),)

    def caption(self, board: Board) -> Sequence[Span]:
        return answer_caption(self.answer, self.size.width - cell_len(self.answer.label) - 12)

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        answer = self.answer
        if answer.error:
            return [line((text, "bad")) for text in units.wrap(answer.error, width)]
        if answer.first_at is None:
            return [line(("waiting for the first token", "dim"))] if answer.is_streaming else []
        found = self._wrapped.lines(answer.text, width)
        self._above = max(0, min(self._above, len(found) - height))
        end = len(found) - self._above
        return [line((text, "text")) for text in found[max(0, end - height) : end]]

    def action_move(self, lines: int) -> None:
        self._above -= lines
        self.paint()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


def answer_caption(answer: Answer, room: int) -> tuple[Span, ...]:
    """Speed, time to the first token, length, how it ended: as much as there is room for."""
    if answer.error or answer.first_at is None:
        return (("failed", "bad"),) if answer.error else ()
    facts: list[tuple[Span, ...]] = [
        ((units.rate(answer.tokens_s), "number"), (" tok/s", "dim")),
        (("  first ", "dim"), (units.duration(answer.ttft_s or 0.0), "number")),
        ((f"  {answer.count}", "number"), (" tokens", "dim")),
    ]
    if answer.finish_reason not in ("", "stop"):
        facts.insert(1, ((f"  {answer.finish_reason}", "warn"),))
    spans: tuple[Span, ...] = ()
    for fact in facts:
        if length((*spans, *fact)) > room:
            break
        spans += fact
    return spans


class AnswerBox(Container):
    """One answer: plain while it streams, Markdown when it is whole (mounted once: 60 ms)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "plain", "Plain", id="answer-plain", tooltip="Markdown or plain text"),
    ]

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.pane = AnswerPane(answer)
        self._rendered: VerticalScroll | None = None

    def compose(self) -> ComposeResult:
        yield self.pane

    async def finish(self) -> None:
        """The answer is whole: shows it as it was meant."""
        answer = self.pane.answer
        if answer.error or not answer.text.strip():
            self.pane.paint()
            return
        text = hard_breaks("\n".join(units.clean(part) for part in answer.text.split("\n")))
        self._rendered = VerticalScroll(Markdown(text, open_links=False), classes="rendered")
        ink = Style.from_rich_style(self.pane.painted_app.inks.style(answer.ink))
        self._rendered.border_title = Content.styled(answer.label, ink)
        caption = answer_caption(answer, self.size.width - 6)
        self._rendered.border_subtitle = Content("".join(text for text, _ in caption))
        await self.mount(self._rendered)
        self.pane.display = False

    def action_plain(self) -> None:
        if self._rendered is not None:
            self.pane.display = not self.pane.display
            self._rendered.display = not self.pane.display
            shown = self.pane if self.pane.display else self._rendered
            shown.focus()
            self.pane.paint()
