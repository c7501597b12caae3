"""Single questions to a running pipeline: a snapshot, its address, a request by its id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import ProcessState, ProcessTable, Snapshot
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from .remote import Remote

FIRST_REPORT_SECONDS = 5.0
"""How long to wait for what a process first reports up to two seconds after READY."""


async def snapshot_with(
    remote: Remote, has: Callable[[Snapshot], object], process: str, missing: str
) -> Snapshot:
    """The first snapshot for which `has` is true. Raises `OperatorError`, "`process` has not
    reported `missing`", if there is none within `FIRST_REPORT_SECONDS`."""
    deadline = time.monotonic() + FIRST_REPORT_SECONDS
    while not has(snapshot := await remote.snapshot()):
        if time.monotonic() > deadline:
            hint = f"see: {spell(f'logs {process}', remote.config.run)}"
            raise OperatorError(f"{process} has not reported {missing}", hint)
        await asyncio.sleep(0.1)
    return snapshot


async def server_url(remote: Remote) -> str:
    """The server's address, which is in its first statistics after READY."""
    server = (
        await snapshot_with(remote, lambda s: s.server and s.server.url, "server", "its address")
    ).server
    assert server is not None
    return server.url


def find_request(name: str, ids: list[str]) -> str:
    """The id that equals `name` or ends with it: screens show only the end. Raises `OperatorError`
    if none or several do."""
    found = [name] if name in ids else [id for id in ids if id.endswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OperatorError(f"{len(found)} requests end with {name!r}", "give more of the id")
    live = counted(len(ids), "request", "are")
    raise OperatorError(f"no live request {name!r}", f"{live} live; Batch lists them")


def take_snapshot(config: Config, steps: int = 0) -> Snapshot:
    """The supervisor's snapshot, with the last `steps` steps. Raises as `Remote` does."""

    async def ask() -> Snapshot:
        async with Remote(config) as remote:
            return await remote.snapshot(steps=steps)

    return asyncio.run(ask())


def undone_by(table: ProcessTable, run: str) -> str:
    """A hint at the command that undoes a stop or a drain of the pipeline in `run`; "" if neither
    is in effect."""
    for row in table.processes:
        if row.held:
            return f"{row.name} is started by: {spell(f'start {row.name}', run)}"
        if row.name == "router" and row.state is ProcessState.DRAINING:
            return f"requests are admitted again by: {spell('drain --resume', run)}"
    return ""
