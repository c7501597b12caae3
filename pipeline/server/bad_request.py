"""`BadRequest`: a request is refused, with the status and the reason that its client gets."""

from __future__ import annotations


class BadRequest(Exception):
    """An error that the client can fix: an HTTP status, the reason, and the field."""

    def __init__(self, reason: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param
