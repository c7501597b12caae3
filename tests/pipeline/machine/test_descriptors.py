"""The limit of open files: raised at the start, refused if too low, and no flood beyond it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.machine import descriptors
from loraconsole.pipeline.machine.descriptors import DescriptorReports, raise_descriptor_limit

NOFILE = resource.RLIMIT_NOFILE


@pytest.fixture
def limit() -> Iterator[int]:
    """The hard limit, above 256; the soft one is put back."""
    soft, hard = resource.getrlimit(NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= 256:
        pytest.skip("few files may be open here")
    yield hard
    resource.setrlimit(NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_the_hard_one(limit: int) -> None:
    resource.setrlimit(NOFILE, (256, limit))
    raise_descriptor_limit()
    most = descriptors.ENOUGH
    expected = most if limit == resource.RLIM_INFINITY else min(limit, most)
    assert resource.getrlimit(NOFILE)[0] == expected


def test_a_limit_that_is_too_low_is_refused_with_the_number(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "NEEDED", descriptors.ENOUGH + 1)
    monkeypatch.setattr(descriptors, "ENOUGH", 200)
    resource.setrlimit(NOFILE, (200, limit))
    with pytest.raises(OperatorError, match="only 200 files and sockets may be open at once"):
        raise_descriptor_limit()


def test_connections_beyond_the_limit_wait_and_are_one_line(
    limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As many connections as there are descriptors are held; then one is closed, and the one that
    waited is answered."""

    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(DescriptorReports().handle)
        server = await asyncio.start_server(hello, "127.0.0.1", 0, backlog=100)
        address = server.sockets[0].getsockname()
        client = socket.socket()
        client.setblocking(False)
        held: list[int] = []
        resource.setrlimit(NOFILE, (256, limit))
        try:
            while True:
                held.append(os.dup(0))
        except OSError as error:
            assert error.errno == errno.EMFILE
        await loop.sock_connect(client, address)
        await asyncio.sleep(0.1)
        assert "Too many open files" in caplog.text
        for descriptor in held:
            os.close(descriptor)
        assert await asyncio.wait_for(loop.sock_recv(client, 10), 20) == b"hello\n"
        client.close()
        server.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert len(caplog.records) == 1


@pytest.mark.processes
def test_a_start_with_too_few_descriptors_says_how_many_are_needed(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "up", "--port", "0"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 60; exec "$@"', "sh", *command, "--run", str(tmp_path / "r")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "only 60 files and sockets may be open at once, 96 are needed" in done.stderr
    assert "ulimit -n 1024" in done.stderr
    assert not (tmp_path / "r" / "config.json").exists()
