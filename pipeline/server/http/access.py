"""`Access`: who may use a route, by the keys of the settings.

A user has the API key or the admin key, an operator the admin key. Without an admin key operators'
routes are open to programs on this machine if there is no API key either, and closed otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request as HttpRequest

from ...api_keys import KEY_VARIABLES
from ...config import Config, flag_of, is_loopback
from .bad_request import BadRequest
from .browser_guard import is_same_origin

REPORT_SECONDS = 60.0
"""Requests with a wrong key are reported in one event each minute."""
SCHEME = b"bearer"
SHORT_KEY_CHARACTERS = 16
"""A shorter key is reported at the start, if the server listens beyond loopback."""


def exposure(config: Config) -> str:
    """What a server beyond loopback leaves open by its keys; "" if nothing."""
    if is_loopback(config.host):
        return ""
    if not config.api_key:
        return f"every machine that reaches {config.host} may send requests: --api-key limits them"
    short = [
        flag_of(name)
        for name in KEY_VARIABLES
        if 0 < len(getattr(config, name)) < SHORT_KEY_CHARACTERS
    ]
    if short:
        return f"{' and '.join(short)} can be guessed: openssl rand -hex 32 makes a key that cannot"
    return ""


class Access:
    """Checks the key of each request. A wrong one is answered at once: a pause would hold a
    connection, and would not slow down a client that opens many."""

    def __init__(self, config: Config, report: Callable[[str, str], None]) -> None:
        """`report(level, text)` publishes an event."""
        keys = [key for key in (config.api_key, config.admin_key) if key]
        self._user_keys = _digests(keys if config.api_key else [])
        self._operator_keys = _digests([config.admin_key] if config.admin_key else [])
        self._is_closed = not config.admin_key and not (
            is_loopback(config.host) and not config.api_key
        )
        self._report = report
        self._reported_at = -REPORT_SECONDS
        self._unreported = 0
        self.num_refused = 0
        """Requests with a wrong key, or without one."""

    def check_user(self, request: HttpRequest) -> None:
        """Raises `BadRequest` (401) unless the request may use a user's route."""
        self._check_key(request, self._user_keys)

    def check_operator(self, request: HttpRequest) -> None:
        """Raises `BadRequest` (401, 403) unless the request may use an operator's route."""
        if self._is_closed:
            raise BadRequest(
                "operators' routes are closed: start the pipeline with --admin-key", status=403
            )
        if not self._operator_keys and not is_same_origin(request.headers):
            raise BadRequest(
                "operators' routes are open to programs on this machine, not to a page: start the "
                "pipeline with --admin-key, and have the page send that key",
                status=403,
            )
        self._check_key(request, self._operator_keys)

    def _check_key(self, request: HttpRequest, keys: Sequence[bytes]) -> None:
        if not keys:
            return
        given = hashlib.sha256(_bearer(request)).digest()
        # All are compared, so that the time says nothing of which one was near.
        if not sum([hmac.compare_digest(given, key) for key in keys]):
            self._count_refusal(request)
            raise BadRequest("wrong or missing API key", status=401)

    def _count_refusal(self, request: HttpRequest) -> None:
        self.num_refused += 1
        self._unreported += 1
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            whence = request.client.host if request.client else "an unknown address"
            count = f"{self._unreported} requests" if self._unreported > 1 else "a request"
            self._report(
                "warning", f"refused {count} with a wrong or missing key, the last from {whence}"
            )
            self._reported_at, self._unreported = now, 0


def _digests(keys: Sequence[str]) -> tuple[bytes, ...]:
    """Digests of the keys: all have one length, so comparing them does not tell a key's."""
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def owner_of(request: HttpRequest) -> bytes:
    """A digest of the key that a request has, or of none: it tells whether two are of one
    client."""
    return hashlib.sha256(_bearer(request)).digest()


def _bearer(request: HttpRequest) -> bytes:
    """The bytes that the client gave as its key; empty if it gave none. Anthropic's clients give it
    in a header of their own, which counts if there is no other."""
    headers = dict(request.scope["headers"])
    header = headers.get(b"authorization", b"")
    if not header:
        return bytes(headers.get(b"x-api-key", b""))
    scheme, space, key = header.partition(b" ")
    return bytes(key.strip()) if space and scheme.lower() == SCHEME else bytes(header)
