"""`up`, `down`, `drain`, `abort`: start, stop and hold back a pipeline. Each returns an exit
status."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    Drain,
    ProcessState,
    ProcessTable,
    Resume,
    StopPipeline,
)
from ...pipeline.run_directory import spell
from ...pipeline.runtime.sockets import InboxFull
from ..client.ask import find_request, request_ids, server_url
from ..client.failed_adapters import AdaptersFailed, describe_failure, documents, failed_at_start
from ..client.remote import NotRunning, Remote
from ..commands.pipeline import AbortCommand, DownCommand, DrainCommand, UpCommand
from ..supervisor import launcher
from ..supervisor.lock import is_orphaned, is_running
from ..supervisor.orphans import end_orphans, remove_remains
from ..text import units
from .documents import AbortDocument, DownDocument, DrainDocument, UpDocument
from .printing import Bars, print_json, say

DRAIN_SECONDS = 30.0
STOP_SECONDS = 60.0
BEAT_SECONDS, SILENT_SECONDS = 2.0, 20.0
"""A supervisor sends a heartbeat every second. After the first of these times without one, its lock
is checked; after the second, `up` fails."""
REPEAT_SECONDS = 2.0
LOOK_SECONDS = 0.05
ORPHANED_SECONDS = 10.0
"""`down` ends the processes itself if they have no supervisor for this long."""
ABORT_SECONDS = 10.0


def up(config: Config, command: UpCommand) -> int:
    """Starts the pipeline and waits until it is READY, with a bar for each stage.

    Stops the pipeline and raises `OperatorError` if a process fails, or, unless
    `config.ignore_failed_adapters`, if an adapter cannot be loaded."""
    if command.again:
        config = Config.load(config.run)
    launcher.start(config)
    try:
        return asyncio.run(_wait_until_ready(config, command))
    except (KeyboardInterrupt, SystemExit):  # a signal
        if not command.foreground and is_running(config.run_path):
            print(
                f"loraconsole: the pipeline in {config.run} is still starting. "
                f"{spell('status', config.run)}: its progress; {spell('down', config.run)}: "
                "stop it.",
                file=sys.stderr,
            )
        raise


async def _wait_until_ready(config: Config, command: UpCommand) -> int:
    async with Remote(config) as remote:
        bars = Bars()
        try:
            await _until_ready(remote, bars)
            failed = await failed_at_start(remote)
            if failed and not config.ignore_failed_adapters:
                raise AdaptersFailed(failed, len(config.adapter), config.run)
        except (_Failed, AdaptersFailed):
            # Stopped again, so that the next `up` finds the run directory free.
            await _stop(remote, 0.0)
            raise
        finally:
            bars.close()
        url = await server_url(remote)
        for view in failed:
            print(f"loraconsole: {describe_failure(view)}", file=sys.stderr)
        if command.json:
            print_json(UpDocument(url=url, run=config.run, failed_adapters=documents(failed)))
        else:
            ready = f"READY: {config.model_name} at {url} (run directory {config.run})"
            print(units.visible(ready))
        if command.foreground:
            await _stay(remote)
    return 0


async def _until_ready(remote: Remote, bars: Bars) -> None:
    watch, heard = remote.watch(), time.monotonic()
    while True:
        try:
            messages = await asyncio.wait_for(watch.receive(), BEAT_SECONDS)
        except TimeoutError:
            _raise_if_gone(remote.config, time.monotonic() - heard)
            continue
        heard = time.monotonic()
        for message in messages:
            bars.show(message)
            if isinstance(message, ProcessTable):
                if message.state is ProcessState.READY:
                    return
                _raise_if_failed(message, remote.config.run)


def _raise_if_gone(config: Config, silent_s: float) -> None:
    log = f"see {config.run}/logs/supervisor.log"
    if not is_running(config.run_path):
        raise NotRunning("the pipeline was stopped before it was ready", log)
    if silent_s > SILENT_SECONDS:
        raise OperatorError(f"no heartbeat of the supervisor for {silent_s:.0f} s", log)


class _Failed(OperatorError):
    """The supervisor has given up on a process of the ring."""


def _raise_if_failed(table: ProcessTable, run: str) -> None:
    for process in table.processes:
        if process.state is ProcessState.FAILED:
            hint = f"see: {spell(f'logs {process.name}', run)}"
            raise _Failed(f"{process.name} failed: {process.reason}", hint)


async def _stay(remote: Remote) -> None:
    """Returns when the pipeline has ended; Ctrl-C ends it."""
    try:
        while is_running(remote.config.run_path):
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        await _stop(remote, DRAIN_SECONDS)


def down(config: Config, command: DownCommand) -> int:
    """Stops the pipeline; running requests may finish unless `--now`. Returns when it has ended."""

    async def stop() -> None:
        async with Remote(config, any_protocol=True) as remote:
            await _stop(remote, 0.0 if command.now else DRAIN_SECONDS)

    try:
        asyncio.run(stop())
    except NotRunning:
        raise
    except OperatorError:
        if not end_orphans(config.run_path):
            raise
    say(DownDocument(), "stopped", command.json)
    return 0


async def _stop(remote: Remote, drain_s: float) -> None:
    """Orders the pipeline to stop, and returns when it has ended. Raises `OperatorError` if it does
    not. The order is repeated: a supervisor may be killed before it has taken it."""
    config, began, ordered_at = remote.config, time.monotonic(), 0.0
    orphaned_s = 0.0
    while is_running(config.run_path):
        now = time.monotonic()
        orphaned_s += (
            LOOK_SECONDS if is_orphaned(config.run_path) else -min(LOOK_SECONDS, orphaned_s)
        )
        if orphaned_s > ORPHANED_SECONDS:
            raise OperatorError(f"the pipeline in {config.run} has no supervisor that stops it")
        if now > began + STOP_SECONDS:
            raise OperatorError(
                f"the pipeline in {config.run} did not stop within {STOP_SECONDS:.0f} s",
                f"try: {spell('down --now', config.run)}",
            )
        if now > ordered_at + REPEAT_SECONDS:
            ordered_at = now
            with contextlib.suppress(InboxFull):
                remote.tell(StopPipeline(max(0.0, began + drain_s - now)))
        await asyncio.sleep(LOOK_SECONDS)
    remove_remains(config.run_path)


def drain(config: Config, command: DrainCommand) -> int:
    """Makes the router refuse new requests, or with `--resume` admit them again; returns when it
    does."""
    resume = command.resume
    wanted = ProcessState.READY if resume else ProcessState.DRAINING

    async def carry() -> None:
        async with Remote(config) as remote:
            remote.tell_router(Resume() if resume else Drain())
            async with asyncio.timeout(ABORT_SECONDS):
                await remote.when(
                    lambda snapshot: (
                        any(
                            row.name == "router" and row.state is wanted
                            for row in snapshot.processes.processes
                        )
                        or None
                    )
                )

    try:
        asyncio.run(carry())
    except TimeoutError:
        word = f"the router is not {wanted.value}"
        hint = f"see:  {spell('status', config.run)}"
        raise OperatorError(word, hint) from None
    text = "new requests are admitted"
    if not resume:
        text = f"new requests are refused until: {spell('drain --resume', config.run)}"
    say(DrainDocument(wanted.value), text, command.json)
    return 0


def abort(config: Config, command: AbortCommand) -> int:
    """Ends the request with this id or id suffix; returns when it has ended."""
    name = command.request

    async def carry() -> str:
        async with Remote(config) as remote:
            request_id = find_request(name, request_ids(await remote.snapshot()))
            remote.abort(request_id)
            async with asyncio.timeout(ABORT_SECONDS):
                await remote.when(lambda snapshot: request_id not in request_ids(snapshot) or None)
            return request_id

    try:
        request_id = asyncio.run(carry())
    except TimeoutError:
        hint = f"see:  {spell('status', config.run)}"
        raise OperatorError(f"{name} still runs", hint) from None
    say(AbortDocument(request_id), f"{request_id} has ended", command.json)
    return 0
