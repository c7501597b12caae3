"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Any

from .bad_request import BadRequest

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error_body(error: BadRequest) -> dict[str, Any]:
    """Anthropic's error object; it has no place for the field, which the reason names."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = ERROR_TYPES.get(error.status, usual)
    return {"type": "error", "error": {"type": kind, "message": error.reason}}
