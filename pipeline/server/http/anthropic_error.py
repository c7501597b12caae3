"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Any

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error_body(status: int, reason: str, param: str | None = None) -> dict[str, Any]:
    """Anthropic's error object; it has no field for `param`, which the reason names."""
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": reason}}
