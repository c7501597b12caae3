"""`Http`: a minimal HTTP client: it sends JSON and streams the lines of the response.

One connection a request, on asyncio's streams and h11, which the server uses too. httpx would cost
8 MiB of memory and a fifth of a second.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

CONNECT_SECONDS = 5.0
CHUNK_BYTES = 1 << 16


class HttpError(Exception):
    """The server cannot be reached, does not speak HTTP, or closed the connection mid-answer."""


class ConnectionBroke(HttpError):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Http:
    """A server at `url`; `api_key` is sent if there is one. Proxies of the environment are not
    used, since the pipeline is on this machine."""

    url: str
    api_key: str = field(default="", repr=False)

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """Sends a request and yields the response, whose status has arrived; leaving early cancels
        the request. There is no timeout once connected. Raises `HttpError`.
        """
        content = json.dumps(body).encode()
        about = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        return self._send("POST", path, {**about, **(headers or {})}, content)

    def get(
        self, path: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """The same without a body."""
        return self._send("GET", path, headers)

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, more: Mapping[str, str], content: bytes = b""
    ) -> AsyncIterator[HttpResponse]:
        address = urlsplit(self.url)
        headers = [
            ("Host", address.netloc),
            ("Connection", "close"),
            *more.items(),
            *([("Authorization", f"Bearer {self.api_key}".encode())] if self.api_key else ()),
        ]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
        except (OSError, TimeoutError) as error:
            raise HttpError(f"no server answers at {address.netloc}{_because(error)}") from error
        try:
            protocol = h11.Connection(h11.CLIENT)
            request = h11.Request(method=method, target=path, headers=headers)
            for event in (request, h11.Data(data=content), h11.EndOfMessage()):
                writer.write(protocol.send(event) or b"")
            response = HttpResponse(protocol, reader)
            await response.start()
            yield response
        finally:
            writer.close()


class HttpResponse:
    """The server's response while it is streamed."""

    def __init__(self, protocol: h11.Connection, reader: asyncio.StreamReader) -> None:
        self._protocol, self._reader = protocol, reader
        self.status = 0

    async def start(self) -> None:
        """Waits for the status."""
        event = await self._next()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next()
        assert isinstance(event, h11.Response)
        self.status = event.status_code

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self._pieces()])

    async def lines(self) -> AsyncGenerator[str, None]:
        rest = b""
        async for piece in self._pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r").decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def _next(self) -> h11.Event:
        """The next event of the protocol."""
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(CHUNK_BYTES))
        except (OSError, h11.RemoteProtocolError) as error:
            raise ConnectionBroke(f"the connection broke{_because(error)}") from error
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionBroke("the server closed the connection")
        assert isinstance(event, h11.Event)
        return event


def _because(error: Exception) -> str:
    """`: Connection reset by peer`, the reason in words; "" if there is none. asyncio puts the
    number of the error and the address into its texts."""
    if not isinstance(error, OSError):
        reason: str | None = str(error)
    elif error.errno and error.errno > 0:
        reason = os.strerror(error.errno)
    else:  # of a look-up of the name, or of several addresses
        reason = error.strerror
    return f": {reason}" if reason else ""
