"""`TextSource`: text that comes in parts, for parsers written as generators.

A parser yields `Piece`s, and None where it needs more text. What it reads may depend on the text
alone, never on where the parts end: so an answer is the same, streamed or whole.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from re import Pattern
from typing import TypeAlias, TypeVar

from .pieces import Piece, PieceKind

T = TypeVar("T")
Steps: TypeAlias = Generator[Piece | None, None, T]
"""A parser at work, or a part of one that returns a T."""


class TextSource:
    """The text that was not read yet. It may be recorded while it is read, so that text that is no
    call after all is not lost."""

    def __init__(self) -> None:
        self.rest = ""
        self.is_whole = False
        """Whether no more text will come."""
        self._record: list[str] | None = None

    def take(self, count: int) -> str:
        """Reads this many characters of `rest`."""
        text, self.rest = self.rest[:count], self.rest[count:]
        if self._record is not None:
            self._record.append(text)
        return text

    def put_back(self, text: str) -> None:
        """Makes text that was read the next to be read again."""
        self.rest = text + self.rest

    def start_record(self) -> None:
        self._record = []

    def end_record(self) -> str:
        """All that was read since `start_record`."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def await_text(self) -> Steps[bool]:
        """Waits for the next character; False at the end of the text."""
        while not self.rest and not self.is_whole:
            yield None
        return bool(self.rest)

    def starts_with(self, literal: str) -> Steps[bool]:
        """Whether `literal` comes next; waits only while it may."""
        while len(self.rest) < len(literal) and literal.startswith(self.rest) and not self.is_whole:
            yield None
        return self.rest.startswith(literal)

    def accept(self, literal: str) -> Steps[bool]:
        """Reads `literal` if it comes next."""
        found = yield from self.starts_with(literal)
        if found:
            self.take(len(literal))
        return found

    def read_space(self) -> Steps[str]:
        """Reads white space up to the next other character."""
        found = []
        while (yield from self.await_text()):
            count = len(self.rest) - len(self.rest.lstrip())
            found.append(self.take(count))
            if self.rest:
                break
        return "".join(found)

    def read_until(self, end: Pattern[str], most: int) -> Steps[str]:
        """Reads up to a character that matches `end`, which is left, at most about `most`
        characters."""
        found, length = [], 0
        while length <= most and (yield from self.await_text()):
            match = end.search(self.rest)
            found.append(self.take(match.start() if match else len(self.rest)))
            length += len(found[-1])
            if match:
                break
        return "".join(found)

    def read_before(self, markers: Sequence[str], kind: PieceKind, call: int = 0) -> Steps[str]:
        """Yields all text before the first of `markers` as pieces, and no more of it is held back
        than may begin a marker. Returns the marker, which is left; "" at the end of the text."""
        while True:
            rest = self.rest
            if any(marker in rest for marker in markers):
                at, marker = min((at, m) for m in markers if (at := rest.find(m)) >= 0)
                if at:
                    yield Piece(kind, self.take(at), call)
                return marker
            held = 0 if self.is_whole else longest_beginning(rest, markers)
            if count := len(rest) - held:
                yield Piece(kind, self.take(count), call)
            if self.is_whole:
                return ""
            yield None


def longest_beginning(text: str, markers: Sequence[str]) -> int:
    """Characters at the end of `text` that may begin one of `markers`."""
    found = 0
    for marker in markers:
        at = text.find(marker[0], max(0, len(text) - len(marker) + 1))
        while at >= 0:
            if marker.startswith(text[at:]):
                found = max(found, len(text) - at)
                break
            at = text.find(marker[0], at + 1)
    return found
