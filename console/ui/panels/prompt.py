"""Prompt: asks the base and adapters the same question at once, with answers side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input
from textual.worker import Worker

from ....pipeline.errors import OperatorError
from ...client.answer import CANCELLED, Answer
from ...client.chat import ChatParams
from ...client.http_client import Http
from ...client.open_conversation import OpenConversation
from ...client.transcripts import Transcripts, Turn, open_default
from ...state.board import AdapterRow, Board
from ...text import units
from ..chat.editor import PromptEditor
from ..chat.model_picker import MANY, ModelPicker, PickedModels, agree_to_many
from ..chat.parameters import ParameterForm
from ..chat.recall import RecallDialog
from ..widgets.pane import Pane, Panel
from ..widgets.save_dialog import SaveDialog
from .answer_grid import AnswerGrid
from .models import ModelsPane

MOST_ROWS = 4
LINES_A_ROW = 10
"""Rows of models that are shown at most, and the lines of the screen for each."""


class PromptPanel(Panel):
    """The models to ask, the answers, and the prompt. In a conversation each model sees only its
    own earlier answers."""

    NAME: ClassVar[str] = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+g,slash", "pick", "Models", id="pick-models", tooltip="find models by name"),
        Binding(
            "f2", "more", "More", id="more-parameters", tooltip="system prompt and more parameters"
        ),
        Binding("ctrl+n", "new", "New", id="new-conversation", tooltip="new conversation"),
        Binding("ctrl+t", "retry", "Retry", id="retry", tooltip="send the last prompt again"),
        Binding("ctrl+s,e", "export", "Export", id="export-conversation", tooltip="to a file"),
        Binding("right_square_bracket", "turn(1)", "Next page", key_display="]", id="answers-next"),
        Binding(
            "left_square_bracket",
            "turn(-1)",
            "Previous page",
            show=False,
            key_display="[",
            id="answers-previous",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._conversation = OpenConversation()
        self._kept: Transcripts | None = None
        self._answers: list[Answer] = []
        self._work: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        yield ModelsPane()
        yield AnswerGrid()
        yield ParameterForm()
        yield PromptEditor()

    @property
    def panes(self) -> list[Pane]:
        return list(self.query(Pane))

    @property
    def is_live(self) -> bool:
        """Whether answers are streaming; they arrive without telemetry."""
        return any(answer.is_streaming for answer in self._answers)

    @property
    def _grid(self) -> AnswerGrid:
        return self.query_one(AnswerGrid)

    def focus_first(self) -> None:
        self.query_one(PromptEditor).focus()

    def paint(self, board: Board) -> None:
        super().paint(board)
        models = self.query_one(ModelsPane)
        most = max(1, min(MOST_ROWS, self.screen.size.height // LINES_A_ROW))
        wanted = min(most, models.num_lines) + 2
        if models.size.height not in (0, wanted):
            models.styles.height = wanted

    # -- transcripts

    def on_mount(self) -> None:
        self.run_worker(self._open_transcripts(), name="transcripts", exit_on_error=True)
        self._name_conversation()

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

    def _keep(self, turns: Sequence[Turn]) -> None:
        """Saves turns in the transcripts."""
        for turn in turns:
            try:
                if self._kept is not None:
                    self._kept.add(turn)
            except OperatorError as error:
                self._not_kept(error)

    def on_prompt_editor_recall_asked(self) -> None:
        if self._kept is None:
            self.notify("Transcripts are off.", severity="warning")
            return
        editor = self.query_one(PromptEditor)
        self.app.push_screen(
            RecallDialog(self._kept.search),
            lambda text: editor.replace_text(text) if text else None,
        )

    def action_export(self) -> None:
        """Asks for a path and saves the conversation there."""
        conversation = self._conversation
        if not conversation.turns:
            self.notify("No answers to export yet.", severity="warning")
            return

        def saved(path: str | None) -> None:
            if path:
                self.notify(path, title=f"conversation {conversation.name} saved", markup=False)

        self.app.push_screen(
            SaveDialog(
                f"Export conversation {conversation.name}",
                f"conversation-{conversation.name}.md",
                conversation.export,
            ),
            saved,
        )

    async def action_new(self) -> None:
        """Starts another conversation, without earlier turns."""
        if self.is_live:
            self.notify("esc cancels them", title="Answers are still streaming")
            return
        self._conversation, self._answers = OpenConversation(), []
        self.unzoom()
        await self._grid.show(())
        self.query_one(PromptEditor).drop_restored()
        self.focus_first()

    def action_retry(self) -> None:
        """Sends the last prompt to the same models again; new answers replace the old ones."""
        if self.is_live or not self._answers:
            return
        self.query_one(PromptEditor).drop_restored()
        self._send(self._answers[0].prompt, [answer.model for answer in self._answers], True)

    # -- asking

    def action_pick(self) -> None:
        """Opens the dialog that finds and marks models."""
        models = self.query_one(ModelsPane)

        def picked(found: PickedModels | None) -> None:
            if found is None:
                return
            models.choose(found.names)
            form = self.query_one(ParameterForm)
            form.query(Input).first().focus() if found.goes_to_parameters else self.focus_first()

        self.app.push_screen(ModelPicker(models.marked), picked)

    def action_more(self) -> None:
        self.query_one(ParameterForm).focus_more()

    def on_prompt_editor_sent(self, message: PromptEditor.Sent) -> None:
        self._send(message.text)

    def _send(
        self, prompt: str, names: Sequence[str] | None = None, is_retry: bool = False
    ) -> None:
        """Sends a prompt to the marked models, or to `names`; asks first if they are many."""
        editor, form = self.query_one(PromptEditor), self.query_one(ParameterForm)
        try:
            http, asked = self._server(), self._asked(names)
        except OperatorError as error:
            self.notify(error.hint, title=error.what, severity="warning", markup=False)
            editor.restore(prompt)
            return
        if (params := form.params()) is None:
            editor.restore(prompt)
            return

        def begin() -> None:
            editor.drop_restored()
            if is_retry:
                self._conversation.take_back(self._answers)
            self._begin(http, prompt, asked, params)

        if len(asked) > MANY:
            editor.restore(prompt)  # unless the answer is yes
        title = f"Send {units.count(len(asked))} requests?"
        agree_to_many(self.app, len(asked), title, "Send them", begin)

    def _begin(
        self, http: Http, prompt: str, asked: Sequence[AdapterRow], params: ChatParams
    ) -> None:
        self._answers = [
            Answer(
                row.name,
                label_of(row),
                row.color,
                before=self._conversation.before(row.name),
                prompt=prompt,
                system=self.query_one(ParameterForm).system,
            )
            for row in asked
        ]
        self.query_one(ModelsPane).painted_app.wake()
        self._work = self.run_worker(self._ask(http, params), name="ask", exit_on_error=True)

    def on_write_asked(self) -> None:
        self.focus_first()

    def on_left(self) -> None:
        if self._work is not None and self.is_live:
            self._work.cancel()
        else:
            self.query_one(ModelsPane).focus()

    def _asked(self, names: Sequence[str] | None = None) -> list[AdapterRow]:
        if self.is_live:
            raise OperatorError("Answers are still streaming", "esc cancels them")
        models = self.query_one(ModelsPane)
        if models.painted_app.refuses("send"):
            raise OperatorError(models.painted_app.refusal, "the prompt is kept")
        board = models.painted_app.board
        if board.is_start_given:
            raise OperatorError("The pipeline is starting", "the prompt is kept: try again later")
        if board.is_down:
            hint = "esc, then S starts it; the prompt is kept"
            raise OperatorError(
                "The pipeline is stopped" if board.is_stopped else "No supervisor answers",
                hint if models.painted_app.can_start else "the prompt is kept",
            )
        if not board.adapters:
            raise OperatorError("No model is available yet", "the prompt is kept: try again later")
        models.update_models(board)
        asked = (
            models.asked(board)
            if names is None
            else [row for row in board.adapters if row.name in names]
        )
        if not asked:
            raise OperatorError("No model is marked", "mark one: ctrl+g, then space")
        return asked

    def _server(self) -> Http:
        app = self.query_one(ModelsPane).painted_app
        if app.board.server is None:
            raise OperatorError("The server is not ready", "the prompt is kept: try again later")
        return Http(app.board.server.url, app.api_key)

    async def _ask(self, http: Http, params: ChatParams) -> None:
        """Streams all answers at once; the pipeline runs them in one mixed batch."""
        answers = self._answers
        self.unzoom()
        await self._grid.show(answers)
        try:
            async with asyncio.TaskGroup() as tasks:
                for answer in answers:
                    tasks.create_task(self._stream(http, answer, params))
        finally:
            for answer in answers:
                if answer.is_streaming:
                    answer.end(error=CANCELLED)
            self._keep(self._conversation.add(answers, params))
            if not any(answer.finish_reason for answer in answers):
                for editor in self.query(PromptEditor):  # none while the console is closing
                    editor.restore(answers[0].prompt)

    async def _stream(self, http: Http, answer: Answer, params: ChatParams) -> None:
        await answer.stream(http, answer.messages, params)
        for grid in self.query(AnswerGrid):
            grid.repaint(answer)

    async def on_unmount(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None  # answers cut off by the exit are not saved

    # -- pages

    def action_turn(self, step: int) -> None:
        self._grid.turn(step)

    def on_prompt_editor_turned(self, message: PromptEditor.Turned) -> None:
        self._grid.turn(message.step)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action is available now: turning only if there are several pages."""
        if action == "turn":
            return bool(self._answers) and self._grid.num_pages > 1
        return super().check_action(action, parameters)

    def on_answer_grid_arranged(self) -> None:
        self._name_conversation()
        self.refresh_bindings()

    def _name_conversation(self) -> None:
        """Shows the conversation's id, and the page of its answers, at the prompt."""
        parts = (self._grid.position, f"conversation {self._conversation.name}")
        self.query_one(PromptEditor).border_subtitle = " · ".join(filter(None, parts))

    def zoom(self) -> None:
        """Shows the focused answer alone; each further call shows the next one, and after the last
        one all of them again."""
        grid = self._grid
        if not self._answers:
            return
        if grid.alone is None:
            focused = (pane for pane in grid.panes if pane.has_focus)
            index = grid.index_of(next(focused, grid.panes[0]))
        else:
            index = grid.alone + 1
        if index >= len(self._answers):
            self.unzoom()
            return
        self.add_class("-zoomed")
        grid.show_alone(index)
        self.zoomed = grid.panes[0]
        self.zoomed.focus()

    def unzoom(self) -> None:
        if self.zoomed is not None:
            self.zoomed = None
            self.remove_class("-zoomed")
            self._grid.show_alone(None)


def label_of(row: AdapterRow) -> str:
    return f"○ {row.name}" if row.is_base else f"● {row.name}"
