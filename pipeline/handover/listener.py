"""The listening socket of the HTTP server: bound before anything starts, inherited by every process
of the ring, used by the server alone. So connections wait while a server that died is restarted,
and a port of 0 stays the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from ..errors import OperatorError

LISTENER = "LORACONSOLE_LISTENER"
"""Environment variable of every process of a ring: the descriptor of the listening socket."""


def bind_listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address; it refuses connections until `listen` is called. Raises
    `OperatorError` if the port is taken or the address is not this machine's."""
    try:
        listener = _bind(host, port)
        if port == 0:
            # Bound once more by its number: the kernel would free a port that it chose itself as
            # soon as the socket refuses connections, see `refuse_connections`.
            with listener as chosen:
                listener = _bind(host, chosen.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OperatorError(
                f"port {port} of {host} is taken", "choose another --port (0: any free one)"
            ) from error
        raise OperatorError(
            f"cannot listen on {host}:{port}: {error.strerror}", "check --host and --port"
        ) from error
    return listener


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def inherited_listener() -> socket.socket | None:
    """The socket that this process was given; None if it was started by hand."""
    try:
        return socket.socket(fileno=int(os.environ[LISTENER]))
    except (KeyError, ValueError, OSError):
        return None


def keep_from_children() -> None:
    """Keeps the inherited socket out of processes that this one starts by other means than
    `listener_fds`."""
    with contextlib.suppress(KeyError, ValueError, OSError):
        os.set_inheritable(int(os.environ[LISTENER]), False)


def listener_fds() -> tuple[int, ...]:
    """The descriptors to pass to a supervisor that this process starts: that of the socket, if it
    has one."""
    try:
        descriptor = int(os.environ[LISTENER])
        os.fstat(descriptor)
    except (KeyError, ValueError, OSError):
        return ()
    return (descriptor,)


def refuse_connections(listener: socket.socket) -> None:
    """Has connections refused until a server calls `listen` again; those that wait are closed."""
    # Only if it listens: one shut down twice would close every later connection at once.
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.shutdown(socket.SHUT_RDWR)
