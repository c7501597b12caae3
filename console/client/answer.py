"""`Answer`: one streamed answer: its text, its rate, how it ended. Knows no widget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...pipeline.errors import OperatorError
from ..text import units
from .chat import ChatParams, TokenChoice, chat
from .http_client import Http

CANCELLED = "cancelled"
"""The error of an answer that the operator cancelled."""


@dataclass
class Answer:
    """The answer of one model to one prompt. Times are monotonic."""

    model: str
    """The name in the request: the base model's or an adapter's."""
    label: str
    """The name on the screen."""
    style: str = "text"
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    ended_at: float | None = None
    num_pieces: int = 0
    choices: list[TokenChoice] = field(default_factory=list)
    """The tokens, if logprobs were requested."""
    before: tuple[tuple[str, str], ...] = ()
    """The conversation so far: prompts and answers of this model."""
    prompt: str = ""
    system: str = ""
    """The system prompt; "" for none."""
    prompt_tokens: int | None = None
    num_tokens: int | None = None
    """The server's count, sent at the end."""
    finish_reason: str = ""
    error: str = ""
    _text: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._text.append(text)
        self.num_pieces += 1

    def end(self, finish_reason: str = "", error: str = "") -> None:
        self.finish_reason, self.error = finish_reason, error
        self.ended_at = time.monotonic()

    async def stream(
        self,
        http: Http,
        messages: list[dict[str, str]],
        params: ChatParams,
        on_text: Callable[[], None] = lambda: None,
    ) -> None:
        """Sends the prompt and adds the answer piece by piece; a refusal becomes `error`."""
        reason = ""
        try:
            async for part in chat(http, self.model, messages, params):
                if part.text:
                    self.add(part.text)
                    on_text()
                self.choices += part.choices
                if part.output_tokens is not None:
                    self.prompt_tokens = part.prompt_tokens
                    self.num_tokens = part.output_tokens
                reason = part.finish_reason or reason
        except OperatorError as error:
            self.end(error=str(error))
        else:
            self.end(reason or "stop")

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages of the request: the system prompt, the conversation so far, the prompt."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for prompt, answer in self.before:
            found.append({"role": "user", "content": prompt})
            found.append({"role": "assistant", "content": answer})
        return [*found, {"role": "user", "content": self.prompt}]

    @property
    def is_streaming(self) -> bool:
        return self.ended_at is None

    @property
    def text(self) -> str:
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def count(self) -> int:
        """Tokens so far. Until the server's count arrives, pieces of text are counted: one token
        each, or a few if a character spans them."""
        return self.num_pieces if self.num_tokens is None else self.num_tokens

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.asked_at

    @property
    def tokens_s(self) -> float:
        """Tokens per second after the first one, whose latency includes the prompt."""
        if self.first_at is None or self.count < 2:
            return 0.0
        elapsed = (self.ended_at or time.monotonic()) - self.first_at
        return (self.count - 1) / elapsed if elapsed > 0 else 0.0


class WrappedText:
    """Wraps a growing text; only the last paragraph and new text are wrapped again."""

    def __init__(self) -> None:
        self._width = 0
        self._settled = 0  # characters of complete paragraphs, which are not wrapped again
        self._lines: list[str] = []

    def lines(self, text: str, width: int) -> Sequence[str]:
        """All lines of `text`, which must begin with the text of the last call."""
        if width != self._width:
            self._width, self._settled, self._lines = width, 0, []
        end = text.rfind("\n")
        if end >= self._settled:
            self._lines += units.wrap(text[self._settled : end], width)
            self._settled = end + 1
        return [*self._lines, *units.wrap(text[self._settled :], width)]
