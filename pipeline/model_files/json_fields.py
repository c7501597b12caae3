"""`JsonFields`: a JSON object read by name and type. A value of the wrong type becomes a finding
that names the key, and reading continues, so that one pass finds all errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .findings import Finding


class JsonFields:
    """Typed access to `values`, with `defaults` for absent keys. A null is wrong unless the default
    is null too, as in transformers' dataclasses. `prefix` precedes names in findings."""

    def __init__(
        self,
        values: Mapping[str, Any],
        defaults: Mapping[str, Any],
        findings: list[Finding],
        source: str,
        prefix: str = "",
    ) -> None:
        self._values, self._defaults = values, defaults
        self._findings, self._source, self._prefix = findings, source, prefix

    def refuse(self, name: str, finding: str, hint: str = "") -> None:
        self._findings.append(Finding(self._prefix + name, "bad", finding, hint, self._source))

    def note(self, name: str, finding: str) -> None:
        self._findings.append(Finding(self._prefix + name, "note", finding, source=self._source))

    def get(self, name: str) -> Any:
        """The value, else the default, else None."""
        return self._values.get(name, self._defaults.get(name))

    def has_refused(self, name: str) -> bool:
        """Whether a bad finding names this key, so that its value must not be used."""
        name = self._prefix + name
        return any(found.name == name and found.verdict == "bad" for found in self._findings)

    def integer(self, name: str, least: int = 1, most: int | None = None) -> int:
        """An integer from `least` to `most`; `least` if it is wrong."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(name, value, "an integer")
            return least
        if value < least:
            self.refuse(name, f"is {value}, the least is {least}")
            return least
        if most is not None and value > most:
            self.refuse(name, f"is {brief_json(value)}, the most is {most}")
            return least
        return value

    def number(self, name: str, *, positive: bool = True) -> float:
        """A finite number; 1 if it is wrong."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, value, "a number")
            return 1.0
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if not math.isfinite(number) or (positive and number <= 0):
            self.refuse(name, f"is {brief_json(value)}")
            return 1.0
        return number

    def flag(self, name: str) -> bool:
        """A boolean; False if it is wrong."""
        value = self.get(name)
        if not isinstance(value, bool):
            self._wrong(name, value, "true or false")
            return False
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of positive numbers; empty if it is wrong."""
        value = self.get(name)
        if not isinstance(value, list) or not all(
            isinstance(entry, int | float) and not isinstance(entry, bool) and 0 < entry < 1e300
            for entry in value
        ):
            self._wrong(name, value, "a list of positive numbers")
            return ()
        return tuple(float(entry) for entry in value)

    def _wrong(self, name: str, value: Any, wanted: str) -> None:
        if name not in self._values and value is None:
            self.refuse(name, "is missing")
        else:
            self.refuse(name, f"is {brief_json(value)}, not {wanted}")


def brief_json(value: Any) -> str:
    """A value as shown in a refusal, shortened to 60 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
