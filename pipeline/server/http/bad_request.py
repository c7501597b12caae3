"""`BadRequest`: a request is refused, with the status and the reason that its client gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...messages import CONTEXT_LENGTH_EXCEEDED

SHOWN = 80
"""Most characters of a client's text that a refusal repeats."""
MODEL_NOT_FOUND = "model_not_found"
TYPES: Mapping[int, tuple[str, str]] = {
    401: ("authentication_error", "invalid_api_key"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
"""Type and code of an error object by its status, where OpenAI's are not the usual ones."""


class BadRequest(Exception):
    """An error that the client can fix: an HTTP status, the reason, the field, and OpenAI's word
    for it, if clients look for one."""

    def __init__(
        self, reason: str, *, status: int = 400, param: str | None = None, code: str = ""
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return error_body(self.status, self.reason, self.param, self.code)


def error_body(
    status: int, reason: str, param: str | None = None, code: str = ""
) -> dict[str, Any]:
    """OpenAI's error object. Its code is the status, as in vLLM, unless OpenAI has a word that
    clients look for."""
    usual = "invalid_request_error" if status < 500 else "server_error"
    kind, word = TYPES.get(status, (usual, ""))
    found = code or word or status
    return {"error": {"message": reason, "type": kind, "param": param, "code": found}}


def too_long(longest: int, reason: str, param: str | None = None) -> BadRequest:
    """The refusal of a request that the model's length of `longest` tokens does not hold. litellm,
    LangChain and clients of Anthropic know it by these words, OpenAI's clients by the code."""
    words = f"this model's maximum context length is {longest} tokens, and the prompt is too long"
    text = f"{words}: {reason}"
    return BadRequest(text, param=param, code=CONTEXT_LENGTH_EXCEEDED)


def shortened(word: str, length: int = SHOWN) -> str:
    """The first `length` characters of a client's text, for a refusal."""
    return word if len(word) <= length else word[:length] + "…"
