"""`BadRequest`: a request is refused, with the status and the reason that its client gets."""

from __future__ import annotations

from typing import Any

SHOWN = 80
"""Most characters of a client's text that a refusal repeats."""


class BadRequest(Exception):
    """An error that the client can fix: an HTTP status, the reason, and the field."""

    def __init__(self, reason: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param


def error_body(status: int, reason: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": param, "code": status}}


def shortened(word: str, length: int = SHOWN) -> str:
    """The first `length` characters of a client's text, for a refusal."""
    return word if len(word) <= length else word[:length] + "…"
