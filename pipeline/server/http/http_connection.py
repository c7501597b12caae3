"""`HttpConnection`: uvicorn's connection with bounds on what a client sends and how slowly, and on
how slowly it reads. Every refusal is OpenAI's error object.

Knows no route. uvicorn's own class bounds neither the time for a head or a body nor the number of
headers, answers malformed requests with plain text, and reads on after a refusal.
"""

from __future__ import annotations

import asyncio
import functools
import http
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import h11
import msgspec
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...config import Config
from ...runtime.library import changed, missing
from .bad_request import error_body
from .open_connections import OpenConnections, most_connections
from .request_limits import (
    BODY_SECONDS,
    HEAD_SECONDS,
    LINGER_BYTES,
    LINGER_SECONDS,
    MOST_HEADER_BYTES,
    MOST_HEADERS,
    MOST_READ_ON,
    MOST_SMALL_CHUNKS,
    MOST_TARGET_BYTES,
    SLOW_READER_BYTES,
    SLOW_READER_SECONDS,
    SMALL_CHUNK,
)

UVICORN = "uvicorn.protocols.http.h11_impl:H11Protocol"
QUIET = logging.getLogger(f"{__name__}.malformed")
"""uvicorn's warnings about malformed requests: a client could fill the log. They are counted."""
QUIET.setLevel(logging.ERROR)


def why_connections_are_unbounded() -> str:
    """The reason if the installed uvicorn has another class of connections than the one that is
    bounded here; "" if it is as expected."""
    return (
        changed(f"{UVICORN}.__init__", "self", "config", "server_state", "app_state", "_loop")
        or changed(f"{UVICORN}.connection_made", "self", "transport")
        or changed(f"{UVICORN}.send_400_response", "self", "msg")
        or changed(f"{UVICORN}.on_response_complete", "self")
        or missing(
            *(f"{UVICORN}.{name}" for name in ("pause_writing", "handle_events")),
            f"{UVICORN}._unset_keepalive_if_required",
        )
    )


def bounded_connections(
    config: Config, refusals: Counter[str]
) -> Callable[..., asyncio.Protocol] | None:
    """What makes uvicorn's connections under the bounds of `config`, and counts in `refusals` why
    some were cut; None if `why_connections_are_unbounded`."""
    if why_connections_are_unbounded():
        return None
    most = most_connections(config.max_connections)
    connections = OpenConnections(most, min(most, config.max_connections_per_client))
    return functools.partial(HttpConnection, connections=connections, refusals=refusals)


class HttpParser(h11.Connection):
    """h11's parser with bounds on the target and the headers. `refusal` has the status and the
    reason after an error."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEADER_BYTES)
        self.refusal = (400, "the request is not HTTP")
        self._chunks = self._chunk_bytes = 0
        """Of the body so far."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises `RemoteProtocolError`."""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                raise self._refuse(431, f"the headers exceed {MOST_HEADER_BYTES} bytes") from error
            raise self._refuse(400, f"the request is not HTTP: {str(error)[:100]}") from error
        if isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
            self._check_head(event)
        elif isinstance(event, h11.Data):
            self._count_chunk(event)
        return event

    def _count_chunk(self, data: h11.Data) -> None:
        """Refuses a body in very many small chunks: a quarter of a megabyte of them, which is read
        at once, takes over a second."""
        self._chunks += data.chunk_start
        self._chunk_bytes += len(data.data)
        if self._chunks > MOST_SMALL_CHUNKS and self._chunk_bytes < SMALL_CHUNK * self._chunks:
            raise self._refuse(
                400,
                f"over {MOST_SMALL_CHUNKS} chunks of under {SMALL_CHUNK} bytes: send larger ones, "
                "or the body's length",
            )

    def _check_head(self, request: h11.Request) -> None:
        if len(request.target) > MOST_TARGET_BYTES:
            raise self._refuse(414, f"the path exceeds {MOST_TARGET_BYTES} bytes")
        headers = request.headers
        if len(headers) > MOST_HEADERS:
            raise self._refuse(431, f"{len(headers)} headers; at most {MOST_HEADERS} are allowed")
        if sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
            raise self._refuse(431, f"the headers exceed {MOST_HEADER_BYTES} bytes")

    def _refuse(self, status: int, reason: str) -> h11.RemoteProtocolError:
        self.refusal = status, reason
        return h11.RemoteProtocolError(reason, error_status_hint=status)


class GentleTransport:
    """A transport whose `close` its connection decides about, and which drops what is written after
    its connection broke, of which asyncio warns each time; all else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, connection: HttpConnection) -> None:
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._connection.close_gently(self._transport)


class HttpConnection(H11Protocol):
    """One connection. `refusals` counts why connections were cut."""

    def __init__(
        self,
        config: UvicornConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: OpenConnections,
        refusals: Counter[str],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = self._parser = HttpParser()
        self._answering_app, self.app = self.app, self._app_that_closes
        self.logger = QUIET
        self.address = ""
        self._open_connections = connections
        self._refusals = refusals
        self._bare_transport: asyncio.Transport | None = None
        self._awaited = ""
        """What the client is to send next: "request", "head" after its first byte, "body"; ""
        while it is to send nothing."""
        self._client_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._dropped: int | None = None
        """Bytes that were read and dropped after a refusal; None before one."""

    # -- the client's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._bare_transport = transport
        self.transport = cast("asyncio.Transport", GentleTransport(transport, self))
        self.address = self.client[0] if self.client else ""
        self._open_connections.add(self)
        self._follow_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.remove(self)
        for timer in (self._client_timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._dropped is not None:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        self._follow_client()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow_client()

    async def _app_that_closes(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; an answer before the end of a long body says that the connection ends.
        The rest of a short one is read, so that the client can use the connection again."""

        async def send_closing(message: Any) -> None:
            if message["type"] == "http.response.start" and self._has_long_rest(scope):
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        await self._answering_app(scope, receive, send_closing)

    def _has_long_rest(self, scope: Any) -> bool:
        if self.conn.their_state is not h11.SEND_BODY:
            return False
        declared = dict(scope["headers"]).get(b"content-length")
        return declared is None or int(declared) > MOST_READ_ON

    def close_gently(self, transport: asyncio.Transport) -> None:
        """Closes, but if the client still sends, lets it see the answer first."""
        if self.conn.their_state is h11.SEND_BODY:
            self._linger()
        else:
            transport.close()

    def _follow_client(self) -> None:
        """Limits the time for what the client is to send next."""
        awaited = self._next_of_client()
        if awaited == self._awaited:
            return
        self._awaited = awaited
        if self._client_timer is not None:
            self._client_timer.cancel()
            self._client_timer = None
        if not awaited:
            self._open_connections.work(self)
            return
        self._open_connections.wait(self)
        seconds = BODY_SECONDS if awaited == "body" else HEAD_SECONDS
        self._client_timer = self.loop.call_later(seconds, self._end_wait, awaited, seconds)

    def _next_of_client(self) -> str:
        if self._dropped is not None or self.transport.is_closing():
            return ""
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is h11.IDLE:
            return "head" if self.conn.trailing_data[0] else "request"
        return ""

    def _end_wait(self, awaited: str, seconds: float) -> None:
        if awaited == "request":
            self.transport.close()
        else:
            reason = f"the request's {awaited} did not come within {seconds:.0f} s"
            self._refusals[f"slow {awaited}"] += 1
            self._refuse(408, reason, lingers=True)

    # -- refusals

    def give_way(self, reason: str) -> None:
        """Closes the connection in favour of others."""
        self._refusals["too many"] += 1
        if self._awaited == "request":  # an idle one; a new one gets the reason
            self.transport.close()
        else:
            self._refuse(503, f"overloaded: {reason}", lingers=False)

    def send_400_response(self, msg: str) -> None:
        """Answers a malformed request."""
        status, reason = self._parser.refusal
        self._refusals["malformed"] += 1
        self._refuse(status, reason, lingers=True)

    def _refuse(self, status: int, reason: str, *, lingers: bool) -> None:
        """Answers unless an answer has begun, and closes the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the handler learns that no more comes
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(self._error_bytes(status, reason))
        if lingers:
            self._linger()
        elif self._bare_transport is not None:
            self._bare_transport.close()
        self._follow_client()

    def _error_bytes(self, status: int, reason: str) -> bytes:
        body = msgspec.json.encode(error_body(status, reason))
        head = h11.Response(
            status_code=status,
            headers=[
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ],
            reason=http.HTTPStatus(status).phrase.encode(),
        )
        pieces = (self.conn.send(event) for event in (head, h11.Data(body), h11.EndOfMessage()))
        return b"".join(piece or b"" for piece in pieces)

    def _linger(self) -> None:
        """Ends our side, and drops what the client still sends for a moment: closing at once would
        reset the connection, and the client might lose the answer."""
        if self._dropped is not None or self.transport.is_closing():
            return
        self._dropped = 0
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._client_timer is not None:
            self._client_timer.cancel()
        self._client_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # -- a client that reads slowly

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _watch_reader(self, unread: int) -> None:
        self._reader_timer = self.loop.call_later(SLOW_READER_SECONDS, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        now = self.transport.get_write_buffer_size()
        if unread - now >= SLOW_READER_BYTES:
            self._watch_reader(now)
        else:
            self._refusals["slow reader"] += 1
            self.transport.abort()
