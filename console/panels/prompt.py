"""Prompt: one question to the base and to adapters at once, answered side by side."""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.widgets import Input, Label
from textual.worker import Worker

from ...pipeline.config import OperatorError
from ..answers import Answer
from ..board import AdapterRow, Board
from ..chat import ChatParams, make_client
from ..pane import Line, Pane, Panel, line
from .answer import AnswerBox
from .editor import ParameterInput, PromptEditor
from .models import ModelsPane

if TYPE_CHECKING:
    import httpx

ANSWER_WIDTH = 38
"""Answers stand side by side as long as each has so many cells."""
DEFAULTS = {"temperature": "0.7", "max_tokens": "128", "seed": ""}


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
                yield ParameterInput(name, value)
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
            editor.restore(message.text)
            return
        self._answers = [Answer(row.name, label_of(row), row.tint) for row in asked]
        self.query_one(ModelsPane).painted_app.wake()
        self._work = self.run_worker(
            self._ask(url, message.text, params), name="ask", exit_on_error=True
        )

    def on_write_asked(self) -> None:
        self.focus_first()

    def on_left(self) -> None:
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
        messages = [{"role": "user", "content": prompt}]
        await box.pane.answer.stream(client, messages, params)
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
