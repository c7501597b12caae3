"""`JsonScanner`: finds where a JSON value ends in text that comes in parts."""

from __future__ import annotations

import re

MARKS = re.compile(r'["\\{}\[\]]')
AFTER_SCALAR = re.compile(r"[\s,}\]]")


class JsonScanner:
    """Counts brackets and quotes of one value; it does not check what is between them."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self._is_scalar = False
        self.is_over = False
        """Whether the value has ended."""

    def scan(self, text: str) -> int:
        """How many of the next characters belong to the value: all, unless it ends in them."""
        at = 0
        if self._is_scalar or (not self._depth and not self._is_in_string):
            if not text:
                return 0
            if self._is_scalar or text[0] not in '"{[':
                self._is_scalar = True
                end = AFTER_SCALAR.search(text)
                self.is_over = end is not None
                return len(text) if end is None else end.start()
        while at < len(text):
            if self._is_escaped:
                self._is_escaped = False
                at += 1
                continue
            mark = MARKS.search(text, at)
            if mark is None:
                return len(text)
            at = mark.end()
            self._take_mark(mark[0])
            if not self._depth and not self._is_in_string:
                self.is_over = True
                return at
        return at

    def _take_mark(self, mark: str) -> None:
        if self._is_in_string:
            if mark == '"':
                self._is_in_string = False
            elif mark == "\\":
                self._is_escaped = True
        elif mark == '"':
            self._is_in_string = True
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
