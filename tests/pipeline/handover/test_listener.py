"""The listening socket over the deaths and stops of those that serve from it."""

from __future__ import annotations

import os
import socket

import pytest

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.handover.listener import (
    LISTENER,
    bind_listener,
    inherited_listener,
    refuse_connections,
)


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=5)


def test_connections_wait_while_one_server_is_gone_and_the_next_not_there() -> None:
    with bind_listener("127.0.0.1", 0) as held:
        address = held.getsockname()
        with pytest.raises(ConnectionRefusedError):  # nothing has served yet
            connect(address)
        first = socket.socket(fileno=os.dup(held.fileno()))
        first.listen()
        first.close()
        with connect(address) as client:
            second = socket.socket(fileno=os.dup(held.fileno()))
            with second, second.accept()[0] as accepted:
                accepted.sendall(b"here")
                assert client.recv(4) == b"here"


@pytest.mark.parametrize("times", [1, 2])
def test_refused_connections_are_taken_again_at_the_same_port(times: int) -> None:
    with bind_listener("127.0.0.1", 0) as held:
        address = held.getsockname()
        held.listen()
        for _ in range(times):
            refuse_connections(held)
            with pytest.raises(ConnectionRefusedError):
                connect(address)
        held.listen()
        assert held.getsockname() == address
        with connect(address) as client, held.accept()[0] as accepted:
            accepted.sendall(b"again")
            assert client.recv(5) == b"again"


def test_a_taken_port_and_a_strange_address_are_named() -> None:
    with bind_listener("127.0.0.1", 0) as held:
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(OperatorError, match=f"port {port} of 127.0.0.1 is taken"):
            bind_listener("127.0.0.1", port)
    with pytest.raises(OperatorError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind_listener("192.0.2.1", 0)


def test_a_process_that_was_given_no_socket_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LISTENER, raising=False)
    assert inherited_listener() is None
    monkeypatch.setenv(LISTENER, "no number")
    assert inherited_listener() is None
