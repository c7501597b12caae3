"""`up`, `down`, `drain`, `abort`: start, stop and hold back a pipeline. Each returns an exit
status."""

from __future__ import annotations

import asyncio
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
from ..client.ask import find_request, request_ids, server_url
from ..client.failed_adapters import AdaptersFailed, describe_failure, documents, failed_at_start
from ..client.remote import NotRunning, Remote
from ..commands.pipeline import AbortCommand, DownCommand, DrainCommand, UpCommand
from ..supervisor import launcher
from ..supervisor.lock import is_running
from ..text import units
from .documents import AbortDocument, DownDocument, DrainDocument, UpDocument
from .printing import Bars, print_json, say

DRAIN_SECONDS = 30.0
STOP_SECONDS = 60.0
BEAT_SECONDS, SILENT_SECONDS = 2.0, 20.0
"""A supervisor sends a heartbeat every second. After the first of these times without one, its lock
is checked; after the second, `up` fails."""
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
            remote.tell(StopPipeline(0.0))
            await _gone(config)
            raise
        finally:
            bars.close()
        url = await server_url(remote)
        for view in failed:
            print(f"loraconsole: {describe_failure(view)}", file=sys.stderr)
        if command.json:
            print_json(UpDocument(url=url, run=config.run, failed_adapters=documents(failed)))
        else:
            ready = f"READY: {config.model} at {url} (run directory {config.run})"
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
        remote.tell(StopPipeline(DRAIN_SECONDS))
        await _gone(remote.config)


def down(config: Config, command: DownCommand) -> int:
    """Stops the pipeline; running requests may finish unless `--now`. Returns when it has ended."""

    async def stop() -> None:
        async with Remote(config, any_protocol=True) as remote:
            remote.tell(StopPipeline(0.0 if command.now else DRAIN_SECONDS))
            await _gone(config)

    asyncio.run(stop())
    say(DownDocument(), "stopped", command.json)
    return 0


async def _gone(config: Config) -> None:
    """Returns when the supervisor has ended. Raises `OperatorError` if it does not."""
    deadline = time.monotonic() + STOP_SECONDS
    while is_running(config.run_path):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"the pipeline in {config.run} did not stop within {STOP_SECONDS:.0f} s",
                f"try: {spell('down --now', config.run)}",
            )
        await asyncio.sleep(0.05)


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
