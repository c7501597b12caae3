"""`OpenConversation`: the conversation on the Prompt screen, which each model knows its own part
of. Knows no widget and no file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import msgspec

from .answer import Answer
from .chat import ChatParams
from .transcripts import SYSTEM, Turn, as_jsonl, as_markdown, short_conversation


class OpenConversation:
    """Its id, its complete turns, and what each model has been asked and has answered."""

    def __init__(self) -> None:
        self.id = uuid4().hex
        self.turns: list[Turn] = []
        self._said: dict[str, tuple[tuple[str, str], ...]] = {}

    @property
    def name(self) -> str:
        """The beginning of the id, for screens and commands."""
        return short_conversation(self.id)

    def before(self, model: str) -> tuple[tuple[str, str], ...]:
        """Prompts and answers of this model so far."""
        return self._said.get(model, ())

    def take_back(self, answers: Sequence[Answer]) -> None:
        """Makes their models forget these answers, and what they answered."""
        for answer in answers:
            self._said[answer.model] = answer.before

    def add(self, answers: Sequence[Answer], params: ChatParams) -> list[Turn]:
        """Adds ended answers, except those with neither text nor error, and returns their turns.
        Models remember the answers that are whole."""
        turns = []
        for answer in answers:
            if answer.finish_reason:
                self._said[answer.model] = (*answer.before, (answer.prompt, answer.text))
            if answer.text or answer.error:
                turns.append(self._turn(answer, params))
        self.turns += turns
        return turns

    def _turn(self, answer: Answer, params: ChatParams) -> Turn:
        return Turn(
            conversation=self.id,
            at=time.time() - (time.monotonic() - answer.asked_at),
            model=answer.model,
            prompt=answer.prompt,
            answer=answer.text,
            params=params.body | ({SYSTEM: answer.system} if answer.system else {}),
            finish_reason=answer.finish_reason,
            error=answer.error,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.count or None,
            ttft_s=answer.ttft_s,
            tokens_s=answer.tokens_s or None,
        )

    def export(self, path: Path) -> str:
        """The whole conversation in the format of the path's ending: `.jsonl` and `.json` have a
        turn's fields as names, anything else is Markdown."""
        if path.suffix == ".json":
            return f"{json.dumps(msgspec.to_builtins(self.turns), ensure_ascii=False, indent=2)}\n"
        rows = as_jsonl(self.turns) if path.suffix == ".jsonl" else as_markdown(self.turns)
        return "".join(f"{row}\n" for row in rows)
