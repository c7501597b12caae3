"""`AnswerParser`: an answer's text, as it comes, to its reasoning, content and tool calls."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .formats import TOOL_FORMATS
from .pieces import Piece, joined
from .reasoning import REASONING_FORMATS
from .text_source import Steps, TextSource
from .tool import Tool

PUSHED_AT_ONCE = 4096
"""Characters that a parser gets at once: what it reads is cut from their beginning."""


class Reading(msgspec.Struct, frozen=True):
    """How an answer is to be read. Formats are names; "" reads nothing of that kind."""

    tool_format: str = ""
    tools: tuple[Tool, ...] = ()
    """With their schemas if the format needs them."""
    reasoning_format: str = ""
    is_reasoning_open: bool = False
    """Whether the prompt ends inside the reasoning."""
    is_parallel: bool = True
    """Whether there may be several calls; else all but the first are left out."""
    hides_reasoning: bool = False
    """Whether the reasoning is left out."""
    has_no_content: bool = False
    """Whether the answer can be nothing but calls after its reasoning, so that other text is a call
    that was cut, or white space. It is left out."""
    ends_with_calls: bool = False
    """Whether nothing but further calls can follow a call, so that other text is one that was
    cut. It is left out."""

    def keeps(self, piece: Piece, *, has_call: bool) -> bool:
        """Whether a piece belongs to the answer; `has_call`: a call was before it."""
        if piece.kind == "reasoning":
            return not self.hides_reasoning
        if piece.kind == "content":
            return not (self.has_no_content or (self.ends_with_calls and has_call))
        return self.is_parallel or not piece.call


class AnswerParser:
    """Reads one choice. The pieces of `push` and `finish`, joined, depend on the whole text alone.

    White space beside calls and around the reasoning is left out.
    """

    def __init__(self, reading: Reading) -> None:
        self._source = TextSource()
        self._reading = reading
        self._steps = _read_answer(self._source, reading)
        self._spacing = _Spacing()
        self._has_call = False

    def push(self, text: str) -> list[Piece]:
        """The pieces that this text completes."""
        found: list[Piece] = []
        for at in range(0, len(text), PUSHED_AT_ONCE):
            self._source.rest += text[at : at + PUSHED_AT_ONCE]
            found += self._spacing.filter(self._advance())
        return self._kept(found)

    def finish(self) -> list[Piece]:
        """The rest, at the end of the text."""
        self._source.is_whole = True
        pieces = [*self._spacing.filter(self._advance()), *self._spacing.finish()]
        return self._kept(pieces)

    def _kept(self, pieces: Iterable[Piece]) -> list[Piece]:
        kept = []
        for piece in pieces:
            self._has_call |= piece.kind == "call"
            if self._reading.keeps(piece, has_call=self._has_call):
                kept.append(piece)
        return joined(kept)

    def _advance(self) -> list[Piece]:
        found = []
        for piece in self._steps:
            if piece is None:
                break
            found.append(piece)
        return found


def parse_answer(text: str, reading: Reading) -> list[Piece]:
    """All pieces of a whole answer."""
    parser = AnswerParser(reading)
    return joined([*parser.push(text), *parser.finish()])


def _read_answer(source: TextSource, reading: Reading) -> Steps[None]:
    if reading.reasoning_format:
        form = REASONING_FORMATS[reading.reasoning_format]
        yield from form.read(source, reading.is_reasoning_open)
    if reading.tool_format:
        tools = {tool.name: tool for tool in reading.tools}
        yield from TOOL_FORMATS[reading.tool_format].read(source, tools)
    while (yield from source.await_text()):
        yield Piece("content", source.take(len(source.rest)))


class _Spacing:
    """Holds white space back until it is known whether a call or the reasoning's end follows."""

    def __init__(self) -> None:
        self._held = Piece("content", "")
        self._has_call = False

    def filter(self, pieces: Iterable[Piece]) -> Iterable[Piece]:
        for piece in pieces:
            if piece.kind in ("call", "arguments"):
                self._held = Piece("content", "")
                self._has_call = True
                yield piece
                continue
            before = self._held.text if self._held.kind == piece.kind else ""
            text = piece.text.rstrip()
            if text:
                yield Piece(piece.kind, before + text)
                self._has_call = False
                before = ""
            self._held = Piece(piece.kind, before + piece.text[len(text) :])

    def finish(self) -> Iterable[Piece]:
        if self._held.kind == "content" and not self._has_call:
            yield self._held
