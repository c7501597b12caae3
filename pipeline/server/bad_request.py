"""`BadRequest`: a request is refused, with the status and the reason that its client gets."""

from __future__ import annotations


class BadRequest(Exception):
    """The client's to mend: an HTTP status, what is wrong, and the field it is about."""

    def __init__(self, reason: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param
