"""The console's own requests, against servers that answer well, badly, or not at all."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from loraconsole.console.client.chat import ChatError, ChatParams, chat
from loraconsole.console.client.http_client import Http, HttpError

Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


async def asked(talk: Talk, ask: Callable[[Http], Awaitable[None]]) -> None:
    """A server that answers every request with `talk`, and somebody who asks it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await talk(head + await reader.readexactly(length), writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await ask(Http(f"http://127.0.0.1:{port}", "secret"))


def test_lines_come_as_they_are_made() -> None:
    seen: list[bytes] = []

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        text = "one\r\ntwö\n\nthree".encode()
        for at in range(len(text)):  # in the middle of lines and of characters
            writer.write(b"1\r\n" + text[at : at + 1] + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def ask(http: Http) -> None:
        async with http.post("/v1/x", {"a": 1}) as response:
            assert response.status == 200
            assert [line async for line in response.lines()] == ["one", "twö", "", "three"]

    asyncio.run(asked(talk, ask))
    assert seen[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"Bearer secret" in seen[0] and json.loads(seen[0].split(b"\r\n\r\n")[1]) == {"a": 1}


def test_a_refusal_is_told_in_the_servers_words() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": {"message": "the queue is full"}}).encode()
        writer.write(b"HTTP/1.1 429 Busy\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def ask(http: Http) -> None:
        with pytest.raises(ChatError, match="the queue is full"):
            async for _ in chat(http, "base", [], ChatParams()):
                pass

    asyncio.run(asked(talk, ask))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"what?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ndata: {}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata",
    ],
    ids=["nothing", "no HTTP", "half of it", "half a chunk"],
)
def test_a_server_that_breaks_off_is_an_error(said: bytes) -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async def ask(http: Http) -> None:
        with pytest.raises(HttpError, match=r"."):
            async with http.post("/v1/x", {}) as response:
                await response.read()

    asyncio.run(asked(talk, ask))


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:9", "Connection refused"), ("no.such.host.invalid:80", "[A-Z]")],
)
def test_where_no_server_listens_the_address_and_the_reason_are_named(
    address: str, reason: str
) -> None:
    async def ask() -> None:
        async for _ in chat(Http(f"http://{address}"), "base", [], ChatParams()):
            pass

    with pytest.raises(ChatError, match=rf"^no server answers at {address}: {reason}") as found:
        asyncio.run(ask())
    assert "Errno" not in str(found.value)


def test_a_connection_that_is_reset_is_named_so() -> None:
    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def ask(http: Http) -> None:
        async for _ in chat(http, "base", [], ChatParams()):
            pass

    with pytest.raises(ChatError, match=r"^the connection broke: Connection reset by peer$"):
        asyncio.run(asked(talk, ask))
