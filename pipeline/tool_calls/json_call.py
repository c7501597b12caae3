"""Reads calls that are JSON: `{"name": "f", "arguments": {…}}`, and lists of them."""

from __future__ import annotations

import json
from collections.abc import Collection

from .json_scanner import JsonScanner
from .pieces import Piece
from .text_source import Steps, TextSource

ARGUMENTS = ("arguments", "parameters")
KEYS = frozenset({"name", "type", "id", *ARGUMENTS})
"""Keys of an object that is a call without any marker."""
LONGEST_KEY = 256
"""Most characters of a key or of a function's name."""


def read_json_call(source: TextSource, call: int, names: Collection[str] | None) -> Steps[bool]:
    """Reads an object that comes next, and yields its call. `names`: the functions that it may
    name; None allows any. False, and nothing is yielded, if it is no call.

    The arguments are yielded as the model writes them once the name is known.
    """
    reader = _CallReader(source, call, names)
    return (yield from reader.read())


def read_json_calls(source: TextSource, call: int, names: Collection[str] | None) -> Steps[int]:
    """Reads a list of objects that comes next. Returns the number of calls; reading stops at what
    is none."""
    yield from source.accept("[")
    count = 0
    while True:
        yield from source.read_space()
        if (yield from source.accept("]")):
            return count
        if count:
            if not (yield from source.accept(",")):
                return count
            yield from source.read_space()
        if not (yield from read_json_call(source, call + count, names)):
            return count
        count += 1


def read_value(source: TextSource) -> Steps[str]:
    """Reads one JSON value and returns its text."""
    scanner, found = JsonScanner(), []
    while (yield from source.await_text()):
        found.append(source.take(scanner.scan(source.rest)))
        if scanner.is_over:
            break
    return "".join(found)


def read_arguments(source: TextSource, call: int) -> Steps[None]:
    """Yields the JSON value that comes next as the arguments of a call."""
    scanner = JsonScanner()
    while (yield from source.await_text()):
        yield Piece("arguments", source.take(scanner.scan(source.rest)), call)
        if scanner.is_over:
            break


def arguments_text(value: str) -> str:
    """Arguments from the text of a JSON value, which may be a string that has them as JSON, or
    null."""
    if value[:1] == '"':
        try:
            inner = json.loads(value)
            json.loads(inner)
        except (ValueError, RecursionError):
            return value
        return str(inner)
    return "{}" if value.strip() in ("null", "") else value


class _CallReader:
    """One object. Nothing is yielded before its name is known and allowed."""

    def __init__(self, source: TextSource, call: int, names: Collection[str] | None) -> None:
        self._source, self._call, self._names = source, call, names
        self._is_named = False
        self._arguments: str | None = None
        """Arguments that came before the name."""
        self._has_arguments = False

    def read(self) -> Steps[bool]:
        source = self._source
        if not (yield from source.accept("{")):
            return False
        while True:
            yield from source.read_space()
            if (yield from source.accept("}")):
                break
            if (yield from source.accept(",")):
                yield from source.read_space()
            key = yield from self._read_string()
            if key is None or (self._names is not None and key not in KEYS):
                return self._is_named
            yield from source.read_space()
            if not (yield from source.accept(":")):
                return self._is_named
            yield from source.read_space()
            if not (yield from self._read_member(key)):
                return self._is_named
        if self._is_named and not self._has_arguments:
            yield Piece("arguments", self._arguments or "{}", self._call)
        return self._is_named

    def _read_string(self) -> Steps[str | None]:
        """The string that comes next; None if there is none."""
        if not (yield from self._source.starts_with('"')):
            return None
        text = yield from read_value(self._source)
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found if isinstance(found, str) and len(found) <= LONGEST_KEY else None

    def _read_member(self, key: str) -> Steps[bool]:
        """Reads a value; False if the object is no call."""
        source = self._source
        if key == "name" and not self._is_named:
            name = yield from self._read_string()
            if not name or (self._names is not None and name not in self._names):
                return False
            self._is_named = True
            yield Piece("call", name, self._call)
            if self._arguments is not None:
                self._has_arguments = True
                yield Piece("arguments", self._arguments, self._call)
            return True
        if key not in ARGUMENTS or self._has_arguments:
            yield from read_value(source)
            return True
        if self._is_named and (yield from source.starts_with("{")):
            self._has_arguments = True
            yield from read_arguments(source, self._call)
            return True
        value = yield from read_value(source)
        # An answer that ends before its arguments has none.
        text = arguments_text(value) if value or source.rest else ""
        if self._is_named:
            self._has_arguments = True
            yield Piece("arguments", text, self._call)
        else:
            self._arguments = text
        return True
