"""`loraconsole record`: writes all telemetry of a running pipeline to a file for `play`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from ...pipeline.config import Config
from ...pipeline.errors import UsageError
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.recording import Recorder
from ...pipeline.runtime.wording import counted
from ..client.remote import Remote
from ..commands.consoles import RecordCommand
from ..state.store import HISTORY_S
from ..supervisor.lock import is_running
from ..text import units
from .documents import RecordDocument
from .printing import print_json

CANNOT_WRITE = "cannot write"
SILENCE_SECONDS = 5.0
"""After this long without a message, the lock is checked: the pipeline may have ended."""


def record(config: Config, command: RecordCommand) -> int:
    """Records until Ctrl-C, the end of the pipeline, or a limit."""
    if command.seconds is not None and command.seconds <= 0:
        raise UsageError("--seconds must be above 0")

    async def listen() -> tuple[Recorder, str]:
        async with Remote(config) as remote:
            watch = remote.watch()
            started = unix_time()
            recorder = Recorder(Path(command.file), config.run, started, command.max_mib * 2**20)
            try:
                snapshot = await remote.snapshot(log_lines=500, history_s=HISTORY_S)
                recorder.take(unix_time(), snapshot)
                if not command.json:
                    print(f"recording {config.run}; Ctrl-C ends it", file=sys.stderr)
                end = started + command.seconds if command.seconds else float("inf")
                while True:
                    now = unix_time()
                    if now >= end:
                        return recorder, "--seconds reached"
                    if recorder.is_full:
                        return recorder, f"--max-mib {command.max_mib:g} is reached"
                    try:
                        async with asyncio.timeout(min(SILENCE_SECONDS, end - now)):
                            heard = await watch.receive()
                    except TimeoutError:
                        if not is_running(config.run_path):
                            return recorder, "the pipeline has ended"
                        continue
                    now = unix_time()
                    for message in heard:
                        recorder.take(now, message)
            except asyncio.CancelledError:
                return recorder, "interrupted"
            except OSError as error:
                return recorder, f"{CANNOT_WRITE}: {error.strerror}"
            finally:
                with contextlib.suppress(OSError):  # a full disk, which has been said
                    recorder.close()

    recorder, why = asyncio.run(listen())
    size = Path(command.file).stat().st_size
    if command.json:
        print_json(RecordDocument(command.file, recorder.messages, size, why))
    else:
        what = f"{counted(recorder.messages, 'message')}, {units.size(size)}"
        print(f"{command.file}: {what} ({why}). loraconsole play {command.file}")
    return 1 if why.startswith(CANNOT_WRITE) else 0
