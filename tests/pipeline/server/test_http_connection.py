"""What a client may send, how slowly, and how slowly it may read: raw bytes against uvicorn with
our connections and a small application."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.server.http import http_connection
from loraconsole.pipeline.server.http.http_connection import (
    GentleTransport,
    HttpConnection,
    bounded_connections,
    why_connections_are_unbounded,
)
from loraconsole.pipeline.server.http.quiet_uvicorn import QuietUvicorn

GET = b"GET /length HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_GET = b"GET /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
Client = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Site:
    """The application: it reads bodies, refuses them unread, streams without end, or waits."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        """Set once the client of an endless stream is gone."""
        self.go_on = asyncio.Event()
        """What `/wait` waits for."""

    def app(self) -> Starlette:
        routes = [
            Route("/length", self.length, methods=["GET", "POST"]),
            Route("/refuse", self.refuse, methods=["POST"]),
            Route("/wait", self.wait),
            Route("/endless", self.endless),
        ]
        return Starlette(routes=routes)

    async def length(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def refuse(self, request: Request) -> Response:
        return PlainTextResponse("refused", 413)

    async def wait(self, request: Request) -> Response:
        await self.go_on.wait()
        return PlainTextResponse("went on")

    async def endless(self, request: Request) -> Response:
        async def pieces() -> Any:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                self.left.set()

        return StreamingResponse(pieces())


def serve(test: Callable[[Client, Site, Counter[str]], Awaitable[None]], **settings: int) -> None:
    """Runs a test against the application on a port of its own."""

    async def main() -> None:
        site, refusals = Site(), Counter[str]()
        make = bounded_connections(Config(**settings), refusals)  # type: ignore[arg-type]
        assert make is not None
        config = uvicorn.Config(
            site.app(),
            http=make,
            ws="none",
            lifespan="off",
            log_config=None,  # type: ignore[arg-type]
        )
        server = QuietUvicorn(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection("127.0.0.1", port)

            serving = asyncio.create_task(server.serve([listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                async with asyncio.timeout(30):
                    await test(connect, site, refusals)
            finally:
                site.go_on.set()
                server.should_exit = server.force_exit = True
                await serving

    asyncio.run(main())


async def ask(connect: Client, data: bytes) -> tuple[int, bytes]:
    """Sends bytes; the status and the body of the answer, after which the server closes."""
    reader, writer = await connect()
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return parse(answer)


def parse(answer: bytes) -> tuple[int, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def error_of(body: bytes) -> dict[str, Any]:
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_what_is_written_to_a_client_that_left_is_dropped_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[asyncio.Transport] = loop.create_future()

        class Peer(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(cast(asyncio.Transport, transport))

        server = await loop.create_server(Peer, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            transport = GentleTransport(await made, cast(HttpConnection, None))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for _ in range(50):  # the event loop has not seen yet that the client is gone
            transport.write(b"x")
        assert transport.is_closing()
        server.close()

    asyncio.run(main())
    assert not caplog.records


def test_the_installed_uvicorn_has_the_connections_that_are_bounded_here() -> None:
    assert why_connections_are_unbounded() == ""


def test_another_uvicorn_serves_without_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(http_connection.H11Protocol, "send_400_response")
    assert "send_400_response" in why_connections_are_unbounded()
    assert bounded_connections(Config(), Counter()) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /length HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /length HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET /length HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /length HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000, 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
)
def test_a_malformed_request_gets_openais_error(data: bytes, status: int) -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        code, body = await ask(connect, data)
        assert (code, error_of(body)["code"]) == (status, status)
        assert refusals == {"malformed": 1}

    serve(test)


CHUNKED = (
    b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


def test_very_many_small_chunks_are_refused_and_larger_ones_are_not() -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        code, body = await ask(connect, CHUNKED + b"1\r\na\r\n" * 1500 + b"0\r\n\r\n")
        assert code == 400 and "chunks of under" in error_of(body)["message"]
        chunk = b"40\r\n" + b"a" * 64 + b"\r\n"
        assert await ask(connect, CHUNKED + chunk * 1500 + b"0\r\n\r\n") == (200, b"96000")
        assert await ask(connect, CHUNKED + b"1\r\na\r\n" * 900 + b"0\r\n\r\n") == (200, b"900")

    serve(test)


def test_half_a_head_and_half_a_body_are_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.2)
    post = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        for data, what in ((GET[:-2], "head"), (post, "body")):
            code, body = await ask(connect, data)
            assert code == 408
            assert f"{what} did not come" in error_of(body)["message"]
            assert refusals[f"slow {what}"] == 1
        reader, writer = await connect()
        assert await reader.read() == b"", "one that sends nothing is closed without a word"
        writer.close()

    serve(test)


def test_a_connection_is_used_again_and_its_time_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.5)

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        for _ in range(4):
            writer.write(GET)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1) == b"0"
            await asyncio.sleep(0.2)
        writer.close()

    serve(test)


def test_an_answer_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.1)

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.5)
        site.go_on.set()
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.close()

    serve(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        for size in range(1, 21):
            head = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            writer.write(head + b"a" * size)
        for size in range(1, 21):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(str(size))) == str(size).encode()
        writer.close()

    serve(test)


def test_a_refused_body_is_not_read_to_its_end_and_its_client_sees_the_answer() -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        writer.write(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n")
        answer = asyncio.create_task(reader.read())
        sent = 0
        with pytest.raises(OSError):
            while sent < 400 << 20:
                writer.write(b"a" * (1 << 20))
                await writer.drain()
                sent += 1 << 20
        writer.close()
        found = await answer
        assert parse(found) == (413, b"refused")
        assert b"connection: close" in found.lower()

    serve(test)


def test_a_short_body_that_is_refused_before_it_comes_leaves_the_connection_open() -> None:
    """Clients send the head and the body apart, and use the connection again."""

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 413 " in head and b"connection: close" not in head.lower()
            assert await reader.readexactly(7) == b"refused"
            writer.write(b"a" * 100_000)
        writer.write(LAST_GET)
        assert parse(await reader.read()) == (200, b"0")
        writer.close()

    serve(test)


def test_too_many_connections_close_the_one_that_has_waited_longest() -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        at_work, writer = await connect()
        writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        half, half_writer = await connect()
        half_writer.write(GET[:-2])
        _, idle_writer = await connect()
        await asyncio.sleep(0.1)
        for _ in range(2):
            assert (await ask(connect, GET.replace(b"x\r\n", b"x\r\nConnection: close\r\n")))[
                0
            ] == 200
        code, body = parse(await half.read())
        assert code == 503 and "too many connections" in error_of(body)["message"]
        site.go_on.set()
        assert b" 200 " in await at_work.readuntil(b"\r\n\r\n"), "its answer was under way"
        for one in (writer, half_writer, idle_writer):
            one.close()

    serve(test, max_connections=3, max_connections_per_client=3)


def test_where_all_are_at_work_the_new_one_is_closed() -> None:
    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        clients = [await connect() for _ in range(2)]
        for _, writer in clients:
            writer.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        reader, writer = await connect()
        code, body = parse(await reader.read())
        assert code == 503 and "at most 2" in error_of(body)["message"]
        writer.close()
        site.go_on.set()
        for reader, writer in clients:
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            writer.close()

    serve(test, max_connections=64, max_connections_per_client=2)


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "SLOW_READER_SECONDS", 0.2)

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        _, writer = await connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await site.left.wait()
        assert refusals == {"slow reader": 1}
        writer.close()

    serve(test)


def test_a_client_that_reads_slowly_but_reads_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "SLOW_READER_SECONDS", 0.3)

    async def test(connect: Client, site: Site, refusals: Counter[str]) -> None:
        reader, writer = await connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(40):
            await asyncio.sleep(0.05)
            await reader.readexactly(1 << 20)
        assert not refusals
        writer.close()

    serve(test)
