"""`QuietUvicorn`: uvicorn's server without its signal handlers. All that overrides uvicorn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType

import uvicorn

from ..runtime.library import changed


def why_signals_are_shared() -> str:
    """Says so where the installed uvicorn takes signals in another way, and would end by itself at
    a SIGTERM; "" where they are the process's own."""
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
        """Nothing, where a uvicorn without `capture_signals` installs it: the event loop has heard
        the signal as well."""
