"""`web`: the console in a browser on this machine, through textual-serve.

The page can do everything an operator can. So it listens on loopback, its address holds a secret,
and pages of other origins are refused. Each visitor gets a separate console; the pipeline is not
its child.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ..client.remote import none_runs
from ..supervisor.lock import is_running

if TYPE_CHECKING:
    from aiohttp import web as http

HOST = "127.0.0.1"
COOKIE = "loraconsole"
PAGE = Path(__file__).with_name("web_page")
"""The directory of the page's template, which textual-serve fills in."""
LEAVE_SECONDS = 1.0
"""Time for open pages to close at the end; aiohttp's default is a minute."""


def web(config: Config, port: int) -> int:
    """Serves until Ctrl-C; port 0 takes any free one."""
    if not is_running(config.run_path):
        raise none_runs(config.run)
    command = [sys.executable, "-P", "-m", "loraconsole.console", "attach", "--run", config.run]
    server = make_server(shlex.join(command), port, secrets.token_urlsafe(16))
    print(f"{server.public_url}/?key={server.key} (Ctrl-C ends it)", flush=True)
    there = f"{server.port}:{HOST}:{server.port}"
    print(
        f"from another machine: ssh -L {there} THIS-MACHINE, then the same address there",
        flush=True,
    )
    server.serve()
    return 0


def make_server(command: str, port: int, key: str) -> Any:
    """A textual-serve server for `command` that refuses requests without `key`.

    It listens already, so that its port is known. Raises `OperatorError` if textual-serve is not
    installed or does not let us check requests, or if the port is taken.
    """
    try:
        from aiohttp import web as http
        from textual_serve.server import Server
    except ImportError:
        raise OperatorError(
            "the browser needs textual-serve", "pip install 'loraconsole[web]'"
        ) from None

    if not hasattr(Server, "_make_app"):  # without it no request would be checked
        raise OperatorError(
            "this textual-serve has no Server._make_app, where requests are checked",
            "pip install 'loraconsole[web]'",
        )
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise OperatorError(
            f"port {port}: {error.strerror}", "--port 0 takes any free port"
        ) from error
    port = listener.getsockname()[1]

    class LoopbackServer(Server):
        """Checks each request before textual-serve sees it."""

        def __init__(self) -> None:
            super().__init__(command, HOST, port, title="loraconsole", templates_path=PAGE)
            self.key = key

        def serve(self, debug: bool = False) -> None:
            """Serves as textual-serve does, but on our socket."""
            self.initialize_logging()
            loop = asyncio.new_event_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self.request_exit)
            app = self._make_app()
            http.run_app(
                app,
                sock=listener,
                handle_signals=False,
                loop=loop,
                print=None,
                shutdown_timeout=LEAVE_SECONDS,
            )

        async def _make_app(self) -> http.Application:
            app = await super()._make_app()

            own = f"ws://{HOST}:{port}"
            policy = f"default-src 'self' 'unsafe-inline' data: {own}"

            @http.middleware
            async def check(request: http.Request, handler: Any) -> http.StreamResponse:
                if (why := refusal(request, port, key)) is not None:
                    raise http.HTTPForbidden(text=why)
                if request.query.get("key"):  # keeps it out of the address, history and log
                    response: http.StreamResponse = http.HTTPFound("/")
                    response.set_cookie(COOKIE, key, httponly=True, samesite="Strict")
                    return response
                answer: http.StreamResponse = await handler(request)
                if not answer.prepared:  # the page would load a font from another host
                    answer.headers["Content-Security-Policy"] = policy
                return answer

            app.middlewares.append(check)
            return app

        async def on_startup(self, app: http.Application) -> None:
            """No logo: the address has been printed."""

    return LoopbackServer()


def refusal(request: http.BaseRequest, port: int, key: str) -> str | None:
    """The reason why a request is refused; None if it is allowed.

    The host check stops foreign names that resolve to this machine (DNS rebinding), the origin
    check other pages that open a socket to us, the key check other users of this machine.
    """
    own = {f"{name}:{port}" for name in (HOST, "localhost", "[::1]")}
    if request.headers.get("Host", "") not in own:
        return "this page is for this machine alone"
    origin = request.headers.get("Origin")
    if origin is not None and origin.removeprefix("http://") not in own:
        return "another page may not open this one"
    if request.path.startswith("/static/"):
        return None
    given = request.query.get("key") or request.cookies.get(COOKIE, "")
    if not secrets.compare_digest(given.encode(), key.encode()):
        return "open the address that loraconsole web printed, key and all"
    return None
