"""`AdoptedProcess`: a process of the ring that an earlier supervisor started, with the methods of
`asyncio.subprocess.Process` that a supervisor uses. Its end is heard through a pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from ...pipeline.handover.ring_record import take_exit


class AdoptedProcess:
    """A process by its pid, alive or dead."""

    def __init__(self, run: Path, pid: int, *, is_alive: bool) -> None:
        self.pid = pid
        self._run = run
        self._ended = asyncio.Event()
        self._is_watched = False
        self._exit_code: int | None = None
        self._descriptor: int | None = None
        if is_alive:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> int | None:
        """The exit status, once the process has ended. None if a signal has ended it: only its
        parent gets to know which."""
        if self._descriptor is None:
            self._note_end()
        elif not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().add_reader(self._descriptor, self._end)
        await self._ended.wait()
        return self._exit_code

    def send_signal(self, number: int) -> None:
        """Raises `ProcessLookupError` if the process has ended."""
        if self._descriptor is None:
            raise ProcessLookupError(self.pid)
        signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        assert self._descriptor is not None
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None
        self._note_end()

    def _note_end(self) -> None:
        if not self._ended.is_set():
            self._exit_code = take_exit(self._run, self.pid)
            self._ended.set()
