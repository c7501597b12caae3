"""Prompt: asks the base and adapters the same question at once, with answers side by side."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widgets import Input, Label
from textual.worker import Worker

from ....pipeline.errors import OperatorError
from ...client.answer import CANCELLED, Answer
from ...client.chat import ChatParams
from ...client.http_client import Http
from ...client.transcripts import Transcripts, Turn, open_default
from ...state.board import AdapterRow, Board
from ...text.lines import TextLine, line
from ..widgets.pane import Pane, Panel
from .answer import AnswerPane
from .editor import ParameterInput, PromptEditor
from .models import ModelsPane
from .recall import RecallDialog

ANSWER_WIDTH = 38
"""Minimum width of an answer beside others."""
PARAMETERS = {
    "temperature": ("temp", "0.7"),
    "max_tokens": ("max", "128"),
    "top_p": ("top p", ""),
    "top_k": ("top k", ""),
    "seed": ("seed", ""),
    "logprobs": ("logprobs", ""),
}
"""Sampling parameters: label and initial value; empty means the server's default."""


class PromptPanel(Panel):
    """The models to ask, the answers, and the prompt. In a conversation each model sees only its
    own earlier answers."""

    NAME: ClassVar[str] = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "new", "New", id="new-conversation", tooltip="start again"),
        Binding("ctrl+t", "retry", "Retry", id="retry", tooltip="ask the last prompt again"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._conversation = uuid4().hex
        self._said: dict[str, tuple[tuple[str, str], ...]] = {}
        """Prompts and answers so far in this conversation, by model."""
        self._kept: Transcripts | None = None
        self._answers: list[Answer] = []
        self._work: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        yield ModelsPane()
        yield Container(EmptyPane(), id="answers")
        with Horizontal(id="parameters"):
            for name, (label, value) in PARAMETERS.items():
                yield Label(label)
                yield ParameterInput(name, value)
        yield PromptEditor()

    @property
    def panes(self) -> list[Pane]:
        return list(self.query(Pane))

    @property
    def is_live(self) -> bool:
        """Whether answers are streaming; they arrive without telemetry."""
        return any(answer.is_streaming for answer in self._answers)

    def focus_first(self) -> None:
        self.query_one(PromptEditor).focus()

    def paint(self, board: Board) -> None:
        super().paint(board)
        models = self.query_one(ModelsPane)
        wanted = min(4, models.num_lines) + 2
        if models.size.height not in (0, wanted):
            models.styles.height = wanted

    # -- transcripts

    def on_mount(self) -> None:
        self.run_worker(self._open_transcripts(), name="transcripts", exit_on_error=True)

    async def _open_transcripts(self) -> None:
        """Reads earlier prompts in a thread: the file may be on a slow disk."""
        try:
            self._kept = await asyncio.to_thread(open_default)
            prompts = await asyncio.to_thread(self._kept.prompts) if self._kept else []
        except OperatorError as error:
            self._not_kept(error)
        else:
            self.query_one(PromptEditor).remember(prompts)

    def _not_kept(self, error: OperatorError) -> None:
        self._kept = None
        self.notify(error.hint, title=error.what, severity="warning", markup=False)

    def _keep(self, answers: Sequence[Answer], params: ChatParams) -> None:
        """Saves answers in the transcripts, except those with neither text nor error."""
        for answer in answers:
            if self._kept is None or not (answer.text or answer.error):
                continue
            turn = Turn(
                conversation=self._conversation,
                at=time.time() - (time.monotonic() - answer.asked_at),
                model=answer.model,
                prompt=answer.prompt,
                answer=answer.text,
                params=params.body,
                finish_reason=answer.finish_reason,
                error=answer.error,
                prompt_tokens=answer.prompt_tokens,
                output_tokens=answer.count or None,
                ttft_s=answer.ttft_s,
                tokens_s=answer.tokens_s or None,
            )
            try:
                self._kept.add(turn)
            except OperatorError as error:
                self._not_kept(error)

    def on_prompt_editor_recall_asked(self) -> None:
        if self._kept is None:
            self.notify("No transcripts are kept.", severity="warning")
            return
        editor = self.query_one(PromptEditor)
        self.app.push_screen(
            RecallDialog(self._kept.search),
            lambda text: editor.replace_text(text) if text else None,
        )

    async def action_new(self) -> None:
        """Starts another conversation, without earlier turns."""
        if self.is_live:
            self.notify("escape cancels the answers", title="Answers are still coming")
            return
        self._conversation, self._said, self._answers = uuid4().hex, {}, []
        space = self.query_one("#answers", Container)
        await space.remove_children()
        await space.mount(EmptyPane())
        self._arrange()
        self.focus_first()

    def action_retry(self) -> None:
        """Sends the last prompt to the same models again; new answers replace the old ones."""
        if self.is_live or not self._answers:
            return
        for answer in self._answers:
            self._said[answer.model] = answer.before
        self._send(self._answers[0].prompt, [answer.model for answer in self._answers])

    # -- asking

    def on_prompt_editor_sent(self, message: PromptEditor.Sent) -> None:
        self._send(message.text)

    def _send(self, prompt: str, names: Sequence[str] | None = None) -> None:
        """Sends a prompt to the marked models, or to `names`."""
        try:
            params, http, asked = self._parameters(), self._server(), self._asked(names)
        except OperatorError as error:
            self.notify(error.hint, title=error.what, severity="warning", markup=False)
            self.query_one(PromptEditor).restore(prompt)
            return
        self._answers = [
            Answer(
                row.name,
                label_of(row),
                row.color,
                before=self._said.get(row.name, ()),
                prompt=prompt,
            )
            for row in asked
        ]
        self.query_one(ModelsPane).painted_app.wake()
        work = self._ask(http, prompt, params)
        self._work = self.run_worker(work, name="ask", exit_on_error=True)

    def on_write_asked(self) -> None:
        self.focus_first()

    def on_left(self) -> None:
        if self._work is not None and self.is_live:
            self._work.cancel()
        else:
            self.query_one(ModelsPane).focus()

    def _asked(self, names: Sequence[str] | None = None) -> list[AdapterRow]:
        if self.is_live:
            raise OperatorError("Answers are still coming", "escape cancels them")
        models = self.query_one(ModelsPane)
        if models.painted_app.refuses("send"):
            raise OperatorError(models.painted_app.refusal, "the prompt stays")
        board = models.painted_app.board
        if not board.adapters:
            raise OperatorError("No model answers yet", "the prompt stays: try again later")
        models.update_models(board)
        asked = (
            models.asked(board)
            if names is None
            else [row for row in board.adapters if row.name in names]
        )
        if not asked:
            raise OperatorError("No model is asked", "choose a model: shift+tab, then space")
        return asked

    def _server(self) -> Http:
        app = self.query_one(ModelsPane).painted_app
        if app.board.server is None:
            raise OperatorError("The server is not there yet", "the prompt stays: try again later")
        return Http(app.board.server.url, app.api_key)

    def _parameters(self) -> ChatParams:
        """The parameters in the fields. For an invalid one focuses its field and raises
        `OperatorError`."""

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

        def whole(name: str, least: int = 0) -> int | None:
            number = value(name)
            return None if number is None else max(least, int(number))

        return ChatParams(
            max_tokens=whole("max_tokens", 1),
            temperature=value("temperature"),
            top_p=value("top_p"),
            top_k=whole("top_k"),
            seed=whole("seed"),
            logprobs=whole("logprobs"),
        )

    async def _ask(self, http: Http, prompt: str, params: ChatParams) -> None:
        """Streams all answers at once; the pipeline runs them in one mixed batch."""
        answers = self._answers
        panes = [AnswerPane(answer) for answer in answers]
        space = self.query_one("#answers", Container)
        await space.remove_children()
        gc.collect()  # takes 9 to 39 ms, frees the 2 MiB of earlier answers
        await space.mount(*panes)
        self._arrange()
        try:
            async with asyncio.TaskGroup() as tasks:
                for pane in panes:
                    tasks.create_task(self._stream(http, pane, params))
        finally:
            for answer in answers:
                if answer.is_streaming:
                    answer.end(error=CANCELLED)
                elif answer.finish_reason:
                    self._said[answer.model] = (*answer.before, (prompt, answer.text))
            self._keep(answers, params)
            if not any(answer.finish_reason for answer in answers):
                for editor in self.query(PromptEditor):  # none while the console is closing
                    editor.restore(prompt)

    async def _stream(self, http: Http, pane: AnswerPane, params: ChatParams) -> None:
        await pane.answer.stream(http, pane.answer.messages, params)
        pane.paint()

    async def on_unmount(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None  # answers cut off by the exit are not saved

    # -- layout

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Arranges the answers in as many columns as fit."""
        space = self.query_one("#answers", Container)
        number = max(1, len(self._answers))
        columns = max(1, min(number, self.size.width // ANSWER_WIDTH))
        rows = math.ceil(number / columns)
        columns = math.ceil(number / rows)  # four answers in two rows become two by two
        space.styles.grid_size_columns = columns
        space.styles.grid_size_rows = rows


class EmptyPane(Pane):
    """Shown before the first prompt."""

    TITLE = "answers"

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        hints = (
            ("enter", "sends the prompt to every model that is marked"),
            ("shift+tab", "goes to the parameters and to the models; space marks one"),
            ("up / down", "recall what was asked before; ctrl+r searches it"),
            ("ctrl+n", "begins a new conversation; ctrl+t asks the last prompt again"),
            ("escape", "cancels the answers, or gives the keys back to the console"),
        )
        return [
            line(("Answers come side by side, from one mixed batch.", "text")),
            TextLine(),
            *(line((f"{key:>10}", "key"), (f"  {what}", "dim")) for key, what in hints),
        ]


def label_of(row: AdapterRow) -> str:
    return f"○ {row.name}" if row.is_base else f"● {row.name}"
