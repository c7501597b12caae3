"""`parse_arguments`: the arguments of a call in Python's syntax, `(a=1, b="x")`, as JSON.

Literals only: nothing is evaluated, and nesting is bounded.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

MOST_DEPTH = 64
TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[-+]?(?:\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+))
      | (?P<name>[A-Za-z_][\w.\-]*)
      | (?P<mark>[()\[\]{},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
CONSTANTS: dict[str, Any] = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
CLOSING = {"(": ")", "[": "]"}


def parse_arguments(text: str) -> str:
    """A JSON object. Raises `ValueError` if the text is anything but keyword arguments that are
    literals, in parentheses."""
    reader = _LiteralReader(text)
    reader.expect("mark", "(")
    arguments: dict[str, Any] = {}
    while not reader.accept(")"):
        if arguments:
            reader.expect("mark", ",")
            if reader.accept(")"):
                break
        key = reader.expect("name")
        reader.expect("mark", "=")
        arguments[key] = reader.read_literal(0)
    reader.expect_end()
    return json.dumps(arguments, ensure_ascii=False, allow_nan=False)


class _LiteralReader:
    """The tokens of a call, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._next = self._find()

    def _find(self) -> tuple[str, str]:
        """(kind, text) of the next token; ("end", "") if there is none."""
        found = TOKEN.match(self._text, self._at)
        if found is None:
            if self._text[self._at :].strip():
                raise ValueError(f"no literal at character {self._at}")
            return "end", ""
        self._at = found.end()
        assert found.lastgroup is not None
        return found.lastgroup, found[found.lastgroup]

    def expect(self, kind: str, text: str = "") -> str:
        found_kind, found = self._next
        if found_kind != kind or (text and found != text):
            raise ValueError(f"{text or kind} is missing before character {self._at}")
        self._next = self._find()
        return found

    def accept(self, mark: str) -> bool:
        if self._next != ("mark", mark):
            return False
        self._next = self._find()
        return True

    def expect_end(self) -> None:
        if self._next[0] != "end":
            raise ValueError(f"there is more at character {self._at}")

    def read_literal(self, depth: int) -> Any:
        if depth > MOST_DEPTH:
            raise ValueError("nested too deeply")
        kind, text = self._next
        if kind == "mark" and text in CLOSING:
            return self._read_list(CLOSING[text], depth)
        if kind == "mark" and text == "{":
            return self._read_dict(depth)
        self._next = self._find()
        if kind == "string":
            return _string_value(text)
        if kind == "number":
            return int(text) if text.lstrip("-+").replace("_", "").isdigit() else float(text)
        if kind == "name" and text in CONSTANTS:
            return CONSTANTS[text]
        raise ValueError(f"{text!r} is no literal")

    def _read_list(self, closing: str, depth: int) -> list[Any]:
        self._next = self._find()
        found: list[Any] = []
        while not self.accept(closing):
            if found:
                self.expect("mark", ",")
                if self.accept(closing):
                    break
            found.append(self.read_literal(depth + 1))
        return found

    def _read_dict(self, depth: int) -> dict[str, Any]:
        self._next = self._find()
        found: dict[str, Any] = {}
        while not self.accept("}"):
            if found:
                self.expect("mark", ",")
                if self.accept("}"):
                    break
            key = self.read_literal(depth + 1)
            self.expect("mark", ":")
            found[key if isinstance(key, str) else json.dumps(key)] = self.read_literal(depth + 1)
        return found


def _string_value(text: str) -> str:
    """The value of a string literal; models write line ends in it as they are."""
    text = text.replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
    try:
        return str(ast.literal_eval(text))
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no string") from error
