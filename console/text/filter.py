"""`Filter`: the text typed after `/`, a regular expression; a leading `!` inverts it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Filter:
    """Keeps rows that match. An expression in lower case ignores case."""

    text: str = ""
    error: str = ""
    """Why the expression is invalid; an invalid one keeps every row."""
    _inverse: bool = field(default=False, repr=False)
    _pattern: re.Pattern[str] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Never raises: an invalid expression sets `error`."""
        inverse = text.startswith("!")
        body = text[1:] if inverse else text
        if not body:
            return cls(text)
        try:
            flags = re.IGNORECASE if body.islower() or not any(map(str.isalpha, body)) else 0
            return cls(text, "", inverse, re.compile(body, flags))
        except re.error as error:
            return cls(text, str(error))

    def __bool__(self) -> bool:
        return self._pattern is not None

    def hits(self, text: str) -> list[tuple[int, int]]:
        """The matching ranges of a text; none if the filter is inverted."""
        if self._pattern is None or self._inverse:
            return []
        return [hit.span() for hit in self._pattern.finditer(text) if hit.end() > hit.start()]

    def keeps(self, row: str) -> bool:
        return self._pattern is None or bool(self._pattern.search(row)) is not self._inverse
