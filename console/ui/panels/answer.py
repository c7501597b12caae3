"""`AnswerPane`: one answer, as plain lines while it streams, as Markdown once complete."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType

from ...client.answer import CANCELLED, Answer, WrappedText
from ...client.chat import TokenChoice
from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, crop, length, line, thumb_of, wrapped
from ...text.word_diff import DELETE, INSERT, num_words, word_difference
from ..widgets.pane import Pane

PROMPT = "▸ "
SHOWN = 8
"""Most earlier turns of a conversation shown above the newest."""


class AnswerPane(Pane, can_focus=True):
    """The conversation and its newest answer; it follows the end until the operator scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="answer-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="answer-down"),
        Binding("pageup", "move(-10)", "Page up", show=False, id="answer-page-up"),
        Binding("pagedown", "move(10)", "Page down", show=False, id="answer-page-down"),
        Binding("m", "plain", "Plain", id="answer-plain", tooltip="Markdown or plain text"),
        Binding(
            "l", "choices", "Logprobs", id="answer-logprobs", tooltip="probability of each token"
        ),
        Binding(
            "d",
            "difference",
            "Difference",
            id="answer-difference",
            tooltip="word by word, from the first answer",
        ),
        Binding("y", "copy", "Copy", id="answer-copy", tooltip="this answer to the clipboard"),
    ]

    def __init__(self, answer: Answer, against: Answer | None = None) -> None:
        """`against` is the answer that this one is compared with."""
        super().__init__()
        self.answer, self.against = answer, against
        self.is_plain = False
        """Whether a complete answer is shown as plain text, not as Markdown."""
        self.shows_choices = False
        """Whether tokens and their probabilities are shown instead of the text."""
        self.shows_difference = False
        """Whether the text is shown with its difference from the answer `against`."""
        self._difference: list[TextSpan] = []
        self._compared: tuple[int, int] | None = None
        """The lengths of the two texts in `_difference`."""
        self._wrapped = WrappedText()
        self._settled: tuple[TextLine, ...] = ()
        self._settled_for: tuple[int, bool, bool] | None = None
        self._above = 0
        """Lines scrolled up from the end."""
        self._total = 0

    def title(self, board: Board) -> Sequence[TextSpan]:
        return ((self.answer.label, self.answer.style),)

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return self._captions[0]

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """What the caption has no room for; with the difference, its size."""
        if self.shows_difference and self.against and self._compared:
            return difference_hint(self._difference, self.against, self.size.width - 8)
        return self._captions[1]

    @property
    def _captions(self) -> tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]:
        above = self.size.width - cell_len(self.answer.label) - 12
        return answer_captions(self.answer, above, self.size.width - 5)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if self.shows_choices:
            found = self._choices(width)
        elif self.shows_difference:
            found = self._differing(width)
        else:
            found = self._text(width)
        self._total = len(found)
        self._above = max(0, min(self._above, self._total - height))
        end = self._total - self._above
        return found[max(0, end - height) : end]

    def thumb(self, height: int) -> range | None:
        return thumb_of(self._total, height, self._total - height - self._above)

    @property
    def is_rendered(self) -> bool:
        """Whether the answer is shown as Markdown."""
        return not (self.is_plain or self.answer.is_streaming or self.answer.error)

    def _choices(self, width: int) -> Sequence[TextLine]:
        if self.answer.choices:
            return [choice_line(choice, width) for choice in self.answer.choices]
        word = "no logprobs in this answer: set logprobs to 0 or more, then retry (ctrl+t)"
        return [line((text, "dim")) for text in units.wrap(word, width)]

    def _differing(self, width: int) -> Sequence[TextLine]:
        """The answer with the words that it has more and less than the one `against`."""
        answer, against = self.answer, self.against
        word = ""
        if against is None:
            word = "only one answer: mark another model, then retry (ctrl+t)"
        elif answer.is_streaming or against.is_streaming:
            word = "waiting until both answers are complete"
        if word or against is None:
            self._compared = None
            return [line((text, "dim")) for text in units.wrap(word, width)]
        lengths = (len(against.text), len(answer.text))
        if self._compared != lengths:
            has_marks = self.painted_app.is_ascii or self.app.no_color
            old, new = map(_printable, (against.text, answer.text))
            self._difference = word_difference(old, new, has_marks)
            self._compared = lengths
        return [*_question(answer.prompt, width), *wrapped(self._difference, width)]

    def _text(self, width: int) -> Sequence[TextLine]:
        answer = self.answer
        wanted = (width, self.is_plain, self.is_rendered)
        if self._settled_for != wanted:
            self._settled, self._settled_for = tuple(self._settle(width)), wanted
        if self.is_rendered:
            return self._settled
        found = list(self._settled)
        if answer.text or not answer.is_streaming:
            found += [line((text, "text")) for text in self._wrapped.lines(answer.text, width)]
        else:
            found.append(line(("waiting for the first token", "dim")))
        if answer.error:
            found += [line((text, "bad")) for text in units.wrap(answer.error, width)]
        return found

    def _settle(self, width: int) -> Iterator[TextLine]:
        """Lines that no longer change: earlier turns, the question, and a complete answer if shown
        as Markdown."""
        for prompt, text in self.answer.before[-SHOWN:]:
            yield from _question(prompt, width)
            yield from self._said(text, width)
            yield TextLine()
        yield from _question(self.answer.prompt, width)
        if self.is_rendered:
            yield from self._said(self.answer.text, width)

    def _said(self, text: str, width: int) -> Sequence[TextLine]:
        if self.is_plain:
            return [line((row, "text")) for row in units.wrap(text, width)]
        from ...text import markdown  # 1 MiB: only if a model is asked

        return markdown.lines(text, width)

    # -- keys and mouse

    def action_move(self, lines: int) -> None:
        self._above -= lines
        self.paint()

    def action_plain(self) -> None:
        if self.shows_choices or self.shows_difference:
            self.shows_choices = self.shows_difference = False
        else:
            self.is_plain = not self.is_plain
        self.paint()

    def action_choices(self) -> None:
        """Switches between the tokens, from the first one on, and the text."""
        self.shows_choices, self.shows_difference = not self.shows_choices, False
        self._above = 1 << 20 if self.shows_choices else 0
        self.paint()

    def action_difference(self) -> None:
        """Switches between the difference, from its beginning on, and the text."""
        self.shows_difference, self.shows_choices = not self.shows_difference, False
        self._above = 1 << 20 if self.shows_difference else 0
        self.paint()

    def action_copy(self) -> None:
        answer = self.answer
        self.app.copy_to_clipboard(answer.text)
        self.notify(f"{units.count_noun(len(answer.text), 'character')} of {answer.label} copied")

    def on_mouse_scroll_down(self) -> None:
        self.action_move(3)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-3)


def _printable(text: str) -> str:
    """The text without characters that control a terminal."""
    return "\n".join(map(units.clean, text.split("\n")))


def _question(prompt: str, width: int) -> Iterator[TextLine]:
    for index, text in enumerate(units.wrap(prompt, max(1, width - len(PROMPT)))):
        yield line((" " * len(PROMPT) if index else PROMPT, "key"), (text, "key"))


def choice_line(choice: TokenChoice, width: int) -> TextLine:
    """`  97.2 %  " Paris"    " Lyon" 1.2 %`; unlikely tokens are coloured."""
    chance = math.exp(choice.logprob)
    style = "good" if chance >= 0.9 else "text" if chance >= 0.4 else "warn"
    spans: list[TextSpan] = [
        (f"{chance * 100:5.1f} %  ", "number"),
        (units.fit(json.dumps(choice.token, ensure_ascii=False), 16), style),
    ]
    for token, logprob in choice.top:
        if token != choice.token:
            text = json.dumps(token, ensure_ascii=False)
            spans.append((f"  {text} {math.exp(logprob) * 100:.1f} %", "dim"))
    return TextLine(crop(spans, width))


def answer_captions(
    answer: Answer, above: int, below: int
) -> tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]:
    """Speed, time to the first token, length and, unless it is the usual one, the reason of the
    end: as many as fit into `above` cells, and the rest in `below` cells, where the speed gives way
    to the others."""
    if answer.error:
        return (("cancelled" if answer.error == CANCELLED else "failed", "bad"),), ()
    if answer.first_at is None:
        return (), ()
    facts: list[tuple[TextSpan, ...]] = [
        ((units.rate(answer.tokens_s), "number"), (" tok/s", "dim")),
        (("first ", "dim"), (units.duration(answer.ttft_s or 0.0), "number")),
        ((units.count(answer.count), "number"), (" tokens", "dim")),
    ]
    if answer.finish_reason not in ("", "stop"):
        facts.append(((answer.finish_reason, "warn"),))
    fitting = next((n for n in range(len(facts), 0, -1) if length(_joined(facts[:n])) <= above), 0)
    shown, rest = _joined(facts[:fitting]), facts[fitting:]
    if not fitting and length(_joined(rest)) > below:
        del rest[0]
    return shown, crop(_joined(rest), below)


def difference_hint(
    difference: Sequence[TextSpan], against: Answer, room: int
) -> tuple[TextSpan, ...]:
    """`+13 -10 words against pirate`, without the name if there is no room for half of it."""
    more, less = num_words(difference, INSERT), num_words(difference, DELETE)
    found: tuple[TextSpan, ...] = ((f"+{more}", INSERT), (" ", "text"), (f"-{less}", DELETE))
    found += ((" words", "dim"),)
    if not more and not less:
        found = (("no differences", "dim"),)
    name = (("  against ", "dim"), (against.label, against.style))
    left = room - length(found)
    return found + crop(name, left) if left >= length(name[:1]) + length(name[1:]) / 2 else found


def _joined(facts: Sequence[tuple[TextSpan, ...]]) -> tuple[TextSpan, ...]:
    """The facts, with two blanks between them."""
    return tuple(
        span for at, fact in enumerate(facts) for span in ((("  ", "dim"),) if at else ()) + fact
    )
