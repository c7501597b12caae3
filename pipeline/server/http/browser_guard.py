"""`BrowserGuard`: keeps pages in a browser from using the server; runs before any route.

A page can send requests to every address that its browser reaches, loopback included, without a
person's doing, and it can give its own name the address of this machine (DNS rebinding). It cannot
change `Host`, `Origin` and `Sec-Fetch-Site`, which the browser sets; and without this server's
consent (CORS) it cannot set `Content-Type: application/json`. Programs that are not browsers send
no `Origin`. Knows no route and no key.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ...config import ANY_HOST, Config, is_loopback
from .bad_request import BadRequest, shortened

ANSWER_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""Headers of every answer: a page of another origin cannot use it as a script, style or image."""
JSON = "application/json"
NO_ORIGIN = "null"
"""What a browser sends for a page that has none to name."""
READING = ("GET", "HEAD", "OPTIONS")


class BrowserGuard:
    """ASGI middleware that answers 421, 403 or 415 to what a page of another site may send."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._app = app
        self._hosts = _host_names(config)
        self._origins = frozenset(map(str.lower, config.allow_origin))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check_host(headers)
                self._check_origin(scope["method"], headers)
                _check_content_type(scope["method"], headers)
            except BadRequest as error:
                answer = JSONResponse(error.body(), error.status)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Raises `BadRequest` (421) for a name that is not this server's. An address is never
        refused: no page can have its requests sent here by it, and tunnels change the port. Nor is
        a request without Host (HTTP/1.0), which no browser sends."""
        for host in headers.getlist("host"):
            name = host_name(host)
            if self._hosts is not None and name not in self._hosts and not _is_address(name):
                raise BadRequest(
                    f"this server is not called {shortened(name)!r} (the header Host): use its "
                    f"address, or start it with --allow-host {shortened(name)}",
                    status=421,
                )

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Raises `BadRequest` (403) for a request of a page that is not allowed to send it. A page
        of the same scheme, name and port is; nothing here serves one, but a proxy may."""
        origins = headers.getlist("origin")
        for origin in origins:
            if origin == NO_ORIGIN:
                raise BadRequest(
                    "a page without an origin (a file, a frame in a sandbox) may not use this "
                    "server: serve it from an address, and name that in --allow-origin",
                    status=403,
                )
            if origin.lower() not in self._origins and not is_same_origin(headers):
                raise BadRequest(
                    f"a page of {shortened(origin)!r} (the header Origin) may not use this server: "
                    f"start it with --allow-origin {shortened(origin)} to let it",
                    status=403,
                )
        site = headers.get("sec-fetch-site", "none")
        if not origins and site not in ("none", "same-origin") and not _is_visit(method, headers):
            raise BadRequest(
                f"a page of another site (Sec-Fetch-Site: {shortened(site)}) may not use this "
                "server: start it with --allow-origin and that page's origin to let it",
                status=403,
            )


def guard_middleware(config: Config) -> list[Middleware]:
    """The guard, and behind it what lets pages of `--allow-origin` read their answers (CORS)."""
    guard = [Middleware(BrowserGuard, config=config)]
    if not config.allow_origin:
        return guard
    return [
        *guard,
        Middleware(
            CORSMiddleware,
            allow_origins=config.allow_origin,
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=("*",),
            expose_headers=("Retry-After", "X-Request-Id"),
        ),
    ]


def host_name(host: str) -> str:
    """The name or address in a `Host` header, without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from no page, or from a page of the host that it asks for."""
    hosts = [host.lower() for host in headers.getlist("host")]
    return all(_netloc(origin) in hosts for origin in headers.getlist("origin"))


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_names(config: Config) -> frozenset[str] | None:
    """The names by which requests may ask for this server; None: any."""
    if ANY_HOST in config.allow_host:
        return None
    names = {"localhost", host_name(config.host), *map(host_name, config.allow_host)}
    if not is_loopback(config.host):
        names.add(socket.gethostname().lower())
    return frozenset(names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_visit(method: str, headers: Headers) -> bool:
    """Whether a person followed a link to this server: the page that has the link does not see the
    answer."""
    is_page = headers.get("sec-fetch-mode") == "navigate"
    return method in READING and is_page and headers.get("sec-fetch-dest") == "document"


def _check_content_type(method: str, headers: Headers) -> None:
    """Raises `BadRequest` (415) for a body that is not declared as JSON: a form and a plain text
    are what a page can send without being asked."""
    kinds: Sequence[str | None] = headers.getlist("content-type")
    if method in READING:
        return
    if not kinds:
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            return
        kinds = (None,)
    for kind in kinds:
        if kind is None or kind.partition(";")[0].strip().lower() != JSON:
            given = "absent" if kind is None else repr(shortened(kind))
            raise BadRequest(
                f"the header Content-Type is {given}: a body is JSON, sent with "
                f"Content-Type: {JSON}",
                status=415,
            )
