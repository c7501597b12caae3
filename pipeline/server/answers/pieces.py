"""`AnswerPiece`: a part of an answer by what it is: text, reasoning, a tool call.

Knows no protocol.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from .answer_format import Format


class AnswerPiece(NamedTuple):
    """A part of an answer, in the order of the text."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    """A call begins with its name; its arguments follow in parts."""
    text: str
    call_id: str = ""


class Splitter(Protocol):
    """Splits the text of one choice, as it comes, into pieces."""

    def put(self, text: str, is_last: bool) -> list[AnswerPiece]: ...


class PlainText:
    """All of it is text."""

    def put(self, text: str, is_last: bool) -> list[AnswerPiece]:
        return [AnswerPiece("content", text)] if text else []


def make_splitter(form: Format) -> Splitter:
    """The splitter for a choice of an answer. It depends on the form alone, so that an answer that
    is taken up again is split as before."""
    return PlainText()
