"""`AnswerBox`: one answer, plain lines while it streams, Markdown when it is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.style import Style
from textual.widgets import Markdown, Static

from .. import units
from ..answers import CANCELLED, Answer, WrappedText, hard_breaks
from ..board import Board
from ..chat import TokenChoice
from ..pane import Line, Pane, Span, crop, length, line

PROMPT = "▸"
SHOWN = 8
"""Turns of a conversation that are shown above the newest."""


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
        self.shows_choices = False
        """Its tokens and how likely they were, instead of its text."""
        self._wrapped = WrappedText()
        self._preface = preface(answer)
        self._above = 0
        """Lines scrolled up from the end."""

    def title(self, board: Board) -> Sequence[Span]:
        return ((self.answer.label, self.answer.ink),)

    def caption(self, board: Board) -> Sequence[Span]:
        return answer_caption(self.answer, self.size.width - cell_len(self.answer.label) - 12)

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        answer = self.answer
        if self.shows_choices:
            found = [choice_line(choice, width) for choice in answer.choices]
            if not found:
                word = "no probabilities were asked for: set logprobs, 0 or more, and ask again"
                found = [line((text, "dim")) for text in units.wrap(word, width)]
        else:
            texts = self._wrapped.lines(self._preface + answer.text, width)
            found = [line((text, "key" if text.startswith(PROMPT) else "text")) for text in texts]
            if answer.error:
                found += [line((text, "bad")) for text in units.wrap(answer.error, width)]
            elif answer.first_at is None and answer.is_streaming:
                found[-1] = line(("waiting for the first token", "dim"))
        self._above = max(0, min(self._above, len(found) - height))
        end = len(found) - self._above
        return found[max(0, end - height) : end]

    def turn(self) -> None:
        """Its tokens from the first one on, or its text again."""
        self.shows_choices = not self.shows_choices
        self._above = 1 << 20 if self.shows_choices else 0

    def action_move(self, lines: int) -> None:
        self._above -= lines
        self.paint()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


def preface(answer: Answer) -> str:
    """What was said before, where this is not the first question; as text."""
    if not answer.before:
        return ""
    said = "".join(f"{PROMPT} {prompt}\n{text}\n\n" for prompt, text in answer.before[-SHOWN:])
    return f"{said}{PROMPT} {answer.prompt}\n"


def choice_line(choice: TokenChoice, width: int) -> Line:
    """`  97.2 %  " Paris"    " Lyon" 1.2 %`: likely tokens look calm, unlikely ones stand out."""
    chance = math.exp(choice.logprob)
    ink = "good" if chance >= 0.9 else "text" if chance >= 0.4 else "warn"
    spans: list[Span] = [
        (f"{chance * 100:5.1f} %  ", "number"),
        (units.fit(json.dumps(choice.token, ensure_ascii=False), 16), ink),
    ]
    for token, logprob in choice.top:
        if token != choice.token:
            text = json.dumps(token, ensure_ascii=False)
            spans.append((f"  {text} {math.exp(logprob) * 100:.1f} %", "dim"))
    return Line(crop(spans, width))


def answer_caption(answer: Answer, room: int) -> tuple[Span, ...]:
    """Speed, time to the first token, length, how it ended: as much as there is room for."""
    if answer.error:
        return (("cancelled" if answer.error == CANCELLED else "failed", "bad"),)
    if answer.first_at is None:
        return ()
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
        Binding("l", "choices", "Logprobs", id="answer-logprobs", tooltip="how likely each token"),
        Binding("y", "copy", "Copy", id="answer-copy", tooltip="this answer to the clipboard"),
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
        text = hard_breaks(_clean(answer.text))
        markdown = Markdown(text, parser_factory=markdown_parser, open_links=False)
        self._rendered = VerticalScroll(*self._earlier(), markdown, classes="rendered")
        self._rendered.border_title = Content.styled(answer.label, self._style(answer.ink))
        self.on_resize()
        await self.mount(self._rendered)
        self.pane.display = False
        if answer.before:
            self._rendered.scroll_end(animate=False)

    def on_resize(self) -> None:
        """As many figures as there is room for; a short answer is whole before it has any."""
        if self._rendered is not None:
            caption = answer_caption(self.pane.answer, self.size.width - 6)
            self._rendered.border_subtitle = Content("".join(text for text, _ in caption))

    def _earlier(self) -> Iterator[Static]:
        """What was said before stays as it was written: as Markdown, whose every paragraph is a
        widget, eight turns of two models took 12 MiB."""
        if said := _clean(preface(self.pane.answer)):
            ink = self._style("key")
            lines = (
                Content.styled(text, ink) if text.startswith(PROMPT) else Content(text)
                for text in said.split("\n")
            )
            yield Static(Content("\n").join(lines))

    def _style(self, ink: str) -> Style:
        return Style.from_rich_style(self.pane.painted_app.inks.style(ink))

    def action_plain(self) -> None:
        self.pane.shows_choices = False
        if self._rendered is not None:
            self._show(is_plain=not self.pane.display)

    def action_choices(self) -> None:
        self.pane.turn()
        self._show(is_plain=self.pane.shows_choices or self._rendered is None)

    def _show(self, is_plain: bool) -> None:
        self.pane.display = is_plain
        if self._rendered is not None:
            self._rendered.display = not is_plain
        shown = self.pane if is_plain or self._rendered is None else self._rendered
        shown.focus()
        self.pane.paint()

    def action_copy(self) -> None:
        answer = self.pane.answer
        self.app.copy_to_clipboard(answer.text)
        self.notify(f"{units.count(len(answer.text))} characters of {answer.label} are copied")


def markdown_parser() -> MarkdownIt:
    """Textual's own, but for links made of bare words: nothing opens one here, and what finds them
    takes 0.6 MiB."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def _clean(text: str) -> str:
    """Without what would move the cursor; lines stay lines."""
    return "\n".join(units.clean(line) for line in text.split("\n"))
