"""`QuietUvicorn`: uvicorn's server without its signal handlers; the only override of uvicorn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType

import uvicorn

from ...runtime.library import changed


def why_signals_are_shared() -> str:
    """The reason if the installed uvicorn handles signals otherwise, and would exit by itself at a
    SIGTERM; "" if the process alone handles them."""
    return changed("uvicorn:Server.capture_signals", "self") and changed(
        "uvicorn:Server.handle_exit", "self", "sig", "frame"
    )


class QuietUvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the process itself handles SIGTERM and SIGINT."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Does nothing. A uvicorn without `capture_signals` installs it, but the event loop also
        gets the signal."""

    def break_connections(self) -> None:
        """Closes all connections, and does not wait for their answers."""
        self.force_exit = True
        for connection in list(self.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.close()
