"""Prompt: one question to the base and to adapters at once, answered side by side."""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widgets import Input, Label, Markdown, TextArea
from textual.worker import Worker

from ...pipeline.config import OperatorError
from .. import units
from ..answers import Answer, WrappedText
from ..board import AdapterRow, Board
from ..chat import ChatParams, chat, make_client
from ..pane import Line, Pane, Panel, Span, length, line

if TYPE_CHECKING:
    import httpx

ANSWER_WIDTH = 38
"""Answers stand side by side as long as each has so many cells."""
DEFAULTS = {"temperature": "0.7", "max_tokens": "128", "seed": ""}


class ModelsPane(Pane, can_focus=True):
    """Who is to answer: the base and the adapters, each with a mark."""

    TITLE = "ask"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Left", show=False, id="model-left"),
        Binding("right", "move(1)", "Right", show=False, id="model-right"),
        Binding("space,enter", "mark", "Ask it or not", id="model-toggle"),
        Binding("a", "all", "All or one", id="model-all"),
    ]

    def __init__(self) -> None:
        super().__init__(id="models")
        self.chosen: set[str] = set()
        self._known: tuple[str, ...] = ()
        self._cursor = 0
        self._places: list[tuple[int, int, int]] = []
        """Line, first and last cell of each chip: for the mouse."""

    def take(self, board: Board) -> None:
        """New adapters appear; at first the base and one adapter are asked."""
        names = tuple(row.name for row in board.adapters)
        if names and not self._known:
            self.chosen = set(names[:2])
        self._known = names
        self.chosen &= set(names)

    @property
    def num_lines(self) -> int:
        """Lines the chips take in this width."""
        return self._places[-1][0] + 1 if self._places else 1

    def asked(self, board: Board) -> list[AdapterRow]:
        return [row for row in board.adapters if row.name in self.chosen]

    def caption(self, board: Board) -> Sequence[Span]:
        return ((f"{len(self.chosen)}", "number"), (f" of {len(self._known)}", "dim"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        self.take(board)
        if not board.adapters:
            return [line(("no model answers yet", "dim"))]
        rows: list[list[Span]] = [[]]
        self._places = []
        for index, row in enumerate(board.adapters):
            mark = "[x]" if row.name in self.chosen else "[ ]"
            name = f"○ {row.name}" if row.is_base else f"● {row.name}"
            at_cursor = self.has_focus and index == self._cursor
            chip: list[Span] = [
                ("▸" if at_cursor else " ", "key"),
                (mark, "key" if row.name in self.chosen else "dim"),
                (f" {name}", row.tint),
                ("  ", "text"),
            ]
            if rows[-1] and length(rows[-1]) + length(chip) > width:
                rows.append([])
            start = length(rows[-1])
            rows[-1] += chip
            self._places.append((len(rows) - 1, start, start + length(chip)))
        first = 0
        if self._places and len(rows) > height:
            at = self._places[min(self._cursor, len(self._places) - 1)][0]
            first = max(0, min(at, len(rows) - height))
        return [Line(tuple(spans)) for spans in rows[first : first + height]]

    def _toggle(self, index: int) -> None:
        if index < len(self._known):
            self.chosen ^= {self._known[index]}
            self.paint()

    def action_move(self, steps: int) -> None:
        self._cursor = max(0, min(self._cursor + steps, len(self._known) - 1))
        self.paint()

    def action_mark(self) -> None:
        self._toggle(self._cursor)

    def action_all(self) -> None:
        every = len(self.chosen) == len(self._known)
        self.chosen = set(self._known[:1] if every else self._known)
        self.paint()

    def on_click(self, event: events.Click) -> None:
        for index, (y, start, end) in enumerate(self._places):
            if event.y - 1 == y and start <= event.x - 2 < end:
                self._cursor = index
                self._toggle(index)


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
        return answer_caption(self.answer, self.size.width)

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


def answer_caption(answer: Answer, width: int) -> tuple[Span, ...]:
    """Speed, time to the first token, length: as much as there is room for."""
    if answer.error or answer.first_at is None:
        return (("failed", "bad"),) if answer.error else ()
    spans: list[Span] = [(units.rate(answer.tokens_s), "number"), (" tok/s", "dim")]
    if width >= 44:
        first = units.duration(answer.ttft_s or 0.0)
        spans += [("  first ", "dim"), (first, "number")]
    if width >= 58:
        spans += [(f"  {answer.count}", "number"), (" tokens", "dim")]
    if answer.finish_reason not in ("", "stop"):
        spans += [(f"  {answer.finish_reason}", "warn")]
    return tuple(spans)


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
        text = "\n".join(units.clean(part) for part in answer.text.split("\n"))
        self._rendered = VerticalScroll(Markdown(text, open_links=False), classes="rendered")
        ink = Style.from_rich_style(self.pane.painted_app.inks.style(answer.ink))
        self._rendered.border_title = Content.styled(answer.label, ink)
        caption = answer_caption(answer, self.size.width)
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


class PromptEditor(TextArea):
    """Where the question is typed: enter sends, ctrl+j breaks the line, up and down recall."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", priority=True, id="send"),
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", show=False, id="newline"),
        Binding("escape", "leave", "Cancel or leave", id="leave"),
    ]

    class Sent(Message):
        """Enter was pressed on a text."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """Escape: cancel what streams, or give the keys back to the console."""

    def __init__(self) -> None:
        super().__init__(
            id="editor",
            compact=True,
            soft_wrap=True,
            highlight_cursor_line=False,
            placeholder="Ask, then enter. ctrl+j breaks the line, up recalls, tab moves on.",
        )
        self.cursor_blink = False
        self.border_title = "prompt"
        self._history: list[str] = []
        self._recalled = 0
        """How far back in the history; 0 is what is being typed."""

    def action_send(self) -> None:
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip()))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def sent(self, text: str) -> None:
        """The question is on its way: an empty line, and one more to recall."""
        if text not in self._history[-1:]:
            self._history.append(text)
        self._recalled = 0
        self.text = ""

    def restore(self, text: str) -> None:
        """Nobody answered: the question comes back, unless another one is being typed."""
        if not self.text.strip():
            self._put(text)

    def action_cursor_up(self, select: bool = False) -> None:
        if self.cursor_location[0] == 0 and not select and self._recalled < len(self._history):
            self._recalled += 1
            self._put(self._history[-self._recalled])
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.cursor_at_last_line and not select and self._recalled:
            self._recalled -= 1
            self._put(self._history[-self._recalled] if self._recalled else "")
        else:
            super().action_cursor_down(select)

    def _put(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)


class PromptPanel(Panel):
    """Whom to ask, what to ask, and what they say."""

    NAME: ClassVar[str] = "Prompt"

    def __init__(self) -> None:
        super().__init__()
        self._answers: list[Answer] = []
        self._work: Worker[None] | None = None
        self._client: httpx.AsyncClient | None = None
        self._client_of = ("", "")

    def compose(self) -> ComposeResult:
        yield ModelsPane()
        yield Container(EmptyPane(), id="answers")
        with Horizontal(id="parameters"):
            for name, value in DEFAULTS.items():
                yield Label(name.replace("_", " "))
                field = Input(value, id=name, compact=True, max_length=10, select_on_focus=False)
                field.cursor_blink = False
                field.placeholder = "any" if name == "seed" else ""
                yield field
        yield PromptEditor()

    @property
    def panes(self) -> list[Pane]:
        return list(self.query(Pane))

    @property
    def is_live(self) -> bool:
        """Text streams in whether or not the pipeline tells anything."""
        return any(answer.is_streaming for answer in self._answers)

    def focus_first(self) -> None:
        self.query_one(PromptEditor).focus()

    def paint(self, board: Board) -> None:
        super().paint(board)
        models = self.query_one(ModelsPane)
        wanted = min(4, models.num_lines) + 2
        if models.size.height not in (0, wanted):
            models.styles.height = wanted

    # -- asking

    def on_prompt_editor_sent(self, message: PromptEditor.Sent) -> None:
        editor = self.query_one(PromptEditor)
        try:
            params, url, asked = self._parameters(), self._url(), self._asked()
        except OperatorError as error:
            self.notify(error.hint, title=error.what, severity="warning", markup=False)
            return
        editor.sent(message.text)
        self._answers = [Answer(row.name, label_of(row), row.tint) for row in asked]
        self._work = self.run_worker(
            self._ask(url, message.text, params), name="ask", exit_on_error=True
        )

    def on_prompt_editor_left(self) -> None:
        if self._work is not None and self.is_live:
            self._work.cancel()
        else:
            self.query_one(ModelsPane).focus()

    def _asked(self) -> list[AdapterRow]:
        if self.is_live:
            raise OperatorError("Answers are still coming", "escape cancels them")
        models = self.query_one(ModelsPane)
        board = models.painted_app.board
        models.take(board)
        if not (asked := models.asked(board)):
            raise OperatorError("Nobody is asked", "choose a model: shift+tab, then space")
        return asked

    def _url(self) -> str:
        board = self.query_one(ModelsPane).painted_app.board
        if board.server is None:
            raise OperatorError("The server is not there yet", "the prompt stays: try again later")
        return board.server.url

    def _parameters(self) -> ChatParams:
        """What stands in the fields. Raises `OperatorError` and goes to the field at fault."""

        def value(name: str) -> float | None:
            field = self.query_one(f"#{name}", Input)
            text = field.value.strip()
            if not text:
                return None
            try:
                number = float(text)
                if not math.isfinite(number) or number < 0:
                    raise ValueError
            except ValueError:
                field.focus()
                raise OperatorError(f"{name}: {text!r} is not a number ≥ 0") from None
            return number

        tokens, seed = value("max_tokens"), value("seed")
        return ChatParams(
            max_tokens=None if tokens is None else max(1, int(tokens)),
            temperature=value("temperature"),
            seed=None if seed is None else int(seed),
        )

    async def _ask(self, url: str, prompt: str, params: ChatParams) -> None:
        """All answers at once: the ring puts them in one mixed batch."""
        answers = self._answers
        boxes = [AnswerBox(answer) for answer in answers]
        space = self.query_one("#answers", Container)
        await space.remove_children()
        await space.mount(*boxes)
        self._arrange()
        try:
            client = await self._connect(url)
            async with asyncio.TaskGroup() as tasks:
                for box in boxes:
                    tasks.create_task(self._stream(client, box, prompt, params))
        finally:
            for answer in answers:
                if answer.is_streaming:
                    answer.end(error="" if answer.text else "cancelled")
            if not any(answer.finish_reason for answer in answers):
                for editor in self.query(PromptEditor):  # gone, where the console is closing
                    editor.restore(prompt)

    async def _stream(
        self, client: httpx.AsyncClient, box: AnswerBox, prompt: str, params: ChatParams
    ) -> None:
        answer = box.pane.answer
        messages = [{"role": "user", "content": prompt}]
        reason = ""
        try:
            async for part in chat(client, answer.model, messages, params):
                if part.text:
                    answer.add(part.text)
                if part.output_tokens is not None:
                    answer.num_tokens = part.output_tokens
                reason = part.finish_reason or reason
        except OperatorError as error:
            answer.end(error=str(error))
        else:
            answer.end(reason or "stop")
        await box.finish()

    async def _connect(self, url: str) -> httpx.AsyncClient:
        """The client for a server, kept; httpx is imported beside the loop (200 ms, once)."""
        key = self.query_one(ModelsPane).painted_app.api_key
        if self._client is None or self._client_of != (url, key):
            await asyncio.to_thread(importlib.import_module, "httpx")
            await self._close()
            self._client, self._client_of = make_client(url, key), (url, key)
        return self._client

    async def _close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def on_unmount(self) -> None:
        await self._close()

    # -- layout

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """As many columns as answers fit side by side."""
        space = self.query_one("#answers", Container)
        number = max(1, len(self._answers))
        columns = max(1, min(number, self.size.width // ANSWER_WIDTH))
        rows = math.ceil(number / columns)
        columns = math.ceil(number / rows)  # four answers in two rows stand two by two
        space.styles.grid_size_columns = columns
        space.styles.grid_size_rows = rows


class EmptyPane(Pane):
    """Before the first question."""

    TITLE = "answers"

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        hints = (
            ("enter", "sends the prompt to every model that is marked"),
            ("shift+tab", "goes to the parameters and to the models; space marks one"),
            ("up / down", "recall what was asked before"),
            ("escape", "cancels the answers, or gives the keys back to the console"),
        )
        return [
            line(("Answers come side by side, from one mixed batch.", "text")),
            Line(),
            *(line((f"{key:>10}", "key"), (f"  {what}", "dim")) for key, what in hints),
        ]


def label_of(row: AdapterRow) -> str:
    return f"○ {row.name}" if row.is_base else f"● {row.name}"
