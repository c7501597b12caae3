"""`Document`: a TOML file with the line of every key, to report mistakes by line (`Problem`).

Knows nothing of the keys' meaning.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_PATH = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"^\s*\[\s*({_PATH})\s*\]")
_KEY = re.compile(rf"^\s*({_PATH})\s*=")
_INLINE = re.compile(rf"[{{,]\s*({_PATH})\s*=")
_SYNTAX = re.compile(r"^(.*) \(at line (\d+), column (\d+)\)$")


class Problem(NamedTuple):
    """A mistake in a file: its path, line and description."""

    path: str
    line: int | None
    what: str

    def __str__(self) -> str:
        """`console.toml:3: fps: …`, the format of compilers and editors."""
        return f"{self.path}:{self.line}: {self.what}" if self.line else f"{self.path}: {self.what}"


class Readable(Protocol):
    """A path, or a file of an installed package."""

    def read_text(self, encoding: str | None = None) -> str: ...


class Document(NamedTuple):
    """A file's values, and its text, from which their lines are found."""

    path: str
    values: dict[str, Any]
    text: str

    @property
    def lines(self) -> dict[tuple[str, ...], int]:
        """The line of every key in the file, by its path of names."""
        return dict(_keys(self.text, self.values))

    @classmethod
    def read(cls, file: Readable) -> Document:
        """Raises `DocumentError` if the file cannot be read or is not TOML."""
        path = tidy(str(file))
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise DocumentError(Problem(path, None, error.strerror or str(error))) from error
        except UnicodeDecodeError as error:
            raise DocumentError(Problem(path, None, "is not UTF-8 text")) from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: str) -> Document:
        """Raises `DocumentError` if `text` is not TOML."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message = str(error)
            found = _SYNTAX.match(message)
            if found is None:  # "at end of document"
                raise DocumentError(Problem(path, text.count("\n") + 1, message)) from error
            what = f"{found[1]}, at column {found[3]}"
            raise DocumentError(Problem(path, int(found[2]), what)) from error
        return cls(path, values, text)

    def problem(self, names: Sequence[str], what: str) -> Problem:
        """The problem `what` at the line of a key, or else of the nearest table around it."""
        lines = self.lines
        for end in range(len(names), 0, -1):
            if line := lines.get(tuple(names[:end])):
                return Problem(self.path, line, what)
        return Problem(self.path, None, what)


class DocumentError(ValueError):
    """The file cannot be read or parsed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def tidy(path: str) -> str:
    """`path` with `~` for the home directory, as a line has 80 cells."""
    home = str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(home + "/") else path


def _keys(text: str, values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The keys of `text` with their lines, in order. Text that looks like a key, e.g. within a
    string, is skipped unless `values` has that key."""
    table: tuple[str, ...] = ()
    for number, row in enumerate(text.splitlines(), 1):
        if found := _TABLE.match(row):
            table = _names(found[1])
            written = table
        elif found := _KEY.match(row):
            written = (*table, *_names(found[1]))
        else:
            continue
        if _is_in(values, written):
            yield written, number
            for inner in _INLINE.finditer(row):
                if _is_in(values, (*written, *_names(inner[1]))):
                    yield (*written, *_names(inner[1])), number


def _names(path: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, path))


def _is_in(values: Any, names: tuple[str, ...]) -> bool:
    for name in names:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True
