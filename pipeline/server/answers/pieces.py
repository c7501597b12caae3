"""`AnswerPiece`: a part of an answer by what it is: text, reasoning, a tool call.

Knows no protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ...tool_calls.answer_parser import AnswerParser, Reading
from ...tool_calls.formats import TOOL_FORMATS
from ...tool_calls.json_scanner import JsonScanner
from ...tool_calls.pieces import PieceKind
from .answer_format import Format


class AnswerPiece(NamedTuple):
    """A part of an answer, in the order of the text."""

    kind: PieceKind
    """A call begins with its name; its arguments follow in parts."""
    text: str
    call_id: str = ""
    call: int = 0
    """The number of the call in its choice."""


class CallTracker:
    """Whether one choice has calls, and whether the last was cut before its arguments ended."""

    def __init__(self) -> None:
        self.has_call = False
        self._arguments = JsonScanner()

    @property
    def is_cut(self) -> bool:
        return self.has_call and not self._arguments.is_over

    def add(self, pieces: Iterable[AnswerPiece]) -> None:
        """Takes the next pieces of the choice."""
        for piece in pieces:
            if piece.kind == "call":
                self.has_call, self._arguments = True, JsonScanner()
            elif piece.kind == "arguments" and not self._arguments.is_over:
                self._arguments.scan(piece.text)


class Splitter(Protocol):
    """Splits the text of one choice, as it comes, into pieces."""

    def put(self, text: str, is_last: bool) -> list[AnswerPiece]: ...


class PlainText:
    """All of it is text."""

    def put(self, text: str, is_last: bool) -> list[AnswerPiece]:
        return [AnswerPiece("content", text)] if text else []


class ParsedText:
    """Text with reasoning or calls."""

    def __init__(self, reading: Reading, seed: str) -> None:
        """`seed`: the calls' ids are made from it."""
        self._parser, self._seed = AnswerParser(reading), seed
        self._id_length = 0
        if reading.tool_format:
            self._id_length = TOOL_FORMATS[reading.tool_format].id_length

    def put(self, text: str, is_last: bool) -> list[AnswerPiece]:
        pieces = self._parser.push(text)
        if is_last:
            pieces += self._parser.finish()
        return [
            AnswerPiece(piece.kind, piece.text, self._call_id(piece.call), piece.call)
            if piece.kind in ("call", "arguments")
            else AnswerPiece(piece.kind, piece.text)
            for piece in pieces
        ]

    def _call_id(self, call: int) -> str:
        digest = hashlib.sha256(f"{self._seed}:{call}".encode()).hexdigest()[: self._id_length]
        return digest if self._id_length < len("call_") + 9 else f"call_{digest}"


def make_splitter(form: Format, choice: int = 0) -> Splitter:
    """The splitter for a choice of an answer. It depends on the form alone, so that an answer that
    is taken up again is split as before."""
    if form.reading is None:
        return PlainText()
    return ParsedText(form.reading, f"{form.answer_id}:{form.created}:{choice}")
