"""Answers to a path without a route, to a refusal and to a bug, in the format of all errors."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route

from ..http.anthropic_error import anthropic_error_body
from ..http.bad_request import BadRequest, shortened

log = logging.getLogger("server")

ErrorWriter: TypeAlias = Callable[[BadRequest], dict[str, Any]]
"""Makes the body of a refusal in a protocol's shape."""

HEADERS_OF_STATUS = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}
"""Headers that belong to a refusal."""


async def answer_no_route(request: HttpRequest, error: Exception) -> Response:
    """Answers an unknown path or a wrong method, in Anthropic's shape below its routes."""
    assert isinstance(error, HTTPException)
    path = shortened(request.scope["path"])  # `request.url` fails on some Host headers
    headers = error.headers
    if error.status_code == 405:
        allowed = ", ".join(_methods_of(request))
        reason = f"{request.method} {path} is not served; allowed: {allowed}"
        headers = {"Allow": allowed}
    else:
        reason = f"no route {path}: docs/http.md lists the routes"
    refusal = BadRequest(reason, status=error.status_code)
    is_anthropic = re.match(r"/v1/messages(/|$)", request.scope["path"])
    body = anthropic_error_body(refusal) if is_anthropic else refusal.body()
    return JSONResponse(body, error.status_code, headers)


def _methods_of(request: HttpRequest) -> list[str]:
    """The methods of all routes with the request's path; Starlette's refusal has the first's."""
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE and isinstance(route, Route):
            found |= route.methods or set()
    return sorted(found)


async def answer_bug(
    request: HttpRequest, error: Exception, write: ErrorWriter = BadRequest.body
) -> Response:
    """Answers after a bug: the answer and the log, which has the traceback, share an id."""
    failure = f"e-{secrets.token_hex(6)}"
    log.error("%s: %s %s failed", failure, request.method, request.scope["path"], exc_info=error)
    reason = f"the server failed; its log has the reason under {failure}"
    return JSONResponse(write(BadRequest(reason, status=500)), 500)


def answer_refusal(error: BadRequest, write: ErrorWriter = BadRequest.body) -> Response:
    """Answers a refused request."""
    return JSONResponse(write(error), error.status, HEADERS_OF_STATUS.get(error.status))
