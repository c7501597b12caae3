"""The limit of open files and sockets (`ulimit -n`): raised as far as allowed, or refused in time.

Below what libzmq and the interpreter need, a process would be aborted in the middle of its work.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any

from ..errors import OperatorError

NEEDED = 96
"""A server takes 35 before the first connection, and more while it reads files."""
ENOUGH = 65_536
"""The limit is not raised beyond this: some container engines allow a thousand million."""
REPORT_SECONDS = 60.0
log = logging.getLogger(__name__)


def raise_descriptor_limit() -> None:
    """Sets this process's limit as high as it may, for itself and those that it starts. Raises
    `OperatorError` if that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if most > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < NEEDED:
        raise OperatorError(
            f"only {soft} files and sockets may be open at once, {NEEDED} are needed",
            "raise the limit: ulimit -n 1024, or LimitNOFILE= of a systemd unit",
        )


class DescriptorReports:
    """Handles errors of an event loop. That no connection could be accepted for want of descriptors
    is one line a minute: asyncio reports it thousands of times a second, with tracebacks."""

    def __init__(self) -> None:
        self._reported_at: float | None = None

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception handler of `loop`."""
        if context.get("message") != "socket.accept() out of system resource":
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if self._reported_at is None or now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.warning("connections wait: %s; raise ulimit -n", context.get("exception"))
