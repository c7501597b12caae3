"""Errors that the operator can fix: `OperatorError`, `UsageError`."""

from __future__ import annotations


class OperatorError(Exception):
    """An error that the operator can fix: what is wrong, and a hint what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}. {self.hint}" if self.hint else self.what


class UsageError(OperatorError):
    """A flag or a setting is wrong: exit status 2, as for any bad usage."""
